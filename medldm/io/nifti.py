"""NIfTI in and out: nearest-RAS inside, the file's own orientation, codes, units and voxel type outside."""

from __future__ import annotations

import gzip
import logging
import math
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations

from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.atomic import whole_file
from medldm.volume import Affine, Stored, Volume, Voxels

log = logging.getLogger(__name__)

SUFFIXES = (".nii", ".nii.gz")
UNREADABLE = (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError)


def is_nifti(path: Path) -> bool:
    """Whether a file is called like NIfTI."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    lower = path.name.lower()
    return next((path.name[: -len(end)] for end in (".nii.gz", ".nii") if lower.endswith(end)), path.stem)


def load_image(path: Path) -> Any:
    """A nibabel image whose header has been checked against the file, voxels not read yet.

    Raises
    ------
    InputError
        Not NIfTI, truncated, empty, or a header that promises more than there is.
    """
    try:
        size = path.stat().st_size
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    if size == 0:
        raise InputError(f"{path} is an empty file. Copy it again from its source.")
    try:
        image: Any = nib.load(path)  # type: ignore[attr-defined]
    except UNREADABLE as problem:
        raise InputError(f"{path} is not a NIfTI image ({_first_line(problem)}). Check that the file is what its name says.") from problem
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"{path} is a {type(image).__name__}, not NIfTI. Convert it to .nii.gz first.")
    if any(count <= 0 for count in image.shape):
        raise InputError(f"{path} has no voxels: its header says {_times(image.shape)}.")
    needed = math.prod(image.shape) * image.get_data_dtype().itemsize
    # gzip packs a thousandfold at the very most; a header that needs more is damaged or hostile.
    if needed > (size * 1100 if path.name.lower().endswith(".gz") else size):
        raise InputError(f"{path} is truncated or damaged: its header promises {needed:,} bytes of voxels, the file has {size:,}.")
    return image


def read_nifti(path: Path, *, volume_index: int | None = None) -> Volume:
    """One 3D volume of a NIfTI file.

    Parameters
    ----------
    path : .nii or .nii.gz
    volume_index : which volume of a 4D file

    Returns
    -------
    volume, axes nearest to RAS; integers stay integers unless the header scales them

    Raises
    ------
    InputError, GeometryError, NotRestorable
    """
    path = Path(path)
    image = load_image(path)
    notes = _check_kind(image, path)
    affine = _checked_affine(image, path)
    array = _voxels(image, path, volume_index)
    array = array.reshape(array.shape + (1,) * (3 - array.ndim)) if array.ndim < 3 else array
    ornt = orientations.io_orientation(affine)
    axes = tuple(int(axis) for axis in ornt[:, 0])
    flips = tuple(bool(flip < 0) for flip in ornt[:, 1])
    voxels = orientations.apply_orientation(array, ornt)
    inside = affine @ orientations.inv_ornt_aff(ornt, array.shape)
    stored = Stored(
        axes=(axes[0], axes[1], axes[2]),
        flips=(flips[0], flips[1], flips[2]),
        dtype=array.dtype if np.issubdtype(array.dtype, np.integer) else np.dtype(np.float32),
        container="nifti",
        header=image.header.copy(),
        note=tuple(notes),
    )
    return Volume(voxels, inside, name=stem(path), stored=stored)


def _check_kind(image: Any, path: Path) -> list[str]:
    dtype = image.get_data_dtype()
    if dtype.fields is not None:
        raise NotRestorable(f"{path} is a colour image (RGB). medldm restores grey-scale scans; leave it out.")
    if np.issubdtype(dtype, np.complexfloating):
        raise NotRestorable(f"{path} holds complex voxels. Save its magnitude as a NIfTI of its own first.")
    notes = []
    space, _ = image.header.get_xyzt_units()
    if space in ("unknown",):
        notes.append("the header does not say its unit of length; read as millimetres")
    return notes


def _checked_affine(image: Any, path: Path) -> Affine:
    header = image.header
    scale = {"meter": 1000.0, "micron": 0.001}.get(header.get_xyzt_units()[0], 1.0)
    affine = np.array(image.affine, dtype=np.float64)
    zooms = np.array(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise GeometryError(
            f"{path} has no usable geometry: its affine is singular or not finite. "
            "Repair the header (sform/qform) before restoring; medldm will not guess where the voxels are."
        )
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0 and not (zooms > 0).all():
        raise GeometryError(f"{path} says no voxel size: neither sform nor qform is set and pixdim is {zooms}.")
    affine[:3] *= scale
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < 1e-3).any() or (spacing > 100).any():
        raise GeometryError(f"{path} has voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm, which no scanner makes. Repair its header.")
    cosines = affine[:3, :3] / spacing
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > 0.02:
        raise GeometryError(f"{path} has a sheared grid (tilted gantry?). Resample it to a rectangular grid before restoring.")
    return affine


def _voxels(image: Any, path: Path, volume_index: int | None) -> Voxels:
    shape = image.shape
    extra = tuple(count for count in shape[3:] if count > 1)
    picked: tuple[Any, ...] = ()
    if extra:
        if volume_index is None:
            raise NotRestorable(
                f"{path} is a series of volumes ({_times(shape)}). Pick one with --volume N, counted from 0, or leave it out."
            )
        if len(extra) > 1 or not 0 <= volume_index < extra[0]:
            raise InputError(f"{path} has no volume {volume_index}: its shape is {_times(shape)}.")
        at = next(axis for axis in range(3, len(shape)) if shape[axis] > 1)
        picked = tuple(volume_index if axis == at else 0 for axis in range(3, len(shape)))
    elif len(shape) > 3:
        picked = (0,) * (len(shape) - 3)
    try:
        array = np.asanyarray(image.dataobj[(..., *picked)] if picked else image.dataobj)
    except (*UNREADABLE, zlib.error) as problem:
        raise InputError(f"{path} is truncated or damaged ({_first_line(problem)}). Copy it again from its source.") from problem
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32)


def write_nifti(volume: Volume, path: Path) -> int:
    """A volume as NIfTI, in the orientation, voxel type and units that it was read with.

    Parameters
    ----------
    volume : integers come out as the same integers, rounded and clipped, unless NaN says that voxels are missing;
        everything else as float32
    path : .nii or .nii.gz; written under a temporary name, then renamed; equal volumes give equal bytes

    Returns
    -------
    number of voxels that had to be clipped to the integer range

    Raises
    ------
    OutputError, ResourceError
    """
    array, clipped = to_dtype(volume.to_stored(volume.voxels), volume.stored.dtype)
    image: Any = nib.Nifti1Image(array, volume.stored_affine(), dtype=array.dtype)  # type: ignore[no-untyped-call]
    source = volume.stored.header if isinstance(volume.stored.header, nib.Nifti1Header) else None
    _describe(image, source, volume.stored_affine())
    payload = image.to_bytes()
    with whole_file(Path(path)) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the gzip header: equal runs give equal bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
                packed.write(payload)
        else:
            raw.write(payload)
    return clipped


def to_dtype(array: Voxels, dtype: np.dtype[Any]) -> tuple[Voxels, int]:
    """Voxels in the type of the file: integers rounded and clipped, missing voxels forcing float32.

    Parameters
    ----------
    array : any shape
    dtype : type of the file

    Returns
    -------
    array in that type, and how many voxels were clipped
    """
    if array.dtype == dtype:
        return array, 0
    if not np.issubdtype(dtype, np.integer) or np.isnan(array).any():
        return array.astype(np.float32), 0
    limits = np.iinfo(dtype)
    rounded = np.rint(array)
    clipped = int(((rounded < limits.min) | (rounded > limits.max)).sum())
    return np.clip(rounded, limits.min, limits.max).astype(dtype), clipped


def _describe(image: Any, source: Any, affine: Affine) -> None:
    header = image.header
    header.set_xyzt_units("mm", source.get_xyzt_units()[1] if source is not None else "unknown")
    sform = int(source["sform_code"]) if source is not None else 1
    qform = int(source["qform_code"]) if source is not None else 1
    # At least one of the two must carry the geometry.
    image.set_sform(affine, code=sform if sform or qform else 1)
    image.set_qform(affine, code=qform)
    header["descrip"] = b"medldm"
    header["cal_max"] = header["cal_min"] = 0


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(count) for count in shape)


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0].replace(os.sep, "/")[:160]
