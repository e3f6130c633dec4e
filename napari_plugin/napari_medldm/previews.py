"""A part of a scan, restored as the run would restore it: which slices are needed, and what the whole scan decides.

Intensity scale, noise level, plan, model and slice profile are those of the whole scan: a part has other percentiles
and too few voxels to measure noise in, and at its ends a slice profile looks wrong that is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from medldm.data.slice_numbers import parse_slices
from medldm.data.volume import Volume
from medldm.errors import InputError
from medldm.io import guess_modality
from medldm.qc.noise import estimate_noise
from medldm.settings import Progress, Settings, make
from medldm.tasks import TASKS
from medldm.zoo import cards
from napari_medldm.regions import Box, box_of, crop, part, pasted, shifted, widened

if TYPE_CHECKING:
    from napari_medldm.jobs import Order

AROUND = 16  # voxels of context around a drawn box
NEAR = 2  # planes beside the wanted one, for a first look in its own plane
BESIDE = 4  # the same, refined: what a plane network sees
THICK_ENOUGH = 7  # the same, where the run also looks at the planes across: they need a few rows
MULTIPLE = 16  # rows of a plane are padded to this
FIRST = 1, 3  # slices of context on either side, and rows, at least: for a first look at what works across slices
REFINED = 2, 8  # the same, refined: three slices more change a voxel by 0.1 % of the brightest tissue
WHOLE = ("prompt", "like")  # settings that say what a scan shows, which a part of it does not tell
PROBE = 8  # planes through the whole scan that tell its slice profile

Part = Callable[[str, Volume | None, dict[str, Any], Volume | None, Progress], Volume]


class Step(NamedTuple):
    """A task of a preview, with the options that give what the run of the whole scan would give.

    Parameters
    ----------
    verb : as on the command line
    options : for a part of the scan; `missing` still counts on the whole scan
    scale : stored values of scaled intensity 0 and 1 of the whole scan
    notes : what the whole scan has to be said about
    """

    verb: str
    options: dict[str, Any]
    scale: tuple[float, float]
    notes: tuple[str, ...] = ()


def preview(
    order: Order, volume: Volume, mask: Volume | None, run: Part, progress: Progress
) -> tuple[Volume, tuple[str, ...]]:
    """The task on a box and what lies around it; of the result the box, on the grid that the whole scan would have.

    Parameters
    ----------
    order : with `where`
    volume : scan
    mask : of `inpaint`, on the grid of the scan
    run : carries out a task; called with (verb, part of the scan, options, part of the mask, progress)
    progress : called with (done, total, what)

    Returns
    -------
    the preview, which is the scan itself where nothing is to be done, and notes about the scan
    """
    assert order.where is not None
    axis = int(order.options.get("axis", 2))
    if any(order.options.get(name) for name in WHOLE) or (order.verb == "edit" and _may_be_drawn(volume)):
        raise InputError("Words, another scan and models that draw are followed on the whole scan only. Press Run.")
    box, steps = box_of(order.where, volume), list(_steps(order, volume))
    wide = needed(box, volume, axis, steps, fast=order.fast)
    small = crop(volume, wide)
    if mask is not None:
        mask = crop(mask, wide)
        if not mask.voxels.any():
            raise InputError("The mask is empty where the preview looks. Go to a slice that it covers.")
    result = small
    for number, step in enumerate(steps):
        options = dict(step.options)
        if options.get("missing") is not None:
            count = volume.shape[volume.stored.axes[axis]]
            options["missing"] = shifted(parse_slices(options["missing"], count), volume, wide, axis)
            if not options["missing"]:
                if len(steps) > 1:
                    continue  # of a plan, the other steps are still worth seeing
                raise InputError("No missing slice lies near the preview. Go to one, or run the whole volume.")

        def share(done: int, total: int, what: str, number: int = number) -> None:
            progress(number * total + done, len(steps) * total, what)

        profile = _profile(step, volume, box, axis, fast=order.fast, run=run, progress=progress)
        known = replace(result.stored, scale=step.scale, slice_profile=profile)
        result = run(step.verb, replace(result, stored=known), options, mask, share)
    notes = tuple(dict.fromkeys(note for step in steps for note in step.notes))
    if not len(result.history) > len(small.history):
        return volume, notes
    result = replace(result, stored=replace(result.stored, scale=None, slice_profile=""))
    inner = tuple((a - w, b - w) for (a, b), (w, _) in zip(box, wide, strict=True))
    wanted = (inner[0], inner[1], inner[2])
    return pasted(part(result, small.shape, wanted), result, small.shape, wide, volume.shape), notes


def needed(box: Box, volume: Volume, axis: int, steps: list[Step], *, fast: bool) -> Box:
    """The part of a scan that a preview of a box needs.

    Parameters
    ----------
    box : wanted voxels
    volume : scan
    axis : stored axis that slices are counted along
    steps : of the preview
    fast : whether a first look will do
    """
    from medldm.inference.conditioning import pick_orientations

    if fast:
        beside = NEAR
    else:
        beside = THICK_ENOUGH if len(pick_orientations((), (), volume.shape, volume.spacing)) > 1 else BESIDE
    wide = widened(box, volume.shape, [beside if b - a == 1 else AROUND for a, b in box])
    if not any(TASKS[step.verb].across_slices for step in steps):
        return wide
    across = volume.stored.axes[axis]
    spans = list(wide)
    spans[across] = _span(box[across], volume.shape[across], _finer(volume, across, steps), fast=fast)
    return spans[0], spans[1], spans[2]


def _span(wanted: tuple[int, int], count: int, ratio: float, *, fast: bool) -> tuple[int, int]:
    """Slices of context around wanted ones: as many as fit in the rows that a network pads its planes to.

    Parameters
    ----------
    wanted : first and behind the last slice
    count : slices of the scan
    ratio : rows of the result for each slice
    fast : whether a first look will do
    """
    slices, rows = FIRST if fast else REFINED
    least = max(slices, math.ceil(rows / ratio))
    low, high = wanted
    room = math.ceil((high - low + 2 * least) * ratio / MULTIPLE) * MULTIPLE
    extra = int(room / ratio) - (high - low)
    before = extra - extra // 2
    # Networks halve their grid: rows that begin at an even number fall on the grid that they have in the whole scan.
    if extra > 2 * least and round((low - before) * ratio) % 2:
        before -= 1
    return max(0, low - before), min(count, high + extra - before)


def _finer(volume: Volume, across: int, steps: list[Step]) -> float:
    """Rows of the result for each slice of the scan."""
    from medldm.tasks.super_resolve import wanted_grid

    for step in steps:
        if step.verb == "super-resolve":
            grid = wanted_grid(volume, make(TASKS[step.verb].settings, step.options))
            return grid.shape[across] / volume.shape[across]
    return 1.0


def _steps(order: Order, volume: Volume) -> Iterator[Step]:
    """The tasks that the run would carry out, each with what it would find out about the whole scan."""
    from medldm.inference.resolve import quiet_noise_level, resolve

    for verb, given in _planned(order.verb, volume, order.options):
        task, options = TASKS[verb], dict(given)
        kind = guess_modality(volume, options.get("modality", "auto"))[0]
        if order.fast and options.get("model", "auto") == "auto":
            options["model"] = fastest(kind, verb)
        scan = resolve(volume, make(task.settings, options), task)
        if options.get("model", "auto") == "auto":
            options["model"] = scan.card.name  # for a small part another one might be taken
        options["modality"] = scan.modality.name
        if task.removes_noise and options.get("noise") is None:
            options["noise"] = estimate_noise(volume.voxels, volume.spacing, scan.modality.name).level
        elif "noise" in {field.name for field in fields(task.settings)} and options.get("noise") is None:
            # Of what sharpens, the level that counts is the one of the whole scan.
            options["noise"] = quiet_noise_level(scan).typical * scan.modality.noise.per_scaled(scan.scaling)
        notes = tuple(scan.notes) + tuple(scan.outside.values())
        yield Step(verb, options, (scan.scaling.low, scan.scaling.high), notes)


def _planned(verb: str, volume: Volume, options: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The task itself; of one that makes a plan those of the plan, as `medldm.tasks.restore` carries it out."""
    task = TASKS[verb]
    if task.plan is None:
        return [(verb, options)]
    plan = task.plan(volume, make(task.settings, options))
    planned = {step.verb: step.options for step in plan.steps}
    shared = {name: value for name, value in options.items() if name in {field.name for field in fields(Settings)}}
    noise = planned.get("denoise", {}).get("noise", 0.0)
    if "super-resolve" in planned:  # thick slices, lost slices and noise in one
        own = {name: options[name] for name in ("slice_thickness", "slice_profile") if name in options}
        return [("super-resolve", shared | own | {"spacing": planned["super-resolve"]["spacing"], "noise": noise})]
    return [
        (one, shared | ({"missing": plan.missing} if one == "fill-slices" else {"noise": noise})) for one in planned
    ]


