"""An order that is carried out elsewhere, as Qt signals: all answers arrive on the GUI thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from qtpy.QtCore import QCoreApplication, QObject, Qt, Signal, Slot

from medldm.tasks import TASKS
from napari_medldm.activity import Activity
from napari_medldm.engine import End, Engine, Failure, Job, engine_of

if TYPE_CHECKING:
    from napari_medldm.jobs import Order

__all__ = ["End", "Failure", "News", "Run", "start"]

News = tuple[int, int, str]  # done, total, what


class Run(QObject):  # type: ignore[misc]
    """An order that is being carried out.

    Attributes
    ----------
    progress : signal of (done, total, what)
    ended : signal of the end, once; no progress comes after it
    wish : set when it was asked to stop
    """

    progress = Signal(int, int, str)
    ended = Signal(object)
    _woken = Signal()
    _inbox: ClassVar[deque[Callable[[], None]]] = deque()  # of all runs, so that their ends come in their order
    _delivering: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.wish = threading.Event()
        self.over = False
        self.engine: Engine | None = None
        self.job: Job | None = None
        self.activity: Activity | None = None
        application = QCoreApplication.instance()
        if application is not None:
            self.moveToThread(application.thread())
        # To a slot of an object that lives on the GUI thread, through its queue: that is where it is called.
        self._woken.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def begin(self, order: Order, title: str) -> None:
        """Hand the order to its engine.

        Parameters
        ----------
        order : what to do
        title : of a run, in the activity dock; a question is too short for it
        """
        _RUNNING.add(self)
        if not order.question:
            # Later: napari takes its time for the first bar, and the button that was clicked comes first.
            self._post(lambda: setattr(self, "activity", Activity(title, self.stop)))
        self.engine = engine_of(order)
        self.job = self.engine.run(order, self._post_news, self._post_end)

    def stop(self) -> None:
        """End it; `done` gets None within two seconds."""
        self.wish.set()
        if self.engine is not None and self.job is not None:
            self.engine.stop(self.job)

    def _post_news(self, done: int, total: int, what: str) -> None:
        self._post(partial(self._progressed, int(done), int(total), what))

    def _post_end(self, end: End) -> None:
        self._post(partial(self._ended, end))

    def _post(self, message: Callable[[], None]) -> None:
        self._inbox.append(message)
        with suppress(RuntimeError):  # Qt is gone: napari is closing
            self._woken.emit()

    @Slot()  # type: ignore[untyped-decorator]
    def _deliver(self) -> None:
        # napari lets Qt work while it draws the bar of an activity, so this may be called in the middle of itself, for
        # this run or another one.
        if Run._delivering:
            return
        Run._delivering = True
        try:
            while self._inbox:
                self._inbox.popleft()()
        finally:
            Run._delivering = False
            if self._inbox:  # whoever is told raised an error
                self._woken.emit()

    def _progressed(self, done: int, total: int, what: str) -> None:
        if self.over:
            return
        self.progress.emit(done, total, what)
        if self.activity is not None:
            self.activity.show(done / max(1, total))

    def _ended(self, end: End) -> None:
        self.over = True
        _RUNNING.discard(self)
        if self.activity is not None:
            self.activity.close()
        self.ended.emit(end)


_RUNNING: set[Run] = set()  # until their ends are delivered, whether anybody holds them or not


def start(
    order: Order, *, progress: Callable[[News], None], done: Callable[[End], None], title: str | None = None
) -> Run:
    """Start an order; both functions are called on the GUI thread, and never before this returns.

    Parameters
    ----------
    order : what to do
    progress : gets (done, total, what)
    done : gets the end
    title : in napari's activity dock; None makes one of the task and the scan

    Returns
    -------
    the run; its ``stop()`` cancels
    """
    run = Run()
    run.progress.connect(lambda *news: progress(news))
    run.ended.connect(done)
    run.begin(order, title_of(order) if title is None else title)
    return run


def title_of(order: Order) -> str:
    """``"Denoise brain-mri"``."""
    task = TASKS.get(order.verb)
    name = task.labels.title if task else order.verb
    return f"{name} {order.scan.name}" if order.scan else name
