"""Which scans a benchmark runs on: one split of a manifest, or a plain folder."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np

from medldm.errors import InputError
from medldm.io.discovery import image_files
from medldm.io.formats import find_image, titles
from medldm.io.images import read_image
from medldm.modality import MR

log = logging.getLogger(__name__)

THIN = 1.6  # spacing ratio up to which a scan counts as isotropic


def scans(data: Path, split: str, modality: str = MR.name) -> list[dict[str, str]]:
    """Scans of one split, or every image file of a folder that no manifest speaks of.

    A manifest is `manifest.csv` in the folder or beside it (columns split, file, and where known subject, modality,
    source). Only files inside `data` count, so that naming the folder of one split never scores another.

    Parameters
    ----------
    data : folder
    split : of the manifest
    modality : name in `medldm.modality.MODALITIES`; of MR there must be a scan, of others there may be none

    Returns
    -------
    rows with ``path``, ``file``, ``subject``, ``modality`` and ``source``

    Raises
    ------
    InputError
        No scan, or none of that split.
    """
    paths = {path.name: path for path in image_files(data)}
    if not paths:
        raise InputError(f"{data} holds no {titles(' or ', dicom=False)} file for a benchmark.")
    for table in (data / "manifest.csv", data.parent / "manifest.csv"):
        rows = _rows(table, paths)
        if not rows:
            continue
        wanted = modality.upper()
        listed = [row for row in rows if row["split"] == split and row["modality"].upper().startswith(wanted)]
        if not listed and modality == MR.name:
            there = ", ".join(sorted({row["split"] for row in rows}))
            raise InputError(f"{table} lists no MR scan of split {split!r} in {data}; there is {there}. Use --split.")
        return listed
    return [_plain(path) for path in paths.values()] if modality == MR.name else []


def is_thin(spacing: Sequence[float]) -> bool:
    """Whether a scan with this spacing, mm, can be a reference along all its axes."""
    return max(spacing) <= THIN * min(spacing)


def few(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """Scans for a quick look: spread over the list, of different subjects, thin ones (every row takes them)."""
    thin = [row for row in rows if is_thin(spacing_of(Path(row["path"])))] or rows
    one_each = list({row["subject"]: row for row in reversed(thin)}.values())[::-1]
    places = np.linspace(0, len(one_each) - 1, min(count, len(one_each))).round().astype(int)
    return [one_each[place] for place in places]


def in_turn(listed: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Sources by turns, and within each its subjects by turns: a run cut short has seen as many of both as it could."""
    return _by_turns([_by_turns(_grouped(rows, "subject")) for rows in _grouped(listed, "source")])


def _grouped(rows: Sequence[dict[str, str]], field: str) -> list[list[dict[str, str]]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row.get(field, "").split("@")[0], []).append(row)
    return list(groups.values())


def _by_turns(groups: list[list[dict[str, str]]]) -> list[dict[str, str]]:
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


def spacing_of(path: Path) -> tuple[float, ...]:
    """Voxel size of a file, mm, from its header alone where that says it."""
    image = find_image(path)
    return (image and image.format.probe(path).spacing) or read_image(path).spacing


def _rows(table: Path, paths: dict[str, Path]) -> list[dict[str, str]]:
    """Lines of a manifest whose files are there, each file once."""
    if not table.is_file():
        return []
    rows = {}
    with table.open(newline="", encoding="utf-8-sig") as lines:
        for line in csv.DictReader(lines):
            name = Path(line.get("file") or "").name
            if name in paths and line.get("split"):
                rows[name] = {**_plain(paths[name]), **{key: word for key, word in line.items() if word}, "file": name}
    return list(rows.values())


def _plain(path: Path) -> dict[str, str]:
    subject = path.name.split("_")[0].split(".")[0]
    return {"path": str(path), "file": path.name, "subject": subject, "modality": "MR", "source": ""}
