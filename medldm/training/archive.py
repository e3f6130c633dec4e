"""Packed scans in one file, to train on a machine where the scans are not: `medldm train pack`."""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import logging
import lzma
import struct
import tempfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import InputError, UsageError
from medldm.modality import CT
from medldm.training.data import INDEX, add_noise, index_of, is_current, pack, packed_scan, write_index
from medldm.training.splits import check_split, modality_of_scans, rows_of

log = logging.getLogger(__name__)

VERSION = 2  # of the file's layout
MEGABYTES = 60.0
SMALLEST = 48  # voxels along an axis; scans are not cropped below
# What zipfile, bzip2, LZMA (of layout 1), JSON and NumPy raise on bytes that are not what they were.
DAMAGED = (OSError, EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, KeyError, ValueError, TypeError,
           AttributeError, NotImplementedError, RuntimeError, OverflowError, MemoryError, struct.error)  # fmt: skip
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # equal scans give equal bytes

Voxels = np.ndarray[Any, Any]


def pack_file(data: Path, file: Path, *, modality: str | None = None, megabytes: float = MEGABYTES) -> Path:
    """All scans of a folder that training needs, as one file.

    Parameters
    ----------
    data : folder of NIfTI files, see `medldm.training.splits.read_split`
    file : where to write
    modality : ``"MR"`` or ``"CT"``; that of the scans when not given
    megabytes : how large the file may be; the largest scans are cropped around their content until it is not larger

    Returns
    -------
    `file`

    Raises
    ------
    UsageError, InputError
    """
    if megabytes <= 0:
        raise UsageError(f"--megabytes {megabytes:g} leaves no room for scans.")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; name the file that the scans shall be packed into.")
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder of scans.")
    modality = (modality or modality_of_scans(data)).upper()
    check_split(rows_of(data, modality), data, modality)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        pack(data, cache, modality, noise=False)
        check_split(index_of(cache), data, modality)
        file.parent.mkdir(parents=True, exist_ok=True)
        size = write_archive(cache, file, megabytes=megabytes)
    log.info("wrote %s, %.1f MB", file, size / 1e6)
    return file


def write_archive(cache: Path, file: Path, *, megabytes: float = MEGABYTES) -> int:
    """The scans of a cache that count for restoration, as one file.

    Voxels are stored as differences along the last axis and compressed with bzip2, without loss: for those it is better
    than LZMA, and eight times as fast. Scans of weight 0 and the noise of CT scans, which is made again, are left out.

    Parameters
    ----------
    cache : folder that `medldm.training.data.pack` filled
    file : where to write
    megabytes : see `pack_file`

    Returns
    -------
    size of the file, bytes

    Raises
    ------
    UsageError
        They do not fit, however they are cropped.
    """
    entries = [dict(entry) for entry in index_of(cache) if entry["split"] in ("train", "val") and entry["weight"] > 0]
    with ThreadPoolExecutor() as pool:
        members = list(pool.map(lambda entry: _encode(np.load(cache / entry["name"])), entries))
        room = 1e6 * megabytes - len(_index(entries)) - 200 * (len(entries) + 2)  # what a zip file says of each member
        whole = {entry["name"]: len(member) for entry, member in zip(entries, members, strict=True)}
        largest = max(1.0, _limit(list(whole.values()), room))
        while (excess := sum(map(len, members)) - room) > 0:
            too_large = [k for k, member in enumerate(members) if len(member) > largest]
            cropped = list(pool.map(partial(_cropped, cache, entries, whole, largest), too_large))
            for k, member in zip(too_large, cropped, strict=True):
                members[k] = member
            left = sum(map(len, members)) - room
            if left >= excess:
                raise UsageError(
                    f"{len(entries)} scans do not fit into {megabytes:g} MB, however they are cropped. Say a larger "
                    "--megabytes, or leave scans out of the table."
                )
            # Middles are fuller than whole scans and need more room than their share of the voxels.
            together = sum(map(len, cropped))
            largest = max(1.0, 0.99 * largest * (together - max(0.0, left)) / together)
    if some := [entry for entry in entries if "whole" in entry]:
        log.warning(
            "%d of %d scans are cropped around their content, the largest ones, so that all fit into %g MB: %s",
            len(some), len(entries), megabytes,
            ", ".join(f"{e['file']} ({_times(e['whole'])} to {_times(e['shape'])})" for e in some[:3])
            + (" and others" if len(some) > 3 else ""),
        )  # fmt: skip
    with zipfile.ZipFile(file, "w") as archive:
        for entry, member in zip(entries, members, strict=True):
            archive.writestr(zipfile.ZipInfo(entry["name"], ZIP_DATE), member)
        archive.writestr(zipfile.ZipInfo(INDEX, ZIP_DATE), _index(entries))
    return file.stat().st_size


