"""Zip archives: unpacked where nothing can escape, gone when nobody needs them."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import weakref
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from medldm.errors import InputError, ResourceError, reason_of
from medldm.io.atomic import FULL
from medldm.io.formats import format_by_name

PREFIX, LOCK = "medldm-zip-", ".lock"
START = b"PK\x03\x04"

LARGEST = 64 * 2**30  # bytes after unpacking
MOST = 1_000_000  # members
DAMAGE = (
    zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError, zlib.error, EOFError,
    IndexError,  # a member without a name
)  # fmt: skip
LINK = 0xA  # file type of a symbolic link, in the high bits of a Unix mode


class Members:
    """What was unpacked from an archive.

    Parameters
    ----------
    folder : temporary
    archive : that it came from
    """

    def __init__(self, folder: Path, archive: Path) -> None:
        self.folder, self.archive = folder, archive

    def named(self, text: str) -> str:
        """A sentence with members called ``scans.zip/sub/scan.nii.gz``, not by where they were unpacked to."""
        return text.replace(f"{self.folder}{os.sep}", f"{self.archive}{os.sep}").replace(
            str(self.folder), str(self.archive)
        )


class Unpacked(Members):
    """A temporary folder that lives as long as somebody holds this object.

    Parameters
    ----------
    folder : removed with everything in it when the last reference goes, or when Python ends
    archive : that it came from
    lock : of this folder, held until then
    """

    def __init__(self, folder: Path, archive: Path, lock: FileLock | None = None) -> None:
        super().__init__(folder, archive)
        self._end = weakref.finalize(self, _removed, folder, lock)

    def __reduce__(self) -> tuple[type[Members], tuple[Path, Path]]:
        # A copy in another process must not remove what this one still needs.
        return Members, (self.folder, self.archive)


def _removed(folder: Path, lock: FileLock | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def is_zip(path: Path) -> bool:
    """Whether a file is called .zip, or begins as archives do and has no suffix, a number, or that of an image."""
    if path.suffix.lower() == ".zip":
        return path.is_file()
    plain = not path.suffix or path.suffix[1:].isdigit() or format_by_name(path) is not None
    if not plain or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(START)) == START
    except OSError:
        return False


def unpack(archive: Path) -> Unpacked:
    """A zip archive in a temporary folder; nothing lands outside it.

    Raises
    ------
    InputError
        Damaged, encrypted, too large, with names that lead out of the folder, or without a place to unpack it to.
    """
    try:
        place = tempfile.gettempdir()
    except OSError as problem:  # a read-only container
        raise InputError(
            f"{archive} cannot be unpacked: no folder for temporary files can be written to. Name one in TMPDIR, or "
            "unpack the archive yourself and name the folder."
        ) from problem
    _sweep()
    folder = Path(place, f"{PREFIX}{uuid.uuid4().hex}")
    lock = FileLock(f"{folder}{LOCK}", thread_local=False)
    taken: set[str] = set()
    try:
        lock.acquire()  # before there is a folder that somebody could sweep
        folder.mkdir(mode=0o700)
        with zipfile.ZipFile(archive) as packed:
            _check_size(packed, archive, shutil.disk_usage(folder).free)
            for info in packed.infolist():
                if not info.is_dir():
                    _check_name(info, archive)
                    info.filename = _own_name(info.filename, taken)
                    packed.extract(info, folder)
    except BaseException as problem:
        # Whatever stops it, Ctrl-C too: a patient's images stay in no forgotten folder.
        _removed(folder, lock)
        if isinstance(problem, OSError) and problem.errno in FULL:
            raise ResourceError(
                f"{archive} cannot be unpacked: the folder for temporary files is full. Set TMPDIR to a larger disk."
            ) from problem
        if isinstance(problem, DAMAGE):
            raise InputError(f"{archive} cannot be unpacked: {_why(problem)}") from problem
        raise
    return Unpacked(folder, archive, lock)


def _why(problem: BaseException) -> str:
    """Cause and remedy of an archive that cannot be unpacked."""
    if isinstance(problem, NotImplementedError):
        return "it is packed in a way that is not known here. Unpack it yourself and name the folder."
    if isinstance(problem, RuntimeError):  # so zipfile says of a missing password
        return "it is encrypted. Unpack it yourself and name the folder."
    if isinstance(problem, OSError):
        return f"{reason_of(problem)}. Unpack it yourself and name the folder."
    return "it is truncated or damaged. Copy it again from its source."


def _sweep() -> None:
    """Remove what a killed run has unpacked; a living one holds its lock, in whatever container it lives."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{LOCK}"):
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except (OSError, Timeout):  # alive, or somebody else's
            continue
        _removed(path.with_name(path.name.removesuffix(LOCK)), lock)


def _own_name(name: str, taken: set[str]) -> str:
    """A name that no other member has: an archive may hold one twice, and the second would replace the first."""
    path, count = PurePosixPath(name.replace("\\", "/")), 1
    own = path
    while str(own).lower() in taken:  # as file systems see it that do not tell letters apart
        count += 1
        own = path.with_name(f"{path.stem}-{count}{path.suffix}")
    taken.add(str(own).lower())
    return str(own)


def _check_size(packed: zipfile.ZipFile, archive: Path, free: int) -> None:
    members = packed.infolist()
    size = sum(info.file_size for info in members)
    if size > LARGEST or len(members) > MOST:
        raise InputError(f"{archive} unpacks to {size / 2**30:.0f} GiB. Unpack it yourself and name the folder.")
    if size > 0.9 * free:
        raise InputError(
            f"{archive} unpacks to {size / 2**30:.1f} GiB, the folder for temporary files has {free / 2**30:.1f} GiB. "
            "Unpack it yourself, or set TMPDIR to a larger disk."
        )


def _check_name(info: zipfile.ZipInfo, archive: Path) -> None:
    name = PurePosixPath(info.filename.replace("\\", "/"))
    if ".." in name.parts or name.is_absolute() or (info.external_attr >> 28) == LINK:
        raise InputError(f"{archive} holds {info.filename!r}, which leads out of the archive. It was not unpacked.")
