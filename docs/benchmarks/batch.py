"""What a batch costs beside its network: 20 phantoms restored for real, or 1,000 tiny ones with a stub.

`python docs/benchmarks/batch.py cohort` restores 20 phantoms as the command line does and compares the wall clock with
the seconds spent inside the network. `python docs/benchmarks/batch.py tiny` runs 1,000 volumes of 16 x 16 x 8 through
a stub, and gives the overhead per case and the memory after every hundredth. Run on an otherwise idle machine; a line
of JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import phantoms

import medldm
from medldm.batch import Options, Watch, cases, run_batch
from medldm.settings import Denoise
from medldm.volume import Step


def cohort(count: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Restore phantoms with the weights that ship; time the network alone beside the whole batch."""
    from medldm import tasks

    inside, real = [], tasks.run

    def timed(*given: Any, **words: Any) -> Any:
        begun = time.monotonic()
        try:
            return real(*given, **words)
        finally:
            inside.append(time.monotonic() - begun)

    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "in"), count, shape)
        warm = phantoms.phantom((32, 32, 8))
        tasks.run("denoise", warm, Denoise(noise=0.05))  # loading the model is no overhead of a case
        tasks.run = timed
        begun = time.monotonic()
        try:
            code = run_batch("denoise", Path(folder, "in"), Path(folder, "out"), Denoise(), Options(), Watch())
        finally:
            tasks.run = real
        wall = time.monotonic() - begun
    network = sum(inside)
    told = {"cases": count, "shape": shape, "exit_code": code, "wall_s": wall, "network_s": network}
    return told | {"overhead_percent": 100 * (wall / network - 1)}


def tiny(count: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Send tiny volumes through a network that adds one."""
    stub = types.ModuleType("medldm.tasks")

    def run(task: str, volume: Any, settings: Any, **words: Any) -> Any:
        facts = {"model": "stub", "sha256": "0", "seconds": 0.0}
        return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts))

    stub.run = run  # type: ignore[attr-defined]
    sys.modules["medldm.tasks"] = medldm.tasks = stub  # type: ignore[attr-defined]
    cases.weights_for = lambda *_: "0"
    memory, process = [], psutil.Process()

    def case(number: int, total: int, name: str) -> None:
        if number % 100 == 0:
            memory.append(round(process.memory_info().rss / 2**20, 1))

    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "in"), count, shape)
        begun = time.monotonic()
        code = run_batch("denoise", Path(folder, "in"), Path(folder, "out"), Denoise(), Options(), Watch(case=case))
        wall = time.monotonic() - begun
        begun = time.monotonic()
        run_batch("denoise", Path(folder, "in"), Path(folder, "out"), Denoise(), Options(), Watch())
        again = time.monotonic() - begun
    told = {"cases": count, "shape": shape, "exit_code": code, "ms_per_case": 1000 * wall / count}
    return told | {"ms_per_case_done_already": 1000 * again / count, "memory_mib": memory}


def draw(folder: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Noisy phantoms, each with noise of its own."""
    folder.mkdir()
    clean = phantoms.brain(shape)
    for number in range(count):
        noisy = phantoms.rician(clean, 50, seed=number)
        phantoms.save(folder / f"scan-{number:04d}.nii.gz", noisy, dtype=np.int16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cohort", "tiny"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--shape", type=int, nargs=3)
    given = parser.parse_args()
    if given.what == "cohort":
        print(json.dumps(cohort(given.count or 20, tuple(given.shape or (128, 128, 60)))))
    else:
        print(json.dumps(tiny(given.count or 1000, tuple(given.shape or (16, 16, 8)))))
