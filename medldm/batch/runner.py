"""One case after another: a bad one is reported, the others go on; nothing is half-written or overwritten unasked."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medldm.batch.record import Record, hash_files, run_key, write_record
from medldm.batch.summary import Row, exit_code, words, write_summary
from medldm.errors import Cancelled, InputError, MedldmError, NotRestorable, OutputError, ResourceError, UsageError
from medldm.io import is_nifti, read, write
from medldm.io.atomic import sentence, whole_file
from medldm.io.content import guess_modality
from medldm.io.scans import Case, find_cases, unpack
from medldm.settings import Restore, Settings
from medldm.volume import Volume
from medldm.zoo import best, card

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
BYTES_PER_VOXEL = 60  # of the output grid: image, maps, noise and one call of the network beside them
FIXED_BYTES = 900 * 2**20  # Python, torch and a model


@dataclass(frozen=True, kw_only=True)
class Options:
    """What concerns files rather than voxels; named as on the command line."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    format: str | None = None
    volume: int | None = None
    uncertainty: bool = False
    preview: bool = False
    report: bool = False
    overwrite: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    fix: bool = False
    shard: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Watch:
    """Who is told what.

    Parameters
    ----------
    case : called with (number, total, name) when a case begins
    progress : called with (done, total, what) within a case
    say : one line for the user
    preview, report : draw a picture of one case, a page of them all; a room beside this one does that
    """

    case: Callable[[int, int, str], None] = lambda number, total, name: None
    progress: Progress = lambda done, total, what: None
    say: Callable[[str], None] = lambda line: None
    preview: Callable[[Volume, Volume, Path], None] = lambda before, after, path: None
    report: Callable[[list[Row], Path], Any] = lambda rows, folder: None


def run_batch(verb: str, source: Path, out: Path, settings: Settings, options: Options, watch: Watch) -> int:
    """Restore everything below a path.

    Parameters
    ----------
    verb : task
    source : NIfTI file, DICOM file, folder or zip, a tree, or a list
    out : file or folder
    settings : of the verb
    options : about files
    watch : who is told

    Returns
    -------
    exit code

    Raises
    ------
    MedldmError
        Before anything was done, or for a single scan named alone.
    """
    with opened(source) as root:
        # Results of an earlier run may lie inside the tree (`medldm restore . out`); they are no input.
        inside = out.resolve()
        cases = [
            case
            for case in find_cases(root, options.include, options.exclude)
            if not (root.is_dir() and case.source.resolve().is_relative_to(inside) and inside != root.resolve())
        ]
        alone = len(cases) == 1 and (root.is_file() or (cases[0].series is not None and cases[0].source == root))
        check_places(source, out, cases, alone, options)
        part, parts = options.shard
        mine = [case for number, case in enumerate(cases) if number % parts == part - 1]
        if alone:
            row = one_case(verb, mine[0], target_of(mine[0], out, True, options), settings, options, watch)
            watch.say(f"{row.status}: {row.result or row.case}" + (f" ({row.message})" if row.message else ""))
            return 0
        rows = []
        for number, case in enumerate(mine, 1):
            watch.case(number, len(mine), case.place.as_posix())
            row = guarded(verb, case, target_of(case, out, False, options), settings, options, watch)
            rows.append(row)
            watch.say(f"{row.status}: {row.case}" + (f": {row.message}" if row.message else ""))
            if options.fail_fast and row.status in ("failed", "refused"):
                break
        if not options.dry_run:
            write_summary(rows, out)
            if options.report:
                watch.report(rows, out)
        watch.say(f"{len(rows)} cases: {words(rows)}")
        return exit_code(rows)


@contextmanager
def opened(source: Path) -> Iterator[Path]:
    """The path itself, or the unpacked content of a zip archive."""
    if source.is_file() and source.suffix.lower() == ".zip":
        folder = unpack(source)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        yield source


def check_places(source: Path, out: Path, cases: list[Case], alone: bool, options: Options) -> None:
    """Refuse an OUT that cannot be meant.

    Raises
    ------
    UsageError, OutputError
    """
    if out.resolve() == source.resolve():
        raise OutputError(f"OUT is IN ({out}); results never replace the scan they come from. Choose another OUT.")
    if is_nifti(out) and not alone:
        raise UsageError(f"OUT ({out.name}) is a file, but IN holds {len(cases)} scans. Give a folder.")
    if not is_nifti(out) and out.is_file():
        raise OutputError(f"OUT ({out}) is a file that is not an image. Give a folder, or a name that ends in .nii.gz.")
    if options.format == "dicom" and any(case.series is None and not case.skip for case in cases) and alone:
        raise UsageError("--format dicom needs DICOM as input: a patient and a study to derive the series from.")
    parent = out if not is_nifti(out) else out.parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise OutputError(f"{out} cannot be written: {parent} is read-only. Choose another OUT.")


def target_of(case: Case, out: Path, alone: bool, options: Options) -> Path:
    """Where the result of a case goes."""
    if alone and is_nifti(out):
        return out
    form = options.format if not (options.format == "dicom" and case.series is None) else None
    return case.target(out, form)


