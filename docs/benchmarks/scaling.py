"""How a cluster scales: cases that sleep instead of computing, on 1 to 32 workers of one machine.

`python docs/benchmarks/scaling.py` starts `dask scheduler` and `dask worker` for each number of workers, as users do,
and sends ten cases a worker through `medldm denoise --scheduler`. Efficiency is the time that the sleeping alone would
take, divided by the wall clock; overhead is what is left, per case of one worker. A line of JSON on stdout for each.
Sleeping stands for a GPU of its own per worker: the processes still share the cores of this machine for all the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import phantoms
from distributed import Client

from medldm.batch import Options, Watch, run_batch
from medldm.settings import Denoise

PRELOAD = """
import os, sys, time, types
import medldm
tasks = sys.modules["medldm.tasks"] = medldm.tasks = types.ModuleType("medldm.tasks")
from medldm.batch import cases
from medldm.volume import Step

def run(task, volume, settings, *, mask=None, progress=None):
    time.sleep(float(os.environ["MEDLDM_SLEEP"]))
    facts = {"model": "stub", "sha256": "0", "seconds": 1.0}
    return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts))

tasks.run = run
cases.weights_for = lambda *_: "0"
"""


def measure(workers: int, seconds: float, each: int) -> dict[str, float]:
    """Wall clock of a batch of sleeping cases on so many workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "preload.py").write_text(PRELOAD)
        (folder / "in").mkdir()
        for number in range(workers * each):
            phantoms.save(folder / "in" / f"{number:04d}.nii.gz", phantoms.brain((16, 16, 8)), dtype=np.int16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        address = f"tcp://127.0.0.1:{port}"
        dask = [sys.executable, "-m", "dask"]
        scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
        worker = [*dask, "worker", address, "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard"]
        worker += ["--preload", str(folder / "preload.py"), "--local-directory", name, "--memory-limit", "0"]
        environment = os.environ | {"MEDLDM_SLEEP": str(seconds), "OMP_NUM_THREADS": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        running = [subprocess.Popen(words, env=environment, **quiet) for words in (scheduler, worker)]
        try:
            with Client(address, timeout=60) as client:
                client.wait_for_workers(workers, timeout=300)
            begun = time.monotonic()
            options = Options(scheduler=address)
            code = run_batch("denoise", folder / "in", folder / "out", Denoise(noise=0.05), options, Watch())
            wall = time.monotonic() - begun
        finally:
            for process in reversed(running):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    asleep = seconds * each
    told = {"workers": workers, "cases": workers * each, "exit_code": code, "wall_s": wall, "sleep_s": asleep}
    return told | {"efficiency": asleep / wall, "overhead_ms_per_case": 1000 * (wall - asleep) / each}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--seconds", type=float, default=10.0, help="sleep of a case")
    parser.add_argument("--each", type=int, default=10, help="cases a worker")
    given = parser.parse_args()
    for workers in given.workers:
        print(json.dumps(measure(workers, given.seconds, given.each)), flush=True)
