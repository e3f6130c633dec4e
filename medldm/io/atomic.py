"""Files that are either whole or not there, and sentences for what a disk can refuse."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from medldm.errors import OutputError, ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STARTED = uuid.uuid4().hex[:8]  # of this process: in containers that share a folder, process numbers coincide
# Hidden names of what is being written, also inside each other, and as older versions called them.
STAGED = re.compile(r"^\.staged-\d+-[0-9a-f]{8}-")
LEFTOVER = re.compile(r"\.{1,2}staged-\d+-|\.\d+(-[0-9a-f]{8})?\.partial\.")


def staged_name(path: Path) -> Path:
    """A hidden place beside a file, with the same suffix, where this process writes it before it is shown.

    Parameters
    ----------
    path : final name
    """
    return path.with_name(f".staged-{os.getpid()}-{STARTED}-{path.name}")


def partial_name(path: Path) -> Path:
    """The hidden name of a file that is being written; each call gives another one.

    Parameters
    ----------
    path : final name
    """
    return path.with_name(f".{os.getpid()}-{uuid.uuid4().hex[:8]}.partial.{path.name}")


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary name to write to; renamed to `path` when the block ends well, removed when it does not.

    Parameters
    ----------
    path : where the file is wanted; missing folders are made, an existing file is replaced at the last moment
    durable : whether the disk must hold it before it shows; waiting for that takes milliseconds

    Yields
    ------
    hidden temporary path in the same folder, with the same suffixes

    Raises
    ------
    OutputError
        The folder cannot be written to.
    ResourceError
        The disk is full.
    """
    temporary = partial_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        raise sentence(problem, path) from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_files(paths: Sequence[Path]) -> Iterator[Path]:
    """A temporary folder for the files of one result, which come to their places together when the block ends well.

    In the folder they have their final names, without the mark of `staged_name`, since headers name the data beside
    them. An older header goes first and the new one comes last: a result is there when its header is.

    Parameters
    ----------
    paths : of the files in one folder, the header last

    Yields
    ------
    temporary path of the header

    Raises
    ------
    OutputError, ResourceError
        See `whole_file`.
    """
    header = paths[-1]
    folder = partial_name(header)
    names = {STAGED.sub("", path.name): path for path in paths}
    try:
        folder.mkdir(parents=True)
        yield folder / STAGED.sub("", header.name)
        for name in names:
            with (folder / name).open("rb") as file:
                os.fsync(file.fileno())
        header.unlink(missing_ok=True)
        for name, path in names.items():
            (folder / name).replace(path)
    except OSError as problem:
        raise sentence(problem, header) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, which takes its name when the block ends well; an older one goes only then.

    Parameters
    ----------
    folder : where it is wanted

    Yields
    ------
    hidden temporary path beside it, which nobody else may look into

    Raises
    ------
    OutputError, ResourceError
        See `whole_file`.
    """
    temporary, old = partial_name(folder), partial_name(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)
        yield temporary
        temporary.chmod(0o755)
        if folder.exists():
            folder.replace(old)
        try:
            temporary.replace(folder)
        except OSError:
            if old.exists():
                old.replace(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as problem:
        raise sentence(problem, folder) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sentence(problem: OSError, path: Path) -> OutputError | ResourceError:
    """An OSError of writing, in words.

    Parameters
    ----------
    problem : what the operating system said
    path : what should have been written
    """
    if problem.errno in FULL:
        return ResourceError(
            f"The disk is full: {path} was not written. Free some space, then run the same command again."
        )
    if isinstance(problem, PermissionError) or problem.errno == errno.EROFS:
        reason = f"{path.parent} is not writable"
    elif isinstance(problem, FileExistsError | NotADirectoryError):
        reason = f"{path.parent} is no folder"
    elif isinstance(problem, IsADirectoryError):
        reason = "it is a folder"
    else:
        reason = problem.strerror or str(problem)
    return OutputError(f"{path} cannot be written: {reason}. Choose another place for the result.")
