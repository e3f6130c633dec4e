"""What is there, and what medldm would do about it: geometry, gaps, noise and a plan; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.outliers import set_aside
from medldm.data.slice_numbers import spell_slices
from medldm.data.volume import Volume
from medldm.errors import MedldmError, ModelError, ResourceError, ending
from medldm.io import check_content, find_missing_slices, guess_modality, what_it_is
from medldm.io.discovery import Case, find_cases
from medldm.io.sidecars import read_record
from medldm.modality import MODALITIES
from medldm.qc.noise import NoiseEstimate, estimate_noise
from medldm.qc.ood import check, missing_reference
from medldm.settings import Thresholds
from medldm.system import free_bytes
from medldm.zoo import best, card

BYTES_PER_VOXEL = 30  # to read a scan, estimate its noise and look for what it is; 28 were measured


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
    modality : name in `medldm.modality.MODALITIES`
    notes : sentences about what the plan does not do
    """

    steps: tuple[Planned, ...]
    missing: tuple[int, ...]
    noise: NoiseEstimate
    modality: str
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The plan as sentences."""
        nothing = ["Nothing to do: no slice is missing, slices are thin enough, noise is low."]
        steps = [f"{number}. {step.verb}: {step.reason}" for number, step in enumerate(self.steps, 1)]
        return " ".join([*(steps or nothing), *self.notes])


def make_plan(volume: Volume, settings: Thresholds) -> Plan:
    """Which verbs a scan needs; thresholds come from the settings.

    Parameters
    ----------
    volume : scan
    settings : of `restore`
    """
    volume, _ = set_aside(volume)
    modality = guess_modality(volume, settings.modality)[0]
    noise = estimate_noise(volume.voxels, volume.spacing, modality)
    missing = find_missing_slices(volume, settings.axis)
    steps = []
    if missing:
        many = "slice is" if len(missing) == 1 else "slices are"
        which = spell_slices(missing).replace(",", ", ")
        steps.append(
            Planned(
                "fill-slices",
                {"missing": missing},
                f"{len(missing)} {many} missing ({which}).",
            )
        )
    if thin := _thinner(volume, settings):
        steps.append(thin)
    model = MODALITIES[modality].noise
    threshold = getattr(settings, f"noisy_from_{modality}", model.noisy_from)
    if noise.level > threshold:
        steps.append(Planned("denoise", {"noise": noise.level}, f"noise is {noise}, above {model.text(threshold)}."))
    return Plan(tuple(steps), missing, noise, modality, _other_axis(volume, settings))


def _thick(volume: Volume, axis: int, settings: Thresholds) -> bool:
    """Whether the voxels are thick along an axis of ``voxels``."""
    across = volume.spacing[axis]
    in_plane = max(mm for a, mm in enumerate(volume.spacing) if a != axis)
    # A header's 1.5 mm may be stored as 1.5000001.
    return volume.shape[axis] > 1 and across > settings.thick_from * 1.001 and across > settings.thick_ratio * in_plane


def _thinner(volume: Volume, settings: Thresholds) -> Planned | None:
    axis = volume.stored.axes[settings.axis]
    across = volume.spacing[axis]
    in_plane = max(mm for a, mm in enumerate(volume.spacing) if a != axis)
    target = max(in_plane, settings.finest)
    if not _thick(volume, axis, settings) or across <= target * 1.01:
        return None
    spacing = [target if inside == axis else volume.spacing[inside] for inside in volume.stored.axes]
    return Planned(
        "super-resolve",
        {"spacing": tuple(spacing)},
        f"slices are {across:.2f} mm apart, voxels {in_plane:.2f} mm in the planes; wanted: {target:.2f} mm.",
    )


def _other_axis(volume: Volume, settings: Thresholds) -> tuple[str, ...]:
    """A word about scans that were turned after they were taken: their slices lie along another axis."""
    return tuple(
        f"Voxels are {volume.spacing[inside]:.2f} mm along stored axis {number}: if that is how the slices were taken, "
        f"say --axis {number}."
        for number, inside in enumerate(volume.stored.axes)
        if number != settings.axis and _thick(volume, inside, settings)
    )


@dataclass(frozen=True)
class Finding:
    """One scan, inspected.

    Parameters
    ----------
    name : relative place of its result
    status : ``"restorable"``, or as a batch would end: ``"skipped"``, ``"refused"`` or ``"failed"``
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

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.name}: {self.status}"]
        if "shape" in self.facts:
            lines.append("  " + _geometry_text(self.facts))
        if "noise" in self.facts:
            lines.append(f"  noise {self.facts['noise']['words']}")
        if "interval" in self.facts:
            lines.append(f"  uncertainty: {_interval_text(self.facts['interval'])}")
        if self.facts.get("calibrated_intervals"):
            verbs = ", ".join(self.facts["calibrated_intervals"])
            lines.append(f"  model {self.facts['model']}; 90 % intervals (--uncertainty) for {verbs}")
        lines.append(f"  {'plan: ' if self.status == 'restorable' else ''}{self.reason}")
        lines += [f"  note: {note}" for note in (*self.facts.get("notes", ()), self.facts.get("not_compared")) if note]
        return lines + [f"  warning: {message}" for message in self.facts.get("outside_of_card", {}).values()]


