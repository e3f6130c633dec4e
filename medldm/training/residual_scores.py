"""How good spread head, latent and flow are on the validation cubes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.degradations import Degradation
from medldm.diffusion.samplers import DEFAULT, SAMPLERS
from medldm.inference.networks import Networks
from medldm.inference.residual import Tiles
from medldm.inference.tiling import Tiling, estimate_with_spread
from medldm.models.residual import Conditions, PrincipalBlocks, ResidualFlow
from medldm.training.validation import EDGE, Cube

LIT = 0.05  # scaled intensity of what is scored
STEPS = 4


class Case(NamedTuple):
    """One validation cube with all that its scores need.

    Parameters
    ----------
    row : of the curve
    clean : (H, W, D) scaled intensity
    conditions : (1, 1, H, W, D), see `medldm.models.residual.Conditions`
    sampling : what was lost; None where every voxel was measured
    held : what a projection holds the answer to
    scored : (h, w, d) bool, of the cube without its border: what is lit and, where voxels are missing, those
    """

    row: str
    clean: Tensor
    conditions: Conditions
    sampling: Degradation | None
    held: Tensor
    scored: Tensor

    @property
    def u(self) -> Tensor:
        """(1, 1, H, W, D) true residual at unit scale."""
        c = self.conditions
        return (self.clean.to(c.b.device) - c.b) / c.log_s.exp()

    def project(self, guess: Tensor) -> Tensor:
        """The nearest image that the measurement allows, (H, W, D)."""
        return guess if self.sampling is None else self.sampling.reconcile(guess, self.held)

    def picture(self, u: Tensor | float) -> Tensor:
        """(H, W, D) image of a residual at unit scale, projected."""
        c = self.conditions
        return self.project((c.b + c.log_s.exp() * u)[0, 0].float().cpu())

    def error(self, guess: Tensor) -> Tensor:
        """Error of an image where it is scored, (N,)."""
        return (guess - self.clean)[INNER][self.scored]

    def psnr(self, guess: Tensor) -> float:
        """Of an image where it is scored, dB."""
        return float(-10 * torch.log10((self.error(guess) ** 2).mean().clamp_min(1e-12)))


INNER = tuple(slice(EDGE, -EDGE) for _ in range(3))


def residual_cases(cases: Iterable[Cube], networks: Networks, device: str) -> list[Case]:
    """Validation cubes with regression mean and spread.

    Parameters
    ----------
    cases : validation cubes
    networks : regression network and spread head
    device : of the networks
    """
    made = []
    for cube in cases:
        seen = cube.observation
        with torch.no_grad():
            b, log_s = estimate_with_spread(
                networks,
                seen._replace(y=seen.y.to(device), observed=seen.observed.to(device)),
                cube.sigma.to(device),
                cube.orientations,
                Tiling.whole(device),
            )
        shape = cube.clean.shape
        fields = (b, seen.y, seen.observed, cube.sigma, log_s)
        stack = [field.expand(shape)[None, None].to(device) for field in fields]
        conditions = Conditions._make([*stack, torch.tensor([float(seen.thickness)], device=device)])
        scored = cube.clean[INNER] > LIT
        if cube.sampling is not None and cube.sampling.masks:
            scored &= seen.observed.expand(shape)[INNER] < 0.5
        held = cube.clean if cube.sampling is None else cube.sampling.degrade(cube.clean)
        made.append(Case(cube.task, cube.clean, conditions, cube.sampling, held, scored))
    return made


def _by_row(cases: Iterable[Case], scores: Callable[[Case], dict[str, float]]) -> dict[str, float]:
    """Scores of every case as rows of a curve, "score row"; cases of one row are averaged."""
    rows: dict[str, list[float]] = {}
    for case in cases:
        if bool(case.scored.any()):
            for name, value in scores(case).items():
                rows.setdefault(f"{name} {case.row}", []).append(value)
    return {row: sum(values) / len(values) for row, values in rows.items()}


def spread_scores(cases: Iterable[Case]) -> dict[str, float]:
    """Share of the voxels whose truth lies in the 90 % interval of the spread, percent."""

    def scores(case: Case) -> dict[str, float]:
        s = case.conditions.log_s[0, 0].exp().cpu()[INNER][case.scored]
        inside = case.error(case.conditions.b[0, 0].cpu()).abs() < 1.645 * s
        return {"coverage": 100 * float(inside.float().mean())}

    return _by_row(cases, scores)


def latent_scores(cases: Iterable[Case], blocks: PrincipalBlocks) -> dict[str, float]:
    """PSNR that the decoded latent of the true residual adds to the regression, dB: the limit of any flow."""

    def scores(case: Case) -> dict[str, float]:
        true = blocks.decode(blocks.latent(case.u, case.conditions.log_s))
        return {"true latent": case.psnr(case.picture(true)) - case.psnr(case.picture(0.0))}

    return _by_row(cases, scores)


def flow_scores(cases: Iterable[Case], blocks: PrincipalBlocks, flow: ResidualFlow, samples: int) -> dict[str, float]:
    """PSNR that one sample, and the mean of several, add to the regression, dB.

    Parameters
    ----------
    cases : from `residual_cases`
    blocks, flow : latent and flow of the residual
    samples : even; pairs of opposite noise
    """

    def scores(case: Case) -> dict[str, float]:
        projected = flow.condition(case.conditions)
        drawn = []
        for seed in range(samples):
            noise = torch.randn(
                (1, blocks.channels, *projected.shape[2:]), generator=torch.Generator().manual_seed(seed // 2)
            ).to(projected.device)
            start = -noise if seed % 2 else noise
            latent = SAMPLERS[DEFAULT](Tiles(flow, projected, STEPS, flow.tile), start, STEPS)
            drawn.append(case.picture(blocks.decode(latent)))
        regression = case.psnr(case.picture(0.0))
        mean = torch.stack(drawn).mean(0)
        return {"sample": case.psnr(drawn[0]) - regression, "mean": case.psnr(mean) - regression}

    return _by_row(cases, scores)
