"""What is asked for and how it is done: no window, no process; runs where torch may be loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medldm.data.resample import resample_to
from medldm.data.slice_numbers import parse_slices, spell_slices
from medldm.data.volume import Volume
from medldm.errors import InputError, MedldmError, ResourceError, lacks_memory, place_of
from medldm.io import find_missing_slices, guess_modality
from medldm.modality import modality_of
from medldm.provenance import RunRecord
from medldm.qc.inspection import make_plan
from medldm.qc.noise import NoiseEstimate, estimate_noise
from medldm.settings import Progress, Restore, make
from medldm.tasks import TASKS
from medldm.zoo import cards
from napari_medldm.findings import Place, not_measured, widest
from napari_medldm.layers import LayerTuple, Snapshot, contrast, layer_data, series_data
from napari_medldm.regions import Corners, Drawn, box_of, crop, filled, mask_on, part, pasted, shifted, widened

# Layers beside a result, by field of a volume: of one answer the spread of what it leaves open, of several their own.
UNCERTAINTY = {"std": "standard deviation", "half_width": "half width of the 90 % interval"}
TILES = (256, 128, 64)  # tried in turn when memory runs out
AROUND = 16  # voxels of context around a drawn box
PREVIEW = "medldm_preview"  # in a layer's metadata, whether it shows a part of a scan only
ASKED = ("plan", "noise", "missing")  # questions about a scan, answered without torch
NEAR = 2  # slices of context around one slice: what a plane network sees
FAR = 8  # slices of context for verbs that work across slices
FIRST = 3  # of these for a first look, which takes the fewest planes that show the slice


@dataclass(frozen=True)
class Order:
    """One run.

    Parameters
    ----------
    verb : as on the command line, or one of `ASKED`
    scan : the layer; None for tasks that need none
    options : of the verb, those that differ from the defaults
    mask : of `inpaint`: a labels layer, or outlines
    where : of a preview; None runs the whole volume
    every : all volumes of a series, else the current one
    difference : whether the difference is a layer too
    uncertainty : whether standard deviation and interval are layers too
    fast : of a preview, whether the fastest model and the least context will do
    """

    verb: str
    scan: Snapshot | None
    options: dict[str, Any] = field(default_factory=dict)
    mask: Snapshot | Drawn | None = None
    where: Corners | None = None
    every: bool = False
    difference: bool = False
    uncertainty: bool = False
    fast: bool = False

    @property
    def question(self) -> bool:
        """Whether it asks about the scan, and changes nothing."""
        return self.verb in ASKED

    def loaded(self) -> Order:
        """The same with all voxels copied out of the layers."""
        mask = self.mask.load() if isinstance(self.mask, Snapshot) else self.mask
        return replace(self, scan=self.scan and self.scan.load(every=self.every), mask=mask)


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Parameters
    ----------
    layers : to be added, result first; empty when nothing was to be done
    text : for the status line
    value : of a ``"noise"`` order, the level
    refinable : whether this is a first look, which the chosen model would make better
    places : where the intervals of the result are widest
    notes : what the user should know about the result
    """

    layers: tuple[LayerTuple, ...] = ()
    text: str = ""
    value: float | None = None
    refinable: bool = False
    places: tuple[Place, ...] = ()
    notes: tuple[str, ...] = ()


def carry_out(order: Order, progress: Progress) -> Outcome:
    """Do what is asked.

    Parameters
    ----------
    order : loaded
    progress : called with (done, total, what); may raise to stop

    Raises
    ------
    MedldmError
    """
    volumes = order.scan.volumes() if order.scan else [None]
    if order.verb == "plan":
        plan = make_plan(volumes[0], make(Restore, order.options))
        steps = [f"{TASKS[step.verb].labels.title}: {step.reason}" for step in plan.steps]
        lines = steps or ["Nothing to do: no slice is missing, slices are thin enough, noise is low."]
        return Outcome(text="\n".join(f"\u2022 {rows_for_flags(line)}" for line in [*lines, *plan.notes]))
    if order.verb == "missing":
        named = spell_slices(find_missing_slices(volumes[0], order.options.get("axis", 2)))
        return Outcome(text=named)
    if order.verb == "noise":
        estimate = _noise(volumes[0], order.options.get("modality", "auto"))
        return Outcome(text=f"noise {estimate}", value=estimate.level)
    pairs = []
    for number, volume in enumerate(volumes):

        def share(done: int, total: int, what: str, number: int = number) -> None:
            progress(number * total + done, len(volumes) * total, what)

        pairs.append(_preview(order, volume, share) if order.where else _whole(order, volume, share))
    if all(before is after for before, after in pairs):
        return Outcome(text="Nothing to do: the scan stays as it is.")
    history = pairs[0][1].history
    record = RunRecord.of_step(history[-1]) if history else RunRecord()
    layers = [*_layers(order, pairs), *_marked(order, pairs)]
    return Outcome(
        tuple(layers),
        status(record),
        refinable=bool(order.where and order.fast),
        places=widest(pairs[0][1]),
        notes=tuple(rows_for_flags(note) for note in record.notes),
    )


