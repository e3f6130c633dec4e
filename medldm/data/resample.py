"""Grids, field-of-view-aligned affines, and plain interpolation between them (SimpleITK)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from medldm.data.volume import Affine, Volume

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]

SHORTEST_FOR_SPLINES = 4  # cubic B-splines need four control points along every axis
MEASURED = 0.5  # a voxel counts as measured when at least half of its weight comes from measured voxels


def field_of_view_affine(affine: Affine, old_shape: Sequence[int], new_shape: Sequence[int]) -> Affine:
    """The affine of a grid with other voxels in the same field of view: outer edges of the outer voxels stay.

    Parameters
    ----------
    affine : (4, 4), old voxel index to mm
    old_shape, new_shape : voxels along each axis

    Returns
    -------
    (4, 4) float64, new voxel index to mm
    """
    ratio = np.asarray(old_shape, dtype=np.float64) / np.asarray(new_shape, dtype=np.float64)
    index = np.diag([*ratio, 1.0])
    # Voxel centres: half an old voxel in from the edge becomes half a new one.
    index[:3, 3] = (ratio - 1) / 2
    moved: Affine = np.asarray(affine, dtype=np.float64) @ index
    return moved


def new_shape_for_spacing(
    shape: Sequence[int],
    spacing: Sequence[float],
    target: float | Sequence[float],
    tolerance: float = 0.01,
) -> Shape:
    """How many voxels the field of view holds at a finer spacing.

    Parameters
    ----------
    shape : voxels along each axis
    spacing : mm
    target : mm; one number for every axis, or one per axis
    tolerance : an axis coarser than its target by less than this fraction stays as it is

    Returns
    -------
    voxels along each axis; never fewer than now. The field of view is kept, so where it is no multiple of the
    target the new spacing is the nearest that divides it.
    """
    targets = [float(target)] * 3 if isinstance(target, int | float) else [float(size) for size in target]
    x, y, z = (
        size if now <= aim * (1 + tolerance) else max(size, round(size * now / aim))
        for size, now, aim in zip(shape, spacing, targets, strict=True)
    )
    return x, y, z


def resample_to(volume: Volume, affine: Affine, shape: Sequence[int], order: str = "linear") -> Array:
    """The scan on another grid by plain interpolation.

    Missing voxels (NaN) do not spread: their neighbours share the weight, and what is mostly missing stays NaN.
    Half a voxel beyond the outermost centres the edge is repeated; outside the field of view there is NaN.

    Parameters
    ----------
    volume : the scan
    affine : (4, 4) of the new grid, index to mm in the same world
    shape : voxels of the new grid
    order : ``"nearest"``, ``"linear"`` or ``"bspline"`` (cubic; linear where an axis has fewer than 4 voxels)

    Returns
    -------
    (X', Y', Z') float32
    """
    voxels = np.asarray(volume.voxels, dtype=np.float32)
    # Between index spaces, since SimpleITK's own geometry cannot carry the shear of a tilted gantry.
    index: Affine = np.asarray(np.linalg.inv(volume.affine) @ affine, dtype=np.float64)
    measured = np.isfinite(voxels)
    if measured.all():
        return _interpolate(voxels, index, shape, order)
    if not measured.any():
        return np.full(tuple(shape), np.nan, dtype=np.float32)
    weight = _interpolate(measured.astype(np.float32), index, shape, "nearest" if order == "nearest" else "linear")
    if order == "bspline":
        resampled = _interpolate(nearest_filled(voxels, measured), index, shape, order)
    else:
        resampled = _interpolate(np.where(measured, voxels, np.float32(0)), index, shape, order)
        resampled /= np.maximum(weight, 1e-6)
    resampled[~(weight >= MEASURED)] = np.nan
    return resampled


def _interpolate(voxels: Array, index: Affine, shape: Sequence[int], order: str) -> Array:
    if order == "bspline" and min(voxels.shape) < SHORTEST_FOR_SPLINES:
        order = "linear"
    kinds = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear, "bspline": sitk.sitkBSpline}
    if order not in kinds:
        raise ValueError(f"order is one of {', '.join(kinds)}, not {order!r}")
    # SimpleITK counts the last NumPy axis first.
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(index[2::-1, 2::-1].ravel().tolist())
    transform.SetTranslation(index[2::-1, 3].tolist())
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
    size = [int(count) for count in reversed(shape)]
    identity = np.eye(3).ravel().tolist()
    moved = sitk.Resample(
        image, size, transform, kinds[order], [0.0] * 3, [1.0] * 3, identity, float("nan"), sitk.sitkFloat32
    )
    array: Array = sitk.GetArrayFromImage(moved)
    return array


def nearest_filled(voxels: Array, measured: npt.NDArray[np.bool_]) -> Array:
    """Each missing voxel takes the value of the nearest measured one."""
    nearest = ndimage.distance_transform_edt(~measured, return_distances=False, return_indices=True)
    filled: Array = voxels[tuple(nearest)]
    return filled
