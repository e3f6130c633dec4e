"""The later steps of a restoration, which all tasks share: sample, project, record.

A task calls `medldm.inference.resolve`, makes an observation of the measurement (`Conditions`), lets `sample` run the
networks, projects the mean onto what was measured, converts it with `in_stored_units`, and ends with `record`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.data.volume import Affine, Step, Stored, Volume, Voxels
from medldm.degradations import Degradation, Observation
from medldm.diffusion.samplers import SAMPLERS
from medldm.errors import ModelError, UsageError
from medldm.inference.device import fitted_pixels, fitted_tile, our_version, peak_memory_mb
from medldm.inference.memory import in_memory
from medldm.inference.noise_map import NoiseLevel
from medldm.inference.orientations import Orientation
from medldm.inference.resolve import ResolvedScan
from medldm.inference.tiling import Progress, SamplerConfig, estimate, refine, silent
from medldm.inference.uncertainty import COPIED, calibrated, interval_for, mean_and_spread, no_spread, why_not
from medldm.qc.ood import check_residual

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conditions:
    """What the networks are given.

    Parameters
    ----------
    observation : (X, Y, Z) on the output grid
    noise : level on the grid of the scan, which may be another one over the same field of view
    orientations : to average
    kind : of damage, where a card uses its networks for it in another way than for the task
    """

    observation: Observation
    noise: NoiseLevel
    orientations: Sequence[Orientation]
    kind: str = ""


@dataclass(frozen=True)
class Samples:
    """What the networks answered.

    Parameters
    ----------
    mean : (X, Y, Z) scaled intensity
    std : (X, Y, Z) standard deviation of several samples, scaled intensity; None where it says nothing
    half_width : (X, Y, Z) of the calibrated interval, scaled intensity, or None
    noise : typical noise level that the networks were given, scaled intensity
    refined : whether flow and fusion decoder ran
    faithful : fidelity of the decoder at ``--fidelity 1``
    orientations : number of those that were averaged
    no_spread : why several samples have no standard deviation
    """

    mean: Tensor
    std: Tensor | None
    half_width: Tensor | None
    noise: float
    refined: bool
    faithful: float
    orientations: int
    no_spread: str = ""


def sample(scan: ResolvedScan, conditions: Conditions, progress: Progress = silent) -> Samples:
    """Draw as many restorations as the settings ask for.

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
    settings, observation, networks = scan.settings, conditions.observation, scan.networks
    use = scan.card.used(conditions.kind or scan.verb)
    if settings.samples > 1 and not networks.refines:
        raise UsageError(
            f"{scan.card.name} gives one answer, not samples; say --samples 1, or choose a model with a flow."
        )
    if use.sampler not in SAMPLERS:
        raise ModelError(
            f"{scan.card.name} uses the sampler {use.sampler!r}; this version has {', '.join(SAMPLERS)}. Install the "
            "version of medldm that trained it, or choose another --model."
        )
    sigma = conditions.noise.on(observation.y.shape)
    orientations = conditions.orientations[: use.orientations]
    # Where validation says that the regression mean is as near to the truth, the rest costs time only.
    plain = settings.fidelity == 1 and settings.samples == 1 and settings.steps == 1
    refines = networks.refines and (use.refines or not plain)
    sampling = SamplerConfig(
        steps=settings.flow_steps,
        fidelity=settings.fidelity * use.faithful,
        tile=settings.tile or fitted_tile(scan.device, networks.config.spatial_dims),
        device=scan.device,
        pixels=fitted_pixels(scan.device),
        sampler=use.sampler,
    )
    # Each sample is the answer of one orientation from beginning to end: where these disagree, it is uncertain.
    several = refines and settings.samples > 1
    passes = settings.samples * (2 if several else 1) + (refines and not several)
    regressions: dict[int, Tensor] = {}  # by orientation; the same for every sample

    def part(number: int) -> Progress:
        return lambda done, total, what: progress(number * total + done, passes * total, what)

    def draw(number: int) -> Tensor:
        which, first_pass = number % len(orientations), 2 * number if several else number
        chosen = [orientations[which]] if several else orientations
        if which not in regressions:
            regressions[which] = estimate(networks, observation, sigma, chosen, sampling, part(first_pass))
        regression = regressions[which]
        if not refines:
            return regression
        seed = settings.seed * 1000 + number if settings.flow_steps > 1 else None
        seeded = sampling._replace(seed=seed)
        return refine(networks, observation, sigma, chosen, seeded, regression, part(first_pass + 1))

    mean, std = in_memory(scan.volume.name, lambda: mean_and_spread(draw, settings.samples))
    half_width, reason = None, ""
    if std is not None:
        half_width = _half_width(scan, mean, std, observation.observed, sigma, len(orientations))
        reason = no_spread(std, observation, min(len(orientations), settings.samples), scan.verb)
    if reason:
        # Zeros would pass for certainty. The interval stays: its floor was calibrated for draws that hardly differ.
        reason = f"no standard deviation of the samples of {scan.volume.name}: {reason}"
        scan.notes.append(reason)
        log.warning(reason)
        std = None
    noise = round(conditions.noise.typical, 5)
    return Samples(mean, std, half_width, noise, refines, use.faithful, len(orientations), reason)


