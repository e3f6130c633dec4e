"""All runs of this process, waiting, going on and ended; they outlive the widgets that started them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from datetime import datetime
from typing import Any

import napari
from qtpy.QtCore import QObject, Signal

from napari_medldm.clock import RemainingTime
from napari_medldm.engine import PENDING, End
from napari_medldm.jobs import Order, Outcome
from napari_medldm.results import Results
from napari_medldm.worker import Run, start

KEPT = 50  # ended runs; older ones are forgotten
ALMOST = 0.99  # what a bar shows at most before the end: decoding and adding layers follow the last step
QUEUED, RUNNING, DONE, FAILED, CANCELLED = STATES = "queued", "running", "done", "failed", "cancelled"

# Gets the outcome and the entry; returns False where there is no dock any more to show it in.
Show = Callable[[Outcome, "Entry"], Any]


class Entry:
    """A run in the list.

    Attributes
    ----------
    number : 1 is the first of this process
    title : ``"Denoise brain-mri"``
    state : one of `STATES`
    share : done so far, 0 to 1; 1 at the end of a run that succeeded, and not before
    what : what is being done
    text : what came of it, or what went wrong
    options : settings that differ from the defaults
    preview : whether it shows a part only
    asked, started, ended : local times, None before they come
    layers : weak references to the layers that it added
    """

    def __init__(self, runs: RunList, number: int, order: Order, title: str, scan: Any, viewer: Any) -> None:
        self.number, self.title, self.options = number, title, dict(order.options)
        self.state, self.share, self.what, self.text = QUEUED, 0.0, "", ""
        self.asked = datetime.now()
        self.started: datetime | None = None
        self.ended: datetime | None = None
        self.layers: list[weakref.ref[Any]] = []
        self.clock = RemainingTime()
        self.preview = order.where is not None
        self.needs_scan, self.needs_viewer = order.scan is not None, viewer is not None
        self.run: Run | None = None
        self.show: Callable[[], Show | None] = _nothing
        self.command: Callable[[], str] | None = None
        self.python: Callable[[], str] | None = None
        self._order: Order | None = order
        self._runs = runs
        self._scan = _nothing if scan is None else weakref.ref(scan, self._drop_order)
        self._viewer = _nothing if viewer is None else weakref.ref(viewer)
        self._begun = self._spent = 0.0
        if scan is not None:
            scan.events.data.connect(self._drop_order)

    @property
    def order(self) -> Order | None:
        """What was asked for; None where the scan has changed since."""
        return self._order

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state not in (QUEUED, RUNNING)

    @property
    def scan(self) -> Any:
        """The layer that was restored; None when there was none or it is gone."""
        scan, viewer = self._scan(), self.viewer
        if viewer is None:
            return None if self.needs_viewer else scan
        return scan if scan in viewer.layers else None

    @property
    def viewer(self) -> Any:
        """Where results are added; None when it is gone."""
        return self._viewer()

    @property
    def seconds(self) -> float:
        """How long it computed, without the wait for its turn."""
        return time.monotonic() - self._begun if self.state == RUNNING else self._spent

    def remaining(self) -> str:
        """``"20 s left"``, ``"longer than expected"``, or nothing."""
        return self.clock.text() if self.state == RUNNING else ""

    def cancel(self) -> None:
        """End it, while it waits or while it runs."""
        if self.run is not None:
            self.run.stop()
            self.what = "cancelling"
            self._runs.changed.emit(self)

    def added(self, layer: Any) -> None:
        """Remember a layer that shows its outcome.

        Parameters
        ----------
        layer : of napari, in a viewer
        """
        self.layers.append(weakref.ref(layer))
        self._runs.changed.emit(self)

    @property
    def shown(self) -> list[Any]:
        """Its layers that are still in the viewer."""
        viewer = self.viewer
        there = [reference() for reference in self.layers]
        return [layer for layer in there if viewer is not None and layer is not None and layer in viewer.layers]

    def undo(self) -> None:
        """Remove its layers from their viewer."""
        for layer in self.shown:
            self.viewer.layers.remove(layer)
        self.layers.clear()
        self._runs.changed.emit(self)

    @property
    def no_again(self) -> str:
        """Why it cannot be run again; empty when it can."""
        if not self.over:
            return "The run has not ended yet."
        if self.needs_scan and self.scan is None:
            return "The scan is no longer in the viewer."
        return "" if self._order is not None else "The scan was removed or replaced since this run."

    def again(self) -> Entry:
        """Start the same once more, as a new entry.

        Raises
        ------
        ValueError
            The scan is gone.
        """
        if self._order is None or self.no_again:
            raise ValueError(self.no_again)
        return self._runs.start(
            self._order,
            title=self.title,
            scan=self.scan,
            show=self.show(),
            viewer=self.viewer,
            command=self.command,
            python=self.python,
        )

    # What follows is for RunList

    def progressed(self, done: int, total: int, what: str) -> None:
        """Take note of progress."""
        if self.over:
            return
        if self.state == QUEUED and what not in PENDING:
            self.state, self.started, self._begun = RUNNING, datetime.now(), time.monotonic()
        self.clock.step(done, total)
        self.share = min(ALMOST, max(0.0, done / max(1, total)))
        if self.run is None or not self.run.wish.is_set():  # "cancelling" stays
            self.what = f"{done} of {total} {what}" if done or total > 1 else what

    def finish(self, state: str, text: str) -> None:
        """Take note of the end."""
        self._spent, self.ended = self.seconds, datetime.now()
        self.state, self.text, self.what, self.run = state, text, "", None
        if state == DONE:
            self.share = 1.0
        if self.needs_scan and self.scan is None:
            self._drop_order()

    def leaves(self, layer: Any) -> bool:
        """Take note of a layer that left the viewer; whether it was one of this run."""
        if layer is self._scan():
            self._drop_order()
            return True
        return any(reference() is layer for reference in self.layers)

    def belongs_to(self, viewer: weakref.ref[Any]) -> bool:
        """Whether its results go to a viewer, which may be gone already."""
        return self._viewer is viewer

    def loses_viewer(self) -> None:
        """Take note of a viewer that closes: nobody waits for the result any more."""
        self._viewer = _nothing
        self.cancel()

    def _drop_order(self, _: Any = None) -> None:
        # It refers to the voxels of the layer as they were: they must not be kept for our sake.
        self._order = None


class RunList(QObject):  # type: ignore[misc]
    """Runs in the order of asking.

    Attributes
    ----------
    added, changed, removed : signals of an entry
    """

    added = Signal(object)
    changed = Signal(object)
    removed = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.count = 0
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()

    def start(
        self,
        order: Order,
        *,
        title: str,
        scan: Any = None,
        show: Show | None = None,
        viewer: Any = None,
        command: Callable[[], str] | None = None,
        python: Callable[[], str] | None = None,
    ) -> Entry:
        """Start a run; it waits for those that were started before.

        Parameters
        ----------
        order : what to do
        title : in the list and in napari's activity dock
        scan : layer that is restored; it is held weakly
        show : called on the GUI thread with the outcome and the entry, to add layers; a method is held weakly. Where
            there is none, or its widget is gone, or it returns False, the layers are added to the viewer all the same
        viewer : that has the scan; None is the current one
        command, python : spell the run as text to copy; they must not depend on what is chosen later
        """
        viewer = napari.current_viewer() if viewer is None else getattr(viewer, "__wrapped__", viewer)
        self.count += 1
        entry = Entry(self, self.count, order, title, scan, viewer)
        entry.show = _weakly(show)
        entry.command, entry.python = command, python
        self._watch(viewer)
        self.entries.append(entry)
        entry.run = start(
            order,
            progress=lambda news: self._progressed(entry, news),
            done=lambda end: self._done(entry, end),
            title=title,
        )
        self.added.emit(entry)
        return entry

    @property
    def going_on(self) -> list[Entry]:
        """Entries that have not ended."""
        return [entry for entry in self.entries if not entry.over]

    def _progressed(self, entry: Entry, news: tuple[int, int, str]) -> None:
        entry.progressed(*news)
        self.changed.emit(entry)

    def _done(self, entry: Entry, end: End) -> None:
        try:
            if isinstance(end, Outcome):
                entry.finish(DONE, end.text)
                self._show(entry, end)
            elif end is None:
                entry.finish(CANCELLED, "cancelled")
            else:
                entry.finish(FAILED, end.text)
        finally:
            self.changed.emit(entry)
            for old in [one for one in self.entries if one.over][:-KEPT]:
                self.entries.remove(old)
                self.removed.emit(old)

    def _show(self, entry: Entry, outcome: Outcome) -> None:
        show, problem = entry.show(), None
        try:
            if show is not None and show(outcome, entry) is not False:
                return
        except Exception as error:
            problem = error
        # Whatever became of the dock, the result is not lost.
        if outcome.layers and not entry.layers:
            if entry.viewer is None:
                entry.text = f"The viewer is closed, so the result could not be shown. {outcome.text}"
            else:
                add_plainly(outcome, entry)
        if problem is not None and not _is_of_a_widget_that_is_gone(problem):
            raise problem

    def _watch(self, viewer: Any) -> None:
        """Notice when layers leave a viewer, and when it closes."""
        if viewer is None or viewer in self._watched:
            return
        self._watched.add(viewer)
        viewer.layers.events.removed.connect(self._layer_left)
        # napari has no event for a viewer that closes.
        window = getattr(viewer.window, "_qt_window", None)
        if window is not None:
            reference, runs = weakref.ref(viewer), weakref.ref(self)
            window.destroyed.connect(lambda: _viewer_closed(runs, reference))

    def _layer_left(self, event: Any) -> None:
        for entry in self.entries:
            if entry.leaves(event.value):
                self.changed.emit(entry)


def add_plainly(outcome: Outcome, entry: Entry) -> None:
    """Add the layers of a run whose widget is gone.

    Parameters
    ----------
    outcome : with layers
    entry : whose viewer is open
    """
    made: list[Any] = []
    for _ in Results(entry.viewer, _Uncompared()).show(outcome, entry.scan, made):
        pass
    for layer in made:
        entry.added(layer)


class _Uncompared:
    """Where there is no dock, nothing compares a scan with its result."""

    def pair(self, before: Any, result: Any) -> None:
        """Leave them alone."""


def _viewer_closed(runs: weakref.ref[RunList], viewer: weakref.ref[Any]) -> None:
    """Runs for a closed viewer end silently."""
    me = runs()
    for entry in me.going_on if me is not None else ():
        if entry.belongs_to(viewer):
            entry.loses_viewer()


def _is_of_a_widget_that_is_gone(problem: Exception) -> bool:
    return isinstance(problem, RuntimeError) and "deleted" in str(problem)  # as PyQt and PySide say


def _weakly(show: Show | None) -> Callable[[], Show | None]:
    if show is None:
        return _nothing
    return weakref.WeakMethod(show) if hasattr(show, "__self__") else lambda: show


def _nothing() -> None:
    """A weak reference to nothing."""


RUNS = RunList()
