"""NIfTI out: the header of a result, with its source's own orientation, codes and units, and the voxels after it."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medldm.data.volume import Volume, Voxels
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.arrays import scaling_of
from medldm.io.checks import volume_grid
from medldm.io.compression import packed, packing_of, packing_of_name
from medldm.io.nifti import header as headers
from medldm.io.nifti.files import pair_files
from medldm.io.nifti.forms import can_be_opened, clean, is_sound, known_code, move_forms, set_affine
from medldm.io.nifti.reader import probe_nifti
from medldm.io.restored_before import mark

log = logging.getLogger(__name__)

LARGEST_NIFTI1 = 32767  # voxels along an axis
PIECE = 2**24  # bytes packed at once
NO_EXTENSIONS = b"\0" * 4


def save_nifti(array: Voxels, volume: Volume, path: Path) -> None:
    """Write voxels with the header of their source, or with a new one where other programs would not open that.

    On the grid of its source the header's geometry is kept byte for byte where it is sound; else one affine is written
    into sform, qform and pixdim. NIfTI extensions are dropped: they describe the original voxels and may hold what
    identifies a patient.

    Parameters
    ----------
    array : as stored
    volume : that they come from
    path : .nii, packed or not, or the .hdr of a pair
    """
    source = volume.stored.header if isinstance(volume.stored.header, nib.Nifti1Header) else None
    header, unit_mm = _header_for(array, source, volume)
    if source is not None and not can_be_opened(header, volume.stored_affine(), unit_mm):
        log.warning("%s has a header that other programs would not open; its result gets a new one", volume.name)
        header, _ = _header_for(array, None, volume)
        if array.dtype.kind in "iu":
            header["scl_slope"], header["scl_inter"] = scaling_of(volume)
    if path.name.lower().endswith(".hdr"):
        header["magic"] = b"ni2" if header.sizeof_hdr == 540 else b"ni1"
        header["vox_offset"] = 0
        path.write_bytes(header.binaryblock + NO_EXTENSIONS)
        pair_files(path)[0].write_bytes(_flat(array))
        return
    with path.open("wb") as raw, packed(raw, path) as stream:
        _pour(header, array, stream)


def _pour(header: Any, array: Voxels, stream: Any) -> None:
    stream.write(header.binaryblock + NO_EXTENSIONS)
    flat = _flat(array)
    for start in range(0, len(flat), PIECE):
        stream.write(flat[start : start + PIECE])


def _flat(array: Voxels) -> memoryview:
    """The voxels as they lie in a file: little endian, first axis fastest."""
    return memoryview(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F"))


def _header_for(array: Voxels, source: Any, volume: Volume) -> tuple[Any, float]:
    """The header of a result, and mm per unit of it."""
    header = _template(source, max(array.shape))
    clean(header)
    header.set_data_dtype(array.dtype)
    if array.dtype.kind == "f":
        header["scl_slope"], header["scl_inter"] = 1, 0
    unit_mm = _put_in_place(header, source, array.shape, volume)
    mark(header, volume)
    header["magic"] = b"n+2" if header.sizeof_hdr == 540 else b"n+1"
    header["vox_offset"] = 544 if header.sizeof_hdr == 540 else 352
    return header, unit_mm


def _template(source: Any, longest: int) -> Any:
    """A little-endian single-file header: a copy of the source's, or a new one in millimetres."""
    if source is None:
        header: Any = nib.Nifti1Header() if longest <= LARGEST_NIFTI1 else nib.Nifti2Header()
        header.set_xyzt_units("mm")
        return header
    kind = nib.Nifti2Header if source.sizeof_hdr == 540 or longest > LARGEST_NIFTI1 else nib.Nifti1Header
    source = source.as_byteswapped("<") if source.endianness != "<" else source
    same = source.sizeof_hdr == (540 if kind is nib.Nifti2Header else 348)
    return kind(source.binaryblock, check=False) if same else kind.from_header(source, check=False)


def _put_in_place(header: Any, source: Any, shape: tuple[int, ...], volume: Volume) -> float:
    """The grid of the volume; nothing is touched where the source's own header already says it. Gives mm per unit."""
    affine, place = volume.stored_affine(), None
    time_unit = header.get_xyzt_units()[1]
    if source is not None:
        try:
            stored = headers.stored_shape(source, volume.name)
            grid, _ = volume_grid(stored, 0, volume.name)
            place = headers.place_of(source, grid, volume.name)
        except (InputError, NotRestorable, GeometryError):
            place = None  # a header that had to be repaired is not handed on
        else:
            if place.unit_mm == 1.0 and int(header["xyzt_units"]) & 7:  # a unit that was not believed is not handed on
                header.set_xyzt_units("mm", time_unit)
            same = grid == shape and np.allclose(place.affine, affine, rtol=1e-6, atol=1e-5)
            if same and place.agrees and math.prod(stored) == math.prod(shape) and is_sound(source):
                return place.unit_mm
            if grid != shape:
                header["slice_start"], header["slice_end"], header["slice_code"] = 0, 0, 0
    header.set_data_shape(shape)
    if place is not None and place.agrees and move_forms(header, source, place, affine, grid):
        return place.unit_mm
    code = (
        known_code(place.code)
        if place is not None and place.code > 0
        else (1 if volume.stored.container == "dicom" else 2)
    )
    unit_mm = place.unit_mm if place is not None else 1.0
    if unit_mm == 1.0:
        header.set_xyzt_units("mm", time_unit)
    set_affine(header, np.diag([1 / unit_mm] * 3 + [1.0]) @ affine, (code, code))
    return unit_mm


def is_sound_file(source: Path, path: Path) -> bool:
    """Whether a file may be copied to a name: packed as the name says, in one file, its header as we would write it."""
    if packing_of(source) != packing_of_name(path) or path.name.lower().endswith(".hdr"):
        return False
    probe = probe_nifti(source)
    grid, _ = volume_grid(probe.shape, None, str(source))
    place = headers.place_of(probe.header, grid, str(source), fix=True)
    tidy = probe.header.copy()
    clean(tidy)
    believed = place.unit_mm != 1.0 or int(tidy["xyzt_units"]) & 7 in (0, 2)
    whole = believed and not probe.files.is_pair and probe.header["magic"].tobytes()[:2] == b"n+" and place.agrees
    unchanged = tidy.binaryblock == probe.header.binaryblock and is_sound(probe.header)
    return whole and unchanged and can_be_opened(probe.header, place.affine, place.unit_mm)
