"""Zip archives: unpacked where nothing can escape, gone when nobody needs them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from medldm.errors import InputError

LARGEST = 64 * 2**30  # bytes after unpacking
MOST = 1_000_000  # members
DAMAGE = (
    zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError, zlib.error, EOFError,
    IndexError,  # a member without a name
)  # fmt: skip
LINK = 0xA  # file type of a symbolic link, in the high bits of a Unix mode


class Unpacked:
    """A temporary folder that lives as long as somebody holds this object.

    Parameters
    ----------
    folder : removed with everything in it when the last reference goes, or when Python ends
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._end = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def __reduce__(self) -> tuple[type[Path], tuple[str]]:
        # A copy in another process must not remove what this one still needs.
        return Path, (str(self.folder),)


def is_zip(path: Path) -> bool:
    """Whether a file is called .zip and is one."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpack(archive: Path) -> Path:
    """A zip archive in a temporary folder that the caller removes; nothing lands outside it.

    Raises
    ------
    InputError
        Damaged, encrypted, too large, or with names that lead out of the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="medldm-zip-"))
    try:
        with zipfile.ZipFile(archive) as packed:
            _check_size(packed, archive, shutil.disk_usage(folder).free)
            for info in packed.infolist():
                if not info.is_dir():
                    _check_name(info, archive)
                    packed.extract(info, folder)
    except BaseException as problem:
        # Whatever stops it, Ctrl-C too: a patient's images stay in no forgotten folder.
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(problem, DAMAGE):
            raise InputError(
                f"{archive} cannot be unpacked ({problem}). Unpack it yourself and name the folder."
            ) from problem
        raise
    return folder


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
