"""Many generated scans into one folder: one seed each, resumable, divisible among machines."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

from medldm import tasks
from medldm.batch.ledger import hash_image
from medldm.batch.options import Watch
from medldm.batch.summary import Row, exit_code, tally, write_summary
from medldm.errors import Cancelled, MedldmError, OutputError, UsageError, ending, place_of, traced
from medldm.io import read, write
from medldm.io.atomic import FULL, whole_file
from medldm.io.formats import FORMATS, check_format, check_result_name, is_image_name
from medldm.io.sidecars import read_record, record_path
from medldm.provenance.record import RunRecord, package_versions
from medldm.settings import Settings
from medldm.tasks.generate import Generate

log = logging.getLogger(__name__)

STEM = "synthetic"
HIGHEST_SEED = 2**31 - 1


def run_generation(
    settings: Generate,
    out: Path,
    watch: Watch,
    *,
    count: int | None = None,
    shard: tuple[int, int] = (1, 1),
    form: str | None = None,
    overwrite: bool = False,
) -> int:
    """Draw scans.

    Parameters
    ----------
    settings : of all; scan k has the seed ``settings.seed + k``
    out : image file, or folder; a folder where `count` is given, the series itself where one is written as DICOM
    watch : who is notified
    count : how many scans; None for one
    shard : (I, N), only the I-th of N parts
    form : name of a file format, or ``"dicom"``; by the name of OUT when not given, else NIfTI
    overwrite : draw again what is there

    Returns
    -------
    exit code

    Raises
    ------
    MedldmError
        Before anything was drawn, or for a single scan.
    """
    check_format(form)
    if count is not None and count < 1:
        raise UsageError(f"--count {count} makes no sense: at least 1.")
    if count is not None and settings.seed + count - 1 > HIGHEST_SEED:
        raise UsageError(f"--seed {settings.seed} and --count {count} go beyond the highest seed, {HIGHEST_SEED}.")
    settings.description()  # what is asked for is settled before the first scan
    if count is None and (is_image_name(out) or form == "dicom"):
        if shard != (1, 1):
            raise UsageError("--shard divides the scans of --count N; there is one.")
        row = draw_one(settings, out, form, watch, overwrite=overwrite, alone=True)
        watch.say(f"{row.status}: {row.result}" + (f" ({row.message})" if row.message else ""))
        return 0
    if is_image_name(out):
        raise UsageError(f"{out} is the name of one image, and --count asks for a folder of them. Name a folder.")
    rows: list[Row] = []
    numbers = range(count or 1)[shard[0] - 1 :: shard[1]]
    ending_ = "" if form == "dicom" else (FORMATS[form].suffixes[0] if form else ".nii.gz")
    try:
        for place, number in enumerate(numbers, 1):
            own = replace(settings, seed=settings.seed + number)
            target = out / f"{STEM}-{own.seed:05d}{ending_}"
            watch.case(place, len(numbers), target.name)
            row, full = _row(own, target, form, watch, overwrite=overwrite)
            rows.append(row)
            watch.say(f"{row.status}: {row.case}" + (f": {row.message}" if row.message else ""))
            if full:
                break
    finally:
        if rows or not numbers:
            write_summary(rows, out, shard)
    if len(rows) < len(numbers):
        watch.say(f"{len(numbers) - len(rows)} scans were not drawn.")
    watch.say(f"{len(rows)} scans: {tally(rows)}" if numbers else "No scan falls to this shard.")
    return exit_code(rows)


def run_creation(verb: str, settings: Settings, out: Path, watch: Watch, *, overwrite: bool) -> int:
    """One image of a task that needs no scan, and its record beside it.

    Parameters
    ----------
    verb : task
    settings : of the task
    out : image file
    watch : who is notified
    overwrite : replace what is there

    Returns
    -------
    exit code

    Raises
    ------
    MedldmError
    """
    check_result_name(out)
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists already. Say --overwrite, or choose another OUT.")
    create(verb, settings, out, None, watch)
    return 0


def create(verb: str, settings: Settings, target: Path, form: str | None, watch: Watch) -> float:
    """Run a task that needs no scan, write its result and its record.

    Parameters
    ----------
    verb : task
    settings : of the task
    target : image file, or folder of a DICOM series
    form : name of a file format, or ``"dicom"``; by the name of the target when not given
    watch : who is notified

    Returns
    -------
    seconds that it took

    Raises
    ------
    MedldmError
    """
    begun = time.monotonic()
    result = tasks.run(verb, None, settings, progress=watch.progress)
    write(result, target, form=form)
    record = RunRecord.of_step(
        result.history[-1],
        status="done",
        result=target.name,
        result_sha256=hash_image(target),
        versions=package_versions(),
        timings={"seconds": round(time.monotonic() - begun, 2)},
    )
    with whole_file(record_path(target)) as temporary:
        temporary.write_text(record.text())
    return round(time.monotonic() - begun, 2)


def _row(settings: Generate, target: Path, form: str | None, watch: Watch, *, overwrite: bool) -> tuple[Row, bool]:
    """One scan of several, whatever goes wrong with it; and whether the disk is full, so that no other is begun."""
    begun, full = time.monotonic(), False
    try:
        return draw_one(settings, target, form, watch, overwrite=overwrite), False
    except Cancelled:
        raise
    except MedldmError as problem:
        status, message = ending(problem), str(problem)
        full = isinstance(problem.__cause__, OSError) and problem.__cause__.errno in FULL
    except MemoryError:
        status, message = "failed", "it needs more memory than is free; use a larger machine"
    except Exception as problem:
        status, message = "failed", f"a bug in medldm ({place_of(problem)}); please report it, run with -v for details"
        log.debug("%s", traced(problem))
    return Row(target.name, status, round(time.monotonic() - begun, 2), message), full


def draw_one(
    settings: Generate, target: Path, form: str | None, watch: Watch, *, overwrite: bool, alone: bool = False
) -> Row:
    """Draw one scan and write it with its record, unless an equal run has left it there.

    Parameters
    ----------
    settings : with its seed
    target, form : see `create`
    watch : who is notified
    overwrite : draw again what is there
    alone : whether an earlier result of other settings is an error; in a folder it is drawn again

    Raises
    ------
    MedldmError
    """
    check_result_name(target)
    if target.exists() and not overwrite:
        if _is_same(target, settings):
            return Row(target.name, "done", 0.0, "already there", str(target))
        if alone or not _is_ours(target):
            raise OutputError(f"{target} exists already. Say --overwrite, or choose another OUT.")
    seconds = create("generate", settings, target, form, watch)
    return Row(target.name, "done", seconds, "", str(target))


def _is_ours(target: Path) -> bool:
    """Whether we drew what lies there, by its record or, of a run that was killed before it wrote one, its header."""
    if read_record(target) is not None:
        return True
    try:
        return read(target).stored.restored_by == "generate"
    except MedldmError:
        return False


def _is_same(target: Path, settings: Generate) -> bool:
    """Whether an equal run has written what lies there, and it is whole."""
    from medldm.inference.generation import generator_for

    record = read_record(target)
    if record is None or record.task != "generate":
        return False
    wanted = {name: value for name, value in settings.asdict().items() if name not in ("device", "ignore_unknown")}
    had = {name: record.settings.get(name) for name in wanted}
    model = generator_for(settings.description(), settings.model)
    return wanted == had and record.weights == model.sha256 and record.result_sha256 == hash_image(target)
