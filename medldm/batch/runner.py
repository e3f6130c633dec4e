"""A batch from IN to OUT: find the cases, restore them, summarise; a failed case does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medldm.batch.bids import check_place, derived, is_bids, write_dataset, write_participants
from medldm.batch.case import Work, one_case
from medldm.batch.caselog import keeping
from medldm.batch.dask_queue import restore_on_workers
from medldm.batch.local import restore_here
from medldm.batch.options import Options, Run, Watch
from medldm.batch.outputs import Protected, check_out, inputs_only, named_alone, sweep
from medldm.batch.summary import Row, exit_code, rows_of_shards, tally, write_summary
from medldm.errors import InputError, UsageError
from medldm.io import is_image_name
from medldm.io.discovery import Case, find_cases, output_path
from medldm.io.formats import check_format
from medldm.settings import Settings
from medldm.tasks import TASKS
from medldm.tasks.base import Need
from medldm.zoo import card, check_weights

log = logging.getLogger(__name__)


def run_batch(
    verb: str, source: Path | Sequence[Path], out: Path, settings: Settings, options: Options, watch: Watch
) -> int:
    """Restore everything below a path, or below several.

    Parameters
    ----------
    verb : task
    source : NIfTI file, DICOM file or folder, zip, a tree, or a list; or several of these
    out : file or folder
    settings : of the verb
    options : about files
    watch : who is notified

    Returns
    -------
    exit code

    Raises
    ------
    MedldmError
        Before anything was done, or for a single scan named alone.
    """
    sources = (source,) if isinstance(source, Path) else tuple(source)
    check_format(options.format)
    check_out(sources, out)
    settings = settled(verb, settings)
    raw = None if is_image_name(out) else dataset_of(sources)
    cases = inputs_only(find_cases(sources, options.include, options.exclude), sources, out)
    if raw:
        if options.format not in (None, "nifti", "dicom"):
            raise UsageError(f"Results of a BIDS dataset are NIfTI, not {options.format}. Leave --format out.")
        check_place(raw, out)
        cases = derived(cases, verb, settings)
        if not options.dry_run:
            write_dataset(raw, out)
    alone = named_alone(cases, sources, out)
    part, parts = options.shard
    mine = cases[part - 1 :: parts]
    run = Run(verb=verb, settings=settings, options=options, watch=watch, sources=sources)
    inputs = (path for case in cases for path in case.files)
    run = replace(run, protected=Protected([*inputs, *([run.mask] if run.mask else [])]))
    if not alone:
        code = run_tree(run, mine, out)
        if raw and not options.dry_run:
            write_participants(raw, out)
        return code
    for case in mine:
        if not case.is_image and any(other.is_image for other in cases):  # that one is what was meant
            log.warning("%s", case.broken or case.skip)
            continue
        if not case.is_image:
            raise InputError(case.broken or case.skip)
        row = one_case(run, case, output_path(replace(case, alone=True), out, options.format))
        watch.say(f"{row.status}: {row.result or row.case}" + (f" ({row.message})" if row.message else ""))
        if options.report and not options.dry_run:
            watch.report([row], out if case.series is not None and not is_image_name(out) else Path(row.result).parent)
    return 0


def dataset_of(sources: Sequence[Path]) -> Path | None:
    """The root of the BIDS dataset that was named, None where none was.

    Raises
    ------
    UsageError
        Something else was named beside it: derivatives belong to one dataset.
    """
    datasets = [source for source in sources if is_bids(source)]
    if datasets and len(sources) > 1:
        raise UsageError(
            f"{datasets[0]} is a BIDS dataset, and its results become a dataset of their own. Name it alone; --include "
            "and `medldm bids --participant-label` choose from it."
        )
    return datasets[0] if datasets else None


def run_tree(run: Run, cases: list[Case], out: Path) -> int:
    """Many cases; whatever stops the batch, the summary says how far it came.

    Parameters
    ----------
    run : what is asked
    cases : of this shard
    out : folder

    Returns
    -------
    exit code
    """
    rows: list[Row] = []
    known: list[Row] = []  # of other shards too
    options, watch = run.options, run.watch

    def report(work: Work) -> bool:
        assert work.row is not None
        rows.append(work.row)
        watch.say(f"{work.row.status}: {work.row.case}" + (f": {work.row.message}" if work.row.message else ""))
        return not (work.full or (options.fail_fast and work.row.status in ("failed", "refused")))

    if not options.dry_run:
        sweep(out)
    try:
        with keeping():
            if options.scheduler or options.workers > 1:
                restore_on_workers(run, cases, out, report)
            else:
                restore_here(run, cases, out, report)
    finally:
        # A shard on which no case falls leaves an empty table: what is missing then is a shard that did not run.
        if not options.dry_run and (rows or not cases):
            rows.sort(key=lambda row: row.case)
            known = write_summary(rows, out, options.shard)
    if len(rows) < len(cases):
        watch.say(f"{len(cases) - len(rows)} cases were not finished.")
    if options.report and not options.dry_run:
        watch.report(known, out)
        if options.shard[1] > 1 and rows_of_shards(out, options.shard[1]) != known:
            # Another shard ended while the page was drawn, and may have shown its own before.
            watch.report(write_summary(rows, out, options.shard), out)
    watch.say(f"{len(rows)} cases: {tally(rows)}" if cases else "No case falls to this shard.")
    return exit_code(rows)


def settled(verb: str, settings: Settings) -> Settings:
    """The settings with absolute paths, so that a record can be rerun from anywhere; model and mask are there.

    Raises
    ------
    ModelError
        No such model, or its weights are damaged.
    UsageError
        A mask that is needed or does not exist.
    """
    if settings.model != "auto":
        model = card(settings.model)
        check_weights(model)
        if settings.model != model.name:
            settings = replace(settings, model=str(Path(settings.model).absolute()))
    mask = getattr(settings, "mask", None)
    if Need.MASK in TASKS[verb].needs and not mask:
        raise UsageError(f"{verb} needs --mask MASK, an image that is non-zero where the scan is to be filled.")
    for option in ("mask", "like"):
        if path := getattr(settings, option, None):
            if not Path(path).exists():
                raise UsageError(f"--{option} {path} does not exist. Check the path.")
            absolute: dict[str, Any] = {option: str(Path(path).absolute())}
            settings = replace(settings, **absolute)
    return settings
