"""What is asked for and how it is done: no window, no process; runs where torch may be loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medldm.data.resample import resample_to
from medldm.data.slice_numbers import spell_slices
from medldm.data.volume import Volume
from medldm.errors import MedldmError, ResourceError, lacks_memory, place_of
from medldm.io import find_missing_slices, guess_modality
from medldm.provenance import RunRecord
from medldm.qc.inspection import make_plan
from medldm.qc.noise import NoiseEstimate, estimate_noise
from medldm.settings import Progress, Restore, make
from medldm.tasks import TASKS, Generate
from napari_medldm.findings import Place, not_measured, widest
from napari_medldm.layers import SYNTHETIC, LayerTuple, Snapshot, contrast, layer_data, series_data
from napari_medldm.previews import Part, preview
from napari_medldm.regions import Corners, Drawn, filled, mask_on
from napari_medldm.text import for_dock, unit_of

# Layers beside a result, by field of a volume: of one answer the spread of what it leaves open, of several their own.
UNCERTAINTY = {"std": "standard deviation", "half_width": "half width of the 90 % interval"}
TILES = (256, 128, 64)  # tried in turn when memory runs out
PREVIEW = "medldm_preview"  # in a layer's metadata, whether it shows a part of a scan only
MAP = "medldm_map"  # in a layer's metadata: what its colours are, with the unit; it is shown with a colour bar
GREY = "grey values"  # the unit of MRI, which has none
PLANES = "planes"  # what the networks report
# Questions, which change nothing; all but the last are answered without torch.
ASKED = ("plan", "noise", "missing", "draw")


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
        return Outcome(text="\n".join(f"\u2022 {for_dock(line)}" for line in [*lines, *plan.notes]))
    if order.verb == "draw":
        return Outcome(text=_generator_text(order.options))
    if order.verb == "missing":
        named = spell_slices(find_missing_slices(volumes[0], order.options.get("axis", 2)))
        return Outcome(text=named)
    if order.verb == "noise":
        estimate = _noise(volumes[0], order.options.get("modality", "auto"))
        return Outcome(text=for_dock(f"noise {estimate}"), value=estimate.level)
    pairs: list[tuple[Any, Any]] = []
    count, notes = Passes(), None  # notes of the whole scan, where a part of it was restored
    for number, volume in enumerate(volumes):

        def share(done: int, total: int, what: str, number: int = number) -> None:
            progress(number * total + done, len(volumes) * total, what)

        mask = _mask(order, volume)
        if order.where:
            after, notes = preview(order, volume, mask, count.of(_run), share)
        else:
            after = count.of(_run)(order.verb, volume, order.options, mask, share)
        pairs.append((volume, after))
    if all(before is after for before, after in pairs):
        return Outcome(text="Nothing to do: the scan stays as it is.")
    history = pairs[0][1].history
    record = RunRecord.of_step(history[-1]) if history else RunRecord()
    layers = [*_layers(order, pairs), *_marked(order, pairs)]
    return Outcome(
        tuple(layers),
        ", ".join(filter(None, ("synthetic, of nobody" * bool(record.synthetic), status(record), count.text()))),
        refinable=bool(order.where and order.fast),
        places=widest(pairs[0][1]),
        notes=tuple(for_dock(note) for note in (record.notes if notes is None else notes)),
    )


class Passes:
    """Planes, and passes through the networks, by what a run reports.

    Attributes
    ----------
    planes, passes : so far
    """

    def __init__(self) -> None:
        self.planes = self.passes = 0

    def of(self, run: Part) -> Part:
        """The same function, its passes counted: each step of its progress is one."""

        def counted(
            verb: str, volume: Volume | None, options: dict[str, Any], mask: Volume | None, progress: Progress
        ) -> Volume:
            last = 0

            def step(done: int, total: int, what: str) -> None:
                nonlocal last
                if what == PLANES:
                    self.planes += max(0, done - last)
                    self.passes += done > last
                    last = done
                    what = f"{PLANES}, pass {self.passes + (done < total)}"
                progress(done, total, what)

            return run(verb, volume, options, mask, step)

        return counted

    def text(self) -> str:
        """``"202 planes in 3 passes"``; nothing where no network of planes was at work."""
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        return f"{self.planes} planes in {passes}" if self.planes else ""


def status(record: RunRecord) -> str:
    """Device, seconds and memory, those that are known."""
    numbers = (record.seconds, "s"), (record.peak_memory_mb, "MB")
    said = [f"{value:.10g} {unit}" for value, unit in numbers if value is not None]
    return ", ".join(filter(None, (record.device, *said)))


def _noise(volume: Volume, modality: str) -> NoiseEstimate:
    kind = guess_modality(volume, modality)[0]
    return estimate_noise(volume.voxels, volume.spacing, kind)


def _generator_text(options: dict[str, Any]) -> str:
    """What `generate` would draw, and which model would; a description that none can draw is an error."""
    from medldm.inference.generation import generator_for, outside_training

    settings = make(Generate, options)
    wanted = settings.description()
    card = generator_for(wanted, settings.model)
    likeness = f", a variation of {settings.like}" if settings.like else ""
    return " ".join(
        filter(None, (f"Draw a scan of nobody with {card.name}: {wanted}{likeness}.", outside_training(card, wanted)))
    )


def _mask(order: Order, volume: Volume | None) -> Volume | None:
    if order.mask is None or volume is None:
        return None
    mask = filled(order.mask, order.scan) if isinstance(order.mask, Drawn) else order.mask
    return mask_on(volume, mask.volumes()[0])


def _run(verb: str, volume: Volume | None, options: dict[str, Any], mask: Volume | None, progress: Progress) -> Volume:
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


def _layers(order: Order, pairs: list[tuple[Volume, Volume]]) -> list[LayerTuple]:
    afters = [after for _, after in pairs]
    synthetic = order.scan is None and any(RunRecord.of_step(step).synthetic for step in afters[0].history)
    name = order.scan.name if order.scan else TASKS[order.verb].labels.title.lower()
    title = f"{name} {'preview' if order.where else TASKS[order.verb].labels.past}"
    if synthetic and hasattr(settings := make(TASKS[order.verb].settings, order.options), "description"):
        title = f"Synthetic {settings.description().text or 'scan'}"
    made = [_layer(afters, title)]
    made[0][1]["metadata"] = made[0][1]["metadata"] | {PREVIEW: order.where is not None, SYNTHETIC: synthetic}
    unit = unit_of(afters[0].history[-1].facts.get("modality", "") if afters[0].history else "") or GREY
    for kind in ("std", "half_width") if order.uncertainty else ():
        maps = [after.as_map(voxels) for after in afters if (voxels := getattr(after, kind)) is not None]
        if len(maps) == len(afters):  # a frame without one would move the others to its place
            made.append(_map(maps, UNCERTAINTY[kind], unit, title, colormap="magma"))
    if order.difference and order.scan:
        gaps = [_difference(before, after) for before, after in pairs]
        top = max(float(np.abs(contrast(gap.voxels)).max()) for gap in gaps)
        made.append(_map(gaps, "difference", unit, title, colormap="PiYG", contrast_limits=(-top, top)))
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


def _map(volumes: list[Volume], kind: str, unit: str, title: str, **more: Any) -> LayerTuple:
    """A layer whose colours are numbers: it is shown with a colour bar.

    Its kind comes first in its name, since napari's list leaves out the middle of long names.
    """
    made = _layer(volumes, f"{kind} ({unit}), {title}", **more)
    made[1]["metadata"] = made[1]["metadata"] | {MAP: f"{kind}\n({unit})"}
    return made


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
