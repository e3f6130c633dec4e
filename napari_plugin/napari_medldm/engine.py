"""Where orders are carried out: in a process beside napari, one at a time, the others wait for their turn."""

from __future__ import annotations

import atexit
import itertools
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from medldm.errors import MedldmError, ResourceError
from napari_medldm.computer import Computer
from napari_medldm.jobs import Outcome, sentence
from napari_medldm.text import for_dock

if TYPE_CHECKING:
    from napari_medldm.jobs import Order

PATIENCE_S = 1.2  # for a run that was asked to stop; then its process is ended
COPYING, WAITING = PENDING = ("copying the scan", "waiting for another run")  # what is said before the turn comes
ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """What went wrong, in a sentence."""

    text: str


End = Outcome | Failure | None  # None when it was cancelled
Report = Callable[[int, int, str], None]


@dataclass(eq=False)
class Job:
    """An order on its way through an engine.

    Parameters
    ----------
    order : what to do
    progress : gets (done, total, what)
    ended : gets the end, once
    number : in the order of asking
    """

    order: Order
    progress: Report
    ended: Callable[[End], None]
    number: int = 0
    loaded: Order | None = None
    computer: Computer | None = None
    stopped: bool = False
    over: bool = False
    deadline: threading.Timer | None = field(default=None, repr=False)

    @property
    def rank(self) -> tuple[bool, int]:
        """Who comes first: a question is short, so it does not wait for a queue of runs."""
        return not self.order.question, self.number


class Engine(Protocol):
    """What carries out orders; one that computes elsewhere can stand in the place of the local one."""

    @property
    def busy(self) -> bool:
        """Whether an order is being carried out."""

    def run(self, order: Order, progress: Report, ended: Callable[[End], None]) -> Job:
        """Take an order; returns at once, both functions are called from any thread.

        Parameters
        ----------
        order : what to do
        progress : gets (done, total, what)
        ended : gets the end, once; errors of all kinds are a `Failure`
        """

    def stop(self, job: Job) -> None:
        """End a job; its end is None, within two seconds."""

    def unload(self) -> None:
        """Free the memory that the model takes; what runs is cancelled."""


