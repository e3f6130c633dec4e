"""The BIDS App: ``medldm bids BIDS_DIR OUT participant``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from medldm.cli.flags import add_settings, flag
from medldm.errors import InputError, UsageError
from medldm.tasks import TASKS
from medldm.tasks.base import Need


def add_bids(parser: Any) -> None:
    """Arguments of the verb: those of every BIDS app, then every knob of every restoring verb.

    Parameters
    ----------
    parser : of the verb
    """
    parser.add_argument("source", metavar="BIDS_DIR", help="root of a BIDS dataset")
    parser.add_argument("out", metavar="OUT", help="root of the derivatives, for instance BIDS_DIR/derivatives/medldm")
    parser.add_argument("level", choices=("participant",), help="level of the analysis; there is no group level")
    parser.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        metavar="LABEL",
        help="only these, with or without sub-",
    )
    parser.add_argument(
        "--task",
        choices=[task.name for task in TASKS.values() if Need.SCAN in task.needs],
        default="restore",
        help="what to do (default restore)",
    )
    for task in TASKS.values():
        if Need.SCAN in task.needs:
            add_settings(parser, task.settings, f"options of {task.name}")


def bids(arguments: argparse.Namespace) -> int:
    """The verb.

    Raises
    ------
    InputError
        BIDS_DIR is no BIDS dataset, or has no such participant.
    UsageError
        An option of another task.
    """
    from medldm.batch.bids import is_bids, subjects
    from medldm.cli.verbs import restore

    root = Path(arguments.source)
    if not is_bids(root):
        raise InputError(
            f"{root} is no BIDS dataset: it needs a dataset_description.json with BIDSVersion, and subjects."
        )
    known = {field.name for field in fields(TASKS[arguments.task].settings)}
    for task in TASKS.values():
        for field in fields(task.settings):
            if field.name in arguments and field.name not in known:
                raise UsageError(
                    f"{flag(field.name)} is no option of {arguments.task}. Leave it out, or change --task."
                )
    if arguments.participant_label:
        if arguments.include:
            raise UsageError("--participant-label and --include both choose. Use one of them.")
        labels = [label.removeprefix("sub-") for label in arguments.participant_label]
        if strangers := sorted(set(labels) - set(subjects(root))):
            raise InputError(f"{root} has no sub-{strangers[0]}; it has {', '.join(subjects(root)[:20])}.")
        arguments.include = [f"sub-{label}/*" for label in labels]
    arguments.verb = arguments.task
    return restore(arguments)
