"""How good spread head, autoencoder and flow are on validation cubes; used by residual.py."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medldm.degradations import Degradation
from medldm.metrics import fine_detail
from medldm.models.precision import autocast
from medldm.models.residual import Conditions, PrincipalBlocks, ResidualAutoencoder, ResidualFlow, SpreadHead, sample
from medldm.models.unet import Residual
from medldm.settings import Architecture
from medldm.training.batches import Measured, family_shares
from medldm.training.data import Packed
from medldm.training.scenes import regress, spread_of
from medldm.training.validation import cubes, damages

log = logging.getLogger("residual")
TASK_OF_ROW = {
    "thick4": "thick",
    "gap4": "gap",
    "region": "region",
    "noise7": "noise",
    "noise3": "noise",
    "plane2": "in-plane",
}


class Case(NamedTuple):
    """One validation cube with all that its scores need, tensors (1, 1, H, W, D)."""

    row: str
    scan: str
    clean: Tensor
    conditions: Conditions
    sampling: Degradation | None
    measured: Tensor
    u: Tensor

    def project(self, guess: Tensor) -> Tensor:
        """The nearest image that the measurement allows, (H, W, D)."""
        if self.sampling is None:
            return guess
        return self.sampling.reconcile(guess, self.measured)


def validation_cases(
    scans: list[Packed],
    planes: Architecture,
    unet: Residual,
    spread: SpreadHead,
    device: torch.device,
    rows: tuple[str, ...],
) -> list[Case]:
    """Validation cubes of every scan, damaged as the protocol's core rows, with regression mean and spread."""
    cases = []
    for scan in scans:
        for cube in cubes([scan], planes, per_task=1):
            thin = cube.task in ("thick4", "gap4")
            if cube.task not in rows or not (scan.isotropic or (not thin and scan.slice_axis == 2)):
                continue
            shape = tuple(cube.clean.shape)
            sampling = damages(shape)[cube.task].sampling  # type: ignore[arg-type]
            y = cube.observation.y.expand(shape)[None].to(device)
            measured = Measured(
                y,
                cube.observation.observed.expand(shape)[None].to(device),
                cube.sigma.expand(shape)[None].to(device),
                torch.tensor([float(cube.observation.thickness)], device=device),
                torch.tensor([list(family_shares()).index(TASK_OF_ROW[cube.task])], device=device),
            )
            isotropic = torch.tensor([scan.isotropic], device=device)
            with torch.no_grad(), autocast(device):
                b, kept = regress(unet, measured, isotropic, planes.context)
                log_s = spread_of(spread, kept, b)
            conditions = Conditions(
                b[None], y[None], measured.observed[None], measured.sigma[None], log_s[None], measured.thickness
            )
            u = (cube.clean.to(device) - b[0]) / log_s[0].exp()
            held = sampling.degrade(cube.clean) if sampling is not None else cube.clean
            cases.append(
                Case(cube.task, scan.file.split("_")[0], cube.clean, conditions, sampling, held, u[None, None])
            )
    return cases


@torch.no_grad()
def scores(
    case: Case,
    autoencoder: ResidualAutoencoder | PrincipalBlocks,
    flow: ResidualFlow | None,
    steps: int,
    samples: int,
    principal: PrincipalBlocks | None = None,
) -> dict[str, float]:
    """PSNR (dB) of b, the decoded true latent, one sample and the mean; spread over error; detail along the damage."""
    c = case.conditions
    s, inner = c.log_s.exp(), tuple(slice(4, -4) for _ in range(3))
    where = case.clean[inner] > 0.05
    if case.row in ("gap4", "region"):
        where &= c.observed[0, 0].cpu()[inner] < 0.5

    def picture(u: Tensor) -> Tensor:
        return case.project((c.b + s * u)[0, 0].float().cpu())

    def psnr(guess: Tensor) -> float:
        return float(-10 * torch.log10(((guess - case.clean)[inner][where] ** 2).mean()))

    def detail(guess: Tensor) -> np.ndarray[Any, Any]:
        profile: np.ndarray[Any, Any] = fine_detail(guess.numpy().astype(np.float32), [0])[inner][where.numpy()]
        return profile

    wanted = detail(case.clean)

    def energy(d: np.ndarray[Any, Any]) -> float:
        return float((d**2).sum() / (wanted**2).sum())

    def correlation(d: np.ndarray[Any, Any]) -> float:
        return float(np.corrcoef(d, wanted)[0, 1])

    latent = autoencoder.latent(case.u, c.log_s)
    b, true = case.project(c.b[0, 0].float().cpu()), picture(autoencoder.decode(latent))
    out = {"b": psnr(b), "true latent": psnr(true), "energy b": energy(detail(b)), "energy true": energy(detail(true))}
    if principal is not None:
        out["principal"] = psnr(picture(principal.decode(principal.latent(case.u, c.log_s))))
    error = (b - case.clean)[inner][where]
    out["s / error"] = float(s[0, 0].cpu()[inner][where].pow(2).mean().sqrt() / error.pow(2).mean().sqrt())
    out["in 90 %"] = float((error.abs() < 1.645 * s[0, 0].cpu()[inner][where]).float().mean())
    if flow is None:
        return out
    projected = flow.condition(c)
    drawn = []
    for seed in range(samples):
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed // 2))
        noise = -noise if seed % 2 else noise  # pairs of opposite noise: their mean is nearer to that of many samples
        drawn.append(picture(autoencoder.decode(sample(flow, noise.to(projected.device), projected, steps))))
    stack = torch.stack(drawn)
    out["sample"], out["mean"] = psnr(stack[0]), psnr(stack.mean(0))
    out["spread / error"] = float(stack.var(0)[inner][where].mean().sqrt() / error.pow(2).mean().sqrt())
    out["energy sample"], out["correlation b"] = energy(detail(stack[0])), correlation(detail(b))
    out["correlation sample"] = correlation(detail(stack[0]))
    return out


def table(
    cases: list[Case],
    autoencoder: ResidualAutoencoder | PrincipalBlocks,
    flow: ResidualFlow | None,
    steps: int = 4,
    samples: int = 8,
    principal: PrincipalBlocks | None = None,
) -> dict[str, dict[str, float]]:
    """Scores by row and scanner, reported and returned."""
    cells: dict[str, list[dict[str, float]]] = {}
    for case in cases:
        cells.setdefault(f"{case.row} {case.scan}", []).append(
            scores(case, autoencoder, flow, steps, samples, principal)
        )
    rows = {row: {k: sum(e[k] for e in cell) / len(cell) for k in cell[0]} for row, cell in sorted(cells.items())}
    for row, values in rows.items():
        log.info("%-16s %s", row, "  ".join(f"{k} {v:.3f}" for k, v in values.items()))
    return rows
