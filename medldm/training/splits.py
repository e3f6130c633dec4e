"""Which scan of a folder is for training and which for validation, and what modality they have."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import InputError, MedldmError
from medldm.modality import DEFAULT, MODALITIES, Modality

log = logging.getLogger(__name__)


def read_split(data: Path) -> list[dict[str, str]]:
    """Which file belongs to which split, from `manifest.csv` or `split.csv` beside or above the scans.

    The table needs the columns ``split`` (train, val) and ``file``; ``subject``, ``modality``, ``weight``, ``licence``
    and ``source`` are used where they stand. Without a table one subject in ten (at least one) is set aside for
    validation, the subject being the file name up to its first underscore, or the folder where files in several
    folders have one name.

    Parameters
    ----------
    data : folder with image files, in any depth

    Raises
    ------
    InputError
        No scans; a table without the columns, with none of the scans, with names that several scans have, or with a
        subject in train and val.
    """
    # Only here: packed scans may be trained on where SciPy and pydicom are not installed.
    from medldm.io.discovery import image_files
    from medldm.io.formats import titles

    tables = [folder / name for folder in (data, data.parent) for name in ("split.csv", "manifest.csv")]
    table = next((path for path in tables if path.is_file()), None)
    scans = image_files(data)
    if not scans:
        raise InputError(f"{data} holds no {titles(' or ', dicom=False)} file to train on.")
    if table is None:
        return _own_split(scans, data)
    seen: dict[str, dict[str, str]] = {}  # a file listed twice is one file
    absent = []
    for row in _lines(table):
        if row["split"] not in ("train", "val"):
            continue
        path = _named(row["file"], scans, table)
        if path is None:
            absent.append(row["file"])
        else:
            seen[str(path)] = {**row, "path": str(path)}
    if absent and table.parent == data:
        log.warning("%s names %d files that are not in %s, %s among them", table, len(absent), data, absent[0])
    rows = list(seen.values())
    if not any(row["split"] == "train" for row in rows):
        raise InputError(f"{table} assigns none of the scans in {data} to the split 'train'.")
    _check_subjects(rows, table)
    return rows


def _lines(table: Path) -> list[dict[str, str]]:
    """Lines of a split table, its words without spaces around them.

    Raises
    ------
    InputError
        A column that is missing, a weight that is no number.
    """
    try:
        # Excel begins its files with a byte order mark.
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [{key: (text or "").strip() for key, text in line.items() if key} for line in csv.DictReader(lines)]
    except UnicodeDecodeError as problem:
        raise InputError(f"{table} is no text in UTF-8. Save it as CSV, UTF-8.") from problem
    if rows and not {"split", "file"} <= rows[0].keys():
        raise InputError(f"{table} needs the columns split and file; it has {', '.join(rows[0])}.")
    for row in rows:
        try:
            heavy = float(row.get("weight") or 1)
        except ValueError:
            heavy = -1.0
        if not 0 <= heavy < float("inf"):
            raise InputError(f"{table}: the weight of {row['file']} is a number from 0, not {row['weight']!r}.")
    return rows


def _named(name: str, scans: list[Path], table: Path) -> Path | None:
    """The scan that a table means: by its path below the table or the data, else by its name alone.

    Raises
    ------
    InputError
        A name that several scans have.
    """
    parts = Path(name).parts
    same = [path for path in scans if path.name == Path(name).name]
    exact = [path for path in same if path.parts[-len(parts) :] == parts]
    if len(exact) > 1 or (not exact and len(same) > 1):
        raise InputError(
            f"{table}: several scans are called {name}. Write the folder too, as in {same[0].parent.name}/{name}."
        )
    return next(iter(exact or same), None)


def _check_subjects(rows: list[dict[str, str]], table: Path) -> None:
    """A subject seen in training must not judge it.

    Raises
    ------
    InputError
    """
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row.get("subject"):
            splits.setdefault(row["subject"], set()).add(row["split"])
    if both := sorted(subject for subject, parts in splits.items() if len(parts) > 1):
        raise InputError(
            f"{table} puts scans of {', '.join(both[:3])} into train and val. Split by subject, never by file: what "
            "validation says of people seen in training is worth nothing."
        )


def _own_split(scans: list[Path], data: Path) -> list[dict[str, str]]:
    """One subject in ten for validation, by a hash of its name, so that a folder may grow; never none."""
    common = len({path.name for path in scans}) < len(scans)  # sub-01/T1w.nii, sub-02/T1w.nii: the folder tells
    subjects = {
        path: path.parent.name if common and path.parent != data else path.name.split("_")[0].split(".")[0]
        for path in scans
    }
    order = sorted(set(subjects.values()), key=_hash)
    chosen = {subject for subject in order if _hash(subject) % 10 == 0} or set(order[:1])
    if len(chosen) == len(order):
        chosen = set(order[:1]) if len(order) > 1 else set()
    return [
        {"path": str(path), "file": path.name, "subject": subject, "split": "val" if subject in chosen else "train"}
        for path, subject in subjects.items()
    ]


def _hash(subject: str) -> int:
    return int(hashlib.sha256(subject.encode()).hexdigest(), 16)


def stated_modality(text: str) -> Modality | None:
    """The modality that a table's text begins with, as "MR T1w" does."""
    return next((kind for kind in MODALITIES.values() if text.upper().startswith(kind.title)), None)