def guarded(verb: str, case: Case, target: Path, settings: Settings, options: Options, watch: Watch) -> Row:
    """One case of a tree: whatever goes wrong becomes a row, but for a wish to stop and a full disk."""
    started = time.monotonic()
    try:
        return one_case(verb, case, target, settings, options, watch)
    except (Cancelled, KeyboardInterrupt):
        raise
    except NotRestorable as problem:
        status, message = "skipped", str(problem)
    except (InputError, UsageError) as problem:
        status, message = ("failed" if type(problem) is InputError else "refused"), str(problem)
    except MedldmError as problem:
        status, message = "failed", str(problem)
    except MemoryError:
        status, message = "failed", "it needs more memory than is free"
    except Exception as problem:
        log.exception("a bug in medldm at %s", case.place)
        status, message = (
            "failed",
            f"a bug in medldm ({type(problem).__name__}: {problem}); please report it, run with -v for details",
        )
    return Row(case.place.as_posix(), status, round(time.monotonic() - started, 2), message)


def one_case(verb: str, case: Case, target: Path, settings: Settings, options: Options, watch: Watch) -> Row:
    """Restore one case, or say why there is nothing to do.

    Raises
    ------
    MedldmError
    """
    started = time.monotonic()
    name = case.place.as_posix()
    if case.skip:
        raise NotRestorable(case.skip[:1].upper() + case.skip[1:])
    check_memory(case)
    volume = case.read(options.volume, fix=options.fix)
    mask_path = getattr(settings, "mask", None)
    if verb == "inpaint" and not mask_path:
        raise UsageError("inpaint needs --mask MASK, an image that is non-zero where the scan is to be filled.")
    files = [*case.files, *([Path(mask_path)] if mask_path else [])]
    digest = hash_files(files)
    key = run_key(
        verb, settings, digest, weights_for(volume, settings), {"volume": options.volume, "format": options.format}
    )
    record = Record(target)
    if record.knows(key) and not options.overwrite:
        return Row(name, "done", 0.0, "already done with the same input, settings and weights", str(target))
    if target.exists() and not options.overwrite:
        raise OutputError(
            f"{target} exists already and is not the result of this run. Say --overwrite, or choose another OUT."
        )
    if options.dry_run:
        return Row(name, "done", 0.0, f"would write {target}; {plan_words(verb, volume, settings)}")
    from medldm import tasks

    mask = read(mask_path) if mask_path else None
    if verb == "restore":
        watch.say(f"plan for {name}: {plan_words(verb, volume, settings)}")
    result = tasks.run(verb, volume, settings, mask=mask, progress=watch.progress)
    clipped = publish(case, volume, result, target, options)
    source = {
        "files": [str(path) for path in case.files][:1],
        "count": len(case.files),
        "sha256": digest,
        "mask": mask_path,
        "volume": options.volume,
        "format": options.format,
        "root": str(case.source),
    }
    write_record(record, key, verb, settings, source, result, clipped)
    if options.preview:
        watch.preview(volume, result, record.companion("_preview.png"))
    status = "unchanged" if result is volume else "done"
    message = "nothing to do, the input was copied" if result is volume else ""
    return Row(name, status, round(time.monotonic() - started, 2), message, str(target))


def copy_series(case: Case, target: Path) -> None:
    """The files of a series as they are, all or nothing."""
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for number, path in enumerate(case.files):
            shutil.copyfile(path, temporary / f"{number:04d}.dcm")
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except OSError as problem:
        raise sentence(problem, target) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(case: Case, volume: Volume, result: Volume, target: Path, options: Options) -> int:
    """Write the result (a copy of the input when nothing was done) and, if asked, its uncertainty."""
    if result is volume and case.series is None and target.name.lower().endswith(case.source.name.lower()[-4:]):
        with whole_file(target) as temporary:
            shutil.copyfile(case.source, temporary)
        return 0
    if result is volume and case.series is not None and not is_nifti(target):
        copy_series(case, target)
        return 0
    if target.is_dir() and options.overwrite and is_nifti(target):
        raise OutputError(f"{target} is a folder.")
    clipped = write(result, target)
    if clipped:
        log.warning("%d voxels of %s were clipped to %s", clipped, target.name, result.stored.dtype)
    if options.uncertainty and result.std is not None:
        from dataclasses import replace

        spread = replace(
            result,
            voxels=result.std,
            std=None,
            stored=replace(result.stored, dtype=np.dtype(np.float32), container="nifti"),
        )
        write(spread, Record(target).companion("_std.nii.gz"))
    return clipped


def plan_words(verb: str, volume: Volume, settings: Settings) -> str:
    """What will be done, in words."""
    if verb == "restore" and isinstance(settings, Restore):
        from medldm.inspection import make_plan

        return make_plan(volume, settings).words()
    return f"{verb} {' x '.join(map(str, volume.shape))} voxels"


def weights_for(volume: Volume, settings: Settings) -> str:
    """SHA-256 of the weights that a scan will be restored with."""
    if settings.model != "auto":
        return card(settings.model).sha256
    modality = guess_modality(volume)[0] if settings.modality == "auto" else settings.modality
    return best(modality, flat=min(volume.shape) == 1).sha256


def check_memory(case: Case) -> None:
    """Refuse a scan that cannot fit, before the machine starts to swap.

    Raises
    ------
    ResourceError
    """
    import psutil

    if case.series:
        voxels = int(np.prod(case.series.shape))
    else:
        from medldm.io.nifti import probe_nifti

        voxels = int(np.prod(probe_nifti(case.source).shape[:3]))
    free = psutil.virtual_memory().available
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free = min(free, limit - psutil.Process().memory_info().vms)
    need = voxels * BYTES_PER_VOXEL + FIXED_BYTES
    if need > free:
        raise ResourceError(
            f"{case.place} needs about {need / 2**30:.1f} GiB of memory, {max(0, free) / 2**30:.1f} GiB are free. "
            "Close other programs, crop the scan, or run it on a larger machine."
        )
