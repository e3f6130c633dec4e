"""Packed scans in one compressed file, to train on a machine where the scans are not."""

from __future__ import annotations

import io
import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import InputError
from medldm.training.data import INDEX, Packed, index_of, packed_scan

VERSION = 1  # of the file's layout
# What zipfile, LZMA, JSON and NumPy raise on bytes that are not what they were.
DAMAGED = (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, KeyError, ValueError, TypeError,
           AttributeError, NotImplementedError, RuntimeError, OverflowError, MemoryError, struct.error)  # fmt: skip
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # equal scans give equal bytes


def write_archive(
    cache: Path, file: Path, *, splits: Sequence[str] = ("train", "val"), part: int = 1, parts: int = 1
) -> int:
    """The scans of a cache that count for restoration, as one file.

    Voxels are stored as differences along the last axis and compressed with LZMA, without loss. Scans of weight 0 and
    the noise of CT scans, which is made again, are left out.

    Parameters
    ----------
    cache : folder that `medldm.training.data.pack` filled
    file : where to write
    splits : which splits
    part, parts : write the `part`-th of `parts` files of about equal size, counted from 1

    Returns
    -------
    size of the file, bytes
    """
    entries = [entry for entry in index_of(cache) if entry["split"] in splits and entry["weight"] > 0]
    entries.sort(key=lambda entry: -(cache / entry["name"]).stat().st_size)
    chosen = entries[part - 1 :: parts]
    with ThreadPoolExecutor() as pool, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for entry, raw in zip(chosen, pool.map(lambda entry: _encode(cache / entry["name"]), chosen), strict=True):
            archive.writestr(zipfile.ZipInfo(entry["name"], ZIP_DATE), raw, zipfile.ZIP_LZMA)
        index = {"version": VERSION, "scans": chosen}
        archive.writestr(zipfile.ZipInfo(INDEX, ZIP_DATE), json.dumps(index), zipfile.ZIP_LZMA)
    return file.stat().st_size


def read_archive(*files: Path) -> dict[str, list[Packed]]:
    """The scans of one or more archives.

    Parameters
    ----------
    files : from `write_archive`

    Returns
    -------
    split name to scans, in the order of their names

    Raises
    ------
    InputError
        Not such a file, a damaged one, or one of another version.
    """
    scans: dict[str, dict[str, Packed]] = {}
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                index = json.loads(archive.read(INDEX))
            if index["version"] != VERSION:
                raise InputError(f"{file} has layout {index['version']}, this medldm reads {VERSION}. Pack it again.")
            with ThreadPoolExecutor() as pool:
                decoded = pool.map(partial(_decode, file), [entry["name"] for entry in index["scans"]])
                for entry, voxels in zip(index["scans"], decoded, strict=True):
                    scans.setdefault(entry["split"], {})[entry["name"]] = packed_scan(entry, voxels)
        except DAMAGED as problem:
            if _begins_as_ours(file):
                message = f"{file} is damaged or cut short. Copy it again, or pack the scans again."
            else:
                message = f"{file} is no archive of packed scans. Make one with medldm.training.archive.write_archive."
            raise InputError(message) from problem
    return {split: [named[name] for name in sorted(named)] for split, named in scans.items()}


def _begins_as_ours(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError:
        return False
    return head.startswith(b"PK") and (b".npy" in head or INDEX.encode() in head)


def _encode(path: Path) -> bytes:
    voxels = np.load(path)
    differences = np.diff(voxels, axis=-1, prepend=voxels.dtype.type(0))  # wraps around, and back
    written = io.BytesIO()
    np.save(written, differences)
    return written.getvalue()


def _decode(file: Path, name: str) -> np.ndarray[Any, Any]:
    with zipfile.ZipFile(file) as archive:
        differences: np.ndarray[Any, Any] = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
    return np.cumsum(differences, axis=-1, dtype=differences.dtype)
