"""Restore: look at the scan, then do what it needs, in one pass of the network where that is possible."""

from __future__ import annotations

from dataclasses import replace

from medldm.data.volume import Step, Volume
from medldm.inference.device import pick_card, pick_device
from medldm.inference.noise_map import NoiseLevel
from medldm.inference.pipeline import Job
from medldm.inference.tiling import Progress
from medldm.qc.inspection import Plan, make_plan
from medldm.settings import Denoise, FillSlices, Restore, SuperResolve
from medldm.tasks.denoise import denoise
from medldm.tasks.fill_slices import fill_slices
from medldm.tasks.super_resolve import resolve, wanted_grid

SHARED = ("model", "device", "modality", "fidelity", "samples", "steps", "seed", "tile", "precision", "axis")


def restore(volume: Volume, settings: Restore, told: Progress) -> Volume:
    """See `medldm.restore`."""
    plan = make_plan(volume, settings)
    verbs = {step.verb: step for step in plan.steps}
    if not verbs:
        return volume
    shared = {name: getattr(settings, name) for name in SHARED}
    if "super-resolve" in verbs:
        # Thick slices, lost slices and noise are one measurement; the network answers all of it at once.
        wanted = SuperResolve(**shared, spacing=verbs["super-resolve"].options["spacing"])
        job = Job(volume, wanted, "restore", told)
        level = job.noise(None)[0] if "denoise" in verbs else NoiseLevel.uniform(0)
        result = resolve(job, wanted_grid(volume, wanted), settings.slice_thickness, settings.slice_profile, level)
    elif "fill-slices" in verbs:
        if "denoise" in verbs:  # known before the first of both has worked for nothing
            pick_card(settings.model, plan.modality, volume, "denoise", pick_device(settings.device))
        result = fill_slices(volume, FillSlices(**shared, missing=plan.missing), told)
        if "denoise" in verbs:
            result = denoise(result, Denoise(**shared), told)
    else:
        result = denoise(volume, Denoise(**shared), told)
    return _recorded(volume, result, plan, settings)


def _recorded(volume: Volume, result: Volume, plan: Plan, settings: Restore) -> Volume:
    """One step in the history for the whole plan, with the facts of all its verbs."""
    facts: dict[str, object] = {}
    for step in result.history[len(volume.history) :]:
        invented = {*facts.get("invented_slices", ()), *step.facts.get("invented_slices", ())}  # type: ignore[misc]
        facts = {**facts, **step.facts, "invented_slices": sorted(invented)}
    if len(result.history) - len(volume.history) > 1:
        facts.pop("measured_slices_bit_exact", None)  # true of the first step, not of what came after
    facts["plan"] = [{"verb": step.verb, "reason": step.reason} for step in plan.steps]
    return replace(result, history=(*volume.history, Step("restore", settings.asdict(), facts)))
