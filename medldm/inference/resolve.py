"""The first two steps of a restoration: resolve how a scan is restored, and condition its measurement.

`resolve` finds modality, device, model and intensity scale. `scaled`, `plausible` and `noise_level` give the
measurement and its noise level as the networks see them. The later steps are in `medldm.inference.pipeline`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.data.intensity import Scaling
from medldm.data.outliers import Outliers, set_aside
from medldm.data.volume import Volume, Voxels
from medldm.errors import GeometryError, UnfitModel, UsageError
from medldm.inference.device import pick_device
from medldm.inference.networks import Networks, load_networks
from medldm.modality import MODALITIES, Modality, guess_modality
from medldm.models.precision import pick_precision
from medldm.qc.noise import NoiseEstimate, NoisyScan
from medldm.qc.ood import check, missing_reference
from medldm.settings import Settings
from medldm.zoo import PATIENCE_S, Card, best, card

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
    name, note = guess_modality(volume, settings.modality)
    modality = MODALITIES[name]
    if note:
        warnings.append(note)
    for warning in warnings:
        log.warning(warning)
    notes += [*warnings, *volume.stored.note]
    device = pick_device(settings.device)
    card = pick_card(settings, modality.name, volume, task.verb, device)
    # The check of the card, scaling and noise share one foreground; with a fixed window only the check needs it.
    foreground = modality.foreground(volume.voxels) if modality.window is None else None
    outside = check(volume, card, task.name, foreground if card.modality == modality.name else None)
    for warning in outside.values():
        log.warning(warning)
    if nothing_to_compare := missing_reference(volume, card):
        notes.append(nothing_to_compare)
        log.warning(nothing_to_compare)
    known = volume.stored.scale
    scaling = Scaling(*known) if known is not None else modality.scaling(volume.voxels, foreground)
    return ResolvedScan(
        volume, settings, task, modality, device, card, scaling, foreground, outliers, outside, notes, started
    )


def pick_card(settings: Settings, modality: str, volume: Volume, verb: str, device: str = "cpu") -> Card:
    """The card that was asked for, or the best for the scan.

    Parameters
    ----------
    settings : ``--model``, and whether samples are asked for
    modality : name in `medldm.modality.MODALITIES`
    volume : scan
    verb : what is to be done
    device : torch device; on a CPU time matters

    Raises
    ------
    ModelError
    """
    if settings.model == "auto":
        patience = PATIENCE_S if device == "cpu" else 0.0
        flat, size = min(volume.shape) == 1, float(np.prod(volume.shape)) / 1e6
        return best(modality, flat=flat, verb=verb, megavoxels=size, patience_s=patience, draws=settings.draws > 0)
    chosen = card(settings.model)
    if chosen.modality != modality:
        raise UnfitModel(
            f"{chosen.name} restores {chosen.modality.upper()}, and {volume.name} is taken for {modality.upper()}. "
            "Choose another --model, or say --modality."
        )
    if verb not in chosen.verbs:
        raise UnfitModel(
            f"{chosen.name} cannot {verb}: its card names {', '.join(chosen.verbs)}. Choose another --model."
        )
    if chosen.spatial_dims == 3 and min(volume.shape) == 1:
        raise UnfitModel(f"{chosen.name} works in volumes, and {volume.name} is a single slice. Choose a 2D model.")
    return chosen


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


class NoiseLevel(NamedTuple):
    """Standard deviation of the noise, scaled intensity: the same everywhere, or a map of it.

    Parameters
    ----------
    sigma : (1, 1, 1), or (X, Y, Z) on the grid of the scan
    """

    sigma: Tensor

    @classmethod
    def uniform(cls, level: float) -> NoiseLevel:
        """The same level everywhere, scaled intensity."""
        return cls(torch.full((1, 1, 1), float(level)))

    @property
    def typical(self) -> float:
        """The median, scaled intensity."""
        return float(self.sigma.median())

    def on(self, shape: Sequence[int]) -> Tensor:
        """The level on another grid over the same field of view, outer edges aligned.

        Parameters
        ----------
        shape : (X', Y', Z')

        Returns
        -------
        (1, 1, 1) where it is the same everywhere, else (X', Y', Z'), linearly interpolated
        """
        if self.sigma.numel() == 1 or tuple(self.sigma.shape) == tuple(shape):
            return self.sigma
        return F.interpolate(self.sigma[None, None], size=tuple(shape), mode="trilinear", align_corners=False)[0, 0]


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


def map_on(volume: Volume, given: Volume | Voxels) -> Voxels:
    """A noise map that somebody measured, on the grid of a scan.

    Parameters
    ----------
    volume : scan
    given : volume on the grid of the scan, or an array in the axes of ``volume.voxels``; in the unit of ``--noise``

    Returns
    -------
    (X, Y, Z) float32

    Raises
    ------
    GeometryError
        It lies on another grid.
    UsageError
        It holds something that is no noise level.
    """
    if isinstance(given, Volume):
        if given.shape == volume.shape and not np.allclose(
            given.affine, volume.affine, atol=0.01 * min(volume.spacing)
        ):
            raise GeometryError(f"The noise map {given.name} does not lie where {volume.name} lies. Resample it first.")
        given = given.voxels
    levels = np.asarray(given, dtype=np.float32)
    if levels.shape != volume.shape:
        raise GeometryError(
            f"The noise map has shape {levels.shape}, {volume.name} has {volume.shape}. Resample it to the scan first."
        )
    if not (np.isfinite(levels).all() and (levels >= 0).all()):
        raise UsageError("The noise map holds values below zero or none at all (NaN, infinite); a level is 0 or more.")
    return levels
