"""The path that all verbs share: choose a model, scale, run, project, unscale, say what was done."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.data.intensity import Scaling
from medldm.data.outliers import set_aside
from medldm.data.volume import Step, Stored, Volume, Voxels
from medldm.degradations import Degradation, Observation
from medldm.errors import ResourceError, UsageError
from medldm.inference.device import (
    fitted_pixels,
    fitted_tile,
    our_version,
    peak_memory_mb,
    pick_card,
    pick_device,
)
from medldm.inference.networks import Networks, load_networks
from medldm.inference.noise_map import NoiseLevel
from medldm.inference.orientations import Orientation
from medldm.inference.tiling import Progress, SamplerConfig, estimate, refine
from medldm.inference.uncertainty import COPIED, calibrated, interval_for, mean_and_spread, no_spread, why_not
from medldm.modality import MODALITIES, guess_modality
from medldm.models.precision import pick_precision
from medldm.qc.noise import NoiseEstimate, NoisyScan
from medldm.qc.ood import check, check_residual, missing_reference
from medldm.settings import Settings

log = logging.getLogger(__name__)

VARIES = 1.5  # a noise map whose 90th percentile is this many times its 10th is used as a map
MAPPED = 0.015  # scaled noise; below it a map would be one of anatomy
QUIET = 0.01  # scaled noise below this is not told to networks that fill or sharpen


def silent(done: int, total: int, what: str) -> None:
    """Progress that nobody watches."""


@dataclass
class Job:
    """One scan on its way through a verb.

    Parameters
    ----------
    volume : as read
    settings : of the verb
    task : verb
    told : progress
    """

    volume: Volume
    settings: Settings
    task: str
    progress: Progress = silent
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    half_width: Tensor | None = None
    noise_shown: float = 0.0
    no_spread_reason: str = ""  # why several samples have no standard deviation
    signal: float = 1.0  # what a relative residual is relative to, scaled intensity
    used: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Before anything averages, scales or projects: one absurd voxel would reach thousands of others.
        self.volume, self.outliers = set_aside(self.volume)
        if len(self.outliers):
            self.notes.append(self.outliers.sentence(self.volume))
            log.warning(self.notes[-1])
        said = self.settings.modality
        guessed, note = guess_modality(self.volume)
        self.modality = MODALITIES[guessed if said == "auto" else said]
        if said == "auto" and note:
            self.notes.append(note)
            log.warning(note)
        self.notes += self.volume.stored.note
        self.device = pick_device(self.settings.device)
        self.card = pick_card(self.settings.model, self.modality.name, self.volume, self.verb, self.device)
        # Guard, scaling and noise look at the same foreground; of CT the guard alone does.
        relative = self.modality.window is None
        self.foreground = self.modality.foreground(self.volume.voxels) if relative else None
        known = self.foreground if self.card.modality == self.modality.name else None
        self.outside = check(self.volume, self.card, self.task, known)
        for warning in self.outside.values():
            log.warning(warning)
        if nothing_to_compare := missing_reference(self.volume, self.card):
            self.notes.append(nothing_to_compare)
            log.warning(nothing_to_compare)
        self.scaling = self.modality.scaling(self.volume.voxels, self.foreground)

    @property
    def positive(self) -> bool:
        """Whether negative voxels are impossible: magnitudes are not negative, unless somebody shifted them."""
        return self.modality.magnitude and not bool((np.nan_to_num(self.volume.voxels) < 0).any())

    @property
    def networks(self) -> Networks:
        """The networks."""
        return load_networks(self.card, self.device, pick_precision(self.settings.precision, self.device))

    @property
    def verb(self) -> str:
        """What the network does: where `restore` makes a job of its own, it thins slices."""
        return "super-resolve" if self.task == "restore" else self.task

    def scaled(self) -> tuple[Tensor, Tensor]:
        """(X, Y, Z) scaled intensity with NaN set to 0, and where there was none, (X, Y, Z) bool."""
        voxels = self.scaling.apply(self.volume.voxels).astype(np.float32, copy=False)  # networks take no float64
        known = np.isfinite(voxels)
        if not known.all():
            voxels = np.where(known, voxels, np.float32(0))
        return torch.from_numpy(np.ascontiguousarray(voxels)), torch.from_numpy(known)

    def plausible(self, measured: Tensor) -> Tensor:
        """CT without what no tissue is: padding far below air, overflow; a network would ring at their edges.

        Parameters
        ----------
        measured : (X, Y, Z) scaled intensity
        """
        if self.modality.plausible is None:
            return measured
        low, high = (float(end) for end in self.scaling.apply(np.array(self.modality.plausible, np.float32)))
        inside = float(measured.min()) >= low and float(measured.max()) <= high
        return measured if inside else measured.clamp(low, high)

    def noise(self, given: float | Voxels | None) -> tuple[NoiseLevel, NoiseEstimate | None]:
        """Noise level in scaled intensity, and the estimate when nobody gave a level.

        Parameters
        ----------
        given : number or map (X, Y, Z) in the unit of ``--noise``; estimated when None

        Raises
        ------
        UsageError
            More noise than there can be signal.
        """
        per_level = 1 / self.modality.noise.per_scaled(self.scaling)
        if given is not None:
            typical = float(np.median(given))
            if typical > self.modality.noise.highest:
                raise UsageError(
                    f"--noise {typical:g} is more than all signal: in MRI it is a fraction of the scan's 99.5th "
                    f"percentile. Say --noise {typical / 100:g} for {typical:g} %, or --modality ct if it is "
                    f"{typical:g} HU."
                )
            if isinstance(given, np.ndarray):
                return NoiseLevel(torch.from_numpy(np.array(given, np.float32)) * per_level), None
            return NoiseLevel.uniform(given * per_level), None
        scan = NoisyScan(self.volume.voxels, self.volume.spacing, self.modality.name, self.foreground)
        estimate = scan.estimate()
        if not estimate.reliable:
            self.notes.append(f"noise level {estimate}")
        if min(self.volume.shape) >= 16 and self.modality.noise.relative and estimate.level > MAPPED:
            unit = self.scaling.unit
            levels = scan.map(overall=estimate.sigma) / unit
            low, high = np.percentile(levels[self.volume.voxels > 0.25 * unit], [10, 90])
            if high > VARIES * low:
                self.notes.append("the noise varies over the scan; a noise map was used")
                return NoiseLevel(torch.from_numpy(levels)), estimate
        return NoiseLevel.uniform(estimate.level * per_level), estimate

    def quiet_noise(self, given: float | Voxels | None = None) -> NoiseLevel:
        """Noise level for verbs that fill or sharpen; nothing below 1 %, where anatomy passes for noise.

        A map that was given stays one; of an estimated one the median counts.

        Parameters
        ----------
        given : as in `noise`
        """
        level, estimate = self.noise(given)
        trusted = estimate is None or estimate.reliable or level.typical > 2 * QUIET
        if level.typical <= QUIET or not trusted:
            return NoiseLevel.uniform(0)
        return level if estimate is None else NoiseLevel.uniform(level.typical)

    def run(
        self, observation: Observation, noise: NoiseLevel, orientations: Sequence[Orientation], kind: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """Draw as many restorations as asked; their mean, and their standard deviation when there are several.

        Parameters
        ----------
        observation : (X, Y, Z)
        noise : level on the grid of the scan, which may be another one over the same field of view
        orientations : orientations to average
        kind : of damage, where a card uses its networks for it in another way than for the verb
        """
        settings, use = self.settings, self.card.used(kind or self.verb)
        self.noise_shown, sigma = round(noise.typical, 5), noise.on(observation.y.shape)
        orientations = orientations[: use.orientations]
        samplings = []
        for number in range(settings.samples):
            seed = settings.seed * 1000 + number if settings.flow_steps > 1 else None
            samplings.append(
                SamplerConfig(
                    steps=settings.flow_steps,
                    fidelity=settings.fidelity * use.faithful,
                    seed=seed,
                    tile=settings.tile or fitted_tile(self.device, self.networks.config.spatial_dims),
                    device=self.device,
                    pixels=fitted_pixels(self.device),
                )
            )
        if len(samplings) > 1 and not self.networks.refines:
            raise UsageError(
                f"{self.card.name} gives one answer, not samples; say --samples 1, or choose a model with a flow."
            )
        # Where the validation table says that the regression mean is as near to the truth, the rest costs time only.
        plain = settings.fidelity == 1 and settings.samples == 1 and settings.steps == 1
        networks, refines = self.networks, self.networks.refines and (use.refines or not plain)
        # Each sample is the answer of one orientation from beginning to end: where these disagree, it is uncertain.
        sampled = refines and len(samplings) > 1
        passes = len(samplings) * (2 if sampled else 1) + (refines and not sampled)
        self.used = {"refined": refines, "faithful": use.faithful, "looks": len(orientations)}

        def part(number: int) -> Progress:
            return lambda done, total, what: self.progress(number * total + done, passes * total, what)

        regressions: dict[int, Tensor] = {}  # by orientation; the same for every sample

        def draw(number: int) -> Tensor:
            sampling, orientation, begun = (
                samplings[number],
                number % len(orientations),
                2 * number if sampled else number,
            )
            seen = [orientations[orientation]] if sampled else orientations
            if orientation not in regressions:
                regressions[orientation] = estimate(networks, observation, sigma, seen, sampling, part(begun))
            regression = regressions[orientation]
            return (
                refine(networks, observation, sigma, seen, sampling, regression, part(begun + 1))
                if refines
                else regression
            )

        try:
            mean, std = mean_and_spread(draw, len(samplings))
        except (RuntimeError, MemoryError) as problem:
            if (
                isinstance(problem, MemoryError)
                or "out of memory" in str(problem).lower()
                or "alloc" in str(problem).lower()
            ):
                raise ResourceError(
                    f"{self.volume.name} needs more memory than is free. Try --tile 192, another --device, or "
                    "close other programs."
                ) from problem
            raise
        if std is None:
            return mean, None
        self.half_width = self.interval(mean, std, observation.observed, sigma)
        if reason := no_spread(std, observation, min(len(orientations), len(samplings)), self.verb):
            # Zeros would pass for certainty. The interval stays: its floor was calibrated for draws that hardly differ.
            self.no_spread_reason = f"no standard deviation of the samples of {self.volume.name}: {reason}"
            self.notes.append(self.no_spread_reason)
            log.warning(self.no_spread_reason)
            return mean, None
        return mean, std

    def interval(self, mean: Tensor, std: Tensor, observed: Tensor, sigma: Tensor) -> Tensor | None:
        """(X, Y, Z) half width of the calibrated interval, scaled intensity; None, and a note why, without one."""
        interval = interval_for(self.card, self.verb, self.used["looks"])
        if reason := why_not(interval, self.settings, self.card.name):
            self.notes.append(f"no calibrated interval: {reason}")
        if reason or interval is None:
            return None
        half = interval.half_width(mean, std, sigma, observed)
        return torch.where(observed >= 1, 0.0, half) if self.verb in COPIED else half

    def finish(
        self, restored: Tensor, spread: Tensor | None, *, affine: Any = None, stored: Stored | None = None, **facts: Any
    ) -> Volume:
        """The restored volume in stored units, with what was done in its history.

        Parameters
        ----------
        restored : (X, Y, Z) scaled intensity
        spread : (X, Y, Z) scaled standard deviation, or None
        affine : (4, 4) when the grid changed
        stored : when the way of storing changed
        facts : what came of it, for the record
        """
        voxels = self.scaling.invert(restored.numpy())
        if self.positive:
            voxels = np.maximum(voxels, 0)
        if affine is None:  # on the same grid what was measured stays, absurd or not; a new grid holds estimates
            voxels[self.outliers.at()] = self.outliers.values
        return self.record(
            voxels, None if spread is None else spread.numpy() * np.float32(self.scaling.unit), affine, stored, facts
        )

    def record(
        self, voxels: Voxels, std: Voxels | None, affine: Any, stored: Stored | None, facts: dict[str, Any]
    ) -> Volume:
        """A new volume with this run in its history."""
        noise = facts.get("noise_level", 0.0) / self.modality.noise.per_scaled(self.scaling)
        odd = check_residual(self.card, self.verb, facts.get("consistency_residual"), noise / self.signal)
        for warning in odd.values():
            log.warning(warning)
        outside = self.outside | odd
        summary = {
            "model": self.card.name,
            "sha256": self.card.sha256,
            "modality": self.modality.name,
            "device": self.device,
            "seed": self.settings.seed,
            "steps": self.settings.flow_steps,
            "networks": self.used,
            "noise_told": self.noise_shown,
            "medldm": our_version(),
            "seconds": round(time.monotonic() - self.started, 2),
            "peak_memory_mb": peak_memory_mb(),
            "notes": list(dict.fromkeys([*self.notes, *outside.values()])),
            "outside_of_card": list(outside),
            **self.outliers.facts(self.volume),
            **({"no_spread": self.no_spread_reason} if self.no_spread_reason else {}),
            **facts,
        }
        half = None if self.half_width is None else self.half_width.numpy() * np.float32(self.scaling.unit)
        if half is not None:
            summary["interval"] = self.card.calibration["verbs"][calibrated(self.verb, self.used["looks"])] | {
                "coverage": self.card.calibration["coverage"],
                "median_half_width": round(float(np.median(half[half > 0])), 5) if (half > 0).any() else 0.0,
            }
        step = Step(self.task, self.settings.asdict(), summary)
        log.info("%s: %s in %.1f s on %s", self.volume.name, self.task, summary["seconds"], self.device)
        return self.volume.with_voxels(voxels, affine, step=step, std=std, half_width=half, stored=stored)


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


__all__ = ["Job", "Scaling", "inside_slices", "residual", "without", "written_into"]
