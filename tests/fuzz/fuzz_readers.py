"""Damaged files by the hundred thousand: each ends in the right volume or a sentence, soon, in little memory.

    python tests/fuzz/fuzz_readers.py --inputs 100000 --jobs 2
    python tests/fuzz/fuzz_readers.py --only 4711          # one input again, with its traceback

Runs in child processes, so that a crash in a codec, a hang in C code or a runaway allocation is seen, counted and laid
beside its number; the rest goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # pytest does this by itself

from fuzz.mutants import NAME, NUMBER, Seed, mutant, seeds

SECONDS = 20  # for one input; the machine may be busy
MEMORY = 2 * 2**30  # address space beyond what the imports take
GROWTH_MIB = 200  # resident; every seed is smaller than 10 KiB


class Finding(AssertionError):
    """Something that no input may bring about."""


class Ears(logging.Handler):
    """Everything that is logged, whatever its level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def read_one(seed: Seed, folder: Path) -> str:
    """Read one input as a batch would, and check what comes.

    Returns
    -------
    how it ended: ``"volume"`` or ``"sentence"``

    Raises
    ------
    Finding
    """
    from medldm.errors import MedldmError
    from medldm.io.dicom.header.files import no_values_on_screen
    from medldm.io.discovery import find_cases

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / seed.name).write_bytes(seed.data)
    for name, data in seed.beside:
        (folder / name).write_bytes(data)
    ears, ended = Ears(), "sentence"
    root = logging.getLogger()
    root.addHandler(ears)
    before = root.level
    root.setLevel(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            for case in find_cases(folder):
                ears.said.append(f"{case.skip}{case.broken} {case.place}")
                for fix in (False, True):
                    try:
                        volume = case.read(fix=fix)
                    except MedldmError as problem:
                        ears.said.append(str(problem))
                        continue
                    with no_values_on_screen():  # the second reading is ours, what pydicom says of it is not medldm's
                        check_geometry(volume, case, fixed=fix)
                    ears.said += [volume.name, *volume.stored.note]
                    ended = "volume"
        except MedldmError as problem:
            ears.said.append(str(problem))
        finally:
            root.removeHandler(ears)
            root.setLevel(before)
    messages = " ".join([*ears.said, *(str(warning.message) for warning in warned)])
    if NAME in messages or NUMBER in messages:
        raise Finding(f"a patient is named: {messages[:500]}")
    return ended


def check_geometry(volume, case, *, fixed: bool) -> None:
    """Voxels and geometry against an independent reading of the same file.

    Raises
    ------
    Finding
    """
    if volume.voxels.ndim != 3 or not np.isfinite(volume.affine).all() or min(volume.spacing) <= 0:
        raise Finding(f"a volume of {volume.shape} voxels, {volume.spacing} mm")
    if case.series is None:
        _check_nifti(volume, case.source)
    elif not fixed:
        _check_dicom(volume)


def _check_nifti(volume, path: Path) -> None:
    """The grid of the header, on one of the header's own forms, by nibabel."""
    import gzip

    import nibabel as nib

    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    for kind, order in itertools.product((nib.Nifti1Header, nib.Nifti2Header), "<>"):
        header = kind(data[: kind.template_dtype.itemsize], endianness=order, check=False)
        if int(header["sizeof_hdr"]) == header.template_dtype.itemsize:
            break
    shape = [int(size) for size in header["dim"][1:4]]
    if int(header["dim"][0]) < 3:
        shape = [*shape[: int(header["dim"][0])], 1, 1][:3]
    if tuple(volume.to_stored(volume.voxels).shape) != tuple(shape):
        raise Finding(f"{shape} voxels in the header, {volume.shape} in the volume")
    with np.errstate(all="ignore"):
        forms = []
        for form in (header.get_sform, lambda: _by_quaternion(header), lambda: _by_sizes(header, shape)):
            with contextlib.suppress(Exception):  # nibabel refuses what it cannot use; then it is no candidate
                forms.append(np.asarray(form(), dtype=np.float64))
        ours = volume.stored_affine()
        if not any(
            np.allclose(np.diag([unit, unit, unit, 1.0]) @ form, ours, rtol=1e-3, atol=1e-3)
            for form in forms
            for unit in (1.0, 1000.0, 0.001)
        ):
            raise Finding(f"an affine that stands nowhere in the header:\n{ours}\n{forms}")


def _by_quaternion(header) -> np.ndarray:
    header = _with_sizes(header)
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # nibabel wants it exactly; the standard, its sign
    return header.get_qform()


def _with_sizes(header):
    header = header.copy()
    header["pixdim"][1:4] = [abs(float(size)) or 1.0 for size in header["pixdim"][1:4]]
    return header


def _by_sizes(header, shape) -> np.ndarray:
    header = _with_sizes(header)
    sizes = header["pixdim"][1:4].astype(np.float64)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * sizes
    affine[0] *= -1
    return affine


def _check_dicom(volume) -> None:
    """Every image lies where its own ImagePositionPatient and ImageOrientationPatient say, by pydicom."""
    import pydicom

    from medldm.io.dicom.header.files import Bounded
    from medldm.io.dicom.header.frames import flat_frame

    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.stored_affine()
    # Scanners round: design/dicom.md tolerates 0.02 mm or 1 % of the spacing, at every step between two slices.
    step = np.linalg.norm(to_lps[:3, 2])
    tolerance = max(0.02, 0.01 * step) * max(1, len(volume.stored.header) - 1)
    stored = volume.to_stored(volume.voxels)
    for place, frame in enumerate(volume.stored.header):
        if frame is None:
            continue
        with Bounded(frame.path) as file:  # as for medldm: a damaged length would take the memory of this process
            dataset = flat_frame(pydicom.dcmread(file, force=True), frame.number)
        across, down = (np.array(dataset.ImageOrientationPatient[a : a + 3], dtype=float) for a in (0, 3))
        rows_mm, columns_mm = (float(value) for value in dataset.PixelSpacing)
        wanted = np.array(dataset.ImagePositionPatient, dtype=float)
        place_mm = to_lps[:3, 3] + place * to_lps[:3, 2]
        if np.abs(place_mm - wanted).max() > tolerance:
            raise Finding(f"slice {place} is at {place_mm}, its header says {wanted}")
        if not np.allclose(to_lps[:3, 0], across * columns_mm, atol=1e-2 * columns_mm):
            raise Finding(f"rows run along {to_lps[:3, 0]}, the header says {across} x {columns_mm}")
        if not np.allclose(to_lps[:3, 1], down * rows_mm, atol=1e-2 * rows_mm):
            raise Finding(f"columns run along {to_lps[:3, 1]}, the header says {down} x {rows_mm}")
        if stored.shape[:2] != (int(dataset.Columns), int(dataset.Rows)):
            raise Finding(f"{stored.shape} voxels, the header says {dataset.Columns} x {dataset.Rows}")


def _work(numbers: range, at, results) -> None:
    """Child process: inputs one after another.

    Parameters
    ----------
    numbers : of the inputs
    at : shared with the parent: number of the current input, when it began, whether the seeds are through
    results : gets (number, how it ended), and (-1, ...) at the end
    """
    import medldm.io.discovery  # noqa: F401  # so that the limit below counts from here

    with tempfile.TemporaryDirectory(prefix="medldm-fuzz-", dir=_memory_disk()) as temporary:
        undamaged = seeds(Path(temporary) / "seeds")
        for seed in undamaged:  # codecs load on first use
            read_one(seed, Path(temporary) / "input")
        at[2] = 1
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in numbers:
            at[0], at[1] = float(number), time.monotonic()
            try:
                ended = read_one(mutant(number, undamaged), Path(temporary) / "input")
            except BaseException as problem:
                ended = f"{type(problem).__name__}: {problem}"
                frame = traceback.extract_tb(problem.__traceback__)[-1]
                ended = f"{ended[:300]} ({Path(frame.filename).name}:{frame.lineno})"
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if now - peak > GROWTH_MIB * 1024:
                ended = f"memory grew by {(now - peak) // 1024} MiB; {ended}"
            peak = max(peak, now)
            results.put((number, ended))
    results.put((-1, "end"))


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def fuzz(first: int, count: int, *, say=lambda line: None, seconds: float = float("inf")) -> tuple[Counter, dict]:
    """Read inputs; children that die or hang are replaced.

    Parameters
    ----------
    first, count : numbers of the inputs
    say : told now and then
    seconds : stop after this time, whatever is left

    Returns
    -------
    how many ended in a volume and in a sentence, and findings by number
    """
    context = multiprocessing.get_context("fork")
    ends, findings, number, begun = Counter(), {}, first, time.monotonic()
    while number < first + count and time.monotonic() - begun < seconds:
        at, results = context.Array("d", [float(number), time.monotonic(), 0]), context.SimpleQueue()
        child = context.Process(target=_work, args=(range(number, first + count), at, results), daemon=True)
        child.start()
        number, why = _listen(child, at, results, ends, findings, begun + seconds, number, say)
        child.kill()
        child.join()
        if why:
            findings[number] = why
            say(f"{number}: {why}")
            number += 1
        elif time.monotonic() - begun >= seconds:
            break
    return ends, findings


def _listen(child, at, results, ends, findings, until, number, say) -> tuple[int, str]:
    """What one child does until it ends, dies or hangs; the number to go on from, and what was wrong there."""
    count = 0
    while time.monotonic() < until:
        while not results.empty():
            done, ended = results.get()
            if done < 0:
                return 2**62, ""
            number = done + 1
            ends[ended if ended in ("volume", "sentence") else "finding"] += 1
            if ended not in ("volume", "sentence"):
                findings[done] = ended
                say(f"{done}: {ended}")
            if (count := count + 1) % 5000 == 0:
                say(f"{sum(ends.values())} inputs, {dict(ends)}")
        if not child.is_alive() and not at[2]:
            raise RuntimeError("a child did not get through the seeds; --only 0 and on say why")
        if not child.is_alive() and results.empty():
            return int(at[0]), f"the process died with exit code {child.exitcode}"
        if at[2] and time.monotonic() - at[1] > SECONDS and child.is_alive() and int(at[0]) >= number:
            return int(at[0]), f"no end after {SECONDS} s"
        time.sleep(0.002)
    return number, ""


def _part(first: int, count: int, seconds: float, results) -> None:
    ends, findings = fuzz(first, count, say=lambda line: print(line, flush=True), seconds=seconds)
    results.put((ends, findings))


def main() -> int:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--only", type=int, help="read one input here, with its traceback")
    arguments = parser.parse_args()
    if arguments.only is not None:
        with tempfile.TemporaryDirectory() as temporary:
            seed = mutant(arguments.only, seeds(Path(temporary) / "seeds"))
            print(seed.kind, seed.name, len(seed.data), "bytes")
            print(read_one(seed, Path(temporary) / "input"))
        return 0
    context = multiprocessing.get_context("fork")
    results, share = context.Queue(), -(-arguments.inputs // arguments.jobs)
    parts = [
        context.Process(target=_part, args=(arguments.first + job * share, share, arguments.seconds, results))
        for job in range(arguments.jobs)
    ]
    for part in parts:
        part.start()
    ends, findings = Counter(), {}
    for _ in parts:
        more_ends, more_findings = results.get()
        ends, findings = ends + more_ends, findings | more_findings
    print(f"{sum(ends.values())} inputs: {dict(ends)}; {len(findings)} findings")
    for number, what in sorted(findings.items()):
        print(f"  {number}: {what}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
