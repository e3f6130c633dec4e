"""What a batch costs beside its network: 20 phantoms restored for real, 1,000 tiny ones and 40,000 files with a stub.

`python docs/benchmarks/batch.py cohort` restores 20 phantoms as the command line does and compares the wall clock with
the seconds spent inside the network. `... tiny` sends 1,000 volumes of 16 x 16 x 8 through a network that adds one:
overhead per case, and the memory after every hundredth. `... files` looks through a tree of 40,000 DICOM files in 400
series. Each writes its table, `docs/benchmarks/batch-cohort.md` and so on. Run on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import phantoms

import medldm
from medldm.batch import Options, Watch, ledger, run_batch
from medldm.data.volume import Step
from medldm.settings import Denoise
from medldm.system import cores

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

HUNDRED = 100


@contextmanager
def clocked(owner: Any, name: str) -> Iterator[list[float]]:
    """The seconds of every call of a function or method, while the block runs."""
    seconds: list[float] = []
    real = getattr(owner, name)

    def timed(*given: Any, **options: Any) -> Any:
        begun = time.monotonic()
        try:
            return real(*given, **options)
        finally:
            seconds.append(time.monotonic() - begun)

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        setattr(owner, name, real)


def cohort(count: int, shape: tuple[int, ...]) -> list[str]:
    """Restore phantoms with the weights that ship; the network alone beside the whole batch."""
    from medldm import tasks
    from medldm.inference.networks import Networks

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "in", count, shape)
        draw(folder / "warm", 1, shape)
        denoise(folder / "warm", folder / "warmed")  # loading the model is no overhead of a case
        with clocked(tasks, "run") as verbs, clocked(Networks, "estimate") as network:
            begun = time.monotonic()
            code = denoise(folder / "in", folder / "out")
            wall = time.monotonic() - begun
    inside, verb = sum(network), sum(verbs)
    return [
        "# Overhead of a batch over its network",
        "",
        f"{command('cohort')}: `denoise`, {count} NIfTI phantoms of {' x '.join(map(str, shape))} voxels, noise level "
        f"not given, one process; exit code {code}. *Network*: seconds in the network. *Restoring*: the task, with "
        "noise estimate, averaging over orientations and projection. *Batch*: wall clock from the first file to the "
        "summary.",
        "",
        "| cases | network, s | restoring, s | batch, s | batch over restoring | batch over network |",
        "|---|---|---|---|---|---|",
        f"| {count} | {inside:.1f} | {verb:.1f} | {wall:.1f} | {100 * (wall / verb - 1):.1f} % "
        f"| {100 * (wall / inside - 1):.1f} % |",
    ]


def tiny(count: int, shape: tuple[int, ...]) -> list[str]:
    """Send tiny volumes through a network that adds one."""
    stub = types.ModuleType("medldm.tasks")

    def run(task: str, volume: Any, settings: Any, **options: Any) -> Any:
        facts = {"model": "stub", "sha256": "0", "seconds": 0.0}
        return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts))

    stub.run = run  # type: ignore[attr-defined]
    sys.modules["medldm.tasks"] = medldm.tasks = stub  # type: ignore[attr-defined]
    ledger.weights_for = lambda *_: "0"
    memory, process = [], psutil.Process()

    def case(number: int, total: int, name: str) -> None:
        if number % (total // 10 or 1) == 0:
            memory.append(round(process.memory_info().rss / 2**20))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder / "in", count, shape)
        first, code = seconds_of(lambda: denoise(folder / "in", folder / "out", Watch(case=case)))
        again, _ = seconds_of(lambda: denoise(folder / "in", folder / "out"))
        dry, _ = seconds_of(lambda: denoise(folder / "in", folder / "out2", dry_run=True))
    return [
        "# A thousand small cases",
        "",
        f"{command('tiny')}: `denoise`, {count} NIfTI files of {' x '.join(map(str, shape))} voxels, a stub "
        f"that adds one in place of the network; exit code {code}. Memory of the process after every tenth of the "
        f"cases: {', '.join(map(str, memory))} MiB.",
        "",
        "| what | ms per case |",
        "|---|---|",
        f"| first run | {1000 * first / count:.1f} |",
        f"| run again, all done already | {1000 * again / count:.1f} |",
        f"| `--dry-run` | {1000 * dry / count:.1f} |",
    ]


def files(count: int, _: tuple[int, ...]) -> list[str]:
    """Look through a tree of DICOM files."""
    import phantoms_dicom

    from medldm.io.discovery import find_cases

    with tempfile.TemporaryDirectory() as name:
        voxels = phantoms.brain((24, 24, HUNDRED)).astype(np.int16)
        for number in range(count // HUNDRED):
            folder = Path(name, f"scanner{number % 5}", f"study{number // 10:03d}")
            phantoms_dicom.write_series(folder, voxels, number=number, stamp=f"{number:03d}-")
        before = psutil.Process().memory_info().rss
        seconds, cases = seconds_of(lambda: find_cases(Path(name)))
        grown = (psutil.Process().memory_info().rss - before) / 2**20
    return [
        "# Grouping forty thousand DICOM files",
        "",
        f"{command('files')}: small DICOM images in series of {HUNDRED}, ten series to a folder; before "
        "anything is restored, every header is read, grouped into series and checked.",
        "",
        "| files | series | s | ms per file | memory, MiB |",
        "|---|---|---|---|---|",
        f"| {count} | {len(cases)} | {seconds:.1f} | {1000 * seconds / count:.2f} | {grown:.0f} |",
    ]


def denoise(source: Path, out: Path, watch: Watch | None = None, **options: Any) -> int:
    """What the command line does."""
    return run_batch("denoise", source, out, Denoise(), Options(**options), watch or Watch())


def seconds_of(what: Callable[[], Any]) -> tuple[float, Any]:
    """Wall clock of a call, and what it gave."""
    begun = time.monotonic()
    result = what()
    return time.monotonic() - begun, result


def command(what: str) -> str:
    """How the table was made, and where."""
    return f"`python docs/benchmarks/batch.py {what}` on {cores()} cores, {platform.machine()}"


def draw(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    """Noisy phantoms, each with noise of its own."""
    folder.mkdir()
    clean = phantoms.brain(shape)
    for number in range(count):
        noisy = phantoms.rician(clean, 50, seed=number)
        phantoms.save(folder / f"scan-{number:04d}.nii.gz", noisy, dtype=np.int16)


KINDS = {"cohort": (cohort, 20, (160, 192, 60)), "tiny": (tiny, 1000, (16, 16, 8)), "files": (files, 40_000, ())}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--count", type=int, help="cases or files; with another number than usual nothing is written")
    given = parser.parse_args()
    measure, usual, shape = KINDS[given.what]
    table = wrapped("\n".join(measure(given.count or usual, shape)))
    print(table)
    if given.count in (None, usual):
        Path(__file__).with_name(f"batch-{given.what}.md").write_text(table)
