"""One case from file to file: read, check, restore, write, and a record beside the result."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medldm.batch.caselog import note
from medldm.batch.ledger import (
    Record,
    hash_files,
    record_of,
    run_key,
    write_map_words,
    write_record,
)
from medldm.batch.maps import STD, remove_maps, spread_path, stage_maps
from medldm.batch.memory import check_memory, result_voxels
from medldm.batch.options import Options, Run
from medldm.batch.origin import check_origin, origin
from medldm.batch.outputs import Protected, check_target
from medldm.batch.previews import draw_later, preview_path
from medldm.batch.summary import Row
from medldm.data.volume import Volume
from medldm.errors import NotRestorable, OutputError
from medldm.io import check_content, guess_modality, is_nifti, read, what_it_is, write
from medldm.io.atomic import sentence, staged_name
from medldm.io.discovery import Case
from medldm.io.nifti.writer import copy_nifti
from medldm.qc.inspection import Plan, make_plan
from medldm.settings import Restore, Settings
from medldm.zoo import card, cards

log = logging.getLogger(__name__)

OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)
PAUSES = (0.0, 0.05, 0.2, 0.5)  # seconds between tries to take a place that another run takes at the same time
ALREADY = "already done with the same input, settings and weights"


@dataclass
class Ready:
    """A case that was read and has to be restored.

    Parameters
    ----------
    case, target : scan, and where its result goes
    volume : the scan, as read
    digest : SHA-256 of the input files (and the mask)
    key : what identifies the run, from `run_key`
    plan : of `restore`
    seconds : spent on this case so far; what waits for its turn does not count
    """

    case: Case
    target: Path
    volume: Volume
    digest: str
    key: str
    plan: Plan | None
    seconds: float = 0.0


def prepare(run: Run, case: Case, target: Path) -> Ready | Row:
    """Read a case; a row instead, when there is nothing left to do.

    Raises
    ------
    MedldmError
    """
    started, name = time.monotonic(), case.place.as_posix()
    verb, settings, options, record = run.verb, run.settings, run.options, record_of(case, target)
    run.protected.check(target)
    Protected(case.files).check(target)
    volume = load(case, options)
    mask_path = getattr(settings, "mask", None)
    digest = hash_files([*case.files, *([Path(mask_path)] if mask_path else [])])
    key = run_key(verb, settings, digest, weights_for(volume, settings), what_else(options))
    found = options.overwrite or record.status(key)
    lacking = [path for path in wanted_companions(record, options) if not path.exists()]
    if found == "done" and not lacking:
        return already_done(record, name)
    if found == "done" and lacking == [preview_path(record)]:
        if options.dry_run:
            return already_done(record, name, "only its preview would be drawn")
        draw_later(run, record, name, volume)
        return already_done(record, name, "only its preview was drawn")
    if found == "foreign":
        raise OutputError(
            f"{target} exists already and is not a result of medldm, or was changed since. Say --overwrite, or "
            "choose another OUT."
        )
    if found == "changed":
        check_origin(record, case, digest)
    check_target(target)
    plan = make_plan(volume, settings) if isinstance(settings, Restore) else None
    return Ready(case, target, volume, digest, key, plan, time.monotonic() - started)


class AtTheNetwork(Exception):  # no error: what a dry run waits for
    """All checks were passed; the network would begin now."""


def compute(run: Run, ready: Ready) -> Volume:
    """The restored scan.

    Raises
    ------
    MedldmError
    AtTheNetwork
        In a dry run.
    """
    started, name = time.monotonic(), ready.case.place.as_posix()
    check_memory(name, result_voxels(ready.volume, run.settings, ready.plan))
    note(told(run, ready))
    if ready.plan:
        run.watch.say(f"plan for {name}: {told(run, ready)}")
    from medldm import tasks

    mask_path = getattr(run.settings, "mask", None)
    mask = read(mask_path) if mask_path else None

    def progress(done: int, total: int, what: str) -> None:
        if done == 0:  # verbs say so just before the network, when all that they check is checked
            check_derivable(ready)
            if run.options.dry_run:
                raise AtTheNetwork
        run.watch.progress(done, total, what)

    result = tasks.run(run.verb, ready.volume, run.settings, mask=mask, progress=progress)
    ready.seconds += time.monotonic() - started
    return result


def check_derivable(ready: Ready) -> None:
    """Refuse a series whose headers lack what a derived one cites, before the network has worked for it.

    Raises
    ------
    InputError
    """
    if ready.volume.stored.container == "dicom" and not is_nifti(ready.target):
        from medldm.io.dicom.writing.sources import citable_sources

        citable_sources(ready.volume)


def finish(run: Run, ready: Ready, result: Volume) -> Row:
    """Write the result, its record, and what else was asked for.

    Raises
    ------
    MedldmError
    """
    started, case, record = time.monotonic(), ready.case, record_of(ready.case, ready.target)
    mask_path = getattr(run.settings, "mask", None)
    source = origin(case) | {"sha256": ready.digest, "mask": mask_path, **what_else(run.options)}
    publish(run, ready, result, source)
    if run.options.preview:
        run.watch.preview(ready.volume, result, preview_path(record))
    seconds = round(ready.seconds + time.monotonic() - started, 2)
    if result is ready.volume:
        return Row(
            case.place.as_posix(), "unchanged", seconds, "nothing to do, the input was copied", str(ready.target)
        )
    message = warned(result.history[-1].facts if result.history else {})
    return Row(case.place.as_posix(), "done", seconds, message, str(ready.target))


def already_done(record: Record, name: str, besides: str = "") -> Row:
    """The row of a case that an earlier run finished, as that run would have told it: from the record.

    Parameters
    ----------
    record : of the result
    name : of the case
    besides : what was done all the same
    """
    told = record.read()
    status = "unchanged" if told.get("status") == "unchanged" else "done"
    message = "; ".join(filter(None, [ALREADY, besides, warned(told)]))
    return Row(name, status, told.get("timings", {}).get("seconds", 0.0), message, str(record.image))


def warned(facts: Mapping[str, Any]) -> str:
    """What speaks against a result, by the facts of its run; empty where nothing does."""
    odd, outliers = facts.get("outside_of_card"), facts.get("outliers")
    said = [f"warning, outside what the model covers: {', '.join(odd)}"] if odd else []
    said += [f"{outliers} voxel{'s' * (outliers > 1)} of absurd value kept from the others"] if outliers else []
    return "; ".join(said)


def what_else(options: Options) -> dict[str, Any]:
    """Options, besides the settings, that change the image."""
    return {"volume": options.volume, "format": options.format, "fix": options.fix}


def told(run: Run, ready: Ready) -> str:
    """What will be done, in words."""
    if ready.plan:
        return ready.plan.words()
    return f"{run.verb} {' x '.join(map(str, ready.volume.shape))} voxels"


def load(case: Case, options: Options) -> Volume:
    """The scan of a case, if it fits into memory and is one.

    Raises
    ------
    ResourceError, InputError
    NotRestorable
        A mask, a label map, a phase image, 4D, RGB.
    """
    if case.skip:
        raise NotRestorable(f"{case.source} is left alone: {case.skip.rstrip('.')}.")
    check_memory(case.place.as_posix(), case.voxels)
    volume = case.read(options.volume, fix=options.fix)
    check_content(volume, case.source)
    if reason := what_it_is(volume):
        raise NotRestorable(f"{case.source} looks like {reason}. Name the scan that it was made from.")
    return volume


def wanted_companions(record: Record, options: Options) -> list[Path]:
    """Files that have to lie beside the result besides its record."""
    spread = options.uncertainty and not record.read().get("no_spread")  # a run that had a spread to write
    companions = {spread_path(record, STD): spread, preview_path(record): options.preview}
    return [path for path, wanted in companions.items() if wanted]


def outcome(volume: Volume, result: Volume, plan: Plan | None) -> dict[str, Any]:
    """Status and plan, for the record."""
    told: dict[str, Any] = {"status": "unchanged" if result is volume else "done"}
    if plan:
        told |= {"plan": [{"verb": step.verb, "reason": step.reason} for step in plan.steps], "said": plan.words()}
    return told


def publish(run: Run, ready: Ready, result: Volume, source: dict[str, Any]) -> None:
    """Result, uncertainty and record, in an order that survives a kill at any moment.

    Everything is written under hidden names first. Then an older result goes, the record comes, and the result last:
    a result lies there only beside a record that knows it, and without one the next run begins this case anew.
    """
    record, target = record_of(ready.case, ready.target), ready.target
    staged = staged_name(target)
    maps: list[Path] = []
    check_target(target)
    fresh = not record.path.exists()
    try:
        clipped = write_image(ready.case, ready.volume, result, staged, run.options)
        maps = stage_maps(result, record) if run.options.uncertainty else []
        told = {"clipped_voxels": clipped, **outcome(ready.volume, result, ready.plan)}
        told["voxels"] = int(np.prod(result.shape))

        def replaced() -> None:
            """Just before the record comes: what it will not be about must not lie beside it."""
            remove(target)
            if not fresh:  # an older result's companions would pass for this one's
                remove_maps(record)
            for path in maps:
                staged_name(path).replace(path)
                write_map_words(record, path, run, source, result)
            if not fresh and not run.options.preview:
                preview_path(record).unlink(missing_ok=True)

        write_record(record, ready.key, run, source, result, told, staged, before=replaced)
        show(staged, target)
    except BaseException:
        with contextlib.suppress(OSError):  # a name that is too long could not be written, nor removed
            if fresh and not target.exists():  # a record without its result, where nothing was before
                record.path.unlink(missing_ok=True)
                remove_maps(record)
        raise
    finally:
        with contextlib.suppress(OSError):
            for path in (target, *maps):
                remove(staged_name(path))
    if clipped:
        log.warning("%d voxels of %s were clipped to the range that its stored values have", clipped, target.name)


def show(staged: Path, target: Path) -> None:
    """Give a finished file or folder its name; what stands there goes, also when another run put it there just now.

    Parameters
    ----------
    staged : hidden name in the same folder
    target : final name
    """
    for pause in (*PAUSES, None):
        try:
            staged.replace(target)
        except OSError as problem:  # a folder takes no other folder's place
            if problem.errno not in OCCUPIED or pause is None:
                raise
            remove(target)
            time.sleep(pause)
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


def write_image(case: Case, volume: Volume, result: Volume, target: Path, options: Options) -> int:
    """Write the result, a copy of the input when nothing was done.

    Returns
    -------
    number of voxels clipped to the stored integer range
    """
    as_it_is = result is volume and options.volume is None and not options.fix
    if as_it_is and case.series is None:
        return copy_nifti(case.source, volume, target)
    if as_it_is and case.series is not None and not is_nifti(target):
        copy_series(case, target)
        return 0
    return write(result, target)


def copy_series(case: Case, target: Path) -> None:
    """The files of a series as they are, all or nothing.

    Raises
    ------
    OutputError, ResourceError
    """
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for number, path in enumerate(case.files):
            shutil.copyfile(path, temporary / f"{number:04d}.dcm")
        show(temporary, target)
    except OSError as problem:
        raise sentence(problem, target) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def weights_for(volume: Volume, settings: Settings) -> str:
    """What identifies the networks that a scan will be restored with; with ``auto`` all that might be chosen."""
    if settings.model != "auto":
        return card(settings.model).identity
    modality = guess_modality(volume)[0] if settings.modality == "auto" else settings.modality
    return "+".join(each.identity for each in cards() if (each.modality, each.role) == (modality, "restorer"))
