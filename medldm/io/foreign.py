"""Files that may hold scans and that nobody reads, damaged or foreign: who looks after the tree has to hear of each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from medldm.io.dicom import damage
from medldm.io.formats import FORMATS, titles

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# Images of other programs, and archives that are not opened.
FOREIGN = (
    ".mnc", ".rec", ".dcm.gz", ".ima.gz", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar",
)  # fmt: skip
NOT_FOREIGN = (".raw", ".raw.gz", ".zraw")  # of cameras and much else
MOST_NAMED = 5  # in one sentence; the rest is counted


def what_is_wrong(path: Path, *, beside_dicom: bool) -> str:
    """Why a file gave no image though it should have, in words; empty for what was never meant to be one.

    Parameters
    ----------
    path : file that is neither an image nor part of a DICOM series
    beside_dicom : whether images of a series lie in its folder
    """
    if not path.exists():
        return "a link that leads nowhere"
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as problem:
        return problem.strerror or type(problem).__name__
    called_dicom = path.suffix.lower() in DICOM_SUFFIXES
    if not head and (called_dicom or beside_dicom):
        return "empty"
    if head[128:] == b"DICM":
        return "" if path.name.upper() == "DICOMDIR" else damage(path)
    return "no DICOM inside" if called_dicom else ""


def foreign(paths: Iterable[Path]) -> Iterable[tuple[Path, str]]:
    """Files in formats that are not read, as one path and one sentence for each folder.

    Parameters
    ----------
    paths : files that are neither images nor DICOM nor zip
    """
    halves = {end for form in FORMATS.values() for end in form.part_suffixes} - set(NOT_FOREIGN)
    for folder, files in _parents(path for path in paths if path.name.lower().endswith((*FOREIGN, *halves))):
        named = _named([path.name for path in files])
        why = f"{named}: medldm reads {titles()} and zip. Convert images to NIfTI, unpack archives."
        yield files[0] if len(files) == 1 else folder / "other-formats", why


def by_folder(problems: dict[Path, str]) -> Iterable[tuple[Path, str]]:
    """One path and one sentence for each folder, so that a failing disk does not fill the summary.

    Parameters
    ----------
    problems : what is wrong, by path

    Returns
    -------
    the path where only one is meant, else their folder; sentence
    """
    for folder, paths in _parents(sorted(problems)):
        if len(paths) == 1:
            yield paths[0], f"{paths[0]} cannot be read ({problems[paths[0]]}). Copy or export it again."
            continue
        named = _named([f"{path.name} ({problems[path]})" for path in paths])
        yield (
            folder / "unreadable",
            f"{len(paths)} files of {folder} cannot be read: {named}. Copy or export them again.",
        )


def _parents(paths: Iterable[Path]) -> Iterable[tuple[Path, list[Path]]]:
    """Paths by their folders."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    return folders.items()


def _named(names: list[str]) -> str:
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def regular(path: Path) -> bool:
    """Whether opening a path comes back: pipes, sockets and devices are never opened."""
    return path.is_file() or (os.path.islink(path) and not path.exists())
