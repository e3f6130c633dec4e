"""NIfTI in and out: nearest-RAS inside, the file's own orientation, codes, units and voxel type outside."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel import orientations

from medldm.errors import GeometryError, InputError, NotRestorable, OutputError, ResourceError, reason_of
from medldm.io import nifti_header as headers
from medldm.io.atomic import whole_file
from medldm.io.content import modality_by_name
from medldm.io.marks import mark, marked, recorded
from medldm.volume import Affine, Stored, Volume, Voxels

SUFFIXES = (".nii", ".nii.gz")
GZIP_MAGIC = b"\x1f\x8b"
GZIP_AT_MOST = 1100  # deflate packs a block of zeros 1032 times
PIECE = 2**24  # bytes written or checked at once
LARGEST_NIFTI1 = 32767  # voxels along an axis


@dataclass(frozen=True)
class Probe:
    """What the header of a NIfTI file says; no voxel was read.

    Parameters
    ----------
    path : the file
    header : nibabel header
    shape : stored shape, trailing ones included
    dtype : stored voxel type
    """

    path: Path
    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def is_nifti(path: Path) -> bool:
    """Whether a file is called like NIfTI."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    lower = path.name.lower()
    return next((path.name[: -len(end)] for end in (".nii.gz", ".nii") if lower.endswith(end)), path.stem)


def probe_nifti(path: Path) -> Probe:
    """The header of a NIfTI file, checked against the size of the file; voxels stay where they are.

    Raises
    ------
    InputError
        Missing, empty, not NIfTI, or a header that promises more voxels than the file can hold.
    NotRestorable
        Colours or complex numbers.
    """
    path = Path(path)
    _must_be_file(path)
    with _opened(path) as stream:
        return _probe(stream, path)


