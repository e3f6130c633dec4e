"""What can go wrong, in sentences, each kind with the exit code that the command line gives it."""

from __future__ import annotations

import traceback
from json import JSONDecodeError
from pathlib import Path


class MedldmError(Exception):
    """A problem the user can act on; its text says what was found, where, and what to do next."""

    exit_code = 1


class UsageError(MedldmError):
    """An option or a combination of options that cannot be meant."""

    exit_code = 2


class OutputError(UsageError):
    """The place for the result cannot be used: it is the input, exists already, or cannot be written."""


class InputError(MedldmError):
    """A file that cannot be read, or that holds nothing that can be restored."""

    exit_code = 3


class GeometryError(InputError):
    """Voxels whose place in space is unknown, contradictory, or unfit for what was asked."""


class NothingThere(InputError):
    """A scan that was read and holds nothing: all zero, all NaN, one value."""


class NotRestorable(InputError):
    """A readable image that medldm leaves alone on purpose: a mask, a parameter map, 4D, RGB.

    Inside a tree such a case is ``skipped``; named alone it is refused.
    """


class ModelError(MedldmError):
    """A model that is unknown, damaged, or not made for this scan."""

    exit_code = 4


class UnfitModel(ModelError):
    """A model that is whole, but not made for this scan: of another modality, for volumes only, without this verb."""


class ResourceError(MedldmError):
    """The machine ran out of something: memory, disk."""

    exit_code = 8


class Cancelled(MedldmError):
    """The user stopped the run; nothing was written."""

    exit_code = 130


def ending(problem: Exception) -> str:
    """Status of a case that ended with this problem.

    Parameters
    ----------
    problem : what was raised

    Returns
    -------
    ``"skipped"`` for what medldm leaves alone on purpose, ``"refused"`` for what was understood and is unfit,
    ``"failed"`` for what could not be read, written or computed
    """
    if isinstance(problem, NotRestorable):
        return "skipped"
    unfit = isinstance(problem, InputError | UsageError | UnfitModel) and type(problem) is not InputError
    return "refused" if unfit else "failed"


# oneDNN names no reason when it cannot have memory.
NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "alloc",
    "could not create a primitive",
    "could not execute a primitive",
)


def lacks_memory(problem: BaseException) -> bool:
    """Whether memory ran out, as Python, PyTorch, CUDA and oneDNN say it."""
    text = str(problem).lower()
    return isinstance(problem, MemoryError) or any(sign in text for sign in NO_MEMORY)


def traced(problem: BaseException, *, quoting: bool = False) -> str:
    """Where a problem and its causes came up, frame by frame.

    The text of a foreign exception may quote what it stumbled over, such as a patient's name in a damaged header; our
    own sentences do not. So files never get it, and a screen only with ``-v``.

    Parameters
    ----------
    problem : what was raised
    quoting : with the text of foreign exceptions too
    """
    exceptions: list[BaseException] = []
    cause: BaseException | None = problem
    while cause is not None and cause not in exceptions:
        exceptions.insert(0, cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    lines = []
    for exception in exceptions:
        lines.append("Traceback (most recent call last):")
        for frame in traceback.extract_tb(exception.__traceback__):
            lines.append(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}')
        said = str(exception) if quoting or isinstance(exception, MedldmError) else ""
        lines.append(f"{type(exception).__name__}: {said}" if said else type(exception).__name__)
    return "\n".join(lines)


def reason_of(problem: BaseException) -> str:
    """Why something could not be read, in our words: those of a library mean little to a user, and may quote a file.

    Parameters
    ----------
    problem : what was raised
    """
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, JSONDecodeError):
        return f"line {problem.lineno}, column {problem.colno} is not JSON"
    if isinstance(problem, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if isinstance(problem, EOFError):
        return "it ends too early"
    return "its content is damaged"


def place_of(problem: BaseException) -> str:
    """Type of a problem and the last line of ours that it came through, without what it says (see `traced`).

    Parameters
    ----------
    problem : what was raised

    Returns
    -------
    ``ValueError in io/dicom/pixels/image.py, line 250``
    """
    frames = traceback.extract_tb(problem.__traceback__)
    home = Path(__file__).parent
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(home)] or frames
    if not ours:
        return type(problem).__name__
    path, line = Path(ours[-1].filename), ours[-1].lineno
    where = path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name
    return f"{type(problem).__name__} in {where}, line {line}"


def shown(text: str) -> str:
    """Words as they may stand on a screen or in a log: one line, nothing that steers a terminal, valid UTF-8.

    File names may hold line ends, escape sequences and bytes that are no text; each is spelled out with a backslash.

    Parameters
    ----------
    words : a path, or a sentence with one in it
    """
    if text.isprintable():
        return text
    # Surrogates stand for bytes that are no UTF-8: os.fsdecode makes them.
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
