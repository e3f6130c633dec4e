"""Write a result, its record, its maps and its preview, in an order that survives a kill at any moment."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path

from medldm.batch.forecast import check_memory
from medldm.batch.ledger import (
    HALF_WIDTH,
    STD,
    Result,
    hash_image,
    make_record,
    map_sidecar,
    source_of,
    write_map_sidecar,
    write_record,
)
from medldm.batch.options import Options, Run
from medldm.batch.outputs import check_target
from medldm.data.volume import Step, Volume, Voxels
from medldm.errors import InputError
from medldm.io import is_image_name, read, write
from medldm.io.atomic import staged_name, whole_folder
from medldm.io.discovery import Case
from medldm.io.formats import result_files, result_format
from medldm.io.sidecars import in_derivatives
from medldm.provenance import RunRecord
from medldm.qc.inspection import Plan

log = logging.getLogger(__name__)

OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
PAUSES_S = (0.0, 0.05, 0.2, 0.5)  # between tries to take a place that another run takes at the same time


def publish(
    run: Run, case: Case, result: Result, digest: str, key: str, plan: Plan | None, before: Volume, after: Volume
) -> RunRecord:
    """Result, uncertainty and record.

    Everything is written under hidden names first. Then an older result goes, the record comes, and the result last:
    a result lies there only beside a record that knows it, and without one the next run begins this case anew.

    Parameters
    ----------
    run : what is asked
    case : scan
    result : where it goes
    digest : SHA-256 of the input files (and the mask)
    key : of the run
    plan : of `restore`
    before, after : scan and restored volume; the same where there was nothing to do

    Raises
    ------
    MedldmError
    """
    target = result.image
    staged = staged_name(target)
    source = source_of(case, digest, run)
    spacing = tuple(after.spacing[axis] for axis in after.stored.axes)
    maps: list[Path] = []
    check_target(target)
    fresh = not result.record_path.exists()
    try:
        clipped = write_image(case, before, after, staged, run.options)
        maps = stage_maps(after, result) if run.options.uncertainty else []
        record = make_record(result, key, run, source, before, after, plan, clipped)
        record = replace(record, result_sha256=hash_image(staged))

        def replaced() -> None:
            """Just before the record comes: what it will not be about must not lie beside it."""
            for path in reversed(result_files(target)):
                remove(path)
            if not fresh:  # companions of an older result would pass for those of this one
                remove_maps(result)
            for path in maps:
                staged_name(path).replace(path)
                write_map_sidecar(result, path, record, spacing)
            if not fresh and not run.options.preview:
                result.preview_path.unlink(missing_ok=True)

        write_record(result, record, spacing, before=replaced)
        for hidden, path in zip(result_files(staged), result_files(target), strict=True):
            show(hidden, path)
    except BaseException:
        with contextlib.suppress(OSError):  # a name that is too long could not be written, nor removed
            if fresh and not target.exists():  # a record without its result, where nothing was before
                result.record_path.unlink(missing_ok=True)
                remove_maps(result)
        raise
    finally:
        with contextlib.suppress(OSError):
            for path in (*result_files(target), *maps):
                remove(staged_name(path))
    if clipped:
        log.warning("%d voxels of %s were clipped to the range that its stored values have", clipped, target.name)
    return record


def write_image(case: Case, before: Volume, after: Volume, target: Path, options: Options) -> int:
    """Write the result, a copy of the input when nothing was done.

    Returns
    -------
    number of voxels clipped to the stored integer range
    """
    as_it_is = after is before and options.volume is None and not options.fix
    form = result_format(target)
    if as_it_is and case.series is None and form:
        return form.copy(case.source, before, target)
    if as_it_is and case.series is not None and not is_image_name(target):
        copy_series(case, target)
        return 0
    return write(after, target)


def copy_series(case: Case, target: Path) -> None:
    """The files of a series as they are, all or nothing.

    Raises
    ------
    OutputError, ResourceError
    """
    with whole_folder(target) as temporary:
        for number, path in enumerate(case.files):
            shutil.copyfile(path, temporary / f"{number:04d}.dcm")


def show(staged: Path, target: Path) -> None:
    """Give a finished file or folder its name; what stands there goes, also when another run put it there just now.

    Parameters
    ----------
    staged : hidden name in the same folder
    target : final name
    """
    for pause_s in (*PAUSES_S, None):
        try:
            staged.replace(target)
        except OSError as problem:  # a folder takes no other folder's place
            if problem.errno not in OCCUPIED or pause_s is None:
                raise
            remove(target)
            time.sleep(pause_s)
        else:
            return


def remove(path: Path) -> None:
    """A file or the folder of a series, if it is there; also when another run puts a folder there just now."""
    try:
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
    except OSError:
        if not path.is_dir():
            raise
    shutil.rmtree(path, ignore_errors=True)


def stage_maps(after: Volume, result: Result) -> list[Path]:
    """Write what is known about the uncertainty of a result, under hidden names (`staged_name`).

    Parameters
    ----------
    after : restored, with ``std`` when several samples were drawn
    result : that the maps belong to

    Returns
    -------
    where the maps belong; a map that the header of a DICOM series does not allow is logged and left out

    Raises
    ------
    OutputError, ResourceError
    """
    written = []
    last = after.history[-1] if after.history else None
    if after.std is None and last and last.settings.get("samples") == 1 and "no_spread" in last.facts:
        log.warning("no standard deviation of %s is written: %s", after.name, last.facts["no_spread"])
    for kind, voxels in ((STD, after.std), (HALF_WIDTH, after.half_width)):
        if voxels is None:
            continue
        path = result.map_path(kind)
        if is_image_name(result.image):
            write(after.as_map(voxels), staged_name(path))
        else:
            try:
                _write_dicom_map(replace(after, std=voxels), staged_name(path), kind)
            except InputError as problem:  # a header that no map can be made of is no reason to lose the series
                log.warning("%s", problem)
                continue
        written.append(path)
    return written


def _write_dicom_map(after: Volume, path: Path, kind: str) -> None:
    from medldm.io.dicom.writing.parametric_map import write_uncertainty

    write_uncertainty(after, path, RunRecord.of_step(after.history[-1]), half_width=kind == HALF_WIDTH)


def remove_maps(result: Result) -> None:
    """Take away the maps of an older result, which would pass for this one's."""
    for kind in (STD, HALF_WIDTH):
        path = result.map_path(kind)
        path.unlink(missing_ok=True)
        if in_derivatives(result.image):
            map_sidecar(path).unlink(missing_ok=True)


def draw_later(run: Run, result: Result, name: str, before: Volume) -> None:
    """Draw the preview of a result that was finished without one, from the files, without the network.

    Parameters
    ----------
    run : what is asked
    result : up to date by its record
    name : of the case
    before : scan, as read

    Raises
    ------
    MedldmError
    """
    record = result.record or RunRecord()
    if record.voxels:
        check_memory(name, record.voxels)
    after = read(result.image)
    step = Step(run.verb, run.settings.asdict(), record.facts)
    std, half_width = (_map(result, kind, after) for kind in (STD, HALF_WIDTH))
    run.watch.preview(before, replace(after, history=(step,), std=std, half_width=half_width), result.preview_path)


def _map(result: Result, kind: str, after: Volume) -> Voxels | None:
    """A map of uncertainty beside a NIfTI result; those of DICOM are no scans and are not read back."""
    path = result.map_path(kind)
    if not is_image_name(result.image) or not path.exists():
        return None
    voxels = read(path).voxels
    return voxels if voxels.shape == after.shape else None