def inspect(
    path: str | Path | Sequence[str | Path],
    settings: Thresholds | None = None,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[Finding]:
    """Every scan below a path: what it is, and what medldm would do about it.

    Parameters
    ----------
    path : as the command line takes it; one, or several
    settings : thresholds of the plan
    include, exclude : glob patterns, as of `medldm.io.discovery.find_cases`

    Raises
    ------
    InputError
        Nothing there.
    """
    paths = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    return [inspect_case(case, settings or Thresholds()) for case in find_cases(paths, include, exclude)]


def inspect_case(case: Case, settings: Thresholds) -> Finding:
    """One scan of a tree."""
    name = case.place.as_posix()
    if case.skip or case.broken:
        return Finding(name, "skipped" if case.skip else "failed", case.skip or case.broken)
    try:
        with case.own_names():
            _check_memory(case)
            volume = case.read()
            check_content(volume, case.source)
        if reason := what_it_is(volume):
            return Finding(name, "skipped", f"it looks like {reason}", geometry(volume))
        volume, outliers = set_aside(volume)
        plan = make_plan(volume, settings)
    except MedldmError as problem:
        return Finding(name, ending(problem), str(problem))
    except MemoryError:
        return Finding(name, "failed", "it needs more memory than is free")
    facts = geometry(volume) | {
        "modality": plan.modality,
        "missing_slices": list(plan.missing),
        "noise": {"level": round(plan.noise.level, 5), "unit": plan.noise.unit, "reliable": plan.noise.reliable,
                  "reasons": list(plan.noise.reasons), "words": str(plan.noise)},
        "plan": [asdict(step) for step in plan.steps],
        "notes": [*volume.stored.note, *([outliers.sentence(volume)] if len(outliers) else [])],
    } | outside_of_card(volume, plan.modality, settings) | recorded_interval(case)  # fmt: skip
    return Finding(name, "restorable", plan.text(), facts)


def _check_memory(case: Case) -> None:
    """Refuse what cannot be looked at; a few packed bytes may promise gigabytes.

    Raises
    ------
    ResourceError
    """
    need, free = case.voxels * BYTES_PER_VOXEL, free_bytes()
    if need > free:
        raise ResourceError(
            f"{case.source} needs about {need / 2**30:.1f} GiB of memory to be looked at, "
            f"{max(0, free) / 2**30:.1f} GiB are free. Close other programs, or use a larger machine."
        )


def outside_of_card(volume: Volume, modality: str, settings: Thresholds) -> dict[str, Any]:
    """The model that `restore` would take, and what speaks against it: name of each check and a sentence.

    Parameters
    ----------
    volume : scan
    modality : name in `medldm.modality.MODALITIES`
    settings : of `restore`
    """
    try:
        auto, size = settings.model == "auto", math.prod(volume.shape) / 1e6
        chosen = best(modality, flat=min(volume.shape) == 1, megavoxels=size) if auto else card(settings.model)
    except ModelError as problem:
        return {"model": None, "outside_of_card": {"no model": str(problem)}}
    return {
        "model": chosen.name,
        "calibrated_intervals": sorted(chosen.calibration.get("verbs", ())),
        "outside_of_card": check(volume, chosen),
        "not_compared": missing_reference(volume, chosen),
    }


def recorded_interval(case: Case) -> dict[str, Any]:
    """The interval of a scan that medldm restored, from the record beside it; empty without one.

    Parameters
    ----------
    case : scan
    """
    record = read_record(case.source)
    return {"interval": record.interval} if record and record.interval else {}


def _interval_text(interval: dict[str, Any]) -> str:
    share, half = 100 * float(interval["coverage"]), float(interval["median_half_width"])
    return (
        f"{share:.0f} % of restored voxels were calibrated to lie within a map of half widths, in the middle {half:.4g}"
    )


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


def _geometry_text(facts: dict[str, Any]) -> str:
    shape = " x ".join(map(str, facts["shape"]))
    spacing = " x ".join(f"{mm:g}" for mm in facts["spacing_mm"])
    parts = [f"{facts.get('modality', '').upper()} {shape} voxels of {spacing} mm".strip(), facts["orientation"]]
    if facts["oblique_degrees"] >= 1:
        parts.append(f"oblique by {facts['oblique_degrees']:.0f} degrees")
    if facts["slice_thickness_mm"]:
        parts.append(f"slices {facts['slice_thickness_mm']:g} mm thick")
    return ", ".join([*parts, facts["voxel_type"]])


def _oblique(volume: Volume) -> float:
    cosines = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.diag(cosines).min(), -1, 1))))
