"""Many cases on many workers of a Dask cluster.

Dask keeps workers alive and moves the case of a dead one to another. Two things are done here. Blame: Dask suspects
every task that a dead worker held, so a case leaves a mark while it is tried, and is given up when it has left two.
Length of the queue: two cases a worker, however many there are.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from medldm.batch.case import Work
from medldm.batch.caselog import keeping
from medldm.batch.dask_cluster import connected
from medldm.batch.options import Run, Watch
from medldm.batch.outputs import Protected
from medldm.batch.summary import Row
from medldm.errors import MedldmError, OutputError, ResourceError, UsageError, place_of, traced
from medldm.io.atomic import FULL, sentence
from medldm.io.discovery import Case, output_path

log = logging.getLogger(__name__)

TRIES = 2  # workers that may die of a case before it is given up
RETRY_AFTER_S = (2, 10, 30)  # pauses of a case that waits for memory
WORKER_CHECK_S = 60  # between two checks whether there are workers
STOP_TIMEOUT_S = 2  # for the last check, and for collecting what is done when a batch is stopped
FOLDER_TIMEOUT_S = 20  # until a folder is seen by the machines that share it
AHEAD = 2  # cases sent per worker: one in work, one waiting


def restore_on_workers(run: Run, cases: list[Case], out: Path, report: Callable[[Work], bool]) -> None:
    """Restore cases on the workers of a Dask cluster, in the order in which they get done.

    Parameters
    ----------
    run : what is asked
    cases : as many as there are
    out : folder that every worker sees under this path
    report : called with every finished case; no other is begun when it returns False

    Raises
    ------
    UsageError
        Dask is not installed.
    ResourceError
        The scheduler cannot be reached, or went away; the disk is full.
    OutputError
        The folder cannot be written to.
    KeyboardInterrupt
        After the cases that are back are reported.
    """
    try:
        import distributed  # noqa: F401
    except ImportError as problem:
        raise UsageError(
            "Several workers need Dask: pip install medldm[cluster]. Or use --shard I/N in several shells."
        ) from problem
    # A dry run writes nothing, marks neither.
    marks = None if run.options.dry_run else out.absolute() / f".tries-{uuid.uuid4().hex}"
    try:
        with connected(run) as client, missing_workers_warned(client):
            if marks is not None:
                make_marks(marks)
            send_all(Queue(client, run, out.absolute(), marks), cases, report, AHEAD * workers_of(client, run))
    finally:
        if marks is not None:  # only now does no worker begin another case
            shutil.rmtree(marks, ignore_errors=True)


def send_all(queue: Queue, cases: list[Case], report: Callable[[Work], bool], ahead: int) -> None:
    """Keep workers busy until all cases are reported, or `report` returns False.

    Parameters
    ----------
    queue : of the cases that workers have
    cases : as many as there are
    report : called with every finished case
    ahead : how many workers have at a time
    """
    run, left, number, going_on = queue.run, iter(cases), 0, True

    def send_next() -> None:
        nonlocal number, going_on
        while going_on and (case := next(left, None)) is not None:
            number += 1
            run.watch.case(number, len(cases), case.place.as_posix())
            refused = refusal(run, case, queue.out)
            if refused is None:
                queue.send(case)
                return
            going_on = report(refused)

    try:
        for _ in range(ahead):
            send_next()
        for work in queue.finished():
            going_on = report(work) and going_on
            send_next()
    except BaseException:
        for work in queue.collect():
            report(work)
        raise


class Queue:
    """Cases that workers have, each with the future that stands for it.

    Parameters
    ----------
    client : of Dask
    run : what is asked
    out : folder, absolute
    marks : folder of the marks of this batch, None for a dry run
    """

    def __init__(self, client: Any, run: Run, out: Path, marks: Path | None) -> None:
        from distributed import as_completed

        self.client, self.run, self.out, self.marks = client, run, out, marks
        self.worker_run = replace(run, watch=Watch(preview=run.watch.preview), protected=Protected())
        self.futures = as_completed([], loop=client.loop)
        self.pending: dict[str, tuple[Any, Case]] = {}

    def send(self, case: Case) -> None:
        """To any worker that is free."""
        with scheduler_needed():
            future = self.client.submit(on_worker, self.worker_run, case, self.out, self.marks, pure=False, retries=0)
        self.pending[future.key] = future, case
        self.futures.add(future)

    def finished(self) -> Iterator[Work]:
        """Cases as they get done; those that a dying worker only held beside its own are sent again.

        Raises
        ------
        ResourceError
            The scheduler went away.
        """
        from distributed.scheduler import KilledWorker

        for future in self.futures:
            _, case = self.pending[future.key]
            with scheduler_needed():
                ended = future.exception()  # None for cancelled ones too
                answer = None if ended is not None else future.result()
            del self.pending[future.key]
            if answer is not None:
                yield self._opened(case, answer)
            elif not isinstance(ended, KilledWorker):
                yield broken(self.run, case, self.out, ended)
            elif self.marks is not None and tried(self.marks, case) < TRIES:
                self.send(case)
            else:
                yield given_up(self.run, case, self.out)
            future.release()

    def collect(self) -> list[Work]:
        """Cases that are done and not reported, as far as they can be had at once; the next run finds the others."""
        done, end = [], time.monotonic() + STOP_TIMEOUT_S
        for future, case in self.pending.values():
            if future.status == "finished":
                with suppress(Exception):
                    done.append(self._opened(case, future.result(timeout=max(0, end - time.monotonic()))))
        self.pending.clear()
        return done

    def _opened(self, case: Case, answer: tuple[Row, bool]) -> Work:
        work = Work(self.run, case, self.out)
        work.row, work.full = answer
        return work


@contextmanager
def scheduler_needed() -> Iterator[None]:
    """What Dask raises when its scheduler is gone, as a sentence."""
    from distributed.client import CancelledError, ClosedClientError

    try:
        yield
    except (CancelledError, ClosedClientError, OSError) as problem:
        raise ResourceError("The Dask scheduler went away. Run the same command again to go on.") from problem


def refusal(run: Run, case: Case, out: Path) -> Work | None:
    """A case whose result would replace a scan of the batch; only here all scans are known."""
    work = Work(run, case, out)
    try:
        if not (case.skip or case.broken):
            run.protected.check(output_path(case, out, run.options.format))
    except MedldmError as problem:
        work.row = Row(case.place.as_posix(), "refused", message=str(problem))
        return work
    return None


def on_worker(run: Run, case: Case, out: Path, marks: Path | None) -> tuple[Row, bool]:
    """One case, on a worker.

    Parameters
    ----------
    run : what is asked
    case : scan
    out : folder
    marks : folder of the marks of this batch, None for a dry run

    Returns
    -------
    row, and whether the disk is full
    """
    work = Work(run, case, out)
    if marks is not None and tried(marks, case) >= TRIES:
        work = given_up(run, case, out)
    else:
        try:
            if marks is not None:
                leave_mark(marks, case)
        except MedldmError as problem:
            full = isinstance(problem.__cause__, OSError) and problem.__cause__.errno in FULL
            return Row(case.place.as_posix(), "failed", message=str(problem)), full
        with keeping():
            with_retries(work)
        if marks is not None:
            with suppress(OSError):  # the case is done all the same
                mark_of(marks, case).unlink()
    assert work.row is not None
    return work.row, work.full


def with_retries(work: Work) -> Work:
    """All steps of a case; one that lacked memory is tried again after a pause."""
    work.read().restore()
    for pause_s in RETRY_AFTER_S:
        if work.crowded and not work.full:
            time.sleep(pause_s)
            work.again().restore()
    return work.write()


def make_marks(marks: Path) -> None:
    """The folder of the marks, made before any worker needs it.

    Raises
    ------
    OutputError, ResourceError
    """
    try:
        marks.mkdir(parents=True)
    except OSError as problem:
        raise sentence(problem, marks) from problem


def leave_mark(marks: Path, case: Case) -> None:
    """Say that a case is begun.

    The folder is not made here: once it is gone the batch has ended, and this case is not wanted any more.

    Raises
    ------
    OutputError, ResourceError
    """
    mark, end = mark_of(marks, case), time.monotonic() + FOLDER_TIMEOUT_S
    while True:
        try:
            with mark.open("a") as file:
                file.write("begun\n")
            return
        except FileNotFoundError as problem:
            if time.monotonic() > end:
                raise OutputError(
                    f"The worker on {platform.node()} does not see {marks.name} in {marks.parent}. The folder of the "
                    "results must be the same for every worker, under the same path."
                ) from problem
            time.sleep(FOLDER_TIMEOUT_S / 40)
        except OSError as problem:
            raise sentence(problem, mark) from problem


def mark_of(marks: Path, case: Case) -> Path:
    """File that lies there while a case is tried; a name of a scan may be as long as a file system allows."""
    return marks / f"{sha256(os.fsencode(case.place.as_posix())).hexdigest()[:32]}.tries"


def tried(marks: Path, case: Case) -> int:
    """How often a case was begun and never ended."""
    try:
        return len(mark_of(marks, case).read_text().splitlines())
    except OSError:
        return 0


def given_up(run: Run, case: Case, out: Path) -> Work:
    """A case that killed its workers."""
    return failed(
        Work(run, case, out),
        f"its worker died {TRIES} times while it was restored, so it was given up; most often memory ran out. "
        "Crop it, or run it alone on a larger machine",
    )


def broken(run: Run, case: Case, out: Path, problem: BaseException) -> Work:
    """A case whose worker raised what no step expects."""
    work = Work(run, case, out, lines=traced(problem).splitlines())
    return failed(
        work,
        f"a bug in medldm ({place_of(problem)}), or its worker has another version of medldm or Dask; please report it",
    )


def failed(work: Work, message: str) -> Work:
    """A case that ends here, with its row and its log."""
    work.row = Row(work.case.place.as_posix(), "failed", message=message)
    return work.write()


def workers_of(client: Any, run: Run) -> int:
    """Workers that are there, or were asked for.

    Raises
    ------
    ResourceError
    """
    with scheduler_needed():
        workers = client.scheduler_info(n_workers=-1).get("workers", ())  # nothing at all from a client that gave up
    return max(run.options.workers, len(workers))


@contextmanager
def missing_workers_warned(client: Any) -> Iterator[None]:
    """Warn when a cluster has no worker left: the batch waits, since new ones may come.

    Parameters
    ----------
    client : of Dask
    """
    over = threading.Event()

    def watch() -> None:
        warned = False
        while not over.wait(WORKER_CHECK_S):
            try:
                gone = not client.scheduler_info(n_workers=-1).get("workers")
            except (OSError, RuntimeError):  # its client is closed, or is about to say so itself
                return
            if gone and not warned and not over.is_set():
                log.warning(
                    "The Dask scheduler has no worker; the batch waits for one. Start `dask worker ADDRESS`, or stop "
                    "here and run the same command again later."
                )
            warned = gone

    watching = threading.Thread(target=watch, name="medldm-workers", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join(STOP_TIMEOUT_S)  # a scheduler that hangs would keep it, and us
