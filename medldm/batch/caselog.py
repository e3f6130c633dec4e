"""What was logged about one case, in a file of its own: ``OUT/logs/<place>.log``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from medldm.batch.summary import Row
from medldm.errors import MedldmError
from medldm.io.atomic import whole_file

log = logging.getLogger(__name__)

NOTED = {"noted": True}  # extra of a log record that was noted already

# Three cases are under way at once, each in a thread: a context variable tells which case a line is about.
_lines: ContextVar[list[str] | None] = ContextVar("lines of the case", default=None)
_place: ContextVar[str] = ContextVar("place of the case", default="")


class _Keeper(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Foreign tracebacks may quote what is in a header; those of cases are noted where they are caught.
        if record.exc_info is None and not hasattr(record, "noted"):
            note(f"{record.levelname.lower()}: {record.getMessage()}")
            # For the handler that shows it: forty files may all be called scan.nii.gz.
            record.__dict__["case"] = _place.get()


@contextmanager
def keeping() -> Iterator[None]:
    """Keep what medldm logs while a batch runs."""
    keeper, logger = _Keeper(), logging.getLogger("medldm")
    logger.addHandler(keeper)
    try:
        yield
    finally:
        logger.removeHandler(keeper)


@contextmanager
def concerning(lines: list[str], place: str) -> Iterator[None]:
    """Whatever is logged or noted inside concerns one case.

    Parameters
    ----------
    lines : that notes are added to
    place : of the case, which its log records get as ``case``
    """
    tokens = _lines.set(lines), _place.set(place)
    try:
        yield
    finally:
        _lines.reset(tokens[0])
        _place.reset(tokens[1])


def note(text: str) -> None:
    """A line for the file of the case that this thread works on."""
    lines = _lines.get()
    if lines is not None:
        lines.append(text)


def write_log(out: Path, row: Row, lines: list[str]) -> None:
    """Write the file; a case does not fail for want of it.

    Parameters
    ----------
    out : folder of the batch
    row : what became of the case
    lines : of the file
    """
    try:
        with whole_file(out / "logs" / f"{row.case}.log", durable=False) as temporary:
            ending = f"{row.status} after {row.seconds} s" + (f": {row.message}" if row.message else "")
            # Names of files may hold bytes that are no text.
            text = "\n".join([*lines, ending]) + "\n"
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    except MedldmError as problem:
        log.debug("no log of %s: %s", row.case, problem)