def read_nifti(path: Path, *, volume_index: int | None = None, fix: bool = False) -> Volume:
    """One 3D volume of a NIfTI file.

    Integers stay integers unless the header scales them; then the voxels are float32 and `write_nifti` puts them back
    into the same integers with the same slope. Infinite voxels count as missing (NaN).

    Parameters
    ----------
    path : .nii or .nii.gz, packed or not whatever its name says
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
    _must_be_file(path)
    with _opened(path) as stream:
        found = _probe(stream, path)
        grid, index = headers.volume_grid(found.shape, volume_index, str(path), int(found.header["intent_code"]))
        place = headers.place_of(found.header, grid, str(path), fix=fix)
        array = _read_voxels(stream, found, grid, index)
    voxels, note = _scanner_values(array, found)
    integer = found.dtype.kind in "iu"
    stored = Stored(
        dtype=found.dtype.newbyteorder("=") if integer else np.dtype(np.float32),
        container="nifti",
        header=found.header,
        modality=modality_by_name(path),
        note=(*place.note, *note),
        restored_by=marked(found.header) or recorded(path, stem(path)),
    )
    return nearest_ras(voxels, place.affine, stem(path), stored)


def from_array(voxels: Voxels, affine: Affine, name: str = "volume", modality: str | None = None) -> Volume:
    """A NumPy array with an affine as a Volume, axes turned nearest to RAS.

    Parameters
    ----------
    voxels : (X, Y, Z) real numbers
    affine : (4, 4) index to mm in RAS+ world space
    name : what to call it
    modality : ``"mr"``, ``"ct"`` or None

    Returns
    -------
    volume; integers stay integers, everything else is float32, where infinite voxels count as missing (NaN)

    Raises
    ------
    GeometryError
        The affine is no finite, invertible 4 x 4 matrix.
    NotRestorable
        Colours or complex numbers.
    """
    if voxels.dtype.kind not in "iufb":
        raise NotRestorable(f"{name} holds voxels of {voxels.dtype}; medldm restores scans of one real number a voxel.")
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not headers.usable(affine):
        raise GeometryError(f"{name} has an affine that is no finite, invertible 4 x 4 matrix: {affine.tolist()}.")
    if voxels.dtype.kind in "iu":
        native = voxels.dtype.newbyteorder("=")
        return nearest_ras(voxels.astype(native, copy=False), affine, name, Stored(dtype=native, modality=modality))
    values, note = _finite(voxels, name)
    return nearest_ras(values, affine, name, Stored(modality=modality, note=note))


def from_nibabel(image: Any, name: str = "volume") -> Volume:
    """A nibabel image as a Volume; a NIfTI header is kept for writing, and its unit of length counts.

    Parameters
    ----------
    image : three-dimensional
    name : what to call it

    Raises
    ------
    NotRestorable
        Colours or complex numbers.
    GeometryError
        It has no affine.
    """
    if image.affine is None:
        raise GeometryError(f"{name} has no affine: nobody knows where its voxels lie. Give it one.")
    voxels, affine = np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64)
    if not isinstance(image, nib.Nifti1Pair):
        return from_array(voxels, affine, name)
    # nibabel hands the affine on in the unit of the header; what was made in Python rarely names one.
    unit_mm, _ = headers.unit_of(image.header, affine, voxels.shape, name)
    volume = from_array(voxels, np.diag([unit_mm] * 3 + [1.0]) @ affine, name)
    stored = replace(volume.stored, container="nifti", header=image.header.copy())
    return volume.with_voxels(volume.voxels, stored=stored)


def nearest_ras(voxels: Voxels, affine: Affine, name: str, stored: Stored) -> Volume:
    """Turn stored voxels so that their axes point nearest to Right, Anterior, Superior.

    Parameters
    ----------
    voxels : three axes, as stored
    affine : (4, 4), stored index to mm
    name : for messages
    stored : everything known about the storage; axes and flips are filled in here
    """
    ornt = orientations.io_orientation(affine)
    axes, flips = ornt[:, 0].astype(int), ornt[:, 1] < 0
    inside = affine @ orientations.inv_ornt_aff(ornt, voxels.shape)
    stored = replace(
        stored,
        axes=(int(axes[0]), int(axes[1]), int(axes[2])),
        flips=(bool(flips[0]), bool(flips[1]), bool(flips[2])),
    )
    turned = np.ascontiguousarray(orientations.apply_orientation(voxels, ornt))
    return Volume(turned, inside, name=name, stored=stored)


def write_nifti(volume: Volume, path: Path) -> int:
    """A volume as NIfTI, in the orientation, voxel type, units and codes that it was read with.

    Integers come out as the same integers, rounded and clipped (through the file's own slope, where it had one), unless
    NaN says that voxels are missing; everything else comes out as float32. On the grid of its source the header's
    geometry is kept byte for byte; on a new grid sform and qform both get the new affine. NIfTI extensions are dropped:
    they describe the original voxels and may hold what identifies a patient.

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
    with whole_file(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the gzip header: equal runs give equal bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=5, mtime=0) as packed:
                _pour(header, array, packed)
        else:
            _pour(header, array, raw)
    return clipped


def to_dtype(array: Voxels, dtype: np.dtype[Any], slope: float = 1.0, intercept: float = 0.0) -> tuple[Voxels, int]:
    """Voxels in the type of the file: integers rounded and clipped, missing voxels forcing float32.

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
        return array.astype(np.float32), 0
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


def _must_be_file(path: Path) -> None:
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist. Check the path.")
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a NIfTI file.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is an empty file. Copy it again from its source.")
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The unpacked content of a file, its troubles put into words."""
    try:
        with path.open("rb") as raw:
            if raw.read(2) == GZIP_MAGIC:
                raw.seek(0)
                with gzip.GzipFile(fileobj=raw) as unpacked, io.BufferedReader(unpacked) as stream:
                    yield stream
            else:
                raw.seek(0)
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise InputError(
            f"{path} is truncated or damaged ({reason_of(problem)}). Copy it again from its source."
        ) from problem
    except PermissionError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror}. Check its permissions.") from problem
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except MemoryError as problem:
        raise ResourceError(f"{path} does not fit into memory. Use a machine with more, or crop the scan.") from problem


def _probe(stream: BinaryIO, path: Path) -> Probe:
    header = headers.read_header(stream, str(path))
    shape, dtype = headers.stored_shape(header, str(path)), headers.stored_dtype(header, str(path))
    promised = math.prod(shape) * dtype.itemsize
    there = path.stat().st_size * (GZIP_AT_MOST if isinstance(stream, io.BufferedReader) and _packed(stream) else 1)
    if promised > there:
        raise InputError(
            f"{path} is truncated or damaged: its header promises {promised:,} bytes of voxels, "
            f"the file has {path.stat().st_size:,}. Copy it again from its source."
        )
    return Probe(path, header, shape, dtype)


def _packed(stream: io.BufferedReader) -> bool:
    return isinstance(stream.raw, gzip.GzipFile)


