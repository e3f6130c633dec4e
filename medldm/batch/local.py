"""Case after case in this process: the next one is read and the last one written while this one is restored.

Two threads with a queue of one, so at most three scans are in memory. The network stays in the calling thread, with
all cores: reading and writing mostly wait for the disk or unpack in C, and cost it little.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from medldm.batch.case import Work
from medldm.batch.options import Run
from medldm.io.discovery import Case


def restore_here(run: Run, cases: list[Case], out: Path, report: Callable[[Work], bool]) -> None:
    """Restore cases in order.

    Parameters
    ----------
    run : what is asked
    cases : in order
    out : folder
    report : called with every finished case, in order; the batch ends when it returns False

    Raises
    ------
    KeyboardInterrupt, Cancelled
        After the case that was being written is whole, and reported.
    """
    writing: Future[Work] | None = None
    with ThreadPoolExecutor(1, "medldm-read") as reader, ThreadPoolExecutor(1, "medldm-write") as writer:

        def written() -> bool:
            nonlocal writing
            last, writing = writing, None
            return last is None or report(last.result())

        def read(number: int) -> Future[Work]:
            return reader.submit(Work(run, cases[number], out).read)

        reading = read(0) if cases else None
        try:
            for number, case in enumerate(cases):
                assert reading is not None
                run.watch.case(number + 1, len(cases), case.place.as_posix())
                work = reading.result()
                if work.crowded:  # it did not fit beside another one; it may alone
                    if not written():
                        return
                    work.again()
                reading = read(number + 1) if number + 1 < len(cases) else None
                work.restore()
                beside = reading or writing
                if work.crowded and not work.full and beside:  # it fitted when read, and not beside what came since
                    if not written():
                        return
                    if reading and reading.result().ready:
                        reading = None  # frees the memory of what was read
                    work.again().restore()
                    if reading is None and number + 1 < len(cases):
                        reading = read(number + 1)
                if not written():
                    return
                writing = writer.submit(work.write)
                del work  # three scans are enough
            written()
        except BaseException:
            if reading is not None:
                reading.cancel()
            written()
            raise
