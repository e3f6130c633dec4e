"""The later steps of a restoration, which all tasks share: run the networks, convert the result, record the run.

A task goes through these steps; those without a module are here:

1. `medldm.inference.resolve`: choose modality, device, model and intensity scale (a `ResolvedScan`).
2. Bring the measurement to the output grid (an `Observation`), and put it into `Conditions`.
3. `sample`: run the networks once or several times; gives `Samples`, with their mean and standard deviation.
4. Make the mean agree with the measurement; every task has its own way to do so.
5. `in_stored_units`: back from scaled intensity; `medldm.data.volume.merge_filled` where measured voxels are copied.
6. `record`: the new volume, with this run in its history.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.data.volume import Affine, Step, Stored, Volume, Voxels
from medldm.degradations import Degradation, Observation
from medldm.diffusion.samplers import SAMPLERS
from medldm.errors import ModelError, UsageError
from medldm.inference.conditioning import Orientation
from medldm.inference.device import fitted_pixels, fitted_tile
from medldm.inference.memory import or_lack_of_memory
from medldm.inference.residual import Regression, draw
from medldm.inference.resolve import NoiseLevel, ResolvedScan
from medldm.inference.tiling import Tiling, estimate, estimate_with_spread
from medldm.inference.uncertainty import interval_for, mean_and_spread, why_not
from medldm.provenance.record import package_version
from medldm.qc.ood import check_residual
from medldm.settings import Progress, silent
from medldm.system import peak_memory_mb
from medldm.zoo import cards

log = logging.getLogger(__name__)

THINNEST = 8  # voxels, along every axis of a volume in which samples are drawn


@dataclass(frozen=True)
class Conditions:
    """What the networks are given.

    Parameters
    ----------
    observation : (X, Y, Z) on the output grid
    noise : level, on the grid of the scan; `sample` interpolates it where the output grid is another one
    orientations : planes in which the networks may run; the model card says how many of them do
    kind : under which name the model card says how it is used, where that is not the task's (``medldm.zoo.IN_PLANE``)
    project : (X, Y, Z) restored to the nearest that the measurement allows; samples are projected before they are
        compared, so that their deviation is not that of what the measurement decides
    """

    observation: Observation
    noise: NoiseLevel
    orientations: Sequence[Orientation]
    kind: str = ""
    project: Callable[[Tensor], Tensor] = lambda restored: restored


@dataclass(frozen=True)
class Samples:
    """What the networks predicted: one restoration with its spread, or statistics of several.

    Parameters
    ----------
    mean : (X, Y, Z) scaled intensity
    std : (X, Y, Z) standard deviation of several samples, or the spread around one answer, scaled intensity; None for
        sets without a spread head
    half_width : (X, Y, Z) of the calibrated interval around the mean, scaled intensity; None where there is none
    noise : typical noise level that the networks were given, scaled intensity
    drawn : how many samples the flow drew
    orientations : number of planes that were averaged
    why_no_std : why there is no standard deviation, a sentence; empty otherwise
    """

    mean: Tensor
    std: Tensor | None
    half_width: Tensor | None
    noise: float
    drawn: int
    orientations: int
    why_no_std: str = ""


def sample(scan: ResolvedScan, conditions: Conditions, progress: Progress = silent) -> Samples:
    """The regression mean b with its spread s, and samples around b where the settings ask for them.

    One sample is ``b + (1 - fidelity) (x - b)`` with x drawn by the flow: the mean at fidelity 1, which needs no flow,
    and a draw at 0; between them lies the best trade of error for realism (Freirich, Michaeli and Meir, "A theory of
    the distortion-perception tradeoff in Wasserstein space", 2021). Of several samples mean and standard deviation are
    taken, and a fidelity below 1 moves from their mean towards the first of them.

    Parameters
    ----------
    scan : resolved
    conditions : for the networks
    progress : called with (done, total, what)

    Raises
    ------
    UsageError
        Samples, or a fidelity below 1, of a set without a flow, or of a volume too thin for it.
    ModelError
        A card whose sampler this version does not know.
    ResourceError
        Too little memory.
    """
    settings, observation, networks = scan.settings, conditions.observation, scan.networks
    usage = scan.card.used(conditions.kind or scan.task.verb)
    orientations, sigma = conditions.orientations[: usage.orientations], conditions.noise.on(observation.y.shape)
    draws = settings.draws
    if draws:
        check_samples(scan, observation, usage.sampler)
    tiling = Tiling(
        tile=settings.tile or fitted_tile(scan.device, networks.config.spatial_dims),
        device=scan.device,
        pixels=fitted_pixels(scan.device),
    )
    passes = 1 + draws

    def part(number: int, label: str = "") -> Progress:
        """Progress of one pass, as a part of all."""
        return lambda done, total, what: progress(number * total + done, passes * total, label or what)

    def restored() -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Mean, standard deviation, and spread around the regression mean."""
        if networks.spread is None:
            return estimate(networks, observation, sigma, orientations, tiling, part(0)), None, None
        regression = Regression(*estimate_with_spread(networks, observation, sigma, orientations, tiling, part(0)))
        spread = regression.log_s.exp()
        if not draws:
            return regression.mean, spread, spread
        first: list[Tensor] = []

        def one(number: int) -> Tensor:
            tiles = part(1 + number, f"sample {number + 1} of {draws}")
            drawn = draw(
                networks,
                observation,
                sigma,
                regression,
                orientations[0],
                seed=settings.seed * 1000 + number,
                steps=settings.steps,
                sampler=usage.sampler,
                device=scan.device,
                progress=lambda done, total: tiles(done, total, ""),
            )
            first.append(drawn)
            del first[1:]
            return conditions.project(drawn)

        mean, std = mean_and_spread(one, draws, opposite=True)
        if std is None:
            mean, std = regression.mean, spread
        return mean + (1 - settings.fidelity) * (first[0] - mean), std, spread

    mean, std, spread = or_lack_of_memory(scan.volume.name, restored)
    half_width = None
    if spread is not None:
        # That of the spread head, which was calibrated, also where samples were drawn.
        half_width = _half_width(scan, mean, spread, observation.observed, sigma)
    reason = "" if std is not None else f"{scan.card.name} has no spread head, so that one answer has none"
    noise = round(conditions.noise.typical, 5)
    return Samples(mean, std, half_width, noise, draws, len(orientations), reason)


def check_samples(scan: ResolvedScan, observation: Observation, sampler: str) -> None:
    """Refuse what no sample can be drawn of; errors as in `sample`."""
    if scan.networks.residual_flow is None:
        raise UsageError(
            f"{scan.card.name} gives one answer, not samples: it has no flow. Say --samples 1 and --fidelity 1; its "
            "standard deviation and interval come with --uncertainty. Or choose a --model that has a flow: "
            f"{', '.join(model.name for model in cards() if model.residual) or 'no shipped set has one'}."
        )
    if sampler not in SAMPLERS:
        raise ModelError(
            f"{scan.card.name} uses the sampler {sampler!r}; this version has {', '.join(SAMPLERS)}. Install the "
            "version of medldm that trained it, or choose another --model."
        )
    if min(observation.y.shape) < THINNEST:
        raise UsageError(
            f"{scan.volume.name} is {min(observation.y.shape)} voxels thin; samples are drawn in volumes of at least "
            f"{THINNEST}. Say --samples 1 and --fidelity 1."
        )


def _half_width(scan: ResolvedScan, mean: Tensor, spread: Tensor, observed: Tensor, sigma: Tensor) -> Tensor | None:
    """(X, Y, Z) half width of the calibrated interval, scaled intensity; None, and a note why, without one."""
    interval = interval_for(scan.card, scan.task.verb)
    if reason := why_not(interval, scan.settings, scan.card.name):
        scan.notes.append(f"no calibrated interval: {reason}")
    if reason or interval is None:
        return None
    half = interval.half_width(mean, spread, sigma, observed)
    # Tasks that copy the measured voxels are certain of them.
    return torch.where(observed >= 1, 0.0, half) if scan.task.copies else half


def in_stored_units(scan: ResolvedScan, restored: Tensor) -> Voxels:
    """Restored voxels in the unit of the scan; negative ones become 0 where the scan can have none (`positive`).

    Parameters
    ----------
    scan : resolved
    restored : (X, Y, Z) scaled intensity
    """
    voxels = scan.scaling.invert(restored.numpy())
    return np.maximum(voxels, 0) if scan.positive else voxels


def spread_in_stored_units(scan: ResolvedScan, samples: Samples, where: Any = True) -> Voxels | None:
    """Standard deviation of the samples in the unit of the scan, 0 outside `where`; None where there is none.

    Parameters
    ----------
    scan : resolved
    samples : of the scan
    where : bool, (X, Y, Z) or broadcastable; voxels that were restored
    """
    if samples.std is None:
        return None
    return np.where(where, samples.std.numpy() * np.float32(scan.scaling.unit), 0).astype(np.float32)


def with_outliers(scan: ResolvedScan, voxels: Voxels) -> Voxels:
    """Put the outliers back that `resolve` replaced, in place; `voxels` are on the grid of the scan."""
    voxels[scan.outliers.at()] = scan.outliers.values
    return voxels


def record(
    scan: ResolvedScan,
    samples: Samples,
    voxels: Voxels,
    facts: dict[str, Any],
    *,
    restored: Any = True,
    affine: Affine | None = None,
    stored: Stored | None = None,
    signal: float = 1.0,
) -> Volume:
    """A new volume with this run in its history.

    Parameters
    ----------
    scan, samples : of the run
    voxels : (X, Y, Z) restored, unit of the scan
    facts : what the task itself has to record
    restored : bool, (X, Y, Z) or broadcastable; voxels that were restored, not copied
    affine : (4, 4) of the output grid, where it is not that of the scan
    stored : how the result is to be stored, where not as the scan was
    signal : RMS of the measurement, scaled intensity, where the residual in `facts` is relative to it; else 1
    """
    card, settings, unit = scan.card, scan.settings, np.float32(scan.scaling.unit)
    noise = facts.get("noise_level", 0.0) / scan.modality.noise.per_scaled(scan.scaling)  # scaled intensity
    left, in_noise = facts.get("consistency_residual"), scan.task.removes_noise
    residual_warnings = check_residual(card, scan.task.verb, left, noise / signal, in_noise=in_noise)
    for warning in residual_warnings.values():
        log.warning(warning)
    outside = scan.outside | residual_warnings
    # "looks" is what records call the number of orientations.
    networks = {"drawn": samples.drawn, "looks": samples.orientations}
    all_facts = {
        "model": card.name,
        "sha256": card.sha256,
        "modality": scan.modality.name,
        "device": scan.device,
        "seed": settings.seed,
        "steps": settings.steps,
        "networks": networks,
        "noise_told": samples.noise,
        "medldm": package_version("medldm"),
        "seconds": round(time.monotonic() - scan.started, 2),
        "peak_memory_mb": peak_memory_mb(),
        "notes": list(dict.fromkeys([*scan.notes, *outside.values()])),
        "outside_of_card": list(outside),
        **scan.outliers.facts(scan.volume),
        **({"no_spread": samples.why_no_std} if samples.why_no_std else {}),
        **facts,
    }
    half = None if samples.half_width is None else samples.half_width.numpy() * unit
    if half is not None:
        all_facts["interval"] = card.calibration["verbs"][scan.task.verb] | {
            "coverage": card.calibration["coverage"],
            "median_half_width": round(float(np.median(half[half > 0])), 5) if (half > 0).any() else 0.0,
        }
    step, std = Step(scan.task.name, settings.asdict(), all_facts), spread_in_stored_units(scan, samples, restored)
    log.info("%s: %s in %.1f s on %s", scan.volume.name, scan.task.name, all_facts["seconds"], scan.device)
    return scan.volume.with_voxels(voxels, affine, step=step, std=std, half_width=half, stored=stored)


def relative_residual(degradation: Degradation, restored: Tensor, measured: Tensor) -> float:
    """RMS difference between the restored image, degraded again, and the measurement, divided by the latter's RMS."""
    difference = degradation.degrade(restored) - measured
    return float(difference.pow(2).mean().sqrt() / measured.pow(2).mean().sqrt().clamp_min(1e-12))
