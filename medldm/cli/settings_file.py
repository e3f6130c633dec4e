"""Settings from a file: the record beside a result, or JSON written by hand; flags count more."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from medldm.cli.flags import flag
from medldm.errors import UsageError, reason_of
from medldm.provenance import RunRecord
from medldm.tasks import TASKS

FILES = ("fix", "format", "volume")  # options about files that change the image


def settings_in(path: Path, verb: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file asks for.

    Parameters
    ----------
    path : a record (``scan_medldm.json``), or a JSON object of option names and values
    verb : that is to be run

    Returns
    -------
    settings of the verb by field name; options about files (`FILES`)

    Raises
    ------
    UsageError
        It cannot be read, belongs to another verb, or names what the verb does not know.
    """
    data = _object(path)
    if data.get("task", verb) != verb:
        raise UsageError(f"--settings {path} was made by {data['task']}, not by {verb}.")
    if isinstance(data.get("settings"), dict):
        record = RunRecord.from_json(data)
        files = {name: getattr(record.source, name) for name in FILES}
        data = {**record.settings, **{name: value for name, value in files.items() if value not in (None, False)}}
    options = {name.replace("-", "_"): value for name, value in data.items() if name != "task"}
    known = {knob.name for knob in fields(TASKS[verb].settings)}
    for name, value in options.items():
        if name not in known and name not in FILES:
            raise UsageError(
                f"--settings {path}: {verb} has no option {name!r}; it has {', '.join(sorted({*known, *FILES}))}."
            )
        if not _fits(name, value):
            raise UsageError(f"--settings {path}: {flag(name)} cannot be {json.dumps(value)}.")
    return (
        {name: value for name, value in options.items() if name in known},
        {name: value for name, value in options.items() if name in FILES},
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(data, dict):
            return data
        problem = "it holds no object"
    except (OSError, ValueError) as reason:
        problem = reason_of(reason)
    raise UsageError(
        f"--settings {path} cannot be used ({problem}). Name a ..._medldm.json, or JSON of option names and values."
    )


def _fits(name: str, value: object) -> bool:
    """Whether an option may have such a value; a knob takes nothing, a word, a number, or several of them."""
    if name == "fix":
        return isinstance(value, bool)
    if name == "format":
        from medldm.io.formats import result_formats

        return value in result_formats()
    if name == "volume":
        return value is None or (isinstance(value, int) and not isinstance(value, bool))
    several = value if isinstance(value, list) else [value]
    return all(item is None or (isinstance(item, str | int | float) and not isinstance(item, bool)) for item in several)
