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
from medldm.inference.tiling import SamplerConfig, estimate, estimate_with_spread, refine
from medldm.inference.uncertainty import calibrated, interval_for, mean_and_spread, no_spread, why_not
from medldm.provenance.record import package_version
from medldm.qc.ood import check_residual
from medldm.settings import Progress, silent
from medldm.system import peak_memory_mb

log = logging.getLogger(__name__)

STEPS = 4  # of the flow, where a sample is drawn and no number was asked for
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
    """What the networks predicted: one restoration, or statistics of several.

    Parameters
    ----------
    mean : (X, Y, Z) scaled intensity
    std : (X, Y, Z) standard deviation of several samples, scaled intensity; None for one sample, or see `why_no_std`
    half_width : (X, Y, Z) of the calibrated interval around the mean, scaled intensity; None where there is none
    noise : typical noise level that the networks were given, scaled intensity
    refined : whether the latent flow and the fusion decoder ran after the regression
    faithful : fidelity that the fusion decoder is given at ``--fidelity 1``
    orientations : number of planes that were averaged, or that samples were drawn in
    why_no_std : why several samples have no standard deviation, a sentence; empty otherwise
    """

    mean: Tensor
    std: Tensor | None
    half_width: Tensor | None
    noise: float
    refined: bool
    faithful: float
    orientations: int
    why_no_std: str = ""


def sample(scan: ResolvedScan, conditions: Conditions, progress: Progress = silent) -> Samples:
    """Run the networks as often as the settings ask for, and give mean and standard deviation of the results.

    A run is the regression (`estimate`), and the refinement of it (`refine`: latent flow and fusion decoder) where the
    model has one and it is of use. One sample averages the orientations; of several, each runs in one of them.

    Parameters
    ----------
    scan : resolved
    conditions : for the networks
    progress : called with (done, total, what)

    Raises
    ------
    UsageError
        Several samples of a model that gives one answer.
    ModelError
        A card whose sampler this version does not know.
    ResourceError
        Too little memory.
    """
    if scan.networks.spread is not None:
        return sample_residual(scan, conditions, progress)
    settings, observation, networks = scan.settings, conditions.observation, scan.networks
    usage = scan.card.used(conditions.kind or scan.task.verb)
    if settings.samples > 1 and not networks.refines:
        raise UsageError(
            f"{scan.card.name} gives one answer, not samples; say --samples 1, or choose a model with a flow."
        )
    if usage.sampler not in SAMPLERS:
        raise ModelError(
            f"{scan.card.name} uses the sampler {usage.sampler!r}; this version has {', '.join(SAMPLERS)}. Install the "
            "version of medldm that trained it, or choose another --model."
        )
    sigma = conditions.noise.on(observation.y.shape)
    orientations = conditions.orientations[: usage.orientations]
    # With default settings, the card says whether refining beat the regression alone on validation scans.
    default = settings.fidelity == 1 and settings.samples == 1 and settings.steps == 1
    refines = networks.refines and (usage.refines or not default)
    sampling = SamplerConfig(
        steps=settings.flow_steps,
        fidelity=settings.fidelity * usage.faithful,
        tile=settings.tile or fitted_tile(scan.device, networks.config.spatial_dims),
        device=scan.device,
        pixels=fitted_pixels(scan.device),
        sampler=usage.sampler,
    )
    passes_per_sample = 2 if refines else 1  # regression, refinement
    passes = settings.samples * passes_per_sample
    regressions: dict[int, Tensor] = {}  # by index of the orientation; the same for every sample in it

    def progress_of(number: int) -> Progress:
        """Progress of one pass, as a part of all."""
        return lambda done, total, what: progress(number * total + done, passes * total, what)

    def draw(number: int) -> Tensor:
        """Sample `number`, (X, Y, Z)."""
        first_pass = number * passes_per_sample
        orientation_index = number % len(orientations)
        # Where samples of different orientations disagree, the restoration is uncertain.
        planes = [orientations[orientation_index]] if settings.samples > 1 else orientations
        if orientation_index not in regressions:
            part = progress_of(first_pass)
            regressions[orientation_index] = estimate(networks, observation, sigma, planes, sampling, part)
        regression = regressions[orientation_index]
        if not refines:
            return regression
        # One step gives the conditional mean, which takes no seed. A run has at most 64 samples: no seed comes twice.
        seed = settings.seed * 1000 + number if settings.flow_steps > 1 else None
        seeded = sampling._replace(seed=seed)
        return refine(networks, observation, sigma, planes, seeded, regression, progress_of(first_pass + 1))

    mean, std = or_lack_of_memory(scan.volume.name, lambda: mean_and_spread(draw, settings.samples))
    half_width, reason = None, ""
    if std is not None:
        half_width = _half_width(scan, mean, std, observation.observed, sigma, len(orientations))
        reason = no_spread(std, observation, min(len(orientations), settings.samples), copies=scan.task.copies)
    if reason:
        # A map of zeros would look like certainty. The interval stays, it is calibrated for samples that hardly differ.
        reason = f"no standard deviation of the samples of {scan.volume.name}: {reason}"
        scan.notes.append(reason)
        log.warning(reason)
        std = None
    elif std is None:
        reason = f"one answer of {scan.card.name} has none; several samples have"
    noise = round(conditions.noise.typical, 5)
    return Samples(mean, std, half_width, noise, refines, usage.faithful, len(orientations), reason)