def status(record: RunRecord) -> str:
    """Device, seconds and memory."""
    return f"{record.device or '?'}, {_known(record.seconds)} s, {_known(record.peak_memory_mb)} MB"


def _known(value: float | None) -> str:
    return "?" if value is None else f"{value:.10g}"


def rows_for_flags(text: str) -> str:
    """Advice to say ``--slice-thickness 3``, as it is meant here: *slice thickness* is a row of the widget."""
    return re.sub(r"--([a-z-]+)", lambda flag: flag[1].replace("-", " "), text)


def _noise(volume: Volume, modality: str) -> NoiseEstimate:
    kind = guess_modality(volume, modality)[0]
    return estimate_noise(volume.voxels, volume.spacing, kind)


def _whole(order: Order, volume: Volume | None, progress: Progress) -> tuple[Volume | None, Volume]:
    return volume, _run(order.verb, volume, order.options, _mask(order, volume), progress)


def _mask(order: Order, volume: Volume) -> Volume | None:
    if order.mask is None:
        return None
    mask = filled(order.mask, order.scan) if isinstance(order.mask, Drawn) else order.mask
    return mask_on(volume, mask.volumes()[0])


def _run(verb: str, volume: Volume, options: dict[str, Any], mask: Volume | None, progress: Progress) -> Volume:
    """The verb; with smaller and smaller tiles while memory runs out."""
    from medldm import tasks

    edges = [tile for tile in TILES if tile < options.get("tile", 384)]
    for smaller, following in zip([None, *edges], [*edges, None], strict=True):
        try:
            settings = make(TASKS[verb].settings, options | ({"tile": smaller} if smaller else {}))
            result = tasks.run(verb, volume, settings, mask=mask, progress=progress)
        except (ResourceError, MemoryError, RuntimeError) as problem:
            if not crowded(problem):
                raise
            if following:
                progress(0, 1, f"out of memory, trying tiles of {following} voxels")
            _free()
            continue
        return result
    raise ResourceError(
        f"{volume.name if volume else verb} needs more memory than is free, even in tiles of {TILES[-1]} voxels. Close "
        "other programs, choose another device, or restore a box of it."
    )


def crowded(problem: BaseException) -> bool:
    """Whether memory ran out: torch says so in a RuntimeError, wherever it moves a model or a scan."""
    return isinstance(problem, ResourceError) or lacks_memory(problem)


def _free() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _preview(order: Order, volume: Volume, progress: Progress) -> tuple[Volume, Volume]:
    """The verb on a box and what lies around it; of the result the box, on the grid that the whole scan would have."""
    assert order.where is not None
    box = box_of(order.where, volume)
    across = TASKS[order.verb].across_slices
    axis = int(order.options.get("axis", 2))
    margin = [NEAR if b - a == 1 else AROUND for a, b in box]
    if across:
        margin[volume.stored.axes[axis]] = FIRST if order.fast else FAR
    wide = widened(box, volume.shape, margin)
    small = crop(volume, wide)
    options = _fitted(order, volume, small, wide, axis)
    if order.fast and options.get("model", "auto") == "auto":
        options["model"] = fastest(guess_modality(volume, options.get("modality", "auto"))[0], order.verb)
    mask = _mask(order, volume)
    if mask is not None:
        mask = crop(mask, wide)
        if not mask.voxels.any():
            raise InputError("The mask is empty where the preview looks. Go to a slice that it covers.")
    result = _run(order.verb, small, options, mask, progress)
    if result is small:
        return volume, volume
    inner = tuple((a - w, b - w) for (a, b), (w, _) in zip(box, wide, strict=True))
    wanted = (inner[0], inner[1], inner[2])
    return volume, pasted(part(result, small.shape, wanted), result, small.shape, wide, volume.shape)


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


