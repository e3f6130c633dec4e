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

from medldm.chain import Chain, load_chain
from medldm.degradations import Degradation, MissingSlices, Observation, Rician, fill_smoothly
from medldm.errors import ResourceError, UsageError
from medldm.guard import check, check_residual, untold
from medldm.intensity import CT_RANGE, Scaling, ct_scaling, foreground_mask, mri_scaling
from medldm.io import guess_modality
from medldm.models.looks import Look
from medldm.noise_level import NoiseEstimate, NoisyScan
from medldm.settings import Settings
from medldm.tasks.choices import (
    fitted_pixels,
    fitted_tile,
    our_version,
    peak_memory_mb,
    pick_card,
    pick_device,
    pick_precision,
)
from medldm.tasks.planes import Drawing, Progress, estimate, refine
from medldm.tasks.uncertainty import COPIED, calibrated, interval_for, mean_and_spread, why_not
from medldm.volume import Step, Stored, Volume, Voxels

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
    told: Progress = silent
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    half_width: Tensor | None = None
    noise_told: float = 0.0
    signal: float = 1.0  # what a relative residual is relative to, scaled intensity
    used: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        said = self.settings.modality
        guessed, note = guess_modality(self.volume)
        self.modality = guessed if said == "auto" else said
        if said == "auto" and note:
            self.notes.append(note)
            log.warning(note)
        self.notes += self.volume.stored.note
        self.device = pick_device(self.settings.device)
        self.card = pick_card(self.settings.model, self.modality, self.volume, self.verb, self.device)
        # Guard, scaling and noise look at the same foreground; of CT the guard alone does.
        self.foreground = foreground_mask(self.volume.voxels) if self.modality == "mr" else None
        known = self.foreground if self.card.modality == "mr" else None
        self.outside = check(self.volume, self.card, self.task, known)
        for warning in self.outside.values():
            log.warning(warning)
        if nothing_to_compare := untold(self.volume, self.card):
            self.notes.append(nothing_to_compare)
            log.warning(nothing_to_compare)
        self.scaling = ct_scaling() if self.modality == "ct" else mri_scaling(self.volume.voxels, self.foreground)

    @property
    def positive(self) -> bool:
        """Whether negative voxels are impossible: magnitudes are not negative, unless somebody shifted them."""
        return self.modality == "mr" and not bool((np.nan_to_num(self.volume.voxels) < 0).any())

    @property
    def chain(self) -> Chain:
        """The networks."""
        return load_chain(self.card, self.device, pick_precision(self.settings.precision, self.device))

    @property
    def verb(self) -> str:
        """What the network does: where `restore` makes a job of its own, it thins slices."""
        return "super-resolve" if self.task == "restore" else self.task

    def scaled(self) -> tuple[Tensor, Tensor]:
        """(X, Y, Z) scaled intensity with NaN set to 0, and where there was none, (X, Y, Z) bool."""
        voxels = self.scaling.apply(self.volume.voxels)
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
        if self.modality != "ct":
            return measured
        low, high = (float(end) for end in self.scaling.apply(np.array(CT_RANGE, np.float32)))
        inside = float(measured.min()) >= low and float(measured.max()) <= high
        return measured if inside else measured.clamp(low, high)

    def noise(self, given: float | None) -> tuple[Tensor, NoiseEstimate | None]:
        """Noise level in scaled intensity, (1, 1, 1) or a map, and the estimate when nobody gave a level."""
        per_level = 1.0 if self.modality == "mr" else 1 / self.scaling.unit
        if given is not None:
            if self.modality == "mr" and given > 1:
                raise UsageError(
                    f"--noise {given:g} is more than all signal: in MRI it is a fraction of the scan's 99.5th "
                    f"percentile. Say --noise {given / 100:g} for {given:g} %, or --modality ct if it is {given:g} HU."
                )
            return torch.full((1, 1, 1), float(given) * per_level), None
        scan = NoisyScan(self.volume.voxels, self.volume.spacing, self.modality, self.foreground)
        estimate = scan.estimate()
        if not estimate.reliable:
            self.notes.append(f"noise level {estimate}")
        level = torch.full((1, 1, 1), estimate.level * per_level)
        if min(self.volume.shape) >= 16 and self.modality == "mr" and estimate.level > MAPPED:
            unit = self.scaling.unit
            levels = scan.map(overall=estimate.sigma) / unit
            low, high = np.percentile(levels[self.volume.voxels > 0.25 * unit], [10, 90])
            if high > VARIES * low:
                level = torch.from_numpy(levels)
                self.notes.append("the noise varies over the scan; a noise map was used")
        return level, estimate

    def quiet_noise(self, given: float | None = None) -> Tensor:
        """(1, 1, 1) noise level for verbs that fill or sharpen; nothing below 1 %, where anatomy passes for noise."""
        level, estimate = self.noise(given)
        typical = float(level.median())
        trusted = estimate is None or estimate.reliable or typical > 2 * QUIET
        return torch.full((1, 1, 1), typical if typical > QUIET and trusted else 0.0)

    def run(
        self, observation: Observation, sigma: Tensor, ways: Sequence[Look], kind: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """Draw as many restorations as asked; their mean, and their standard deviation when there are several.

        Parameters
        ----------
        observation : (X, Y, Z)
        sigma : noise level, (X, Y, Z) or broadcastable
        ways : looks to average
        kind : of damage, where a card uses its networks for it in another way than for the verb
        """
        settings, use = self.settings, self.card.used(kind or self.verb)
        self.noise_told = round(float(sigma.median()), 5)
        ways = ways[: use.looks]
        drawings = []
        for number in range(settings.samples):
            seed = settings.seed * 1000 + number if settings.flow_steps > 1 else None
            drawings.append(
                Drawing(
                    steps=settings.flow_steps,
                    fidelity=settings.fidelity * use.faithful,
                    seed=seed,
                    tile=settings.tile or fitted_tile(self.device, self.chain.shape.spatial_dims),
                    device=self.device,
                    pixels=fitted_pixels(self.device),
                )
            )
        if len(drawings) > 1 and not self.chain.refines:
            raise UsageError(
                f"{self.card.name} gives one answer, not samples; say --samples 1, or choose a model with a flow."
            )
        # Where the validation table says that the first estimate is as near to the truth, the rest costs time only.
        plain = settings.fidelity == 1 and settings.samples == 1 and settings.steps == 1
        chain, refines = self.chain, self.chain.refines and (use.refines or not plain)
        # Each sample is one look's own answer from beginning to end: what looks disagree about is what is uncertain.
        sampled = refines and len(drawings) > 1
        passes = len(drawings) * (2 if sampled else 1) + (refines and not sampled)
        self.used = {"refined": refines, "faithful": use.faithful, "looks": len(ways)}

        def part(number: int) -> Progress:
            return lambda done, total, what: self.told(number * total + done, passes * total, what)

        firsts: dict[int, Tensor] = {}  # by look: what comes before the walk of the flow is no matter of chance

        def draw(number: int) -> Tensor:
            drawing, look, begun = drawings[number], number % len(ways), 2 * number if sampled else number
            seen = [ways[look]] if sampled else ways
            if look not in firsts:
                firsts[look] = estimate(chain, observation, sigma, seen, drawing, part(begun))
            first = firsts[look]
            return refine(chain, observation, sigma, seen, drawing, first, part(begun + 1)) if refines else first

        try:
            mean, std = mean_and_spread(draw, len(drawings))
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
        if std is not None:
            self.half_width = self.interval(mean, std, observation.observed, sigma)
        return mean, std

    def interval(self, mean: Tensor, std: Tensor, observed: Tensor, sigma: Tensor) -> Tensor | None:
        """(X, Y, Z) half width of the calibrated interval, scaled intensity; None, and a note why, without one."""
        found = interval_for(self.card, self.verb, self.used["looks"])
        if reason := why_not(found, self.settings, self.card.name):
            self.notes.append(f"no calibrated interval: {reason}")
        if reason or found is None:
            return None
        half = found.half_width(mean, std, sigma, observed)
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
        return self.record(
            voxels, None if spread is None else spread.numpy() * np.float32(self.scaling.unit), affine, stored, facts
        )

    def record(
        self, voxels: Voxels, std: Voxels | None, affine: Any, stored: Stored | None, facts: dict[str, Any]
    ) -> Volume:
        """A new volume with this run in its history."""
        noise = facts.get("noise_level", 0.0) / (1 if self.modality == "mr" else self.scaling.unit)
        odd = check_residual(self.card, self.verb, facts.get("consistency_residual"), noise / self.signal)
        for warning in odd.values():
            log.warning(warning)
        outside = self.outside | odd
        told = {
            "model": self.card.name,
            "sha256": self.card.sha256,
            "modality": self.modality,
            "device": self.device,
            "seed": self.settings.seed,
            "steps": self.settings.flow_steps,
            "networks": self.used,
            "noise_told": self.noise_told,
            "medldm": our_version(),
            "seconds": round(time.monotonic() - self.started, 2),
            "peak_memory_mb": peak_memory_mb(),
            "notes": list(dict.fromkeys([*self.notes, *outside.values()])),
            "outside_of_card": list(outside),
            **facts,
        }
        half = None if self.half_width is None else self.half_width.numpy() * np.float32(self.scaling.unit)
        if half is not None:
            told["interval"] = self.card.calibration["verbs"][calibrated(self.verb, self.used["looks"])] | {
                "coverage": self.card.calibration["coverage"],
                "median_half_width": round(float(np.median(half[half > 0])), 5) if (half > 0).any() else 0.0,
            }
        step = Step(self.task, self.settings.asdict(), told)
        log.info("%s: %s in %.1f s on %s", self.volume.name, self.task, told["seconds"], self.device)
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


def observe_known(measured: Tensor, known: Tensor, axis: int) -> tuple[Observation, Degradation | None]:
    """Every voxel measured but for those that are NaN: whole slices interpolated, single voxels filled smoothly.

    Parameters
    ----------
    measured : (X, Y, Z)
    known : (X, Y, Z) bool
    axis : slice axis
    """
    if bool(known.all()):
        return Rician(0).observe(measured), None
    others = tuple(a for a in range(3) if a != axis)
    empty = ~known.any(others[1]).any(others[0])
    y = measured
    if bool(empty.any()):
        slices = MissingSlices(len(empty), torch.nonzero(empty).flatten().tolist(), axis)
        y = slices.observe(measured).y
    holes = ~known & ~empty.reshape([-1 if a == axis else 1 for a in range(3)])
    if bool(holes.any()):
        y = fill_smoothly(y, ~holes)
    return Observation(y, known.to(y)), None


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
    return inside, [count - 1 - each if flip else each for each in stored_slices]


__all__ = ["Job", "Scaling", "inside_slices", "observe_known", "residual", "without", "written_into"]
