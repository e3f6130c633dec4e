"""Gates that a residual flow must pass before its samples ship, and how obedience, seeds, mean and price are measured.

Realism, harm and cost take longer; `docs/benchmarks/gates.py` measures them with the cases of this module, and writes
the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medldm.benchmark.gate_cases import DAMAGED, LOSSY, ROWS, Case
from medldm.diffusion.samplers import DEFAULT
from medldm.inference.networks import Networks
from medldm.inference.residual import Regression, draw
from medldm.inference.tiling import Tiling, estimate_with_spread
from medldm.metrics import detail_correlation, detail_energy_ratio
from medldm.metrics.samples import (
    energy_score,
    fair_crps,
    gaussian_crps,
    gaussian_energy_score,
    rank_histogram,
    spread_to_error,
)
from medldm.models.residual import PrincipalBlocks

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Gate:
    """One figure with its limits.

    Parameters
    ----------
    name : of the gate; some have several figures
    figure : what is measured, for people
    key : of the figure among those that are measured
    rows : where it is judged
    low, high : limits, both allowed
    """

    name: str
    figure: str
    key: str
    rows: tuple[str, ...]
    low: float = -math.inf
    high: float = math.inf

    @property
    def limit(self) -> str:
        """The limits, for people."""
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if math.isinf(self.low) else f"{self.low:g} to {self.high:g}"

    def passed(self, figure: float) -> bool:
        """Whether a figure, to three digits, lies within the limits; one that could not be measured does not."""
        return self.low <= round(figure, 3) <= self.high


GAIN = "dB that the decoded true latent is better than b"
GATES = (
    Gate("obedience", GAIN, "true latent gain", ("thick4",), low=5.5),
    Gate("obedience", GAIN, "true latent gain", ("gap4", "gap3"), low=6.5),
    Gate("obedience", GAIN, "true latent gain", ("region",), low=8.0),
    Gate("obedience", "dB better than principal components of the same size", "over principal", LOSSY, low=0.0),
    Gate("seeds", "spread of samples / error of b", "spread / error", LOSSY, 0.7, 1.3),
    Gate("seeds", "fair CRPS of samples / CRPS of the Gaussian (b, s)", "crps ratio", LOSSY, high=1.05),
    Gate("seeds", "energy score / that of independent Gaussian draws", "energy ratio", LOSSY, high=1.0),
    Gate("mean", "dB of the mean of samples above b", "mean gain", tuple(ROWS), low=0.0),
    Gate("realism", "accuracy of a classifier, samples against real patches", "classifier", LOSSY, high=0.8),
    Gate("realism", "rms gap of log power / that of b", "power ratio", ("thick4", "gap4"), high=0.333),
    Gate("realism", "kernel distance of fine detail / that of b", "kernel ratio", LOSSY, high=1.0),
    Gate("price", "dB of one sample above b", "sample gain", tuple(ROWS), low=-3.0),
    # A sample that is as far from the truth as it must be has more; scans are read in the mean (record 0054).
    Gate(
        "harm",
        "false lesions in the mean of samples / those of b",
        "false lesions mean ratio",
        ("thick4", "gap4", "gap3", "noise7"),
        high=1.1,
    ),
    # To two digits: the contrast of a sample differs from seed to seed by more.
    Gate("harm", "contrast of lesions minus that in b", "contrast gain", ("thick4", "gap4", "gap3", "noise7"), -0.005),
    Gate("cost", "time of the steps / that of b", "time ratio", ("thick4", "noise7"), high=3.0),
)


class SamplingOptions(NamedTuple):
    """How samples are drawn.

    Parameters
    ----------
    steps : of the flow
    sampler : name in `medldm.diffusion.SAMPLERS`
    device : torch device
    """

    steps: int = 4
    sampler: str = DEFAULT
    device: str = "cpu"


USUAL = SamplingOptions()


class Answer(NamedTuple):
    """What the networks say of a case, projected onto the measurement, (H, W, D) scaled intensity.

    Parameters
    ----------
    regression : before the projection
    b : regression mean
    samples : (K, H, W, D) independent of each other
    mean : of as many samples as ``--samples`` would draw
    """

    regression: Regression
    b: Tensor
    samples: Tensor
    mean: Tensor

    @property
    def s(self) -> Tensor:
        """Spread around b."""
        return self.regression.log_s.exp()


def answer(networks: Networks, case: Case, samples: int = 8, options: SamplingOptions = USUAL) -> Answer:
    """Regression, independent samples, and the mean of as many as a user would draw.

    Those of a user come in pairs of opposite noise, whose mean is better and whose spread is wider than that of
    independent ones; so every other one is scored.

    Parameters
    ----------
    networks : of a set with a residual flow
    case : damaged cube
    samples : how many of both
    options : of the flow and its sampler
    """
    regression = regress(networks, case, options.device)

    def sample(seed: int) -> Tensor:
        return drawn(networks, case, regression, seed, options)

    of_user = {seed: sample(seed) for seed in range(samples)}
    independent = [of_user[seed] if seed in of_user else sample(seed) for seed in range(0, 2 * samples, 2)]
    mean = torch.stack(list(of_user.values())).mean(0)
    return Answer(regression, case.project(regression.mean), torch.stack(independent), mean)


def regress(networks: Networks, case: Case, device: str = "cpu") -> Regression:
    """Regression mean and spread of a case, as a verb computes them."""
    sampling = Tiling(device=device)
    return Regression(*estimate_with_spread(networks, case.observation, case.sigma, case.orientations, sampling))


def drawn(
    networks: Networks, case: Case, regression: Regression, seed: int, options: SamplingOptions = USUAL
) -> Tensor:
    """One sample, projected onto the measurement."""
    sample = draw(networks, case.observation, case.sigma, regression, DAMAGED, seed=seed, **options._asdict())
    return case.project(sample)


def true_latents(networks: Networks, case: Case, regression: Regression) -> tuple[Tensor, Tensor]:
    """What is decoded of the true residual's latent: as the set does, and by principal components of the same size.

    Returns
    -------
    two images (H, W, D), projected onto the measurement
    """
    latent = networks.latent_blocks
    assert latent is not None
    device = latent.basis.device
    b, log_s, clean = (DAMAGED.to_planes(f)[None, None].to(device) for f in (*regression, case.clean))
    s = log_s.exp()
    z = latent.latent((clean - b) / s, log_s)
    alone = PrincipalBlocks(latent.basis, latent.scale, latent.factor)
    ours, principal = (case.project((b + s * part.decode(z))[0, 0].float().cpu()) for part in (latent, alone))
    return ours, principal


def figures(networks: Networks, case: Case, given: Answer) -> dict[str, float]:
    """Figures of obedience, seeds, mean and price of one case, over the scored voxels.

    Parameters
    ----------
    networks, case : as `answer` was given
    given : its result
    """
    where, axes = case.scored, case.detail_axes
    clean, b, s, samples, mean = (f.numpy() for f in (case.clean, given.b, given.s, given.samples, given.mean))
    true, principal = (image.numpy() for image in true_latents(networks, case, given.regression))
    generator = np.random.default_rng(0)
    # What was measured, or lies outside, is nobody's guess.
    truth, at, std = clean[where], b[where], s[where]
    few = samples[:, where]

    def psnr(guess: Array) -> float:
        return -10 * math.log10(float(np.square(guess.astype(np.float64) - truth).mean()))

    base, one = psnr(at), float(np.mean([psnr(sample) for sample in few]))
    ranks = rank_histogram(few, truth, generator)
    return {
        "psnr b": base,
        "true latent gain": psnr(true[where]) - base,
        "over principal": psnr(true[where]) - psnr(principal[where]),
        "spread / error": spread_to_error(few, at, truth),
        "s / error": math.sqrt(float(np.square(std).mean()) / float(np.square(at - truth).mean())),
        "in 90 % of s": float((np.abs(at - truth) < 1.6449 * std).mean()),
        "outside of samples": float(ranks[0] + ranks[-1]),
        "crps": float(fair_crps(few, truth).mean()),
        "crps gaussian": float(gaussian_crps(at, std, truth).mean()),
        "energy score": energy_score(samples, clean, where),
        "energy score gaussian": gaussian_energy_score(b, s, clean, generator, where),
        "mean gain": psnr(mean[where]) - base,
        "sample gain": one - base,
        "detail b": detail_energy_ratio(b, clean, where, axes),
        "detail sample": detail_energy_ratio(samples[0], clean, where, axes),
        "correlation b": detail_correlation(b, clean, where, axes),
        "correlation sample": detail_correlation(samples[0], clean, where, axes),
    }


def averaged(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the figures of several cases, and the ratios that gates judge.

    Parameters
    ----------
    measured : from `figures`, or figures with the names that it and the script beside the tables use
    """
    means = {key: float(np.mean([one[key] for one in measured])) for key in measured[0]}
    for name, key in (("crps ratio", "crps"), ("energy ratio", "energy score")):
        if key in means:
            means[name] = means[key] / means[f"{key} gaussian"]
    for name in ("false lesions", "power", "kernel"):
        if name in means:
            means[f"{name} ratio"] = ratio(means[name], means[f"{name} b"])
    if "false lesions mean" in means:
        means["false lesions mean ratio"] = ratio(means["false lesions mean"], means["false lesions b"])
    return means


def ratio(have: float, of_b: float) -> float:
    """A figure over that of b; 1 where both are zero."""
    if of_b <= 0:
        return 1.0 if have <= of_b else math.inf
    return have / of_b


def judged(row: str, measured: Mapping[str, float]) -> list[tuple[Gate, float]]:
    """The gates of a row whose figures were measured, with those figures."""
    return [(gate, measured[gate.key]) for gate in GATES if row in gate.rows and gate.key in measured]
