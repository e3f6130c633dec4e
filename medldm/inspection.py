"""What is there, and what medldm would do about it: geometry, gaps, noise and a plan; no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import MedldmError
from medldm.io import check_content, find_missing_slices, guess_modality, looks_like_labels
from medldm.io.scans import Case, find_cases
from medldm.noise_level import NoiseEstimate, estimate_noise
from medldm.settings import Restore
from medldm.volume import Volume


@dataclass(frozen=True)
class Planned:
    """One verb of a plan.

    Parameters
    ----------
    verb : as on the command line
    options : that it will run with
    reason : a sentence
    """

    verb: str
    options: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Plan:
    """What `restore` will do with one scan.

    Parameters
    ----------
    steps : verbs in order; empty when nothing is needed
    missing : slices to fill, counted from 0 along the stored axis
    noise : estimate
    modality : ``"mr"`` or ``"ct"``
    """

    steps: tuple[Planned, ...]
    missing: tuple[int, ...]
    noise: NoiseEstimate
    modality: str

    def words(self) -> str:
        """The plan as sentences."""
        if not self.steps:
            return "Nothing to do: no slice is missing, slices are thin enough, noise is low."
        return " ".join(f"{number}. {step.verb}: {step.reason}" for number, step in enumerate(self.steps, 1))


def make_plan(volume: Volume, settings: Restore) -> Plan:
    """Which verbs a scan needs; thresholds come from the settings.

    Parameters
    ----------
    volume : scan
    settings : of `restore`
    """
    modality = guess_modality(volume)[0] if settings.modality == "auto" else settings.modality
    noise = estimate_noise(volume.voxels, volume.spacing, modality)
    missing = find_missing_slices(volume, settings.axis)
    steps = []
    if missing:
        steps.append(
            Planned("fill-slices", {"missing": missing}, f"{len(missing)} slices are missing ({_ranges(missing)}).")
        )
    axis = volume.stored.axes[settings.axis]
    across = volume.spacing[axis]
    in_plane = max(mm for a, mm in enumerate(volume.spacing) if a != axis)
    if volume.shape[axis] > 1 and across > settings.thick_from * 1.001 and across > settings.thick_ratio * in_plane:
        target = max(in_plane, settings.finest)
        per_stored = [0.0, 0.0, 0.0]
        for stored_axis, inside in enumerate(volume.stored.axes):
            per_stored[stored_axis] = target if inside == axis else volume.spacing[inside]
        steps.append(
            Planned("super-resolve", {"spacing": tuple(per_stored)},
                    f"slices are {across:.2f} mm apart, voxels {in_plane:.2f} mm in the planes; wanted: "
                        f"{target:.2f} mm.")
        )  # fmt: skip
    threshold = settings.noisy_from_ct if modality == "ct" else settings.noisy_from_mr
    if noise.level > threshold:
        limit = f"{threshold:.0f} HU" if modality == "ct" else f"{100 * threshold:.1f} %"
        steps.append(Planned("denoise", {"noise": noise.level}, f"noise is {noise}, above {limit}."))
    return Plan(tuple(steps), missing, noise, modality)


@dataclass(frozen=True)
class Finding:
    """One scan, inspected.

    Parameters
    ----------
    name : relative place of its result
    status : ``"restorable"``, ``"skipped"`` or ``"refused"``
    reason : why not, or what would be done
    facts : geometry, noise, gaps, plan; JSON-ready
    """

    name: str
    status: str
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)

    def asdict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def inspect(path: str | Path, settings: Restore | None = None) -> list[Finding]:
    """Every scan below a path: what it is, and what medldm would do about it.

    Parameters
    ----------
    path : as the command line takes it
    settings : thresholds of the plan

    Raises
    ------
    InputError
        Nothing there.
    """
    return [inspect_case(case, settings or Restore()) for case in find_cases(Path(path))]


def inspect_case(case: Case, settings: Restore) -> Finding:
    """One scan of a tree."""
    name = case.place.as_posix()
    if case.skip:
        return Finding(name, "skipped", case.skip)
    try:
        volume = case.read()
        check_content(volume)
        if looks_like_labels(volume.voxels):
            return Finding(name, "skipped", "it looks like a mask or label map (few distinct values)", geometry(volume))
        plan = make_plan(volume, settings)
    except MedldmError as problem:
        return Finding(name, "refused", str(problem))
    facts = geometry(volume) | {
        "modality": plan.modality,
        "missing_slices": list(plan.missing),
        "noise": {"level": round(plan.noise.level, 5), "unit": plan.noise.unit, "reliable": plan.noise.reliable,
                  "reasons": list(plan.noise.reasons), "words": str(plan.noise)},
        "plan": [asdict(step) for step in plan.steps],
        "notes": list(volume.stored.note),
    }  # fmt: skip
    return Finding(name, "restorable", plan.words(), facts)


def geometry(volume: Volume) -> dict[str, Any]:
    """Shape, spacing and orientation of a scan, in stored axis order."""
    stored = volume.stored
    spacing = [round(volume.spacing[axis], 4) for axis in stored.axes]
    letters = "RAS", "LPI"
    return {
        "shape": [volume.shape[axis] for axis in stored.axes],
        "spacing_mm": spacing,
        "slice_thickness_mm": stored.thickness_mm,
        "orientation": "".join(letters[flip][axis] for axis, flip in zip(stored.axes, stored.flips, strict=True)),
        "oblique_degrees": round(_oblique(volume), 1),
        "voxel_type": str(stored.dtype),
        "container": stored.container,
    }


def _oblique(volume: Volume) -> float:
    cosines = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.diag(cosines).min(), -1, 1))))


def _ranges(numbers: tuple[int, ...]) -> str:
    """12, 13, 40-44."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