def sample_residual(scan: ResolvedScan, conditions: Conditions, progress: Progress = silent) -> Samples:
    """`sample` for model sets with a spread head: regression mean b and spread s, and samples around b where asked for.

    One sample is ``b + (1 - fidelity) (x - b)`` with x drawn by the flow: the mean at fidelity 1, which needs no flow,
    and a draw at 0; between them lies the best trade of error for realism (Freirich, Michaeli and Meir, "A theory of
    the distortion-perception tradeoff in Wasserstein space", 2021). Of several samples mean and standard deviation are
    taken, and a fidelity below 1 moves from their mean towards the first of them.

    Raises
    ------
    UsageError
        Samples, or a fidelity below 1, of a set without a flow, or of a volume too thin for it.
    """
    settings, observation, networks = scan.settings, conditions.observation, scan.networks
    usage = scan.card.used(conditions.kind or scan.task.verb)
    orientations, sigma = conditions.orientations[: usage.orientations], conditions.noise.on(observation.y.shape)
    draws = settings.samples if settings.samples > 1 or settings.fidelity < 1 else 0
    if draws and networks.residual_flow is None:
        raise UsageError(
            f"{scan.card.name} gives one answer, not samples: it has no flow. Say --samples 1 and --fidelity 1, or "
            "choose a model with a flow (`medldm models`)."
        )
    if draws and min(observation.y.shape) < THINNEST:
        raise UsageError(
            f"{scan.volume.name} is {min(observation.y.shape)} voxels thin; samples are drawn in volumes of at least "
            f"{THINNEST}. Say --samples 1 and --fidelity 1."
        )
    sampling = SamplerConfig(
        tile=settings.tile or fitted_tile(scan.device, networks.config.spatial_dims),
        device=scan.device,
        pixels=fitted_pixels(scan.device),
    )
    steps = settings.flow_steps if settings.steps > 1 else STEPS
    passes = 1 + draws

    def part(number: int, label: str = "") -> Progress:
        return lambda done, total, what: progress(number * total + done, passes * total, label or what)

    def restored() -> tuple[Tensor, Tensor]:
        regression = Regression(*estimate_with_spread(networks, observation, sigma, orientations, sampling, part(0)))
        spread = regression.log_s.exp()
        if not draws:
            return regression.mean, spread
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
                steps=steps,
                device=scan.device,
                progress=lambda done, total: tiles(done, total, ""),
            )
            first.append(drawn)
            del first[1:]
            return conditions.project(drawn)

        mean, std = mean_and_spread(one, draws, opposite=True)
        if std is None:
            mean, std = regression.mean, spread
        weight = 1 - settings.fidelity
        return mean + weight * (first[0] - mean), std

    mean, std = or_lack_of_memory(scan.volume.name, restored)
    half_width = _half_width(scan, mean, std, observation.observed, sigma, len(orientations))
    noise = round(conditions.noise.typical, 5)
    return Samples(mean, std, half_width, noise, draws > 0, settings.fidelity, len(orientations))


def _half_width(
    scan: ResolvedScan, mean: Tensor, std: Tensor, observed: Tensor, sigma: Tensor, orientations: int
) -> Tensor | None:
    """(X, Y, Z) half width of the calibrated interval, scaled intensity; None, and a note why, without one."""
    interval = interval_for(scan.card, scan.task.verb, orientations)
    if reason := why_not(interval, scan.settings, scan.card.name):
        scan.notes.append(f"no calibrated interval: {reason}")
    if reason or interval is None:
        return None
    half = interval.half_width(mean, std, sigma, observed)
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
    networks = {"refined": samples.refined, "faithful": samples.faithful, "looks": samples.orientations}
    all_facts = {
        "model": card.name,
        "sha256": card.sha256,
        "modality": scan.modality.name,
        "device": scan.device,
        "seed": settings.seed,
        "steps": settings.flow_steps,
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
        kind = calibrated(scan.task.verb, samples.orientations, one_pass=card.spread)
        all_facts["interval"] = card.calibration["verbs"][kind] | {
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