def by_air(lowest: float) -> Modality:
    """The modality of a scan by its lowest value: air lies far below zero in CT."""
    below = (kind for kind in MODALITIES.values() if kind.body_above is not None and lowest < kind.body_above)
    return next(below, DEFAULT)


def rows_of(data: Path, modality: str) -> list[dict[str, str]]:
    """`read_split` without the scans that the table says are of another modality.

    Parameters
    ----------
    data : folder with NIfTI files
    modality : title of the one that is kept
    """
    return [row for row in read_split(data) if (row.get("modality") or modality).upper().startswith(modality)]


def modality_of_scans(data: Path) -> str:
    """Title of the modality of all scans, by the split table or, where it does not say, by air below zero.

    Parameters
    ----------
    data : folder with image files

    Raises
    ------
    InputError
        No scans, or scans of several modalities.
    """
    rows = read_split(data)
    stated = [stated_modality(row["modality"]) for row in rows if row.get("modality")]
    kinds = {kind for kind in stated if kind} or {by_air(_lowest(rows))}
    if len(kinds) > 1:
        raise InputError(
            f"{data} holds {' and '.join(sorted(kind.title for kind in kinds))} scans, and a network learns one "
            "modality. Leave the others out of the table, or put them into another folder."
        )
    return kinds.pop().title


def modality_of_entries(entries: Sequence[Mapping[str, Any]], data: Path) -> str:
    """Title of the modality of packed scans.

    Parameters
    ----------
    entries : of the index of a cache
    data : for the sentence

    Raises
    ------
    InputError
        Scans of several modalities.
    """
    kinds = {(stated_modality(entry["modality"]) or DEFAULT).title for entry in entries} or {DEFAULT.title}
    if len(kinds) > 1:
        raise InputError(
            f"{data} holds {' and '.join(sorted(kinds))} scans, and a network learns one modality. Pack them into two "
            "files."
        )
    return kinds.pop()


def _lowest(rows: list[dict[str, str]]) -> float:
    """Lowest value of the first scan that can be read; `pack` will say what is wrong with the others."""
    from medldm.io.images import read_image

    for row in rows:
        try:
            return float(np.nanmin(read_image(Path(row["path"]), fix=True).voxels))
        except MedldmError:
            continue
    return 0.0


def check_split(rows: Sequence[Mapping[str, Any]], data: Path, modality: str) -> None:
    """There must be something to learn from, and others to validate on.

    Parameters
    ----------
    rows : scans with split, subject and weight
    data, modality : for the sentence

    Raises
    ------
    InputError
        No scans to train on or to validate, one subject only, scans that are never drawn.
    """
    train, val = ([row for row in rows if row["split"] == split] for split in ("train", "val"))
    subjects = {row.get("subject") for row in rows}
    if train and not val and len(subjects) == 1 and (only := subjects.pop()):
        raise InputError(
            f"{data} holds scans of one subject only, {only}. Validation needs another one: add a scan of a second "
            "subject."
        )
    if not train or not val:
        raise InputError(
            f"{modality} scans in {data}: {len(train)} to train on, {len(val)} to validate. Both are needed, of "
            "different subjects."
        )
    if not any(float(str(row.get("weight", "")) or 1) for row in train):
        raise InputError(
            f"Every scan to train on in {data} has the weight 0, so none would be drawn. Give some of them a weight "
            "above 0 in the table."
        )