def _profile(step: Step, volume: Volume, box: Box, axis: int, *, fast: bool, run: Part, progress: Progress) -> str:
    """The slice profile that the run would take, by a few planes through the whole scan; empty where it has none."""
    from medldm.tasks.super_resolve import wanted_grid

    if step.verb != "super-resolve":
        return ""
    settings: Any = make(TASKS[step.verb].settings, step.options)
    across = volume.stored.axes[axis]
    if fast or settings.slice_profile == "rect" or not wanted_grid(volume, settings).thick:
        return str(settings.slice_profile)
    # Planes of the first orientation are stacked along the last axis beside the slice axis.
    along = next(a for a in (2, 1, 0) if a != across)
    middle = min(max(sum(box[along]) // 2, PROBE // 2), max(PROBE // 2, volume.shape[along] - PROBE // 2))
    spans = [(0, n) for n in volume.shape]
    spans[along] = (max(0, middle - PROBE // 2), min(volume.shape[along], middle + PROBE // 2))
    strip = crop(volume, (spans[0], spans[1], spans[2]))
    strip = replace(strip, stored=replace(strip.stored, scale=step.scale))
    model = fastest(step.options["modality"], step.verb)
    options = step.options | ({"model": model} if model != "auto" and _shipped(step.options["model"]) else {})
    # Its planes are few beside those that follow, so the bar waits for these.
    result = run(step.verb, strip, options, None, lambda *_: progress(0, 1, "looking at the slice profile"))
    facts = result.history[-1].facts if result is not strip else {}
    return str(facts.get("slice_profile", settings.slice_profile))


def _may_be_drawn(volume: Volume) -> bool:
    """Whether a generator may know what a scan shows."""
    from medldm.inference.generator_grid import may_show

    kind = guess_modality(volume)[0]
    return any(one.generator and may_show(one, volume, kind) for one in cards())


def _shipped(model: str) -> bool:
    return any(one.name == model for one in cards())


def fastest(modality: str, verb: str) -> str:
    """Name of the fastest model of a modality for a verb; ``"auto"`` where no card says how fast it is.

    Parameters
    ----------
    modality : name in `medldm.modality.MODALITIES`
    verb : as on the command line
    """
    said = TASKS[verb].verb
    known = [one for one in cards() if one.modality == modality and one.pace and said in one.verbs]
    return min(known, key=lambda one: one.pace).name if known else "auto"