class LocalEngine:
    """One computing process, started at the first order; at most one order at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.starting = threading.Lock()
        self.waiting: list[Job] = []
        self.current: Job | None = None
        self.computer: Computer | None = None
        self.numbers = itertools.count()
        atexit.register(self.unload)

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The computing process; None while there is none."""
        computer = self.computer
        return None if computer is None else computer.process

    @property
    def busy(self) -> bool:
        """Whether an order is being carried out."""
        return self.current is not None

    def run(self, order: Order, progress: Report, ended: Callable[[End], None]) -> Job:
        """Take an order; see `Engine`."""
        job = Job(order, progress, ended, next(self.numbers))
        progress(0, 1, COPYING)
        # In a thread: a slow disk or dask must hold up neither the window nor Cancel. Before the turn comes: what is
        # edited while another run goes on is not what was asked for.
        threading.Thread(target=self._copy, args=(job,), daemon=True).start()
        return job

    def stop(self, job: Job) -> None:
        """End a job: at once while it waits, else before its next network layer, or with its process.

        A question that is being answered goes on: it is short, and ending its process would cost the loaded model.
        """
        with self.lock:
            running = self.current is job
            if job.over or job.stopped or (running and job.order.question):
                return
            job.stopped = True
            if running:
                job.deadline = threading.Timer(PATIENCE_S, self._lose_patience, (job,))
                job.deadline.daemon = True
                job.deadline.start()
                if job.computer is not None:
                    job.computer.send("stop")
        if not running:
            self._end(job, None)

    def unload(self) -> None:
        """End the process; all its memory is free, the next order starts a new one."""
        with self.lock:
            computer = self._detached()
        if computer is not None:
            computer.kill()
            computer.process.wait()

    def _copy(self, job: Job) -> None:
        try:
            loaded = job.order.loaded()
        except BaseException as problem:  # of any layer, of any plugin; what is not reported here is lost
            self._end(job, Failure(for_dock(str(sentence(problem)))))
            return
        with self.lock:
            if job.over:
                return
            job.loaded = loaded
            self.waiting.append(job)
            if self.current is not None:
                job.progress(0, 1, WAITING)
        self._next()

    def _next(self) -> None:
        """Begin the next job, unless one is going on; never on the GUI thread, because processes start slowly."""
        with self.lock:
            if self.current is not None or not self.waiting:
                return
            self.current = job = min(self.waiting, key=lambda one: one.rank)
            self.waiting.remove(job)
        job.progress(0, 1, "starting")
        try:
            # The second time is for a process that ended between two lines.
            if not self._handed_over(job) and not self._handed_over(job):
                self._end(job, Failure("The computing process ended as soon as it began; the terminal says more."))
        except OSError as problem:
            self._end(job, Failure(f"The computing process could not be started: {problem}."))

    def _handed_over(self, job: Job) -> bool:
        computer = self._started()
        with self.lock:
            if computer.closed:
                return False
            if not job.stopped:
                job.computer = computer
                computer.send(job.loaded)
                job.loaded = None
        if job.stopped:
            self._end(job, None)
        return True

    def _started(self) -> Computer:
        with self.starting:  # not `lock`, for which the GUI thread may wait
            computer = self.computer
            if computer is None:
                computer = Computer(self._came, self._gone, self._refused)
                with self.lock:
                    self.computer = None if computer.closed else computer
            return computer

    def _came(self, computer: Computer, kind: str, value: Any) -> None:
        job = self.current
        if job is None or job.computer is not computer:
            return
        if kind == "progress":
            job.progress(*value)
        elif job.stopped or kind == "stopped":
            self._end(job, None)
        else:
            self._end(job, value if kind == "result" else Failure(for_dock(str(value))))

    def _refused(self, computer: Computer, problem: Exception) -> None:
        job = self.current
        if job is not None and job.computer is computer:
            self._end(job, Failure(for_dock(str(sentence(problem)))))

    def _gone(self, computer: Computer, unreadable: Exception | None) -> None:
        with self.lock:
            computer.closed = True
            if self.computer is computer:
                self.computer = None
            job = self.current
        if job is None or job.computer is not computer:
            return
        if unreadable is not None:
            self._end(job, Failure(for_dock(str(sentence(unreadable)))))
        elif job.stopped or computer.killed:
            self._end(job, None)
        else:
            self._end(job, Failure(str(_died(computer.process.returncode))))

    def _lose_patience(self, job: Job) -> None:
        with self.lock:
            if job.over:
                return
            computer = self._detached() if job.computer is not None else None
        if computer is not None:
            computer.kill()
        self._end(job, None)

    def _detached(self) -> Computer | None:
        """The process, which gets no more orders; with the lock held."""
        computer, self.computer = self.computer, None
        if computer is not None:
            computer.closed = True
        return computer

    def _end(self, job: Job, end: End) -> None:
        with self.lock:
            if job.over:
                return
            job.over = True
            job.loaded = None
            running = self.current is job
            if running:
                self.current = None
            if job in self.waiting:
                self.waiting.remove(job)
        if job.deadline is not None:
            job.deadline.cancel()
        try:
            job.ended(end)
        finally:
            if running:
                self._next()


class Unavailable:
    """Computing at an address, which is not possible yet."""

    busy = False

    def run(self, order: Order, progress: Report, ended: Callable[[End], None]) -> Job:
        """Refuse."""
        job = Job(order, progress, ended, over=True)
        ended(Failure("Remote computing is not available yet. Choose another device."))
        return job

    def stop(self, job: Job) -> None:
        """Nothing runs."""

    def unload(self) -> None:
        """Nothing is loaded."""


def engine_of(order: Order) -> Engine:
    """Where an order is carried out, by its device: at an address like ``http://host:8080``, else here."""
    return REMOTE if ADDRESS.match(str(order.options.get("device", ""))) else ENGINE


def _died(code: int) -> MedldmError:
    if code in (-9, 137):
        return ResourceError(
            "The system ended the computation, most likely because memory ran out. Choose smaller tiles, close "
            "other programs, or restore a box of the scan."
        )
    return MedldmError(f"The computing process ended unexpectedly (code {code}); the terminal says more.")


ENGINE = LocalEngine()
REMOTE = Unavailable()
