"""Lists of scans: paths in a text file, or in the column of a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from medldm.errors import InputError, reason_of
from medldm.io.formats import find_image

LIST_SUFFIXES = (".txt", ".csv")
COLUMNS = ("path", "file", "filename", "image", "scan", "nifti", "source")


def read_list(path: Path) -> list[Path]:
    """Paths of a .txt list (one a line, # for remarks) or of a .csv (the column `path`, `file`, ..., else the first).

    Relative paths are looked for beside the list, then in the current folder.

    Raises
    ------
    InputError
        Not text, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path} cannot be read as a list of paths: {reason_of(problem)}.") from problem
    try:
        entries = _column(text) if path.suffix.lower() == ".csv" else [line.strip() for line in text.splitlines()]
    except csv.Error as problem:
        raise InputError(
            f"{path} cannot be read as a table of paths: a cell is too long, or a quote is never closed. Save it as "
            "plain CSV."
        ) from problem
    entries = [word for word in entries if word and not word.startswith("#")]
    if not entries:
        raise InputError(f"{path} lists no scan. Write one path a line.")
    # A list may hold anything, text that no file system takes for a name too: os.path answers no, where Path raises.
    beside = [path.parent / os.path.expanduser(word) for word in entries]
    places = [
        at if os.path.exists(at) or not os.path.exists(word) else Path(word)
        for at, word in zip(beside, entries, strict=True)
    ]
    if not any(map(os.path.exists, places)):
        raise InputError(
            f"{path} lists {len(entries)} paths and none of them exists, the first being {entries[0]}. "
            "Relative paths are looked for beside the list, then in the current folder."
        )
    return list(dict.fromkeys(places))


def is_list(path: Path) -> bool:
    """Whether a file is a list of paths: it is called so, and holds no image."""
    return path.suffix.lower() in LIST_SUFFIXES and path.is_file() and find_image(path) is None


def named_paths(sources: Sequence[Path]) -> list[Path]:
    """The paths that somebody named, those in lists among them, each once.

    Raises
    ------
    InputError
        A list that cannot be read or is empty.
    """
    paths = (path for source in sources for path in (read_list(source) if is_list(source) else [source]))
    return list(dict.fromkeys(map(plain, paths)))


def plain(path: Path) -> Path:
    """Absolute and without ``..``, which would lead results out of OUT; links are followed only where needed for it."""
    path = path.absolute()
    if ".." not in path.parts:
        return path
    return path.resolve() if path.name == ".." else path.parent.resolve() / path.name


def _column(text: str) -> list[str]:
    lines = text.splitlines()
    first = lines[0] if lines else ""
    rows = list(csv.reader(lines, delimiter=max(",;\t", key=first.count)))
    names = [word.strip().lower() for word in rows[0]] if rows else []
    named = next((names.index(word) for word in COLUMNS if word in names), None)
    return [row[named or 0].strip() for row in rows[named is not None :] if len(row) > (named or 0)]
