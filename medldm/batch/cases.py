"""One case from file to file: read, check, restore, write, and a record beside the result."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from pathlib import Path
from typing import Any

from medldm.batch.maps import HALF_WIDTH, STD, remove_maps, spread_path, write_maps
from medldm.batch.memory import check_memory, result_voxels, stored_voxels
from medldm.batch.options import Options, Run
from medldm.batch.places import Protected
from medldm.batch.record import Record, hash_files, run_key, write_record
from medldm.batch.summary import Row
from medldm.errors import NotRestorable, OutputError
from medldm.inspection import Plan, make_plan
from medldm.io import check_content, guess_modality, is_nifti, read, what_it_is, write
from medldm.io.atomic import sentence, whole_file
from medldm.io.scans import Case
from medldm.settings import Restore, Settings
from medldm.volume import Volume
from medldm.zoo import best, card

log = logging.getLogger(__name__)


def one_case(run: Run, case: Case, target: Path) -> Row:
    """Restore one case, or say why there is nothing to do.

    Parameters
    ----------
    run : what is asked
    case : scan
    target : of the result

    Raises
    ------
    MedldmError
    """
    started, name = time.monotonic(), case.place.as_posix()
    verb, settings, options, record = run.verb, run.settings, run.options, Record(target)
    run.protected.check(target)
    Protected(case.files).check(target)
    volume = load(case, options)
    mask_path = getattr(settings, "mask", None)
    digest = hash_files([*case.files, *([Path(mask_path)] if mask_path else [])])
    extra = {"volume": options.volume, "format": options.format, "fix": options.fix}
    key = run_key(verb, settings, digest, weights_for(volume, settings), extra)
    known = not options.overwrite and record.knows(key)
    if known and all(path.exists() for path in wanted_companions(record, options)):
        return Row(name, "done", 0.0, "already done with the same input, settings and weights", str(target))
    if target.exists() and not options.overwrite and not known:
        raise OutputError(
            f"{target} exists already and is not the result of this run. Say --overwrite, or choose another OUT."
        )
    plan = make_plan(volume, settings) if isinstance(settings, Restore) else None
    check_memory(name, result_voxels(volume, settings, plan))
    told = plan.words() if plan else f"{verb} {' x '.join(map(str, volume.shape))} voxels"
    if options.dry_run:
        return Row(name, "done", 0.0, f"would write {target}; {told}")
    if plan:
        run.watch.say(f"plan for {name}: {told}")
    from medldm import tasks

    mask = read(mask_path) if mask_path else None
    result = tasks.run(verb, volume, settings, mask=mask, progress=run.watch.progress)
    source = origin(case, run.root) | {"sha256": digest, "mask": mask_path, **extra}
    with undone_on_failure(record):
        clipped = publish(case, volume, result, record, options)
        write_record(record, key, run, source, result, {"clipped_voxels": clipped, **outcome(volume, result, plan)})
    if options.preview:
        run.watch.preview(volume, result, record.companion("_preview.png"))
    seconds = round(time.monotonic() - started, 2)
    if result is volume:
        return Row(name, "unchanged", seconds, "nothing to do, the input was copied", str(target))
    odd = result.history[-1].facts.get("outside_of_card") if result.history else None
    message = f"warning, outside what the model covers: {', '.join(odd)}" if odd else ""
    return Row(name, "done", seconds, message, str(target))


def load(case: Case, options: Options) -> Volume:
    """The scan of a case, if it fits into memory and is one.

    Raises
    ------
    ResourceError, InputError
    NotRestorable
        A mask, a label map, a phase image, 4D, RGB.
    """
    if case.skip:
        raise NotRestorable(f"{case.source} is left alone: {case.skip.rstrip('.')}. Name a scan that was measured.")
    check_memory(case.place.as_posix(), stored_voxels(case))
    volume = case.read(options.volume, fix=options.fix)
    check_content(volume, case.source)
    if reason := what_it_is(volume):
        raise NotRestorable(f"{case.source} looks like {reason}; medldm restores scans only.")
    return volume


def wanted_companions(record: Record, options: Options) -> list[Path]:
    """Files that have to lie beside the result besides its record."""
    companions = {spread_path(record, STD): options.uncertainty, record.companion("_preview.png"): options.preview}
    return [path for path, wanted in companions.items() if wanted]


def origin(case: Case, root: Path | None) -> dict[str, Any]:
    """Where a case comes from, so that a rerun finds it again; absolute, since a rerun may start anywhere."""
    packed = case.keep is not None and root is not None
    return {
        "root": str((root if packed and root else case.source).absolute()),
        "place": case.place.as_posix(),
        "files": [] if packed else [str(path.absolute()) for path in case.files[:1]],
        "count": len(case.files),
    }


def outcome(volume: Volume, result: Volume, plan: Plan | None) -> dict[str, Any]:
    """Status and plan, for the record."""
    told: dict[str, Any] = {"status": "unchanged" if result is volume else "done"}
    if plan:
        told |= {"plan": [{"verb": step.verb, "reason": step.reason} for step in plan.steps], "said": plan.words()}
    return told


@contextlib.contextmanager
def undone_on_failure(record: Record) -> Any:
    """A new result without its record is none: whatever fails in between takes it away again."""
    files = (record.image, spread_path(record, STD), spread_path(record, HALF_WIDTH))
    before = [path.exists() for path in files]
    try:
        yield
    except BaseException:
        for path, there in zip(files, before, strict=True):
            if not there and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif not there:
                path.unlink(missing_ok=True)
        raise


def publish(case: Case, volume: Volume, result: Volume, record: Record, options: Options) -> int:
    """Write the result (a copy of the input when nothing was done) and, if asked, its uncertainty.

    Returns
    -------
    number of voxels clipped to the stored integer range
    """
    target, clipped = record.image, 0
    as_it_is = result is volume and options.volume is None and not options.fix
    same_suffix = target.name.lower().endswith(case.source.name.lower()[-4:])
    if as_it_is and case.series is None and same_suffix:
        with whole_file(target) as temporary:
            shutil.copyfile(case.source, temporary)
    elif as_it_is and case.series is not None and not is_nifti(target):
        copy_series(case, target)
    else:
        clipped = write(result, target)
    if clipped:
        log.warning("%d voxels of %s were clipped to %s", clipped, target.name, result.stored.dtype)
    if options.uncertainty and result.std is not None:
        write_maps(result, record)
    elif record.path.exists():  # an older result's companions would pass for this one's
        remove_maps(record)
    if record.path.exists() and not options.preview:
        record.companion("_preview.png").unlink(missing_ok=True)
    return clipped


def copy_series(case: Case, target: Path) -> None:
    """The files of a series as they are, all or nothing.

    Raises
    ------
    OutputError, ResourceError
    """
    if target.exists() and any(not each.name.endswith(".dcm") for each in target.iterdir()):
        raise OutputError(f"{target} holds other files; choose another place for the series.")
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


def weights_for(volume: Volume, settings: Settings) -> str:
    """SHA-256 of the weights that a scan will be restored with."""
    if settings.model != "auto":
        return card(settings.model).sha256
    modality = guess_modality(volume)[0] if settings.modality == "auto" else settings.modality
    return best(modality, flat=min(volume.shape) == 1).sha256
