"""What an operating system or argparse refuses, as a sentence."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Sequence

from medldm.errors import InputError, MedldmError, ResourceError, UsageError

# Errors of a file system about a path that the user named, which are no bug; and what helps.
PLACES = {
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EACCES: "Check its permissions.",
    errno.EPERM: "Check its permissions.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.ENOTDIR: "Check the path.",
    errno.ELOOP: "Its links lead in a circle.",
}
# Errors of a disk or a network that failed.
FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ENOTCONN)


def of_the_system(problem: OSError) -> MedldmError | None:
    """What a file system refused, as a sentence; None for what may be a bug.

    Parameters
    ----------
    problem : raised outside of where results are written, which has sentences of its own
    """
    from medldm.io.atomic import FULL  # which loads NumPy, and `--help` should not

    place = os.fsdecode(problem.filename) if isinstance(problem.filename, str | bytes | os.PathLike) else ""
    if problem.errno in FULL:
        return ResourceError(
            f"The disk is full{f': {place} was not written' * bool(place)}. Free some space, then run it again."
        )
    if problem.errno in FAILING:
        return InputError(
            f"{place or 'A file'} cannot be read or written: {problem.strerror}. Check the disk or network."
        )
    if problem.errno in PLACES and place:
        return UsageError(f"{place} cannot be used: {problem.strerror}. {PLACES[problem.errno]}")
    return None


def reworded(message: str) -> str:
    """What argparse says of a command line, as the settings say it of theirs; without a full stop.

    Parameters
    ----------
    message : of argparse
    """
    if match := re.fullmatch(r"argument (\S+): invalid choice: (.+) \(choose from (.*)\)", message):
        name, value, choices = match[1], match[2], match[3].replace("'", "")
        return (
            f"There is no verb {value}; there are {choices}"
            if name == "VERB"
            else (f"{name} is one of {choices}, not {value}")
        )
    if match := re.fullmatch(r"argument (\S+): invalid (int|float) value: (.+)", message):
        return f"{match[1]} is a {'whole ' * (match[2] == 'int')}number, not {match[3]}"
    if match := re.fullmatch(r"argument (\S+): expected (one|at least one) argument", message):
        return f"{match[1]} needs a value"
    if match := re.fullmatch(r"the following arguments are required: (.+)", message):
        names = match[1].split(", ")
        return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} missing"
    return f"{message[:1].upper()}{message[1:]}"


def not_known(verb: str, arguments: Sequence[str], options: Sequence[str]) -> str:
    """A sentence about arguments that a verb does not take.

    Parameters
    ----------
    verb : as on the command line
    arguments : that were left over
    options : of the verb
    """
    unknown = next((name for name in arguments if name.startswith("-")), "")
    if not unknown:
        return f"{verb} cannot use {' '.join(arguments)}."
    name = unknown.split("=")[0]
    near = difflib.get_close_matches(name, options, n=1)
    return f"{verb} has no option {name}{f'; did you mean {near[0]}?' if near else '.'}"