def _half_width(
    scan: ResolvedScan, mean: Tensor, std: Tensor, observed: Tensor, sigma: Tensor, orientations: int
) -> Tensor | None:
    """(X, Y, Z) half width of the calibrated interval, scaled intensity; None, and a note why, without one."""
    interval = interval_for(scan.card, scan.verb, orientations)
    if reason := why_not(interval, scan.settings, scan.card.name):
        scan.notes.append(f"no calibrated interval: {reason}")
    if reason or interval is None:
        return None
    half = interval.half_width(mean, std, sigma, observed)
    return torch.where(observed >= 1, 0.0, half) if scan.verb in COPIED else half


def in_stored_units(scan: ResolvedScan, restored: Tensor) -> Voxels:
    """Restored voxels in the unit of the scan; none below zero where there can be none.

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
    """The voxels with the outliers of the scan as they were measured, in place; for results on the grid of the scan."""
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
    facts : of the task, for the record
    restored : bool, (X, Y, Z) or broadcastable; voxels that were restored, not copied
    affine : (4, 4) when the grid changed
    stored : when the way of storing changed
    signal : what a relative residual is relative to, scaled intensity
    """
    card, settings, unit = scan.card, scan.settings, np.float32(scan.scaling.unit)
    noise = facts.get("noise_level", 0.0) / scan.modality.noise.per_scaled(scan.scaling)
    odd = check_residual(card, scan.verb, facts.get("consistency_residual"), noise / signal)
    for warning in odd.values():
        log.warning(warning)
    outside = scan.outside | odd
    used = {"refined": samples.refined, "faithful": samples.faithful, "looks": samples.orientations}
    all_facts = {
        "model": card.name,
        "sha256": card.sha256,
        "modality": scan.modality.name,
        "device": scan.device,
        "seed": settings.seed,
        "steps": settings.flow_steps,
        "networks": used,
        "noise_told": samples.noise,
        "medldm": our_version(),
        "seconds": round(time.monotonic() - scan.started, 2),
        "peak_memory_mb": peak_memory_mb(),
        "notes": list(dict.fromkeys([*scan.notes, *outside.values()])),
        "outside_of_card": list(outside),
        **scan.outliers.facts(scan.volume),
        **({"no_spread": samples.no_spread} if samples.no_spread else {}),
        **facts,
    }
    half = None if samples.half_width is None else samples.half_width.numpy() * unit
    if half is not None:
        all_facts["interval"] = card.calibration["verbs"][calibrated(scan.verb, samples.orientations)] | {
            "coverage": card.calibration["coverage"],
            "median_half_width": round(float(np.median(half[half > 0])), 5) if (half > 0).any() else 0.0,
        }
    step, std = Step(scan.task, settings.asdict(), all_facts), spread_in_stored_units(scan, samples, restored)
    log.info("%s: %s in %.1f s on %s", scan.volume.name, scan.task, all_facts["seconds"], scan.device)
    return scan.volume.with_voxels(voxels, affine, step=step, std=std, half_width=half, stored=stored)


def without(volume: Volume, lost: Any) -> Volume:
    """The scan as if some voxels had never been measured: what stands in them must not reach the result.

    Parameters
    ----------
    volume : scan
    lost : bool, (X, Y, Z) or broadcastable
    """
    return volume.with_voxels(np.where(lost, np.float32(np.nan), volume.voxels).astype(np.float32))


def written_into(volume: Volume, filled: Voxels, where: Any) -> Voxels:
    """The scan's own voxels, new ones where they were lost; integers stay integers.

    Parameters
    ----------
    volume : scan
    filled : (X, Y, Z) new voxels, unit of the scan
    where : bool, (X, Y, Z) or broadcastable
    """
    dtype = volume.voxels.dtype
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        filled = np.clip(np.rint(filled), limits.min, limits.max)
    joined: Voxels = np.where(where, filled.astype(dtype), volume.voxels)
    return joined


def residual(degradation: Degradation, restored: Tensor, measured: Tensor) -> float:
    """Relative RMS of what the restored image, measured again, differs from the measurement."""
    difference = degradation.degrade(restored) - measured
    return float(difference.pow(2).mean().sqrt() / measured.pow(2).mean().sqrt().clamp_min(1e-12))


def inside_slices(volume: Volume, stored_slices: Sequence[int], axis: int) -> tuple[int, list[int]]:
    """Stored slice numbers as positions along an axis of ``voxels``.

    Parameters
    ----------
    volume : scan
    stored_slices : counted along stored array axis `axis`

    Returns
    -------
    axis of ``voxels``, and positions along it
    """
    inside = volume.stored.axes[axis]
    count = volume.shape[inside]
    flip = volume.stored.flips[axis]
    return inside, [count - 1 - number if flip else number for number in stored_slices]
