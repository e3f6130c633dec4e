"""The steps of one case: read and check it, restore it, write its result; or, in a dry run, say what would be done."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from medldm import tasks
from medldm.batch import ledger
from medldm.batch.caselog import note
from medldm.batch.forecast import check_memory, forecast, result_voxels
from medldm.batch.ledger import Result, hash_files, result_of
from medldm.batch.options import Options, Run, Watch
from medldm.batch.outputs import Protected, check_target
from medldm.batch.publish import draw_later, publish
from medldm.batch.summary import TO_DO, Row
from medldm.data.volume import Volume
from medldm.errors import NotRestorable, OutputError
from medldm.io import check_content, is_image_name, read, what_it_is
from medldm.io.discovery import Case
from medldm.io.sidecars import results_folder
from medldm.provenance import RunRecord
from medldm.qc.inspection import Plan

log = logging.getLogger(__name__)

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
    verb, settings, options, result = run.verb, run.settings, run.options, result_of(case, target)
    run.protected.check(target)
    Protected(case.files).check(target)
    volume = load(case, options)
    digest = hash_files([*case.files, *([run.mask] if run.mask else [])])
    weights = ledger.weights_for(volume, settings)
    key = ledger.run_key(verb, settings, digest, weights, ledger.image_options(options))
    status = options.overwrite or result.status(key)
    lacking = [path for path in wanted_companions(result, options) if not path.exists()]
    if status == "done" and not lacking:
        return already_done(result, name)
    if status == "done" and lacking == [result.preview_path]:
        if options.dry_run:
            return already_done(result, name, "only its preview would be drawn")
        draw_later(run, result, name, volume)
        return already_done(result, name, "only its preview was drawn")
    if status == "foreign":
        raise OutputError(
            f"{target} exists already and is not a result of medldm, or was changed since. Say --overwrite, or "
            "choose another OUT."
        )
    if status == "changed":
        ledger.check_source(result, case, digest)
    check_target(target)
    decide = tasks.TASKS[verb].plan
    plan = decide(volume, settings) if decide else None
    return Ready(case, target, volume, digest, key, plan, time.monotonic() - started)


class AtTheNetwork(Exception):  # no error: where a dry run ends
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
    note(intention(run, ready))
    if ready.plan:
        run.watch.say(f"plan for {name}: {intention(run, ready)}")
    mask = read(run.mask) if run.mask else None

    def progress(done: int, total: int, what: str) -> None:
        if done == 0:  # reported just before the network, after all checks
            check_derivable(ready)
            if run.options.dry_run:
                raise AtTheNetwork
        run.watch.progress(done, total, what)

    after = tasks.run(run.verb, ready.volume, run.settings, mask=mask, progress=progress)
    ready.seconds += time.monotonic() - started
    return after


def check_derivable(ready: Ready) -> None:
    """Refuse a series whose headers lack what a derived one cites, before the network has worked for it.

    Raises
    ------
    InputError
    """
    if ready.volume.stored.container == "dicom" and not is_image_name(ready.target):
        from medldm.io.dicom.writing.sources import citable_sources

        citable_sources(ready.volume)


def finish(run: Run, ready: Ready, after: Volume) -> Row:
    """Write the result, its record, and what else was asked for.

    Raises
    ------
    MedldmError
    """
    started, case, result = time.monotonic(), ready.case, result_of(ready.case, ready.target)
    record = publish(run, case, result, ready.digest, ready.key, ready.plan, ready.volume, after)
    if run.options.preview:
        run.watch.preview(ready.volume, after, result.preview_path)
    seconds = round(ready.seconds + time.monotonic() - started, 2)
    message = "nothing to do, the input was copied" if record.unchanged else warnings_of(record)
    return Row(case.place.as_posix(), record.status, seconds, message, str(ready.target))


def dry_run(run: Run, ready: Ready) -> Row:
    """What a run would do with a case: the run itself, as far as the network.

    Parameters
    ----------
    run : a dry run
    ready : case that was read

    Raises
    ------
    MedldmError
        As the run would.
    """
    name, target = ready.case.place.as_posix(), ready.target
    try:
        after = compute(replace(run, watch=Watch()), ready)
    except AtTheNetwork:
        after = None
    if after is ready.volume:
        why = ready.plan.text() if ready.plan else "there is nothing to do"
        return Row(name, TO_DO, 0.0, f"would write a copy of the input to {target}; {why}")
    ahead, seconds = forecast(ready.volume, run.verb, run.settings, ready.plan, results_folder(target))
    return Row(name, TO_DO, seconds, f"would write {target}; {intention(run, ready).rstrip('.')}; {ahead}")


def already_done(result: Result, name: str, besides: str = "") -> Row:
    """The row of a case that an earlier run finished, as that run would have reported it: from the record.

    Parameters
    ----------
    result : up to date by its record
    name : of the case
    besides : what was done all the same
    """
    record = result.record or RunRecord()
    message = "; ".join(filter(None, [ALREADY, besides, warnings_of(record)]))
    return Row(name, "unchanged" if record.unchanged else "done", record.seconds or 0.0, message, str(result.image))


def warnings_of(record: RunRecord) -> str:
    """What speaks against a result, by the facts of its run; empty where nothing does."""
    odd, outliers = record.outside_of_card, record.outliers
    warnings = [f"warning, outside what the model covers: {', '.join(odd)}"] if odd else []
    warnings += [f"{outliers} voxel{'s' * (outliers > 1)} of absurd value kept from the others"] if outliers else []
    return "; ".join(warnings)


def intention(run: Run, ready: Ready) -> str:
    """What will be done, as a sentence."""
    if ready.plan:
        return ready.plan.text()
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


def wanted_companions(result: Result, options: Options) -> list[Path]:
    """Files that have to lie beside the result besides its record."""
    spread = options.uncertainty and not (result.record and result.record.without_spread)
    companions = {result.map_path(): spread, result.preview_path: options.preview}
    return [path for path, wanted in companions.items() if wanted]
