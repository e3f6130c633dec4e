"""An order in a napari thread worker: progress, cancel, errors; all answers arrive on the GUI thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker

from medldm.errors import Cancelled
from napari_medldm.engine import ENGINE, News
from napari_medldm.jobs import Outcome, sentence

if TYPE_CHECKING:
    from napari_medldm.jobs import Order


@dataclass(frozen=True)
class Failure:
    """What went wrong, in a sentence.

    It is not the exception itself: napari takes an exception that a worker returns for one that it raised.
    """

    text: str


End = Outcome | Failure | None  # None when it was cancelled


class Run:
    """An order that is being carried out."""

    def __init__(self) -> None:
        self.wish = threading.Event()
        self.worker: Any = None

    def stop(self) -> None:
        """End it; `done` gets None within two seconds."""
        self.wish.set()


def start(order: Order, *, progress: Callable[[News], None], done: Callable[[End], None]) -> Run:
    """Start an order; both functions are called on the GUI thread.

    Parameters
    ----------
    order : what to do
    progress : gets (done, total, what)
    done : gets the end

    Returns
    -------
    the run; its ``stop()`` cancels
    """
    run = Run()
    steps = work(order, run.wish)

    def follow() -> Generator[News, None, End]:
        return (yield from steps)

    def aborted() -> None:
        # napari aborts workers when its window closes, and drops the generator as it stands: the engine would be held.
        steps.close()
        done(None)

    run.worker = worker = create_worker(follow, _start_thread=False)
    worker.yielded.connect(progress)
    worker.returned.connect(done)
    worker.aborted.connect(aborted)
    worker.start()
    return run


def work(order: Order, stop: threading.Event) -> Generator[News, None, End]:
    """Yield progress until the order is done."""
    try:
        return (yield from ENGINE.run(order, stop))
    except Cancelled:
        return None
    except Exception as problem:  # whatever it is, the GUI thread shows it in words
        return Failure(str(sentence(problem)))
