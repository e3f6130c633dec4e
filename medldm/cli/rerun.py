"""Repeat a run from the record beside its result, and say whether the same image came out."""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from medldm.batch import Options, Run, hash_files, one_case
from medldm.batch.ledger import hash_image, package_version, record_of
from medldm.batch.maps import HALF_WIDTH, STD, spread_path
from medldm.batch.previews import preview_path
from medldm.cli.progress import watching
from medldm.errors import InputError, ModelError, UsageError, reason_of, shown
from medldm.io import is_nifti
from medldm.io.discovery import Case, find_cases
from medldm.io.formats import check_result_name
from medldm.io.sidecars import SENT
from medldm.settings import Settings, make
from medldm.tasks import TASKS
from medldm.zoo import card

log = logging.getLogger(__name__)


def rerun(arguments: argparse.Namespace) -> int:
    """The verb."""
    path = Path(arguments.sidecar)
    record = read_record(path)
    image = Path(os.path.normpath(path.parent / record["result"]))  # a series lies beside the folder of its record
    case = find_input(record["input"])
    if not is_nifti(image):
        case = replace(case, place=place_of_series(record))
    out = Path(arguments.out) if arguments.out else image
    if arguments.out and not is_nifti(image) and out.resolve() != image.resolve():
        out = out / SENT / case.place
    elif arguments.out and is_nifti(image) and not is_nifti(out):
        check_result_name(out)
        out = out / image.name
    if out.resolve() == image.resolve() and not arguments.overwrite:
        raise UsageError(f"{image} would be replaced: say --overwrite, or name another OUT.")
    settings = settings_of(record, path)
    source = record["input"]
    masks = [Path(source["mask"])] if source.get("mask") else []
    if hash_files([*case.files, *masks]) != source["sha256"]:
        raise InputError(f"{case.source} has changed since this run; repeating it would not give the same image.")
    options = Options(
        overwrite=arguments.overwrite,
        volume=source.get("volume") if case.is_4d else None,  # in a tree it was about other cases
        format=source.get("format"),
        fix=bool(source.get("fix")),
        uncertainty=settings.samples > 1
        and any(spread_path(record_of(case, image), kind).exists() for kind in (STD, HALF_WIDTH)),
        preview=preview_path(record_of(case, image)).exists(),
    )
    for name in changed(record):
        log.warning(name)
    with watching(arguments) as watch:
        run = Run(verb=record["task"], settings=settings, options=options, watch=watch, sources=(Path(source["root"]),))
        row = one_case(run, case, out)
        same = hash_image(out) == record.get("result_sha256")
        but = "" if is_nifti(out) else ", but for the moment of its creation"
        watch.say(f"the same image, byte for byte{but}" if same else "the image differs from the one of the record")
    print(shown(row.result))
    return 0


def read_record(path: Path) -> dict[str, Any]:
    """The record of a run.

    Raises
    ------
    InputError
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Name a ..._medldm.json that lies beside a result.")
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        complete = {"task", "settings", "input", "result"} <= set(record) and {"root", "sha256"} <= set(record["input"])
        if complete and record["task"] in TASKS:
            return record
        problem = "parts are missing"
    except (OSError, ValueError, TypeError) as reason:
        problem = "parts are missing" if isinstance(reason, TypeError) else reason_of(reason)
    raise InputError(f"{path} is not the record of a medldm run ({problem}). Name a ..._medldm.json.")


def place_of_series(record: dict[str, Any]) -> Path:
    """Where a derived series lies below the folder that is sent, by its record."""
    parts = [part for part in Path(record["result"]).parts if part != os.pardir]
    return Path(*(parts[1:] if len(parts) > 1 and parts[0] == SENT else parts))


def find_input(source: dict[str, Any]) -> Case:
    """The scan that a record was made from.

    Raises
    ------
    InputError
        It is gone.
    """
    files = [str(name) for name in source.get("files", ())]
    try:
        cases = find_cases(Path(source["root"]))
    except InputError as problem:
        raise InputError(f"The input of this run is not there any more: {problem}") from problem
    for case in cases:
        if case.keep is not None and "member" in source:
            if case.files[0].relative_to(case.keep.folder).as_posix() == source["member"]:
                return case
        elif str(case.files[0].absolute()) in files or (not files and case.place.as_posix() == source.get("place")):
            return case
    name = source.get("member") or (files or [source["root"]])[0]
    raise InputError(f"{name}, the input of this run, is not there any more.")


def settings_of(record: dict[str, Any], path: Path) -> Settings:
    """The settings of a run, with the weights that it used.

    Raises
    ------
    ModelError
        This installation has other weights.
    """
    kind: type[Settings] = TASKS[record["task"]].settings
    settings = make(kind, record["settings"])
    if not record.get("model"):
        return settings  # there was nothing to do
    name = record["model"] if settings.model == "auto" else settings.model
    weights = card(name)
    if weights.sha256 != record.get("sha256"):
        raise ModelError(
            f"{path} was made with weights {str(record.get('sha256'))[:16]} of {record['model']}; this installation "
            f"has {weights.sha256[:16]}. Install medldm {record.get('medldm')}."
        )
    # What `auto` means depends on the scan and on what ships; the record knows what it meant.
    return make(kind, {**record["settings"], "model": name})


def changed(record: dict[str, Any]) -> list[str]:
    """Sentences about what may make another image of the same run."""
    before = record.get("versions", {})
    now = {name: package_version(name) for name in before if name != "python"}
    moved = [f"{name} {before[name]} -> {now[name]}" for name in now if before[name] != now[name]]
    return [f"Other versions than at the time, so the image may differ: {', '.join(moved)}."] if moved else []
