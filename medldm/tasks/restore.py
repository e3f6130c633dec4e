"""Restore: inspect the scan, then do what it needs, in one pass of the network where that is possible."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from medldm.settings import Progress, Settings, Thresholds, profile_knob, thickness_knob
from medldm.tasks.base import Inputs, Labels, Task
from medldm.tasks.denoise import DENOISE, Denoise
from medldm.tasks.fill_slices import FILL_SLICES, FillSlices
from medldm.tasks.super_resolve import SUPER_RESOLVE, SuperResolve, refine_grid, wanted_grid

if TYPE_CHECKING:
    from medldm.data.volume import Volume
    from medldm.qc.inspection import Plan


@dataclass(frozen=True, kw_only=True)
class Restore(Thresholds):
    """Look at the scan, say a plan, and do what it needs."""

    slice_thickness: float | None = thickness_knob()
    slice_profile: str = profile_knob()


def run(inputs: Inputs, settings: Restore, progress: Progress) -> Volume:
    """Make a plan and carry it out; see `medldm.restore`."""
    from medldm.inference.device import pick_device
    from medldm.inference.resolve import NoiseLevel, noise_level, pick_card, resolve

    assert inputs.scan is not None
    volume = inputs.scan
    plan = plan_for(volume, settings)
    verbs = {step.verb: step for step in plan.steps}
    if not verbs:
        return volume
    shared = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    if "super-resolve" in verbs:
        # Thick slices, lost slices and noise are one measurement; the network answers all of it at once.
        wanted = SuperResolve(**shared, spacing=verbs["super-resolve"].options["spacing"])
        scan = resolve(volume, wanted, RESTORE)
        level = noise_level(scan, None)[0] if "denoise" in verbs else NoiseLevel.uniform(0)
        grid = wanted_grid(volume, wanted)
        result = refine_grid(scan, grid, settings.slice_thickness, settings.slice_profile, level, progress)
    elif "fill-slices" in verbs:
        if "denoise" in verbs:  # known before the first of both has worked for nothing
            pick_card(settings, plan.modality, volume, "denoise", pick_device(settings.device))
        result = FILL_SLICES.run(inputs, FillSlices(**shared, missing=plan.missing), progress)
        if "denoise" in verbs:
            result = DENOISE.run(Inputs(scan=result), Denoise(**shared), progress)
    else:
        result = DENOISE.run(inputs, Denoise(**shared), progress)
    return _recorded(volume, result, plan, settings)


def plan_for(scan: Volume, settings: Restore) -> Plan:
    """What a scan needs."""
    from medldm.qc.inspection import make_plan

    return make_plan(scan, settings)


def _recorded(volume: Volume, result: Volume, plan: Plan, settings: Restore) -> Volume:
    """One step in the history for the whole plan, with the facts of all its verbs."""
    from medldm.data.volume import Step

    facts: dict[str, object] = {}
    for step in result.history[len(volume.history) :]:
        invented = {*facts.get("invented_slices", ()), *step.facts.get("invented_slices", ())}  # type: ignore[misc]
        facts = {**facts, **step.facts, "invented_slices": sorted(invented)}
    if len(result.history) - len(volume.history) > 1:
        facts.pop("measured_slices_bit_exact", None)  # true of the first step, not of what came after
    facts["plan"] = [{"verb": step.verb, "reason": step.reason} for step in plan.steps]
    return replace(result, history=(*volume.history, Step("restore", settings.asdict(), facts)))


RESTORE = Task(
    name="restore",
    help="find out what a scan needs, say so, and do it",
    settings=Restore,
    run=run,
    labels=Labels(
        title="Restore",
        past="restored",
        desc="restored",
        examples=(
            "medldm restore scan.nii.gz restored.nii.gz",
            "medldm restore dicom_folder/ restored/ --dry-run",
        ),
    ),
    across_slices=True,
    networks=SUPER_RESOLVE.name,  # of its own pass; the others are those of other tasks
    plan=plan_for,
)
