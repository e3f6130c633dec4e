"""How a cluster scales: cases that sleep instead of computing on 1 to 32 workers, and real ones on 1 and 2.

Both start `dask scheduler` and `dask worker` as users do and send cases through `medldm denoise --scheduler`.
`python docs/benchmarks/scaling.py sleeping`: ten cases of ten seconds for each worker. Efficiency is the time that the
sleeping alone would take, divided by the wall clock; overhead is what is left, per case of one worker. Sleeping stands
for a GPU of its own per worker: the processes still share the cores of this machine for all the rest.
`python docs/benchmarks/scaling.py real`: phantoms and the weights that ship, one core to a worker, models loaded
before the clock starts. Tables go to `docs/benchmarks/scaling-sleeping.md` and `scaling-real.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import phantoms
from distributed import Client

from medldm.batch import Options, Watch, run_batch
from medldm.settings import Denoise
from medldm.system import cores

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

ASLEEP = """
import os, sys, time, types
import medldm
from medldm import tasks
from medldm.batch import ledger
from medldm.data.volume import Step

def run(task, volume, settings, *, mask=None, progress=None):
    if not volume.name.startswith("warm"):
        time.sleep(float(os.environ["MEDLDM_SLEEP"]))
    facts = {"model": "stub", "sha256": "0", "seconds": 1.0}
    return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts))

tasks.run = run
ledger.weights_for = lambda *_: "0"
"""
SLEEP, PER_WORKER = 10.0, 10  # seconds of a case, cases a worker
REAL, REAL_SHAPE = 8, (128, 128, 60)  # cases, voxels


@contextmanager
def cluster(folder: Path, workers: int, preload: str = "") -> Iterator[str]:
    """A scheduler and workers of one core each; gives the address."""
    (folder / "preload.py").write_text(preload)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    worker = [*dask, "worker", address, "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard"]
    worker += ["--preload", str(folder / "preload.py"), "--local-directory", str(folder), "--memory-limit", "0"]
    environment = os.environ | {"MEDLDM_SLEEP": str(SLEEP), "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    running = [subprocess.Popen(command, env=environment, **quiet) for command in (scheduler, worker)]
    try:
        with Client(address, timeout=60) as client:
            client.wait_for_workers(workers, timeout=600)
        yield address
    finally:
        for process in reversed(running):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def denoise(source: Path, out: Path, address: str) -> tuple[float, int]:
    """Wall clock and exit code of a batch."""
    begun = time.monotonic()
    code = run_batch("denoise", source, out, Denoise(noise=0.05), Options(scheduler=address), Watch())
    return time.monotonic() - begun, code


def draw(folder: Path, count: int, shape: tuple[int, int, int]) -> Path:
    """Noisy phantoms, named after their folder."""
    folder.mkdir()
    clean = phantoms.brain(shape)
    for number in range(count):
        noisy = phantoms.rician(clean, 50, seed=number)
        phantoms.save(folder / f"{folder.name}-{number:04d}.nii.gz", noisy, dtype=np.int16)
    return folder


def sleeping(counts: list[int]) -> Iterator[str]:
    """Lines of the table."""
    yield from (
        "# Sleeping cases on 1 to 32 workers",
        "",
        f"`python docs/benchmarks/scaling.py sleeping` on {cores()} cores, {platform.machine()}: {PER_WORKER} cases "
        f"a worker that sleep {SLEEP:g} s each instead of computing, all workers on this machine; each has done two "
        "cases before the clock starts, so that its libraries are loaded. Overhead: wall clock minus the sleep, per "
        "case of one worker, and per case of the whole cluster.",
        "",
        "| workers | cases | exit code | sleep, s | wall clock, s | efficiency | overhead, ms | per case of all, ms |",
        "|---|---|---|---|---|---|---|---|",
    )
    for workers in counts:
        with tempfile.TemporaryDirectory() as name, cluster(Path(name), workers, ASLEEP) as address:
            warm = draw(Path(name, "warm"), 2 * workers, (16, 16, 8))
            denoise(warm, Path(name, "warmed"), address)  # so that no worker still imports its libraries
            source = draw(Path(name, "in"), workers * PER_WORKER, (16, 16, 8))
            wall, code = denoise(source, Path(name, "out"), address)
        asleep = SLEEP * PER_WORKER
        yield (
            f"| {workers} | {workers * PER_WORKER} | {code} | {asleep:.0f} | {wall:.1f} | {asleep / wall:.3f} "
            f"| {1000 * (wall - asleep) / PER_WORKER:.0f} | {1000 * (wall - asleep) / PER_WORKER / workers:.1f} |"
        )


def real(counts: list[int]) -> Iterator[str]:
    """Lines of the table."""
    yield from (
        "# Real cases on 1 and 2 workers",
        "",
        f"`python docs/benchmarks/scaling.py real` on {cores()} cores, {platform.machine()}: `denoise`, {REAL} "
        f"phantoms of {' x '.join(map(str, REAL_SHAPE))} voxels, one core to a worker.",
        "",
        "| workers | exit code | wall clock, s | s per case | speed-up | efficiency |",
        "|---|---|---|---|---|---|",
    )
    alone = 0.0
    for workers in counts:
        with tempfile.TemporaryDirectory() as name, cluster(Path(name), workers) as address:
            warm = draw(Path(name, "warm"), 2 * workers, REAL_SHAPE)
            denoise(warm, Path(name, "warmed"), address)  # so that each worker has its model
            source = draw(Path(name, "in"), REAL, REAL_SHAPE)
            wall, code = denoise(source, Path(name, "out"), address)
        alone = alone or wall * workers
        yield (
            f"| {workers} | {code} | {wall:.1f} | {wall / REAL:.2f} | {alone / wall:.2f} "
            f"| {alone / wall / workers:.2f} |"
        )


KINDS = {"sleeping": (sleeping, [1, 2, 8, 32]), "real": (real, [1, 2])}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--workers", type=int, nargs="+", help="with others than usual nothing is written")
    given = parser.parse_args()
    measure, usual = KINDS[given.what]
    table = []
    for line in measure(given.workers or usual):
        print(line, flush=True)
        table.append(line)
    if given.workers in (None, usual):
        Path(__file__).with_name(f"scaling-{given.what}.md").write_text(wrapped("\n".join(table)))
