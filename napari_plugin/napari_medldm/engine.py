"""The computing process, seen from napari: started at the first run, asked, stopped, ended."""

from __future__ import annotations

import atexit
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from medldm.errors import Cancelled, MedldmError, ResourceError
from medldm.system import set_thread_defaults
from napari_medldm.ipc import receive, send

if TYPE_CHECKING:
    from napari_medldm.jobs import Order, Outcome

TICK_S = 0.1  # how often the waiting thread looks up
PATIENCE_S = 1.2  # for a run that was asked to stop; then its process is ended

News = tuple[int, int, str]


class Engine:
    """One computing process, at most one order at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.mail: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.turn = threading.Lock()
        atexit.register(self.unload)

    def run(self, order: Order, stop: threading.Event) -> Generator[News, None, Outcome]:
        """Yield progress, return the outcome; a generator that is closed early ends the process.

        Parameters
        ----------
        order : what to do
        stop : set it to end the run: before its next network layer, or with its process

        Raises
        ------
        Cancelled
            `stop` was set.
        MedldmError
            Whatever went wrong, as a sentence.
        """
        yield 0, 1, "copying the scan"
        # Before the turn comes: what is edited while another run goes on is not what was asked for.
        loaded = yield from _in_thread(order.loaded, stop)
        while not self.turn.acquire(timeout=TICK_S):
            yield 0, 1, "waiting for another run"
            if stop.is_set():
                raise Cancelled("cancelled")
        try:
            process = self._started()
            try:
                send(process.stdin, loaded)  # type: ignore[arg-type]
                # A question is short, and ending its process would cost the model that is loaded there.
                return (yield from self._watch(process, threading.Event() if order.question else stop))
            except OSError as problem:
                raise self._died(process) from problem
            except GeneratorExit:
                self.unload()  # nobody waits for the result any more
                raise
        finally:
            self.turn.release()

    def _watch(self, process: subprocess.Popen[bytes], stop: threading.Event) -> Generator[News, None, Outcome]:
        last: News = (0, 1, "starting")
        asked: float | None = None
        while True:
            if stop.is_set() and asked is None:
                asked = time.monotonic()
                send(process.stdin, "stop")  # type: ignore[arg-type]
            if asked is not None and time.monotonic() - asked > PATIENCE_S:
                self.unload()
                raise Cancelled("cancelled")
            try:
                kind, value = self.mail.get(timeout=TICK_S)
            except queue.Empty:
                yield last  # a generator that yields is one that napari can stop
                continue
            if kind == "progress":
                last = value
                yield last
            elif kind == "result":
                if asked is not None:
                    raise Cancelled("cancelled")
                outcome: Outcome = value
                return outcome
            elif kind == "error":
                raise value
            elif kind == "stopped" or asked is not None:
                raise Cancelled("cancelled")
            else:
                raise self._died(process)

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
            set_thread_defaults(environment)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "napari_medldm.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            # A new queue: what an ended process still had to say is nobody's news.
            self.mail = queue.Queue()
            threading.Thread(target=_listen, args=(self.process, self.mail), daemon=True).start()
        return self.process

    def _died(self, process: subprocess.Popen[bytes]) -> MedldmError:
        code = process.wait()
        self.process = None
        if code in (-9, 137):
            return ResourceError(
                "The system ended the computation, most likely because memory ran out. Choose smaller tiles, close "
                "other programs, or restore a box of the scan."
            )
        return MedldmError(f"The computing process ended unexpectedly (code {code}); the terminal says more.")

    @property
    def busy(self) -> bool:
        """Whether an order is being carried out."""
        return self.turn.locked()

    def unload(self) -> None:
        """End the process; all its memory is free, the next run starts a new one."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()


def _in_thread(work: Callable[[], Order], stop: threading.Event) -> Generator[News, None, Order]:
    """What a function returns, called in a thread of its own: a slow disk or dask must not hold Cancel up."""
    box: queue.Queue[tuple[Order | None, BaseException | None]] = queue.Queue()

    def go() -> None:
        try:
            box.put((work(), None))
        except BaseException as problem:  # raised again where it is awaited
            box.put((None, problem))

    threading.Thread(target=go, daemon=True).start()
    while True:
        if stop.is_set():
            raise Cancelled("cancelled")
        try:
            done, problem = box.get(timeout=TICK_S)
        except queue.Empty:
            yield 0, 1, "copying the scan"
            continue
        if done is None:
            assert problem is not None
            raise problem
        return done


def _listen(process: subprocess.Popen[bytes], mail: queue.Queue[tuple[str, Any]]) -> None:
    try:
        while True:
            mail.put(receive(process.stdout))  # type: ignore[arg-type]
    except (EOFError, OSError, ValueError):
        mail.put(("gone", None))


ENGINE = Engine()