def _fitted(order: Order, volume: Volume, small: Volume, wide: Any, axis: int) -> dict[str, Any]:
    """Options of the whole scan as they must be said about a part of it."""
    options = dict(order.options)
    if TASKS[order.verb].removes_noise:
        # A noise level is relative to the brightest tissue, which a part may not hold; a slice is too little to
        # estimate from.
        said = options.get("modality", "auto")
        kind = guess_modality(volume, said)[0]
        level = options.get("noise")
        level = _noise(volume, said).level if level is None else level
        scaled = modality_of(kind).scaling
        per_part = scaled(volume.voxels).unit / scaled(small.voxels).unit
        options["noise"] = float(level) * per_part
    if options.get("missing") is not None:
        count = volume.shape[volume.stored.axes[axis]]
        there = shifted(parse_slices(options["missing"], count), volume, wide, axis)
        if not there:
            raise InputError("No missing slice lies near the preview. Go to one, or run the whole volume.")
        options["missing"] = there
    return options


def _layers(order: Order, pairs: list[tuple[Volume, Volume]]) -> list[LayerTuple]:
    afters = [after for _, after in pairs]
    name = order.scan.name if order.scan else TASKS[order.verb].labels.title.lower()
    title = f"{name} {'preview' if order.where else TASKS[order.verb].labels.past}"
    made = [_layer(afters, title)]
    made[0][1]["metadata"] = made[0][1]["metadata"] | {PREVIEW: order.where is not None}
    for kind in ("std", "half_width") if order.uncertainty else ():
        maps = [after.as_map(voxels) for after in afters if (voxels := getattr(after, kind)) is not None]
        if len(maps) == len(afters):  # a frame without one would move the others to its place
            made.append(_layer(maps, f"{title}, {UNCERTAINTY[kind]}", colormap="magma"))
    if order.difference and order.scan:
        gaps = [_difference(before, after) for before, after in pairs]
        top = max(float(np.abs(contrast(gap.voxels)).max()) for gap in gaps)
        made.append(_layer(gaps, f"{title}, difference", colormap="PiYG", contrast_limits=(-top, top)))
    return made


def _marked(order: Order, pairs: list[tuple[Volume, Volume]]) -> list[LayerTuple]:
    """The overlay of voxels that nobody measured, for one volume; none where everything was measured."""
    if order.scan is None or len(pairs) != 1 or not pairs[0][1].history:
        return []
    before, after = pairs[0]
    mask, axis = _mask(order, before), int(order.options.get("axis", 2))
    if mask is not None:
        invented: Sequence[int] = ()
    elif before.shape == after.shape:
        invented = RunRecord.of_step(after.history[-1]).invented_slices or ()
    else:
        # The record counts on the new grid, where each thin slice is estimated; a gap is where the scan had one.
        invented = find_missing_slices(before, axis) if TASKS[order.verb].plan else ()
    marked = not_measured(before, after, invented, mask, axis)
    if not marked.voxels.any():
        return []
    data, arguments, _ = layer_data(marked, kind="labels", name=f"{order.scan.name}, not measured")
    arguments["metadata"] = arguments["metadata"] | {PREVIEW: order.where is not None}
    return [(data, arguments, "labels")]


def _layer(volumes: list[Volume], name: str, **more: Any) -> LayerTuple:
    return layer_data(volumes[0], name=name, **more) if len(volumes) == 1 else series_data(volumes, name=name, **more)


def _difference(before: Volume, after: Volume) -> Volume:
    """After minus before, on the grid of the result; a coarser scan is interpolated."""
    same = before.shape == after.shape and np.allclose(before.affine, after.affine)
    old = before.voxels if same else resample_to(before, after.affine, after.shape)
    return after.as_map(after.voxels.astype(np.float32) - old.astype(np.float32))


def sentence(problem: BaseException) -> MedldmError | ValueError:
    """An error as one that can be shown: ours are sentences already, others become one."""
    if isinstance(problem, MedldmError | ValueError):
        return problem
    if isinstance(problem, MemoryError):
        return ResourceError("There is not enough memory. Close other programs, or restore a box of the scan.")
    return MedldmError(f"This is a bug in medldm, please report it: {place_of(problem)}.")
