"""NIfTI in: single files and pairs, packed or not, as volumes whose axes point nearest to RAS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medldm.data.volume import Stored, Volume, Voxels
from medldm.errors import InputError, ResourceError
from medldm.io.arrays import nearest_ras, scanner_values, stored_float
from medldm.io.compression import kind_of_packing, opened
from medldm.io.formats import NiftiFiles, nifti_files, stem
from medldm.io.nifti import header as headers
from medldm.io.restored_before import marked, recorded
from medldm.modality import modality_by_name
from medldm.system import free_bytes

GZIP_AT_MOST = 1100  # deflate packs a block of zeros 1032 times
PIECE = 2**24  # bytes read at once


@dataclass(frozen=True)
class Probe:
    """What the header of a NIfTI file says; no voxel was read.

    Parameters
    ----------
    files : where header and voxels lie
    header : nibabel header
    shape : stored shape, trailing ones included
    dtype : stored voxel type
    """

    files: NiftiFiles
    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def probe_nifti(path: Path) -> Probe:
    """The header of a NIfTI file, checked against the size of the file; voxels stay where they are.

    Parameters
    ----------
    path : .nii, packed or not whatever its name says, or either half of a .hdr/.img pair

    Raises
    ------
    InputError
        Missing, empty, not NIfTI, or a header that promises more voxels than the file can hold.
    NotRestorable
        Colours or complex numbers.
    """
    path = Path(path)
    must_be_file(path)
    files = nifti_files(path) or NiftiFiles(path, path)
    with opened(files.header) as stream:
        header = headers.read_header(stream, str(files.header))
    if files.is_pair or header["magic"].tobytes()[:2] == b"ni":
        _check_half(files)
    shape, dtype = headers.stored_shape(header, str(path)), headers.stored_dtype(header, str(path))
    promised, there = math.prod(shape) * dtype.itemsize, files.voxels.stat().st_size
    with files.voxels.open("rb") as raw:
        packing = kind_of_packing(raw.read(16))
    # Others than gzip pack zeros without any limit: whether they are all there shows when they are read.
    if not packing or packing == "gzip":
        most = there * (GZIP_AT_MOST if packing else 1)
        if promised > most:
            raise InputError(
                f"{files.voxels} is truncated or damaged: its header promises {promised:,} bytes of voxels, "
                f"the file has {there:,}. Copy it again from its source."
            )
    return Probe(files, header, shape, dtype)


def read_nifti(path: Path, *, volume_index: int | None = None, fix: bool = False) -> Volume:
    """One 3D volume of a NIfTI file.

    Integers stay integers unless the header scales them; then the voxels are float32 (float64 where that would lose
    what the integers tell apart) and `write_nifti` puts them back into the same integers with the same slope. float64
    stays float64. Infinite voxels count as missing (NaN).

    Parameters
    ----------
    path : .nii, packed or not whatever its name says, or either half of a .hdr/.img pair
    volume_index : which volume of a 4D file, counted from 0
    fix : trust the sform of a file whose sform and qform contradict each other

    Returns
    -------
    volume, axes nearest to RAS, mm; ``stored.note`` holds sentences worth telling the user

    Raises
    ------
    InputError, GeometryError, NotRestorable, UsageError, ResourceError
    """
    path = Path(path)
    found = probe_nifti(path)
    grid, index = headers.volume_grid(found.shape, volume_index, str(path), int(found.header["intent_code"]))
    place = headers.place_of(found.header, grid, str(path), fix=fix)
    with opened(found.files.voxels) as stream:
        array = read_voxels(stream, found, grid, index)
    scaling, odd = headers.scaling_of(found.header), headers.scaling_note(found.header, str(path))
    voxels, note = scanner_values(array, scaling, str(path))
    stored = Stored(
        dtype=found.dtype.newbyteorder("=") if found.dtype.kind in "iu" else stored_float(found.dtype),
        container="nifti",
        header=found.header,
        modality=modality_by_name(path),
        note=(*place.note, *odd, *note),
        restored_by=marked(found.header) or recorded(path),
    )
    return nearest_ras(voxels, place.affine, stem(path), stored)


def must_be_file(path: Path) -> None:
    """Refuse what is no file, or an empty one.

    Raises
    ------
    InputError
    """
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist. Check the path.")
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a NIfTI file.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is an empty file. Copy it again from its source.")
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem


def _check_half(files: NiftiFiles) -> None:
    if not files.is_pair or not files.voxels.exists():
        name = f"{stem(files.header)}.img"
        raise InputError(
            f"{files.header} is half of a .hdr/.img pair, and {name} does not lie beside it. Copy both into one folder."
        )
    must_be_file(files.voxels)


def read_voxels(stream: BinaryIO, found: Probe, grid: tuple[int, int, int], index: int) -> Voxels:
    """The voxels of one volume as they are stored, in native byte order, as far as its checksum where there is one.

    Parameters
    ----------
    stream : of the file with the voxels, at its start
    found : its header
    grid : of one volume
    index : which volume

    Raises
    ------
    InputError
        They are not all there.
    ResourceError
        They do not fit into memory.
    """
    size, path = math.prod(grid) * found.dtype.itemsize, found.files.voxels
    _must_fit(size, path)
    offset = float(found.header["vox_offset"])
    first = 0 if found.files.is_pair else (352 if found.header.sizeof_hdr == 348 else 544)
    # Nearer to the start, bytes of the header would be taken for voxels.
    if offset != 0 and not first <= offset < 2**40:
        raise InputError(
            f"{found.files.header} says that its voxels start at byte {offset:g}; its header is damaged. "
            "Export it again."
        )
    skip(stream, _start(found, int(offset) or first) + index * size)
    data = stream.read(size)
    if len(data) < size:
        raise InputError(
            f"{path} is truncated: {len(data):,} of {size:,} bytes of voxels are there. Copy it again from its source."
        )
    if math.prod(found.shape) == math.prod(grid):
        while stream.read(PIECE):  # checksums are compared only at the end of the file
            pass
    array = np.frombuffer(data, dtype=found.dtype).reshape(grid, order="F")
    return array.astype(found.dtype.newbyteorder("="), copy=False)


def _start(found: Probe, start: int) -> int:
    """Where the voxels begin; in a pair whose header was made for a single file, at the beginning."""
    if not found.files.is_pair:
        return start
    exact = found.files.voxels.stat().st_size == math.prod(found.shape) * found.dtype.itemsize
    return 0 if exact or found.header["magic"].tobytes()[:2] == b"n+" else start


def skip(stream: BinaryIO, count: int) -> None:
    """Pass over some bytes of a stream that may not be able to seek, from its start."""
    if stream.seekable():
        stream.seek(count)
        return
    while count and (passed := len(stream.read(min(count, PIECE)))):
        count -= passed


def _must_fit(size: int, path: Path) -> None:
    free = free_bytes()
    if 2 * size > free:
        raise ResourceError(
            f"{path} holds {size / 2**30:.1f} GiB of voxels, {free / 2**30:.1f} GiB of memory are free. "
            "Use a machine with more memory, or crop the scan."
        )