def _read_voxels(stream: BinaryIO, found: Probe, grid: tuple[int, int, int], index: int) -> Voxels:
    size = math.prod(grid) * found.dtype.itemsize
    _must_fit(size, found.path)
    offset, first = float(found.header["vox_offset"]), 352 if found.header.sizeof_hdr == 348 else 544
    # Nearer to the start, bytes of the header would be taken for voxels.
    if offset != 0 and not first <= offset < 2**40:
        raise InputError(
            f"{found.path} says that its voxels start at byte {offset:g}; its header is damaged. Export it again."
        )
    start = int(offset) or first
    stream.seek(start + index * size)
    data = stream.read(size)
    if len(data) < size:
        raise InputError(
            f"{found.path} is truncated: {len(data):,} of {size:,} bytes of voxels are there. "
            "Copy it again from its source."
        )
    if math.prod(found.shape) == math.prod(grid):
        while stream.read(PIECE):  # gzip compares its checksum only at the end of the file
            pass
    array = np.frombuffer(data, dtype=found.dtype).reshape(grid, order="F")
    return array.astype(found.dtype.newbyteorder("="), copy=False)


def _must_fit(size: int, path: Path) -> None:
    import psutil

    free = psutil.virtual_memory().available
    if 2 * size > free:
        raise ResourceError(
            f"{path} holds {size / 2**30:.1f} GiB of voxels, {free / 2**30:.1f} GiB of memory are free. "
            "Use a machine with more memory, or crop the scan."
        )


def _scanner_values(array: Voxels, found: Probe) -> tuple[Voxels, tuple[str, ...]]:
    """Stored voxels with the header's slope applied, and sentences about what was odd."""
    slope, intercept = headers.scaling_of(found.header)
    scaled = (slope, intercept) != (1.0, 0.0)
    if array.dtype.kind in "iu" and not scaled:
        return array, ()
    return _finite(array.astype(np.float64) * slope + intercept if scaled else array, str(found.path))


def _finite(values: Voxels, name: str) -> tuple[Voxels, tuple[str, ...]]:
    """Float32 with NaN for what is infinite, in a copy, and a sentence about it."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is told
        values = values.astype(np.float32)
    infinite = np.isinf(values)
    if not infinite.any():
        return values, ()
    values[infinite] = np.nan
    return values, (f"{name} holds {int(infinite.sum())} infinite voxels; they count as missing.",)


def _as_stored(volume: Volume) -> tuple[Voxels, Any, int]:
    """Voxels and header as they will lie in the file, and how many voxels were clipped."""
    source = volume.stored.header if isinstance(volume.stored.header, nib.Nifti1Header) else None
    slope, intercept = headers.scaling_of(source) if source is not None else (1.0, 0.0)
    dtype = volume.stored.dtype if volume.stored.dtype.kind in "iu" else np.dtype(np.float32)
    array, clipped = to_dtype(volume.to_stored(volume.voxels), dtype, slope, intercept)
    header = _template(source, max(array.shape))
    header.set_data_dtype(array.dtype)
    if array.dtype.kind == "f":
        header["scl_slope"], header["scl_inter"] = 1, 0
    _put_in_place(header, source, array.shape, volume)
    mark(header, volume)
    header["magic"] = b"n+2" if header.sizeof_hdr == 540 else b"n+1"
    header["vox_offset"] = 544 if header.sizeof_hdr == 540 else 352
    return array, header, clipped


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


def _put_in_place(header: Any, source: Any, shape: tuple[int, ...], volume: Volume) -> None:
    """The grid of the volume; nothing is touched where the source's own header already says it."""
    affine, place = volume.stored_affine(), None
    if source is not None:
        try:
            stored = headers.stored_shape(source, volume.name)
            grid, _ = headers.volume_grid(stored, 0, volume.name)
            place = headers.place_of(source, grid, volume.name)
        except (InputError, NotRestorable, GeometryError):
            place = None  # a header that had to be repaired is not handed on
        else:
            same = grid == shape and np.allclose(place.affine, affine, rtol=1e-6, atol=1e-5)
            if same and math.prod(stored) == math.prod(shape) and headers.is_sound(source):
                return
            if grid != shape:
                header["slice_start"], header["slice_end"], header["slice_code"] = 0, 0, 0
    header.set_data_shape(shape)
    if place is not None and headers.move_forms(header, source, place, affine, grid):
        return
    code = place.code if place is not None and place.code > 0 else (1 if volume.stored.container == "dicom" else 2)
    unit_mm = place.unit_mm if place is not None else 1.0
    if unit_mm == 1.0:
        header.set_xyzt_units("mm", header.get_xyzt_units()[1] if source is not None else None)
    headers.set_affine(header, np.diag([1 / unit_mm] * 3 + [1.0]) @ affine, (code, code))


def _pour(header: Any, array: Voxels, stream: Any) -> None:
    stream.write(header.binaryblock)
    stream.write(b"\0" * 4)  # no extensions
    flat = memoryview(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F"))
    for start in range(0, len(flat), PIECE):
        stream.write(flat[start : start + PIECE])
