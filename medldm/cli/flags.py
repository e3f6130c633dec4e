"""Settings to flags and back: every knob of a settings dataclass becomes one option, with its unit and range."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from medldm.settings import Settings, make

Kind = TypeVar("Kind", bound=Settings)


def add_settings(parser: argparse.ArgumentParser, kind: type[Settings], title: str = "what to do") -> None:
    """One flag for each knob; what the user leaves out stays out, so that defaults live in one place.

    Parameters
    ----------
    parser : of the verb
    kind : its settings
    title : of the options that other verbs do not have
    """
    own = parser.add_argument_group(title)
    shared = parser.add_argument_group("how to do it")
    common = {field.name for field in fields(Settings)}
    for field in fields(kind):
        if flag(field.name) in parser._option_string_actions:
            continue  # a parser for several kinds has those that they share already
        if any(action.dest == field.name for action in parser._actions):
            continue  # a word of its own place
        if field.metadata.get("unused"):
            continue
        group = shared if field.name in common else own
        metadata = field.metadata
        if isinstance(field.default, bool):
            group.add_argument(
                flag(field.name),
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=explain(field).replace("%", "%%"),
            )
            continue
        metavar = metadata.get("metavar") or (None if metadata.get("choices") else field.name.upper())
        group.add_argument(
            flag(field.name),
            default=argparse.SUPPRESS,
            metavar=metavar or "{" + ",".join(metadata["choices"]) + "}",
            help=explain(field).replace("%", "%%"),
        )


def flag(name: str) -> str:
    """``slice_thickness`` as ``--slice-thickness``."""
    return "--" + name.replace("_", "-")


def explain(knob: Any) -> str:
    """Meaning, unit, range and default of a knob, in one line."""
    metadata = knob.metadata
    parts = [metadata["meaning"]]
    if isinstance(knob.default, bool):
        return f"{parts[0]} (default {'yes' if knob.default else 'no'})"
    if metadata.get("unit"):
        parts.append(f"[{metadata['unit']}]")
    low, high = metadata.get("low"), metadata.get("high")
    if low is not None and high is not None and high < 2**30:
        parts.append(f"({low:g} to {high:g})")
    elif low is not None:
        parts.append(f"(at least {low:g})")
    if knob.default is not MISSING and knob.default not in (None, ""):
        parts.append(f"(default {knob.default})")
    return " ".join(parts)


def settings_from(arguments: argparse.Namespace, kind: type[Kind], base: Mapping[str, Any] | None = None) -> Kind:
    """The settings that the flags of a command line ask for.

    Parameters
    ----------
    arguments : parsed command line
    kind : settings of the verb
    base : settings that hold where no flag says otherwise

    Raises
    ------
    UsageError
    """
    given = vars(arguments)
    said = {field.name: given[field.name] for field in fields(kind) if field.name in given}
    return make(kind, {**(base or {}), **said})
