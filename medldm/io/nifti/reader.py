"""NIfTI in: single files and pairs, packed or not, as volumes whose axes point nearest to RAS."""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medldm.data.volume import Stored, Volume, Voxels
from medldm.errors import InputError
from medldm.io.arrays import nearest_ras, scanner_values, stored_float
from medldm.io.compression import kind_of_packing, opened
from medldm.io.image_format import MOST_PACKED, ImageFiles, Probe, must_be_file, must_fit, must_hold
from medldm.io.nifti import header as headers
from medldm.io.nifti.files import base_name, nifti_files
from medldm.io.restored_before import marked
from medldm.modality import modality_by_name

PIECE = 2**24  # bytes read at once


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
    must_be_file(path, "NIfTI")
    files = nifti_files(path) or ImageFiles(path, path)
    with opened(files.header) as stream:
        header = headers.read_header(stream, str(files.header))
    if files.is_pair or header["magic"].tobytes()[:2] == b"ni":
        _check_half(files)
    shape, dtype = headers.stored_shape(header, str(path)), headers.stored_dtype(header, str(path))
    with files.voxels.open("rb") as raw:
        packing = kind_of_packing(raw.read(16))
    # Others than gzip pack zeros without any limit: whether they are all there shows when they are read.
    if not packing or packing == "gzip":
        must_hold(math.prod(shape) * dtype.itemsize, files, MOST_PACKED if packing else 1)
    return Probe(files, header, shape, dtype, int(header["intent_code"]))


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
    probe = probe_nifti(path)
    grid, index = headers.volume_grid(probe.shape, volume_index, str(path), int(probe.header["intent_code"]))
    place = headers.place_of(probe.header, grid, str(path), fix=fix)
    with opened(probe.files.voxels) as stream:
        array = read_voxels(stream, probe, grid, index)
    scaling, odd = headers.scaling_of(probe.header), headers.scaling_note(probe.header, str(path))
    voxels, note = scanner_values(array, scaling, str(path))
    stored = Stored(
        dtype=probe.dtype.newbyteorder("=") if probe.dtype.kind in "iu" else stored_float(probe.dtype),
        container="nifti",
        header=probe.header,
        modality=modality_by_name(path),
        note=(*place.note, *odd, *note),
        restored_by=marked(probe.header),
    )
    return nearest_ras(voxels, place.affine, base_name(path), stored)


def _check_half(files: ImageFiles) -> None:
    if not files.is_pair or not files.voxels.exists():
        name = f"{base_name(files.header)}.img"
        raise InputError(
            f"{files.header} is half of a .hdr/.img pair, and {name} does not lie beside it. Copy both into one folder."
        )
    must_be_file(files.voxels, "NIfTI")


def read_voxels(stream: BinaryIO, probe: Probe, grid: tuple[int, int, int], index: int) -> Voxels:
    """The voxels of one volume as they are stored, in native byte order, as far as its checksum where there is one.

    Parameters
    ----------
    stream : of the file with the voxels, at its start
    probe : its header
    grid : of one volume
    index : which volume

    Raises
    ------
    InputError
        They are not all there.
    ResourceError
        They do not fit into memory.
    """
    size, path = math.prod(grid) * probe.dtype.itemsize, probe.files.voxels
    must_fit(size, path)
    offset = float(probe.header["vox_offset"])
    first = 0 if probe.files.is_pair else (352 if probe.header.sizeof_hdr == 348 else 544)
    # Nearer to the start, bytes of the header would be taken for voxels.
    if offset != 0 and not first <= offset < 2**40:
        raise InputError(
            f"{probe.files.header} says that its voxels start at byte {offset:g}; its header is damaged. "
            "Export it again."
        )
    skip(stream, _start(probe, int(offset) or first) + index * size)
    data = stream.read(size)
    if len(data) < size:
        raise InputError(
            f"{path} is truncated: {len(data):,} of {size:,} bytes of voxels are there. Copy it again from its source."
        )
    if math.prod(probe.shape) == math.prod(grid):
        while stream.read(PIECE):  # checksums are compared only at the end of the file
            pass
    array = np.frombuffer(data, dtype=probe.dtype).reshape(grid, order="F")
    return array.astype(probe.dtype.newbyteorder("="), copy=False)


def _start(probe: Probe, start: int) -> int:
    """Where the voxels begin; in a pair whose header was made for a single file, at the beginning."""
    if not probe.files.is_pair:
        return start
    exact = probe.files.voxels.stat().st_size == math.prod(probe.shape) * probe.dtype.itemsize
    return 0 if exact or probe.header["magic"].tobytes()[:2] == b"n+" else start


def skip(stream: BinaryIO, count: int) -> None:
    """Pass over some bytes of a stream that may not be able to seek, from its start."""
    if stream.seekable():
        stream.seek(count)
        return
    while count and (passed := len(stream.read(min(count, PIECE)))):
        count -= passed
