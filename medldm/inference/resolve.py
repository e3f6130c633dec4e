"""The first two steps of a restoration: resolve how a scan is restored, and condition its measurement.

`resolve` finds modality, device, model and intensity scale. `scaled`, `plausible` and `noise_level` give the
measurement and its noise level as the networks see them. The later steps are in `medldm.inference.pipeline`.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medldm.data.intensity import Scaling
from medldm.data.outliers import Outliers, set_aside
from medldm.data.volume import Volume, Voxels
from medldm.errors import UsageError
from medldm.inference.device import pick_card, pick_device
from medldm.inference.networks import Networks, load_networks
from medldm.inference.noise_map import NoiseLevel
from medldm.modality import MODALITIES, Modality, guess_modality
from medldm.models.precision import pick_precision
from medldm.qc.noise import NoiseEstimate, NoisyScan
from medldm.qc.ood import check, missing_reference
from medldm.settings import Settings
from medldm.zoo import Card

log = logging.getLogger(__name__)

VARIES = 1.5  # a noise map whose 90th percentile is this many times its 10th is used as a map
MAPPED = 0.015  # scaled noise; below it a map would be one of anatomy
QUIET = 0.01  # scaled noise below which networks that fill or sharpen are given none


class NetworkTask(Protocol):
    """What the pipeline asks of a task; `medldm.tasks.base.Task` answers."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def verb(self) -> str:
        """What the networks do, as model cards call it."""

    @property
    def copies(self) -> bool:
        """Whether measured voxels come out bit for bit."""

    @property
    def removes_noise(self) -> bool:
        """Whether what it changes is measured in the noise level."""


@dataclass(frozen=True)
class ResolvedScan:
    """A scan, and how it is restored.

    Parameters
    ----------
    volume : scan, outliers replaced
    settings : of the task
    task : that runs
    modality : of the scan
    device : torch device
    card : of the model
    scaling : of intensities
    foreground : (X, Y, Z) bool where scaling and noise need one, else None
    outliers : as they were measured
    outside : what speaks against this model for this scan, by name of the check
    notes : sentences for the record; later steps add to them
    started : clock at the beginning, s
    """

    volume: Volume
    settings: Settings
    task: NetworkTask
    modality: Modality
    device: str
    card: Card
    scaling: Scaling
    foreground: Any
    outliers: Outliers
    outside: dict[str, str]
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def positive(self) -> bool:
        """Whether negative voxels are impossible: magnitudes are not negative, unless somebody shifted them."""
        return self.modality.magnitude and not bool((np.nan_to_num(self.volume.voxels) < 0).any())

    @property
    def networks(self) -> Networks:
        """The networks of the model, loaded at the first call."""
        return load_networks(self.card, self.device, pick_precision(self.settings.precision, self.device))


def resolve(volume: Volume, settings: Settings, task: NetworkTask) -> ResolvedScan:
    """Choose modality, device and model for a scan, and find its intensity scale.

    Parameters
    ----------
    volume : as read
    settings : of the task
    task : that runs

    Raises
    ------
    ModelError
        No such model or device, or a model that does not fit the scan.
    """
    started, notes, warnings = time.monotonic(), [], []
    # Before anything averages, scales or projects: one absurd voxel would reach thousands of others.
    volume, outliers = set_aside(volume)
    if len(outliers):
        warnings.append(outliers.sentence(volume))
    guessed, note = guess_modality(volume)
    modality = MODALITIES[guessed if settings.modality == "auto" else settings.modality]
    if settings.modality == "auto" and note:
        warnings.append(note)
    for warning in warnings:
        log.warning(warning)
    notes += [*warnings, *volume.stored.note]
    device = pick_device(settings.device)
    card = pick_card(settings.model, modality.name, volume, task.verb, device)
    # The check of the card, scaling and noise share one foreground; with a fixed window only the check needs it.
    foreground = modality.foreground(volume.voxels) if modality.window is None else None
    outside = check(volume, card, task.name, foreground if card.modality == modality.name else None)
    for warning in outside.values():
        log.warning(warning)
    if nothing_to_compare := missing_reference(volume, card):
        notes.append(nothing_to_compare)
        log.warning(nothing_to_compare)
    scaling = modality.scaling(volume.voxels, foreground)
    return ResolvedScan(
        volume, settings, task, modality, device, card, scaling, foreground, outliers, outside, notes, started
    )


