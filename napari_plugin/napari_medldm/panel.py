"""The dock widget that all verbs share: it holds choices and shows progress; the work happens elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from medldm.errors import MedldmError, ModelError
from medldm.modality import DEFAULT, modality_of
from medldm.settings import make
from medldm.tasks import TASKS
from napari_medldm import display, text, view, windows
from napari_medldm.engine import ENGINE
from napari_medldm.form import ALL, FILE, Form
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import Snapshot, contrast, snapshot
from napari_medldm.present import Presentation
from napari_medldm.queries import Queries
from napari_medldm.regions import Corners
from napari_medldm.results import Results, in_turns
from napari_medldm.worker import End, Failure, Run, start

FIRST = "restore"
SETTLED_MS = 400  # a plan is made when nothing was changed for this long
UNSAVED = {"the scan": "SCAN.nii.gz", "the region": "MASK.nii.gz"}  # names in a copied run of what lies in no file


class Panel(Form):
    """Choose a scan and settings, see the plan, preview, run, compare.

    Parameters
    ----------
    napari_viewer : given by napari
    verb : name of the task that is shown first
    """

    def __init__(self, napari_viewer: Any, verb: str = FIRST) -> None:
        self.run_now: Run | None = None
        self.clock = text.Clock()
        self.closed = False
        self.timer = QTimer()
        self.timer.setSingleShot(True)
        self.queries = Queries()
        super().__init__(napari_viewer, verb)
        self.results = Results(self.viewer, self.compare)
        self.presentation = Presentation(self.viewer)
        self.places: tuple[Any, ...] = ()
        self.places_of: Any = _nothing  # the layer that the places are of
        self._connect()
        self.changed_scan()
        self.describe()

    def _connect(self) -> None:
        self.button.clicked.connect(self.run)
        self.preview.clicked.connect(self.run_preview)
        self.cancel.clicked.connect(self.stop)
        self.unload.clicked.connect(self.free)
        self.about.clicked.connect(lambda: setattr(self.card, "visible", not self.card.visible))
        self.copy_command.clicked.connect(lambda: self._copy(text.command_line))
        self.copy_python.clicked.connect(lambda: self._copy(text.python))
        self.model_file.clicked.connect(self._ask_for_model)
        self.scan.changed.connect(lambda _: self.changed_scan())
        self.plane.changed.connect(self._show_plane)
        self.convention.changed.connect(self.presentation.orient)
        self.window_of.changed.connect(self._set_window)
        self.true_geometry.changed.connect(self._lay)
        self.look_here.itemClicked.connect(lambda item: self.go_to(self.look_here.row(item)))
        for row in self.shared.values():
            row.changed.connect(lambda _: self.later())
        for one in self.pages.values():
            one.rows.on_change(self.later)
        self.timer.timeout.connect(self.describe)
        # Events of the viewer, which lives longer than the dock.
        layers, viewer = self.viewer.layers.events, self.viewer
        self.followed = [
            (layers.inserted, self._relist),
            (layers.removed, self._relist),
            (viewer.cursor.events.position, self._read_out),
            (viewer.dims.events.order, self._looked),
        ]
        for event, call in self.followed:
            event.connect(call)
        # The widget dies with its window; what still runs must not talk to it afterwards.
        me = weakref.ref(self)
        self.destroyed.connect(lambda: _close(me))

    def hideEvent(self, event: Any) -> None:
        """Do nothing while nobody looks."""
        self.timer.stop()
        super().hideEvent(event)

    def showEvent(self, event: Any) -> None:
        """Catch up with what changed meanwhile."""
        super().showEvent(event)
        if not self.closed:
            self.presentation.letter_on(self)
            self.later()

    def turned_page(self) -> None:
        """Another task is shown: its plan, its model."""
        self.later()

    # What is chosen

    def _relist(self, _: Any = None) -> None:
        if self.closed:
            return
        for widget in (self.scan, self.where):
            widget.reset_choices()
        for one in self.pages.values():
            one.relist()
        self.compare.relist()
        if self.places_of() not in self.viewer.layers:
            self._list_places((), None)

    def snapshot(self) -> Snapshot:
        """The chosen layer as it is now.

        Raises
        ------
        ValueError
            None is chosen, or it is no scan.
        """
        if self.scan.value is None:
            raise ValueError("Open or choose a scan first.")
        return snapshot(self.scan.value, self.viewer)

    def options(self) -> dict[str, Any]:
        """Settings that differ from the defaults, checked.

        Raises
        ------
        UsageError
        """
        options = self.rows.options()
        make(TASKS[self.verb].settings, options)
        return options

    def _order(self, where: Corners | None = None, fast: bool = False) -> Order:
        if not self.page.needs_scan:
            return Order(self.verb, None, self.options())
        scan = self.snapshot()
        every = self.several and self.series.value == ALL and where is None
        mask = self.page.mask()
        return Order(
            self.verb, scan, self.options(), mask, where, every, self.difference.value, self.uncertainty.value, fast
        )

    def _ask_for_model(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        path, _ = QFileDialog.getOpenFileName(self, "A trained model", "", "Models (*.json *.safetensors)")
        if path:
            self.choose_model(path)

    def choose_model(self, path: str) -> None:
        """Offer a trained model on disk, and choose it."""
        self.shared["model"].choose(path)

    # How it is shown

    def _show_plane(self, plane: str) -> None:
        if plane and plane != self.presentation.plane:
            self.presentation.show_plane(plane)

    def _looked(self, _: Any = None) -> None:
        """The viewer shows another plane."""
        if not self.closed:
            with self.plane.changed.blocked():
                self.plane.value = self.presentation.plane

    def _set_window(self, chosen: str) -> None:
        layer = self.scan.value
        if layer is None:
            return
        limits = windows.limits(*windows.PRESETS[chosen]) if chosen in windows.PRESETS else None
        frame = layer.metadata.get("medldm")
        if chosen == FILE and frame is not None:
            limits = windows.of_file(frame)
            if limits is None:
                self.status.value = "The file names no window."
        if limits is None:
            limits = contrast(np.asarray(snapshot(layer).data))
        low, high = layer.contrast_limits_range
        layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
        layer.contrast_limits = limits

    def _lay(self, true_geometry: bool) -> None:
        for layer in self.viewer.layers:
            display.show_along(layer, not true_geometry)
        self.viewer.reset_view()
        self.presentation.present(self.scan.value)

    def _read_out(self, _: Any = None) -> None:
        """Say which voxel lies under the mouse, and where in the patient."""
        if self.closed or self.scan.value is None or not self.folds["Display"].isExpanded():
            return
        with suppress(MedldmError, ValueError):
            scan = self.snapshot()
            index = view.voxel(self.viewer, self.scan.value, self.viewer.cursor.position)
            self.readout.value = text.position(scan, index)

    def go_to(self, number: int) -> None:
        """Show a place of the list.

        Parameters
        ----------
        number : of the place, the widest interval first
        """
        layer = self.places_of()
        if layer in self.viewer.layers and number < len(self.places):
            view.go_to(self.viewer, layer, self.places[number].index)

    # What will happen

    @property
    def several(self) -> bool:
        """Whether the chosen layer holds several volumes; Qt calls the row of a hidden window invisible."""
        layer = self.scan.value
        return layer is not None and layer.ndim > 3 and not layer.rgb

    def changed_scan(self) -> None:
        """Another layer was chosen."""
        layer = self.scan.value
        self.series.visible = self.several
        if layer is not None:
            self.presentation.present(layer)
            self._looked()
            with suppress(MedldmError, ValueError):
                scan = self.snapshot()
                kind = modality_of(self.modality)
                for one in self.pages.values():
                    one.rows.suit(kind, scan.empty.stored.thickness_mm)
                self.window_of.visible = kind.window is not None
                now = display.shown(layer)
                self.true_geometry.visible = now is not None
                with self.true_geometry.changed.blocked():
                    self.true_geometry.value = now is not None and not now.along
        self.later()

    def later(self) -> None:
        """Make the plan anew, once the user has stopped turning knobs."""
        if not self.closed:
            self.timer.start(SETTLED_MS)

    def describe(self) -> None:
        """Say the plan and the model."""
        if self.closed:
            return
        self.queries.forget(self.plan)
        try:
            self._say_card()
            if not self.page.needs_scan:
                self.plan.value = str(TASKS[self.verb].settings.__doc__)
                return
            if self.scan.value is None:
                self.plan.value = "Open or choose a scan first."
                return
            self.page.say_plan(self.options())
        except (MedldmError, ValueError) as problem:
            self.plan.value = str(problem)

    def _say_card(self) -> None:
        try:
            self.card.value = text.describe(self.model, self.modality, self.verb)
        except ModelError as problem:
            self.card.value = str(problem)

    @property
    def modality(self) -> str:
        """Of the chosen scan, as chosen or as it seems; MR while there is none."""
        said = self.shared["modality"].value
        if said != "auto":
            return str(said)
        return DEFAULT.name if self.scan.value is None else self.snapshot().modality

    def ask(self, verb: str, options: dict[str, Any], answered: Callable[[Outcome], None], into: Any) -> None:
        """Ask the computing process something short: a plan, a noise level.

        Parameters
        ----------
        verb : one of `jobs.ASKED`
        options : of the verb
        answered : gets the outcome
        into : label that tells the wait, or what went wrong
        """
        self.queries.ask(Order(verb, self.snapshot(), options), answered, into)

    def ask_simply(self, verb: str, options: dict[str, Any], answered: Callable[[Outcome], None]) -> None:
        """Ask, and say in the status line what went wrong; see `ask`."""
        try:
            self.ask(verb, options, answered, self.status)
        except (MedldmError, ValueError) as problem:
            self.status.value = str(problem)

    # The run

    def run(self) -> None:
        """Restore the whole volume, unless something runs already."""
        self._begin(lambda: self._order())

    def run_preview(self) -> None:
        """Restore the slice on the screen, or the box that was drawn: first fast, then with the chosen model."""
        self._begin(lambda: self._order(self.region(), fast=True))

    def region(self) -> Corners:
        """Where the preview looks, in the patient."""
        return view.region(self.where.value, self.snapshot())

    def _begin(self, order: Callable[[], Order]) -> None:
        if self.run_now is not None:
            show_info("A restoration is running already. Cancel it, or wait for its end.")
            return
        try:
            wanted = order()
        except (MedldmError, ValueError) as problem:
            # The words of the run before would seem to be about this one.
            self.bar.value, self.status.value = 0, str(problem)
            show_error(str(problem))
            return
        self.queries.forget(self.status)
        self._start(wanted, weakref.ref(self.scan.value) if self.page.needs_scan else _nothing)

    def _start(self, order: Order, before: Any) -> None:
        self.clock = text.Clock()
        self._busy(True)
        self.status.value = "starting"
        self.run_now = start(order, progress=self._progressed, done=lambda end: self._done(order, end, before))

    def stop(self) -> None:
        """Stop the run, within two seconds."""
        if self.run_now is not None:
            self.run_now.stop()
            self.status.value = "cancelling"

    def free(self) -> None:
        """Free the model's memory."""
        if ENGINE.busy:
            show_info("The model is at work. Cancel the run first.")
            return
        ENGINE.unload()
        self.status.value = "The model is unloaded."

    def _busy(self, on: bool) -> None:
        self.button.enabled, self.preview.enabled, self.cancel.enabled = not on, not on, on
        self.bar.value = 0

    def _progressed(self, news: tuple[int, int, str]) -> None:
        if self.closed or self.run_now is None or self.run_now.wish.is_set():
            return
        done, total, _ = news
        self.bar.value = round(100 * done / max(1, total))
        self.status.value = self.clock.text(*news)

    def _done(self, order: Order, end: End, before: Any) -> None:
        if isinstance(end, Outcome) and not self.closed:
            in_turns(self._show(order, end, before()))
            return
        self._ended("cancelled" if end is None else end.text)
        if isinstance(end, Failure) and not self.closed:
            show_error(end.text)

    def _show(self, order: Order, outcome: Outcome, before: Any) -> Iterator[None]:
        """Show what came of a run, in steps; the run has ended when all is shown."""
        made: list[Any] = []
        try:
            if not outcome.layers:
                show_info(outcome.text)
                return
            for _ in self.results.show(outcome, before, made):
                yield
                if self.closed:
                    return
            self._list_places(outcome.places, made[0])
            self.legend.value = text.legend(outcome)
            self.notes.value = "\n".join(f"\u2022 {note}" for note in outcome.notes)
            if order.scan is not None and before not in self.viewer.layers:
                show_info("The scan was removed during the run; its result was added all the same.")
        finally:
            if outcome.refinable and made and not self.closed and self.refine.value and before in self.viewer.layers:
                # A first look is there; whoever waits sees what the run will give.
                self._start(replace(order, fast=False), weakref.ref(before))
                self.status.value = "first look; refining it with the chosen model"
            else:
                self._ended(outcome.text, 100)

    def _list_places(self, places: Sequence[Any], layer: Any) -> None:
        """Name the places with the widest intervals, each a click away."""
        self.places, self.places_of = tuple(places), weakref.ref(layer) if layer is not None else _nothing
        self.look_here.clear()
        self.look_here.addItems([text.place(one, layer) for one in self.places])
        self.look_here.setVisible(bool(self.places))

    def _ended(self, said: str, share: int = 0) -> None:
        self.run_now = None
        if not self.closed:
            self._busy(False)
            self.bar.value, self.status.value = share, said

    def _copy(self, spell: Callable[..., str]) -> None:
        try:
            scan, options = self.snapshot(), self.options()
            path = scan.file
            options = scan.said(self.verb, path) | options
            text = spell(self.verb, options, path, mask=self.page.mask_path(), volumes=self._numbers(scan))
        except (MedldmError, ValueError) as problem:
            show_error(str(problem))
            return
        QApplication.clipboard().setText(text)
        first = [f"{what} as {name}" for what, name in UNSAVED.items() if name in text]
        self.status.value = f"copied; save {' and '.join(first)} first" if first else "copied"

    def _numbers(self, scan: Snapshot) -> tuple[int, ...]:
        """Which volumes of a 4D file are restored; none for a file of one volume."""
        if not scan.current:
            return ()
        sizes = scan.data.shape[:-3]
        if self.series.value == ALL:
            return tuple(range(int(np.prod(sizes))))
        return (int(np.ravel_multi_index(scan.current, sizes)),)


def _close(panel: weakref.ref[Panel]) -> None:
    """The dock is gone: stop what runs, follow the viewer no longer, and say nothing any more."""
    me = panel()
    if me is None or me.closed:
        return
    me.closed = True
    me.queries.close()
    for event, call in me.followed:
        event.disconnect(call)
    for one in me.pages.values():
        one.close()
    with suppress(RuntimeError):  # when the program ends, Qt may have deleted these first
        me.compare.close()
        me.presentation.close()
    if me.run_now is not None:
        me.run_now.stop()


def _nothing() -> None:
    """A weak reference to nothing."""
