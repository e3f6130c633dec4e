"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from medldm.errors import OutputError, ResourceError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; renamed to `path` when the block ends well, removed when it does not.

    Parameters
    ----------
    path : where the file is wanted

    Yields
    ------
    temporary path in the same folder, with the same suffixes

    Raises
    ------
    OutputError
        The folder cannot be written to.
    ResourceError
        The disk is full.
    """
    temporary = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        raise sentence(problem, path) from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sentence(problem: OSError, path: Path) -> OutputError | ResourceError:
    """An OSError of writing, in words."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"The disk is full: {path} was not written. Free some space, then run the same command again.")
    return OutputError(f"{path} cannot be written: {problem.strerror or problem}. Choose another place for the result.")