def scaled(scan: ResolvedScan) -> tuple[Tensor, Tensor]:
    """(X, Y, Z) scaled intensity with NaN set to 0, and where there was none, (X, Y, Z) bool."""
    voxels = scan.scaling.apply(scan.volume.voxels).astype(np.float32, copy=False)  # networks take no float64
    known = np.isfinite(voxels)
    if not known.all():
        voxels = np.where(known, voxels, np.float32(0))
    return torch.from_numpy(np.ascontiguousarray(voxels)), torch.from_numpy(known)


def plausible(scan: ResolvedScan, measured: Tensor) -> Tensor:
    """CT without what no tissue is: padding far below air, overflow; a network would ring at their edges.

    Parameters
    ----------
    scan : resolved
    measured : (X, Y, Z) scaled intensity
    """
    if scan.modality.plausible is None:
        return measured
    low, high = (float(end) for end in scan.scaling.apply(np.array(scan.modality.plausible, np.float32)))
    inside = float(measured.min()) >= low and float(measured.max()) <= high
    return measured if inside else measured.clamp(low, high)


def noise_level(scan: ResolvedScan, given: float | Voxels | None) -> tuple[NoiseLevel, NoiseEstimate | None]:
    """Noise level in scaled intensity, and the estimate when nobody gave a level.

    Parameters
    ----------
    scan : resolved
    given : number or map (X, Y, Z) in the unit of ``--noise``; estimated when None

    Raises
    ------
    UsageError
        More noise than there can be signal.
    """
    per_level = 1 / scan.modality.noise.per_scaled(scan.scaling)
    if given is not None:
        typical = float(np.median(given))
        if typical > scan.modality.noise.highest:
            raise UsageError(
                f"--noise {typical:g} is more than all signal: in MRI it is a fraction of the scan's 99.5th "
                f"percentile. Say --noise {typical / 100:g} for {typical:g} %, or --modality ct if it is "
                f"{typical:g} HU."
            )
        if isinstance(given, np.ndarray):
            return NoiseLevel(torch.from_numpy(np.array(given, np.float32)) * per_level), None
        return NoiseLevel.uniform(given * per_level), None
    noisy = NoisyScan(scan.volume.voxels, scan.volume.spacing, scan.modality.name, scan.foreground)
    estimate = noisy.estimate()
    if not estimate.reliable:
        scan.notes.append(f"noise level {estimate}")
    if min(scan.volume.shape) >= 16 and scan.modality.noise.relative and estimate.level > MAPPED:
        unit = scan.scaling.unit
        levels = noisy.map(overall=estimate.sigma) / unit
        low, high = np.percentile(levels[scan.volume.voxels > 0.25 * unit], [10, 90])
        if high > VARIES * low:
            scan.notes.append("the noise varies over the scan; a noise map was used")
            return NoiseLevel(torch.from_numpy(levels)), estimate
    return NoiseLevel.uniform(estimate.level * per_level), estimate


def quiet_noise_level(scan: ResolvedScan, given: float | Voxels | None = None) -> NoiseLevel:
    """Noise level for tasks that fill or sharpen; nothing below 1 %, where anatomy passes for noise.

    A map that was given stays one; of an estimated one the median counts.

    Parameters
    ----------
    scan, given : as in `noise_level`
    """
    level, estimate = noise_level(scan, given)
    trusted = estimate is None or estimate.reliable or level.typical > 2 * QUIET
    if level.typical <= QUIET or not trusted:
        return NoiseLevel.uniform(0)
    return level if estimate is None else NoiseLevel.uniform(level.typical)
