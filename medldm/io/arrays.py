"""Voxels that lie in memory, with an affine, as a Volume; what files and Python hand over meets here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.arrayproxy import ArrayProxy

from medldm.data.volume import Affine, Stored, Volume, Voxels
from medldm.errors import GeometryError, NotRestorable
from medldm.io.checks import usable
from medldm.io.nifti import header as headers

LARGEST = float(np.finfo(np.float32).max)  # what networks compute with


def from_array(voxels: Voxels, affine: Affine, name: str = "volume", modality: str | None = None) -> Volume:
    """A NumPy array with an affine as a Volume, axes reordered nearest to RAS.

    Parameters
    ----------
    voxels : (X, Y, Z) real numbers
    affine : (4, 4) index to mm in RAS+ world space
    name : what to call it
    modality : name in `medldm.modality.MODALITIES`, or None

    Returns
    -------
    volume; integers stay integers, everything else is float32, where infinite voxels count as missing (NaN); what
    comes from a file that holds float64 keeps it (`from_nibabel`, `medldm.io.read_nifti`)

    Raises
    ------
    GeometryError
        The affine is no finite, invertible 4 x 4 matrix.
    NotRestorable
        Colours or complex numbers.
    """
    return _placed(voxels, np.dtype(np.float32), affine, name, modality)


def _placed(voxels: Voxels, floats: np.dtype[Any], affine: Affine, name: str, modality: str | None = None) -> Volume:
    """A volume of an array, what is no integer as the type of floats that is given."""
    if voxels.dtype.kind not in "iufb":
        raise NotRestorable(f"{name} holds voxels of {voxels.dtype}; medldm restores scans of one real number a voxel.")
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not usable(affine):
        raise GeometryError(f"{name} has an affine that is no finite, invertible 4 x 4 matrix: {affine.tolist()}.")
    if voxels.dtype.kind in "iu":
        native = voxels.dtype.newbyteorder("=")
        return nearest_ras(voxels.astype(native, copy=False), affine, name, Stored(dtype=native, modality=modality))
    values, note = finite(voxels, floats, name)
    return nearest_ras(values, affine, name, Stored(dtype=floats, modality=modality, note=note))


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
    affine = np.asarray(image.affine, dtype=np.float64)
    if not isinstance(image, nib.Nifti1Pair):
        return from_array(np.asanyarray(image.dataobj), affine, name)
    header = image.header.copy()
    if isinstance(image.dataobj, ArrayProxy):  # nibabel takes the scaling out of the header of what it has opened
        header["scl_slope"], header["scl_inter"] = image.dataobj.slope, image.dataobj.inter
        stored, scaling = np.asanyarray(image.dataobj.get_unscaled()), headers.scaling_of(header)
    else:
        stored, scaling = np.asanyarray(image.dataobj), (1.0, 0.0)
        header["scl_slope"], header["scl_inter"] = 1, 0
    # nibabel hands the affine on in the unit of the header; what was made in Python rarely names one.
    unit_mm, _ = headers.unit_of(image.header, affine, stored.shape, name)
    affine = np.diag([unit_mm] * 3 + [1.0]) @ affine
    if stored.dtype.kind not in "iuf":
        return from_array(stored, affine, name)  # refused there, in words
    voxels, note = scanner_values(stored, scaling, name)
    volume = _placed(voxels, voxels.dtype, affine, name)
    dtype = stored.dtype.newbyteorder("=") if stored.dtype.kind in "iu" else volume.stored.dtype
    kept = replace(volume.stored, dtype=dtype, container="nifti", header=header, note=(*note, *volume.stored.note))
    return volume.with_voxels(volume.voxels, stored=kept)


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
    oriented = np.ascontiguousarray(orientations.apply_orientation(voxels, ornt))
    return Volume(oriented, inside, name=name, stored=stored)


def scanner_values(array: Voxels, scaling: tuple[float, float], name: str) -> tuple[Voxels, tuple[str, ...]]:
    """Stored voxels with a slope and an intercept applied, and sentences about what was odd.

    Parameters
    ----------
    array : as stored, native byte order
    scaling : slope and intercept
    name : of the file, for messages

    Returns
    -------
    the integers themselves where nothing scales them; else float32, or float64 where the file holds that or float32
    could not tell two neighbouring integers apart
    """
    scaled = scaling != (1.0, 0.0)
    if array.dtype.kind in "iu" and not scaled:
        return array, ()
    values = array.astype(np.float64) * scaling[0] + scaling[1] if scaled else array
    kind = stored_float(array.dtype)
    if array.dtype.kind in "iu":
        largest = np.float32(min(LARGEST, max(abs(float(values.min())), abs(float(values.max())))))
        kind = np.dtype(np.float32 if float(np.spacing(largest)) < 0.9 * abs(scaling[0]) else np.float64)
    return finite(values, kind, name)


def stored_float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of floats that voxels of some type become: float64 stays, longer ones are cut to it."""
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize > 4 else np.float32)


def finite(values: Voxels, dtype: np.dtype[Any], name: str) -> tuple[Voxels, tuple[str, ...]]:
    """Floats with NaN for what is infinite or too large to compute with, in a copy, and a sentence about it.

    Parameters
    ----------
    values : any shape
    dtype : float32 or float64
    name : of the file, for messages
    """
    note: tuple[str, ...] = ()
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        note = (f"{name} holds floats of {8 * values.dtype.itemsize} bits; they are read and written as float64.",)
    with np.errstate(over="ignore", invalid="ignore"):  # what a type cannot hold becomes infinite, see the note
        kept: Voxels = values.astype(dtype)
        infinite = np.abs(kept) > LARGEST
    if infinite.any():
        kept[infinite] = np.nan
        note += (f"{name} holds {int(infinite.sum())} infinite voxels; they count as missing.",)
    return kept, note


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


def scaling_of(volume: Volume) -> tuple[float, float]:
    """Slope and intercept from integers to scanner values in the file that a volume was read from; (1, 0) for none."""
    header = volume.stored.header
    return headers.scaling_of(header) if isinstance(header, nib.Nifti1Header) else (1.0, 0.0)