def _index(entries: list[dict[str, Any]]) -> bytes:
    return bz2.compress(json.dumps({"version": VERSION, "scans": entries}).encode())


def _limit(sizes: list[int], room: float) -> float:
    """The size that the largest are brought down to, so that all of them fit."""
    left, ordered = room, sorted(sizes)
    for number, size in enumerate(ordered):
        share = left / (len(ordered) - number)
        if size > share:
            return share
        left -= size
    return float(ordered[-1])


def _cropped(cache: Path, entries: list[dict[str, Any]], whole: dict[str, int], largest: float, number: int) -> bytes:
    """A scan cut to about a size, evenly along its axes, around the middle of what it shows; its entry says so."""
    entry = entries[number]
    voxels = np.load(cache / entry["name"])
    factor = (largest / whole[entry["name"]]) ** (1 / 3)
    # Small axes stay, as those across thick slices; the others have to give the more.
    small = [axis for axis in range(3) if voxels.shape[axis] * factor < SMALLEST]
    if small and len(small) < 3:
        factor = factor ** (3 / (3 - len(small)))
    seen = voxels * entry["scale"] + entry.get("shift", 0.0) > 0.1
    where = []
    for axis, size in enumerate(voxels.shape):
        wanted = size if axis in small else max(min(size, SMALLEST), int(size * factor))
        mass = np.cumsum(seen.sum(tuple(other for other in range(3) if other != axis)))
        middle = int(np.searchsorted(mass, mass[-1] / 2))
        start = min(max(0, middle - wanted // 2), size - wanted)
        where.append(slice(start, start + wanted))
    part = voxels[tuple(where)]
    entry |= {"whole": list(voxels.shape), "shape": list(part.shape)}
    return _encode(part)


def _times(shape: list[int]) -> str:
    return " x ".join(map(str, shape))


def unpack(file: Path, cache: Path) -> None:
    """Fill a cache from a packed file; the noise of CT scans is made again.

    Parameters
    ----------
    file : from `write_archive`
    cache : folder to fill; reused when it was made of the same file

    Raises
    ------
    InputError
        Not such a file, a damaged one, or one of another version.
    """
    try:
        stamp = hashlib.sha256(file.read_bytes()).hexdigest()
        if is_current(cache, stamp):
            return
        with zipfile.ZipFile(file) as archive:
            stored = archive.read(INDEX)
        index = json.loads(bz2.decompress(stored) if stored.startswith(b"BZh") else stored)
        if index["version"] != VERSION:
            raise InputError(f"{file} has layout {index['version']}, this medldm reads {VERSION}. Pack it again.")
        with ThreadPoolExecutor() as pool:
            decoded = list(pool.map(partial(_decode, file), [entry["name"] for entry in index["scans"]]))
        scans = [packed_scan(entry, voxels) for entry, voxels in zip(index["scans"], decoded, strict=True)]
    except DAMAGED as problem:
        if _begins_as_ours(file):
            message = f"{file} is damaged or cut short. Copy it again, or pack the scans again."
        else:
            message = f"{file} is no file of packed scans. Make one with `medldm train pack DATA FILE`."
        raise InputError(message) from problem
    cache.mkdir(parents=True, exist_ok=True)
    entries = [{**entry, "name": Path(entry["name"]).name} for entry in index["scans"]]
    for entry, scan in zip(entries, scans, strict=True):
        np.save(cache / entry["name"], scan.voxels)
        if scan.kind is CT:
            add_noise(cache / entry["name"], scan.spacing)
    write_index(cache, stamp, entries)


def _begins_as_ours(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError:
        return False
    return head.startswith(b"PK") and (b".npy" in head or INDEX.encode() in head)


def _encode(voxels: Voxels) -> bytes:
    differences = np.diff(voxels, axis=-1, prepend=voxels.dtype.type(0))  # wraps around, and back
    written = io.BytesIO()
    np.save(written, differences)
    return bz2.compress(written.getvalue())


def _decode(file: Path, name: str) -> Voxels:
    with zipfile.ZipFile(file) as archive:
        raw = bz2.decompress(archive.read(name))
    differences: Voxels = np.load(io.BytesIO(raw), allow_pickle=False)
    return np.cumsum(differences, axis=-1, dtype=differences.dtype)
