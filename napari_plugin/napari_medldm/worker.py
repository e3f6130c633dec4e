"""Run a verb in a thread that reports progress, stops when asked, and passes errors on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from napari.qt.threading import create_worker

from medldm.errors import Cancelled

if TYPE_CHECKING:
    from medldm.volume import Volume

TICK_S = 0.1  # how often the generator looks for progress and for a wish to stop


def start(
    verb: str,
    volume: Volume,
    options: dict[str, Any],
    *,
    told: Callable[[tuple[int, int, str]], None],
    done: Callable[[Volume | None], None],
    failed: Callable[[Exception], None],
) -> Any:
    """Start a verb; all three functions are called on the GUI thread.

    Parameters
    ----------
    verb : name of the task
    volume : scan
    options : of the verb's settings
    told : gets (done, total, what)
    done : gets the result, None when the run was cancelled
    failed : gets the error

    Returns
    -------
    the napari worker; its ``quit()`` cancels
    """
    worker = create_worker(work, verb, volume, options, _start_thread=False)
    worker.yielded.connect(told)
    worker.returned.connect(done)
    worker.aborted.connect(lambda: done(None))
    worker.errored.connect(failed)
    worker.start()
    return worker


def work(verb: str, volume: Volume, options: dict[str, Any]) -> Generator[tuple[int, int, str], None, Volume]:
    """Yield progress until the verb is done; closing the generator cancels the verb before its next tile."""
    news: queue.Queue[tuple[str, Any]] = queue.Queue()
    stop = threading.Event()

    def told(count: int, total: int, what: str) -> None:
        if stop.is_set():
            raise Cancelled("cancelled")
        news.put(("progress", (count, total, what)))

    def body() -> None:
        try:
            from medldm import tasks
            from medldm.settings import VERBS, make

            news.put(("result", tasks.run(verb, volume, make(VERBS[verb], options), progress=told)))
        except Exception as problem:  # whatever it is, the GUI thread shows it
            news.put(("error", problem))

    threading.Thread(target=body, daemon=True, name=f"medldm {verb}").start()
    last = (0, 1, "loading")
    try:
        while True:
            try:
                kind, value = news.get(timeout=TICK_S)
            except queue.Empty:
                yield last
                continue
            if kind == "progress":
                last = value
                yield last
            elif kind == "result":
                result: Volume = value
                return result
            else:
                raise value
    finally:
        stop.set()
