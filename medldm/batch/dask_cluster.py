"""A Dask cluster for a batch: started here, or joined."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing import resource_tracker
from typing import Any

from medldm.batch.options import Run
from medldm.errors import ResourceError
from medldm.system import cores, set_thread_defaults

QUIET = logging.CRITICAL  # what became of workers is in the rows
CONNECT_TIMEOUT_S = 20  # until a scheduler answers
CLOSE_TIMEOUT_S = 1  # in which our workers end when a batch is stopped


@contextmanager
def connected(run: Run) -> Iterator[Any]:
    """A client of the cluster that the options ask for.

    Raises
    ------
    ResourceError
    """
    with log_filter(), joined(run.options.scheduler) if run.options.scheduler else started(run) as client:
        yield client


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """A client of a scheduler that runs already.

    Raises
    ------
    ResourceError
    """
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as problem:
        raise ResourceError(
            f"No Dask scheduler answers at {address}. Start one with `dask scheduler`, and give the address that it "
            "prints, like tcp://HOST:8786."
        ) from problem
    with client:
        yield client


@contextmanager
def started(run: Run) -> Iterator[Any]:
    """A client of a scheduler in this process, with workers that are processes of their own.

    Raises
    ------
    ResourceError
        The system allows no such processes.
    """
    from distributed import Client, Nanny, Scheduler, SpecCluster

    places = environments(run.options.workers, getattr(run.settings, "device", "auto"))
    # One thread: a network has no use for two scans at once, and memory is counted for one.
    specs = {
        number: {"cls": Nanny, "options": {"nthreads": 1, "env": place, "memory_limit": 0, "silence_logs": QUIET}}
        for number, place in enumerate(places)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": None}}
    with interrupts_blocked():
        # Closed below; at exit Dask would wait ten seconds for one whose closing was interrupted by a second Ctrl-C.
        cluster = SpecCluster(scheduler=scheduler, silence_logs=QUIET, shutdown_on_close=False)

    async def all_up() -> None:
        await cluster

    with closing(cluster):
        cluster.worker_spec.update(specs)
        # An interruption ends only the waiting: workers that are half up cannot be closed.
        try:
            asyncio.run_coroutine_threadsafe(all_up(), cluster.loop.asyncio_loop).result()
        except (RuntimeError, OSError) as problem:
            raise ResourceError(
                f"The workers cannot be started ({first_cause(problem)}). They need a writable /dev/shm and a local "
                "network; without --workers one process does the work."
            ) from problem
        with Client(cluster, set_as_default=False) as client:
            try:
                yield client
            except BaseException:
                # Dask would let workers finish cases that are not wanted any more.
                for nanny in cluster.workers.values():
                    asyncio.run_coroutine_threadsafe(nanny.close(timeout=CLOSE_TIMEOUT_S), cluster.loop.asyncio_loop)
                raise


def first_cause(problem: BaseException) -> BaseException:
    """Where a chain of errors began; Dask wraps them in others that do not say why."""
    while (before := problem.__cause__ or problem.__context__) is not None:
        problem = before
    return problem


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Threads that begin here get no SIGINT (Ctrl-C), nor do the processes that they start.

    A terminal sends it to all processes of a command. Workers are ended by the client.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it would unblock the signal in the thread that starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def log_filter() -> Iterator[None]:
    """Dask logs nothing when workers and schedulers come and go."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]  # each has its level
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(QUIET)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def environments(workers: int, device: str) -> list[dict[str, str]]:
    """Environment of each worker: a device of its own, or its share of the cores.

    Parameters
    ----------
    workers : number of them
    device : as of ``--device``
    """
    share = max(1, cores() // workers)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    asked = {name: os.environ.get(name, "") for name in names}
    place = {name: str(min(share, int(asked[name])) if asked[name].isdecimal() else share) for name in names}
    set_thread_defaults(waiting := dict(os.environ))
    places = [place | {"OMP_WAIT_POLICY": waiting["OMP_WAIT_POLICY"]}] * workers
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
