"""Repeat a run from the record beside its result, and say whether the same image came out."""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

from medldm.batch import Options, Run, hash_files, one_case
from medldm.batch.generation import create
from medldm.batch.ledger import HALF_WIDTH, STD, hash_image, result_of
from medldm.cli.progress import watching
from medldm.errors import InputError, ModelError, UsageError, reason_of, shown
from medldm.io import is_image_name
from medldm.io.discovery import Case, find_cases
from medldm.io.formats import check_result_name
from medldm.io.sidecars import SENT
from medldm.provenance import RunRecord, Source, package_version
from medldm.provenance.record import VERSION
from medldm.settings import Settings, make
from medldm.tasks import TASKS
from medldm.tasks.base import Need
from medldm.zoo import card

log = logging.getLogger(__name__)


def rerun(arguments: argparse.Namespace) -> int:
    """The verb."""
    path = Path(arguments.sidecar)
    record = read_record(path)
    if Need.SCAN not in TASKS[record.task].needs:
        return rerun_creation(record, path, arguments)
    source = record.source
    image = Path(os.path.normpath(path.parent / record.result))  # a series lies beside the folder of its record
    case = find_input(source)
    if not is_image_name(image):
        case = replace(case, place=place_of_series(record))
    out = Path(arguments.out) if arguments.out else image
    if arguments.out and not is_image_name(image) and out.resolve() != image.resolve():
        out = out / SENT / case.place
    elif arguments.out and is_image_name(image) and not is_image_name(out):
        check_result_name(out)
        out = out / image.name
    if out.resolve() == image.resolve() and not arguments.overwrite:
        raise UsageError(f"{image} would be replaced: say --overwrite, or name another OUT.")
    settings = settings_of(record, path)
    masks = [Path(source.mask)] if source.mask else []
    if hash_files([*case.files, *masks]) != source.sha256:
        raise InputError(f"{case.source} has changed since this run; repeating it would not give the same image.")
    options = Options(
        overwrite=arguments.overwrite,
        volume=source.volume if case.is_4d else None,  # in a tree it was about other cases
        format=source.format,
        fix=source.fix,
        uncertainty=any(result_of(case, image).map_path(kind).exists() for kind in (STD, HALF_WIDTH)),
        preview=result_of(case, image).preview_path.exists(),
    )
    for name in changed(record):
        log.warning(name)
    with watching(arguments) as watch:
        run = Run(verb=record.task, settings=settings, options=options, watch=watch, sources=(Path(source.root),))
        row = one_case(run, case, out)
        watch.say(comparison(out, record))
    print(shown(row.result))
    return 0


def rerun_creation(record: RunRecord, path: Path, arguments: argparse.Namespace) -> int:
    """Repeat a run that began with no scan.

    Raises
    ------
    MedldmError
    """
    image = path.parent / record.result
    out = Path(arguments.out) if arguments.out else image
    if is_image_name(image) and not is_image_name(out):
        check_result_name(out)
        out = out / image.name
    if out.exists() and not arguments.overwrite:
        raise UsageError(f"{out} would be replaced: say --overwrite, or name another OUT.")
    for name in changed(record):
        log.warning(name)
    with watching(arguments) as watch:
        create(record.task, settings_of(record, path), out, None if is_image_name(out) else "dicom", watch)
        watch.say(comparison(out, record))
    print(shown(str(out)))
    return 0


def comparison(out: Path, record: RunRecord) -> str:
    """Whether a result is that of a record, in words."""
    if hash_image(out) != record.result_sha256:
        return "the image differs from the one of the record"
    return "the same image, byte for byte" + ("" if is_image_name(out) else ", but for the moment of its creation")


def read_record(path: Path) -> RunRecord:
    """The record of a run.

    Raises
    ------
    InputError
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Name a ..._medldm.json that lies beside a result.")
    try:
        data = json.loads(path.read_text())
        record = RunRecord.from_json(data if isinstance(data, dict) else {})
        if record.repeatable and record.task in TASKS:
            return record
        problem = f"this medldm has no task {record.task!r}" if record.repeatable else "parts are missing"
    except (OSError, ValueError) as reason:
        problem = reason_of(reason)
    raise InputError(f"{path} is not the record of a medldm run ({problem}). Name a ..._medldm.json.")


def place_of_series(record: RunRecord) -> Path:
    """Where a derived series lies below the folder that is sent, by its record."""
    parts = [part for part in Path(record.result).parts if part != os.pardir]
    return Path(*(parts[1:] if len(parts) > 1 and parts[0] == SENT else parts))


def find_input(source: Source) -> Case:
    """The scan that a record was made from.

    Raises
    ------
    InputError
        It is gone.
    """
    try:
        cases = find_cases(Path(source.root))
    except InputError as problem:
        raise InputError(f"The input of this run is not there any more: {problem}") from problem
    for case in cases:
        if case.keep is not None and source.member:
            if case.files[0].relative_to(case.keep.folder).as_posix() == source.member:
                return case
        elif str(case.files[0].absolute()) in source.files or (
            not source.files and case.place.as_posix() == source.place
        ):
            return case
    name = source.member or (source.files or (source.root,))[0]
    raise InputError(f"{name}, the input of this run, is not there any more.")


def settings_of(record: RunRecord, path: Path) -> Settings:
    """The settings of a run, with the weights that it used.

    Raises
    ------
    ModelError
        This installation has other weights.
    """
    kind: type[Settings] = TASKS[record.task].settings
    settings = make(kind, record.settings)
    if not record.model:
        return settings  # there was nothing to do
    name = record.model if settings.model == "auto" else settings.model
    model = card(name)
    if model.sha256 != record.weights:
        raise ModelError(
            f"{path} was made with weights {record.weights[:16]} of {record.model}; this installation "
            f"has {model.sha256[:16]}. Install medldm {record.medldm}."
        )
    # What `auto` means depends on the scan and on what ships; the record knows what it meant.
    return make(kind, {**record.settings, "model": name})


def changed(record: RunRecord) -> list[str]:
    """Sentences about what may make another image of the same run."""
    sentences = []
    if record.version > VERSION:
        sentences.append(f"A later medldm ({record.medldm}) wrote this record; what is new in it is not regarded.")
    now = {name: package_version(name) for name in record.versions if name != "python"}
    moved = [f"{name} {record.versions[name]} -> {now[name]}" for name in now if record.versions[name] != now[name]]
    if moved:
        sentences.append(f"Other versions than at the time, so the image may differ: {', '.join(moved)}.")
    return sentences
