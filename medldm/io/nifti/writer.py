"""NIfTI in and out: nearest-RAS inside, the file's own orientation, codes, units and voxel type outside."""

from __future__ import annotations

import contextlib
import gzip
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medldm.data.volume import Volume, Voxels
from medldm.errors import GeometryError, InputError, MedldmError, NotRestorable, OutputError
from medldm.io.arrays import from_array, from_nibabel
from medldm.io.atomic import whole_file
from medldm.io.compression import kind_of_packing, opened
from medldm.io.formats import is_nifti, stem
from medldm.io.nifti import header as headers
from medldm.io.nifti.forms import can_be_opened, clean, is_sound, known_code, move_forms, same_place, set_affine
from medldm.io.nifti.reader import PIECE, Probe, probe_nifti, read_nifti, read_voxels, skip
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
    path : .nii or .nii.gz; written under a temporary name, then renamed; equal volumes give equal bytes

    Returns
    -------
    number of voxels that had to be clipped to the integer range

    Raises
    ------
    OutputError, ResourceError
    """
    path = Path(path)
    if not is_nifti(path):
        raise OutputError(f"{path} does not end in .nii or .nii.gz. Choose such a name for a NIfTI result.")
    array, header, clipped = _as_stored(volume)
    wanted = volume.stored.dtype
    if wanted.kind in "iu" and array.dtype.kind == "f":
        log.warning("%s is written as %s: %s has no value for missing voxels", path.name, array.dtype, wanted)
    with whole_file(path) as temporary:
        with temporary.open("wb") as raw:
            if path.name.lower().endswith(".gz"):
                # No name and no time in the gzip header: equal runs give equal bytes.
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=5, mtime=0) as packed:
                    _pour(header, array, packed)
            else:
                _pour(header, array, raw)
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


def to_dtype(array: Voxels, dtype: np.dtype[Any], slope: float = 1.0, intercept: float = 0.0) -> tuple[Voxels, int]:
    """Voxels in the type of the file: integers rounded and clipped, missing voxels forcing floats that hold them.

    Parameters
    ----------
    array : any shape, scanner values
    dtype : type of the file
    slope, intercept : scanner value = slope x stored integer + intercept

    Returns
    -------
    array in that type, and how many voxels were clipped
    """
    scaled = (slope, intercept) != (1.0, 0.0)
    if array.dtype == dtype and not (scaled and dtype.kind in "iu"):
        return array, 0
    if dtype.kind not in "iu" or (array.dtype.kind == "f" and np.isnan(array).any()):
        long = dtype.itemsize > (4 if dtype.kind == "f" else 2)
        return array.astype(np.float64 if long else np.float32), 0
    if scaled:
        array = (array.astype(np.float64) - intercept) / slope
    rounded = np.rint(array) if array.dtype.kind == "f" else array
    limits = np.iinfo(dtype)
    # The largest 32 and 64 bit integers are no floats, one more is: a float clipped to them would wrap around.
    over, under = rounded >= limits.max + 1, rounded < limits.min
    with np.errstate(invalid="ignore"):
        fitting: Voxels = rounded.astype(dtype)
    fitting[over], fitting[under] = limits.max, limits.min
    return fitting, int(over.sum() + under.sum())


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
        found = probe_nifti(written)
        grid, _ = headers.volume_grid(found.shape, None, str(path))
        place = headers.place_of(found.header, grid, str(path), fix=True)
        stored = _stored_again(found, grid) if array is None else _equal_bytes(found, array)
        image: Any = nib.load(written)
        image.header.get_xyzt_units()
        there = np.diag([place.unit_mm] * 3 + [1.0]) @ image.affine
        alike = all(same_place(each, volume.stored_affine(), grid) for each in (place.affine, there))
        if stored and alike and image.shape == found.shape:
            return
        reason = "its voxels are not those that were written" if not stored else "its affine is another one"
    except MedldmError as problem:
        reason = str(problem)
    except (nib.spatialimages.HeaderDataError, nib.filebasedimages.ImageFileError, ValueError, KeyError):
        reason = "nibabel does not open it"
    raise OutputError(f"{path} could not be opened again and was not kept ({reason}). Check the disk, and try again.")


def _stored_again(found: Probe, grid: tuple[int, int, int]) -> bool:
    with opened(found.files.voxels) as stream:
        return read_voxels(stream, found, grid, 0).shape == grid


def _equal_bytes(found: Probe, array: Voxels) -> bool:
    """Whether a file holds the voxels of an array, and nothing after them."""
    flat = _flat(array)
    with opened(found.files.voxels) as stream:
        skip(stream, int(found.header["vox_offset"]))
        equal = all(stream.read(PIECE) == flat[start : start + PIECE] for start in range(0, len(flat), PIECE))
        return equal and not stream.read(1)


def _is_sound_file(source: Path, path: Path) -> bool:
    """Whether a file may be copied to a name: packed as the name says, in one file, its header as we would write it."""
    with source.open("rb") as raw:
        packing = kind_of_packing(raw.read(16))
    if packing != ("gzip" if path.name.lower().endswith(".gz") else ""):
        return False
    found = probe_nifti(source)
    grid, _ = headers.volume_grid(found.shape, None, str(source))
    place = headers.place_of(found.header, grid, str(source), fix=True)
    tidy = found.header.copy()
    clean(tidy)
    believed = place.unit_mm != 1.0 or int(tidy["xyzt_units"]) & 7 in (0, 2)
    whole = believed and not found.files.is_pair and found.header["magic"].tobytes()[:2] == b"n+" and place.agrees
    unchanged = tidy.binaryblock == found.header.binaryblock and is_sound(found.header)
    return whole and unchanged and can_be_opened(found.header, place.affine, place.unit_mm)


__all__ = [
    "copy_nifti",
    "from_array",
    "from_nibabel",
    "is_nifti",
    "probe_nifti",
    "read_nifti",
    "stem",
    "to_dtype",
    "write_nifti",
]
