"""The dock widget that all verbs share: it holds choices and shows progress; the work happens elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from medldm.errors import MedldmError, ModelError
from medldm.modality import DEFAULT
from medldm.settings import make
from medldm.tasks import TASKS
from napari_medldm import text, view
from napari_medldm.engine import ENGINE
from napari_medldm.form import ALL, Form
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import Snapshot, snapshot
from napari_medldm.queries import Queries
from napari_medldm.regions import Corners
from napari_medldm.results import Results, in_turns
from napari_medldm.worker import End, Failure, Run, start

SETTLED_MS = 400  # a plan is made when nothing was changed for this long
UNSAVED = {"the scan": "SCAN.nii.gz", "the region": "MASK.nii.gz"}  # names in a copied run of what lies in no file


class Panel(Form):
    """Choose a scan and settings, see the plan, preview, run, compare.

    Parameters
    ----------
    napari_viewer : given by napari
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.run_now: Run | None = None
        self.clock = text.Clock()
        self.closed = False
        self.queries = Queries()
        self.results = Results(self.viewer, self.compare)
        self.timer = QTimer()
        self.timer.setSingleShot(True)
        self._connect()
        self.changed_scan()
        self.describe()

    def mask(self) -> Any:
        """What `inpaint` fills; for subclasses."""
        return None

    def mask_path(self) -> str | None:
        """The file of the mask in a copied run, None for verbs without one; for subclasses."""
        return None

    def _connect(self) -> None:
        self.button.clicked.connect(self.run)
        self.preview.clicked.connect(self.run_preview)
        self.cancel.clicked.connect(self.stop)
        self.unload.clicked.connect(self.free)
        self.copy_command.clicked.connect(lambda: self._copy(text.command_line))
        self.copy_python.clicked.connect(lambda: self._copy(text.python))
        self.more.changed.connect(lambda on: setattr(self.advanced, "visible", on))
        self.model_file.clicked.connect(self._ask_for_model)
        self.scan.changed.connect(lambda _: self.changed_scan())
        self.rows.on_change(self.later)
        self.timer.timeout.connect(self.describe)
        layers = self.viewer.layers.events
        layers.inserted.connect(self._relist)
        layers.removed.connect(self._relist)
        # The widget dies with its window; what still runs must not talk to it afterwards.
        me = weakref.ref(self)
        self.native.destroyed.connect(lambda: _close(me))

    # What is chosen

    def _relist(self, _: Any = None) -> None:
        if self.closed:
            return
        for widget in (self.scan, self.where):
            widget.reset_choices()
        self.results.relist()

    @property
    def point(self) -> tuple[float, ...]:
        """World coordinates of what the viewer shows, mm."""
        return self.in_mm(self.viewer.dims.point)

    def in_mm(self, position: Sequence[float]) -> tuple[float, ...]:
        """A position of the viewer, in mm."""
        return view.in_mm(self.viewer, position, self.scan.value)

    def snapshot(self) -> Snapshot:
        """The chosen layer as it is now.

        Raises
        ------
        ValueError
            None is chosen, or it is no scan.
        """
        if self.scan.value is None:
            raise ValueError("Open or choose a scan first.")
        return snapshot(self.scan.value, self.point)

    def options(self) -> dict[str, Any]:
        """Settings that differ from the defaults, checked.

        Raises
        ------
        UsageError
        """
        options = self.rows.options()
        make(TASKS[self.verb].settings, options)
        return options

    def _order(self, where: Corners | None = None) -> Order:
        if not self.needs_scan:
            return Order(self.verb, None, self.options())
        scan = self.snapshot()
        every = self.several and self.series.value == ALL and where is None
        return Order(
            self.verb, scan, self.options(), self.mask(), where, every, self.difference.value, self.uncertainty.value
        )

    def _ask_for_model(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        path, _ = QFileDialog.getOpenFileName(self.native, "A trained model", "", "Models (*.json *.safetensors)")
        if path:
            self.rows.choose_model(path)

    # What will happen

    @property
    def several(self) -> bool:
        """Whether the chosen layer holds several volumes; Qt calls the row of a hidden window invisible."""
        layer = self.scan.value
        return layer is not None and layer.ndim > 3 and not layer.rgb

    def changed_scan(self) -> None:
        """Another layer was chosen."""
        self.series.visible = self.several
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
            if not self.needs_scan:
                self.plan.value = str(TASKS[self.verb].settings.__doc__)
                return
            if self.scan.value is None:
                self.plan.value = "Open or choose a scan first."
                return
            self._say_plan(self.options())
        except (MedldmError, ValueError) as problem:
            self.plan.value = str(problem)

    def _say_card(self) -> None:
        try:
            self.card.value = text.describe(self.rows.widgets["model"].value, self.modality, self.verb)
        except ModelError as problem:
            self.card.value = str(problem)

    @property
    def modality(self) -> str:
        """Of the chosen scan, as chosen or as it seems; MR while there is none."""
        said = self.rows.widgets["modality"].value
        if said != "auto":
            return str(said)
        return DEFAULT.name if self.scan.value is None else self.snapshot().modality

    def _say_plan(self, options: dict[str, Any]) -> None:
        scan = self.snapshot().empty
        self.plan.value = text.intent(self.verb, scan, options)
        with suppress(ModelError):  # the card says it already
            self.plan.value += " " + text.unfit(self.rows.widgets["model"].value, self.modality, scan, self.verb)

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

    def _ask_simply(self, verb: str, options: dict[str, Any], answered: Callable[[Outcome], None]) -> None:
        try:
            self.ask(verb, options, answered, self.status)
        except (MedldmError, ValueError) as problem:
            self.status.value = str(problem)

    # The run

    def run(self) -> None:
        """Restore the whole volume, unless something runs already."""
        self._begin(lambda: self._order())

    def run_preview(self) -> None:
        """Restore the current slice, or the box that was drawn."""
        self._begin(lambda: self._order(self.region()))

    def region(self) -> Corners:
        """Where the preview looks, in the world."""
        return view.region(self.viewer, self.where.value, self.snapshot(), self.point)

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
        self.clock = text.Clock()
        self._busy(True)
        self.status.value = "starting"
        before = weakref.ref(self.scan.value) if self.needs_scan else lambda: None
        self.run_now = start(wanted, progress=self._progressed, done=lambda end: self._done(end, before))

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

    def _done(self, end: End, before: Any) -> None:
        if isinstance(end, Outcome) and not self.closed:
            in_turns(self._show(end, before()))
            return
        self._ended("cancelled" if end is None else end.text)
        if isinstance(end, Failure) and not self.closed:
            show_error(end.text)

    def _show(self, outcome: Outcome, before: Any) -> Iterator[None]:
        """Show what came of a run, in steps; the run has ended when all is shown."""
        try:
            if not outcome.layers:
                show_info(outcome.text)
                return
            for _ in self.results.show(outcome, before):
                yield
                if self.closed:
                    return
            if self.needs_scan and before not in self.viewer.layers:
                show_info("The scan was removed during the run; its result was added all the same.")
        finally:
            self._ended(outcome.text, 100)

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
            text = spell(self.verb, options, path, mask=self.mask_path(), volumes=self._numbers(scan))
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
    """The window is gone: stop what runs, and say nothing any more."""
    me = panel()
    if me is not None:
        me.closed = True
        me.queries.close()
        if me.run_now is not None:
            me.run_now.stop()
