"""Many cases on many workers: a Dask cluster, started here or joined.

Dask keeps workers alive and moves a case of a dead one to another. Two things are kept here. Who is to blame: Dask
suspects every task that a dead worker held, so a case leaves a mark while it is tried, and is given up when it has
left two. And how much is on the way: two cases a worker, whatever the length of the list.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from medldm.batch.caselog import keeping
from medldm.batch.options import Run, Watch
from medldm.batch.places import Protected
from medldm.batch.summary import Row
from medldm.batch.work import Work
from medldm.errors import MedldmError, ResourceError, UsageError
from medldm.io.scans import Case, output_path

log = logging.getLogger(__name__)

TRIES = 2  # a case that took this many workers with it is given up
QUIET = logging.CRITICAL  # what became of workers is told by the rows
PATIENCE = 20  # seconds until a scheduler answers
PAUSES = (2, 10, 30)  # seconds that a case waits for memory before it is tried again
LONELY = 60  # seconds between two looks for workers
ANSWERED = 2  # seconds that the last look may take
AHEAD = 2  # cases on their way for each worker: one in work, one waiting


def spread_out(run: Run, cases: list[Case], out: Path, tell: Callable[[Work], bool]) -> None:
    """Restore cases on the workers of a Dask cluster, in the order in which they get done.

    Parameters
    ----------
    run : what is asked
    cases : as many as there are
    out : folder that every worker sees under this path
    tell : called with every finished case; no other is begun when it says False

    Raises
    ------
    UsageError
        Dask is not installed.
    ResourceError
        The scheduler cannot be reached, or went away.
    """
    try:
        from distributed import as_completed
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker
    except ImportError as problem:
        raise UsageError(
            "Several workers need Dask: pip install medldm[cluster]. Or use --shard I/N in several shells."
        ) from problem
    marks = out.absolute() / f".tries-{uuid.uuid4().hex}"
    away = replace(run, watch=Watch(preview=run.watch.preview), protected=Protected())
    left, number, going_on = iter(cases), 0, True
    with connected(run) as client, missing_workers_told(client):
        answers, under_way = as_completed([], loop=client.loop), {}

        def send(case: Case) -> None:
            future = client.submit(one_away, away, case, out.absolute(), marks, pure=False, retries=0)
            under_way[future.key] = case
            answers.add(future)

        def send_next() -> None:
            nonlocal number, going_on
            while going_on and (case := next(left, None)) is not None:
                number += 1
                run.watch.case(number, len(cases), case.place.as_posix())
                refused = refusal(run, case, out)
                if refused is None:
                    send(case)
                    return
                going_on = tell(refused)

        try:
            for _ in range(AHEAD * workers_of(client, run)):
                send_next()
            for future in answers:
                case = under_way.pop(future.key)
                ended = future.exception()
                if isinstance(ended, KilledWorker):
                    if tried(marks, case) < TRIES:
                        send(case)  # it only waited beside the one that is to blame
                        continue
                    work = given_up(run, case, out)
                elif isinstance(ended, FutureCancelledError):
                    raise ResourceError("The Dask scheduler went away. Run the same command again to go on.")
                elif ended is not None:
                    raise ended
                else:
                    work = Work(run, case, out)
                    work.row, work.full = future.result()
                future.release()
                going_on = tell(work) and going_on
                send_next()
        finally:
            shutil.rmtree(marks, ignore_errors=True)


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


def one_away(run: Run, case: Case, out: Path, marks: Path) -> tuple[Row, bool]:
    """One case, on a worker.

    Parameters
    ----------
    run : what is asked
    case : scan
    out : folder
    marks : folder of the marks of this batch

    Returns
    -------
    row, and whether the disk is full
    """
    work = Work(run, case, out)
    if tried(marks, case) >= TRIES:
        work = given_up(run, case, out)
    else:
        mark = mark_of(marks, case)
        mark.parent.mkdir(parents=True, exist_ok=True)
        with mark.open("a") as file:
            file.write("begun\n")
        with keeping():
            patiently(work)
        mark.unlink(missing_ok=True)
    assert work.row is not None
    return work.row, work.full


def patiently(work: Work) -> Work:
    """All steps of a case; what lacked memory waits for its neighbours on the machine and is tried again."""
    work.read().restore()
    for pause in PAUSES:
        if work.crowded and not work.full:
            time.sleep(pause)
            work.again().restore()
    return work.write()


def mark_of(marks: Path, case: Case) -> Path:
    """File that lies there while a case is tried."""
    return marks / f"{case.place.as_posix()}.tries"


def tried(marks: Path, case: Case) -> int:
    """How often a case was begun and never ended."""
    try:
        return len(mark_of(marks, case).read_text().splitlines())
    except OSError:
        return 0


def given_up(run: Run, case: Case, out: Path) -> Work:
    """A case that killed its workers."""
    work = Work(run, case, out)
    work.row = Row(
        case.place.as_posix(),
        "failed",
        message=f"its worker died {TRIES} times while it was restored, so it was given up; most often memory ran out. "
        "Crop it, or run it alone on a larger machine",
    )
    return work.write()


def workers_of(client: Any, run: Run) -> int:
    """Workers that are there, or were asked for."""
    return max(run.options.workers, len(client.scheduler_info(n_workers=-1)["workers"]))


@contextmanager
def connected(run: Run) -> Iterator[Any]:
    """A client of the cluster that the options ask for.

    Raises
    ------
    ResourceError
    """
    from distributed import Client, Nanny, Scheduler, SpecCluster

    if run.options.scheduler:
        try:
            client = Client(run.options.scheduler, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as problem:
            raise ResourceError(
                f"No Dask scheduler answers at {run.options.scheduler} ({problem}). Start one with `dask scheduler`, "
                "and give the address that it prints."
            ) from problem
        with client:
            yield client
        return
    places = environments(run.options.workers, getattr(run.settings, "device", "auto"))
    # One thread: a network has no use for two scans at once, and memory is counted for one.
    specs = {
        number: {"cls": Nanny, "options": {"nthreads": 1, "env": place, "memory_limit": 0, "silence_logs": QUIET}}
        for number, place in enumerate(places)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": None}}
    with (
        hushed(),
        SpecCluster(workers=specs, scheduler=scheduler, silence_logs=QUIET) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def missing_workers_told(client: Any) -> Iterator[None]:
    """Say so when a cluster has no worker left: new ones may come, so the batch waits, but nobody should wonder.

    Parameters
    ----------
    client : of Dask
    """
    over = threading.Event()

    def watch() -> None:
        told = False
        while not over.wait(LONELY):
            try:
                gone = not client.scheduler_info(n_workers=-1).get("workers")
            except (OSError, RuntimeError):  # its client is closed, or is about to say so itself
                return
            if gone and not told and not over.is_set():
                log.warning(
                    "The Dask scheduler has no worker; the batch waits for one. Start `dask worker ADDRESS`, or stop "
                    "here and run the same command again later."
                )
            told = gone

    watching = threading.Thread(target=watch, name="medldm-workers", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join(ANSWERED)  # a scheduler that hangs would keep it, and us


@contextmanager
def hushed() -> Iterator[None]:
    """Dask says nothing about the comings and goings of workers that we start and end."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(QUIET)
    try:
        yield
    finally:
        logger.setLevel(before)


def environments(workers: int, device: str) -> list[dict[str, str]]:
    """Environment of each worker: a device of its own, or its share of the cores.

    Parameters
    ----------
    workers : number of them
    device : as of ``--device``
    """
    cores = max(1, (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
    share = str(max(1, cores // workers))
    places = [{"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share, "OPENBLAS_NUM_THREADS": share}] * workers
    devices = visible_devices() if device in ("auto", "cuda") else []
    if not devices:
        return places
    return [place | {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} for number, place in enumerate(places)]


def visible_devices() -> list[str]:
    """CUDA devices that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [word for word in named.split(",") if word.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
