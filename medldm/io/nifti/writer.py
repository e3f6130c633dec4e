"""NIfTI in and out: nearest-RAS inside, the file's own orientation, codes, units and voxel type outside."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medldm.data.volume import Volume, Voxels
from medldm.errors import GeometryError, InputError, MedldmError, NotRestorable, OutputError
from medldm.io.arrays import from_array, from_nibabel, to_dtype
from medldm.io.atomic import whole_file, whole_files
from medldm.io.compression import kind_of_packing, opened, packed, packing_of_name
from medldm.io.image_format import Probe
from medldm.io.nifti import header as headers
from medldm.io.nifti.files import NIFTI_ENDS, pair_files
from medldm.io.nifti.forms import can_be_opened, clean, is_sound, known_code, move_forms, same_place, set_affine
from medldm.io.nifti.reader import PIECE, probe_nifti, read_nifti, read_voxels, skip
from medldm.io.restored_before import mark

log = logging.getLogger(__name__)

LARGEST_NIFTI1 = 32767  # voxels along an axis


def write_nifti(volume: Volume, path: Path) -> int:
    """A volume as NIfTI, in the orientation, voxel type, units and codes that it was read with.

    Integers come out as the same integers, rounded and clipped (through the file's own slope, where it had one), unless
    NaN says that voxels are missing; float64 comes out as float64, everything else as float32. On the grid of its
    source the header's geometry is kept byte for byte where it is sound; else one affine is written into sform, qform
    and pixdim. NIfTI extensions are dropped: they describe the original voxels and may hold what identifies a patient.
    The file is read again before it takes its name.

    Parameters
    ----------
    volume : scan
    path : .nii, packed or not, or the .hdr of a pair; written under a temporary name, then renamed; equal volumes
        give equal bytes

    Returns
    -------
    number of voxels that had to be clipped to the integer range

    Raises
    ------
    OutputError, ResourceError
    """
    path = Path(path)
    lower = path.name.lower()
    pair = lower.endswith(".hdr")
    if not (pair or lower.endswith(NIFTI_ENDS)):
        raise OutputError(f"{path} does not end in .nii or .nii.gz. Choose such a name for a NIfTI result.")
    array, header, clipped = _as_stored(volume)
    wanted = volume.stored.dtype
    if wanted.kind in "iu" and array.dtype.kind == "f":
        log.warning("%s is written as %s: %s has no value for missing voxels", path.name, array.dtype, wanted)
    if pair:
        header["magic"] = b"ni2" if header.sizeof_hdr == 540 else b"ni1"
        header["vox_offset"] = 0
        with whole_files(pair_files(path)) as temporary:
            temporary.write_bytes(header.binaryblock + b"\0" * 4)
            pair_files(temporary)[0].write_bytes(_flat(array))
            _check_written(temporary, path, array, volume)
        return clipped
    with whole_file(path) as temporary:
        with temporary.open("wb") as raw, packed(raw, path) as stream:
            _pour(header, array, stream)
        _check_written(temporary, path, array, volume)
    return clipped


def copy_nifti(source: Path, volume: Volume, path: Path) -> int:
    """A scan that nothing was done to, under another name: byte for byte where that gives a sound file of that name.

    What other programs could not open as it is (a pair, another packing than the name says, a header that contradicts
    itself) is written anew.

    Parameters
    ----------
    source : file that `volume` was read from, whole
    volume : as read
    path : .nii or .nii.gz

    Returns
    -------
    number of voxels that had to be clipped to the integer range

    Raises
    ------
    OutputError, ResourceError
    """
    if _is_sound_file(source, path):
        with contextlib.suppress(OutputError), whole_file(path) as temporary:
            shutil.copyfile(source, temporary)
            _check_written(temporary, path, None, volume)
            return 0
    return write_nifti(volume, path)  # says what is wrong where it is the place rather than the copy


def _as_stored(volume: Volume) -> tuple[Voxels, Any, int]:
    """Voxels and header as they will lie in the file, and how many voxels were clipped."""
    source = volume.stored.header if isinstance(volume.stored.header, nib.Nifti1Header) else None
    slope, intercept = headers.scaling_of(source) if source is not None else (1.0, 0.0)
    array, clipped = to_dtype(volume.to_stored(volume.voxels), volume.stored.dtype, slope, intercept)
    header, unit_mm = _header_for(array, source, volume)
    if source is not None and not can_be_opened(header, volume.stored_affine(), unit_mm):
        log.warning("%s has a header that other programs would not open; its result gets a new one", volume.name)
        header, _ = _header_for(array, None, volume)
        if array.dtype.kind in "iu":
            header["scl_slope"], header["scl_inter"] = slope, intercept
    return array, header, clipped


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
            grid, _ = headers.volume_grid(stored, 0, volume.name)
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


def _pour(header: Any, array: Voxels, stream: Any) -> None:
    stream.write(header.binaryblock)
    stream.write(b"\0" * 4)  # no extensions
    flat = _flat(array)
    for start in range(0, len(flat), PIECE):
        stream.write(flat[start : start + PIECE])


def _flat(array: Voxels) -> memoryview:
    """The voxels as they lie in a file: little endian, first axis fastest."""
    return memoryview(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F"))


def _check_written(written: Path, path: Path, array: Voxels | None, volume: Volume) -> None:
    """Open a result again before it takes its name: with our own reader to the last byte, and with nibabel.

    Parameters
    ----------
    written : the file under its temporary name
    path : its final name, for messages
    array : what must be in it; None for a copy
    volume : what it was made of

    Raises
    ------
    OutputError
    """
    try:
        probe = probe_nifti(written)
        grid, _ = headers.volume_grid(probe.shape, None, str(path))
        place = headers.place_of(probe.header, grid, str(path), fix=True)
        stored = _stored_again(probe, grid) if array is None else _equal_bytes(probe, array)
        alike = same_place(place.affine, volume.stored_affine(), grid)
        if written.suffix.lower() not in (".xz", ".zst"):  # which nibabel may not unpack
            image: Any = nib.load(written)
            image.header.get_xyzt_units()
            there = np.diag([place.unit_mm] * 3 + [1.0]) @ image.affine
            alike = alike and same_place(there, volume.stored_affine(), grid) and image.shape == probe.shape
        if stored and alike:
            return
        reason = "its voxels are not those that were written" if not stored else "its affine is another one"
    except MedldmError as problem:
        reason = str(problem)
    except (nib.spatialimages.HeaderDataError, nib.filebasedimages.ImageFileError, ValueError, KeyError):
        reason = "nibabel does not open it"
    raise OutputError(f"{path} could not be opened again and was not kept ({reason}). Check the disk, and try again.")


def _stored_again(probe: Probe, grid: tuple[int, int, int]) -> bool:
    with opened(probe.files.voxels) as stream:
        return read_voxels(stream, probe, grid, 0).shape == grid


def _equal_bytes(probe: Probe, array: Voxels) -> bool:
    """Whether a file holds the voxels of an array, and nothing after them."""
    flat = _flat(array)
    with opened(probe.files.voxels) as stream:
        skip(stream, int(probe.header["vox_offset"]))
        equal = all(stream.read(PIECE) == flat[start : start + PIECE] for start in range(0, len(flat), PIECE))
        return equal and not stream.read(1)


def _is_sound_file(source: Path, path: Path) -> bool:
    """Whether a file may be copied to a name: packed as the name says, in one file, its header as we would write it."""
    with source.open("rb") as raw:
        packing = kind_of_packing(raw.read(16))
    if packing != packing_of_name(path) or path.name.lower().endswith(".hdr"):
        return False
    probe = probe_nifti(source)
    grid, _ = headers.volume_grid(probe.shape, None, str(source))
    place = headers.place_of(probe.header, grid, str(source), fix=True)
    tidy = probe.header.copy()
    clean(tidy)
    believed = place.unit_mm != 1.0 or int(tidy["xyzt_units"]) & 7 in (0, 2)
    whole = believed and not probe.files.is_pair and probe.header["magic"].tobytes()[:2] == b"n+" and place.agrees
    unchanged = tidy.binaryblock == probe.header.binaryblock and is_sound(probe.header)
    return whole and unchanged and can_be_opened(probe.header, place.affine, place.unit_mm)


__all__ = [
    "copy_nifti",
    "from_array",
    "from_nibabel",
    "probe_nifti",
    "read_nifti",
    "to_dtype",
    "write_nifti",
]
