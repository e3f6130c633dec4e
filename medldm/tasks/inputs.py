"""What callers give a task, as volumes on one grid: scans, masks and noise maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from nibabel.orientations import OrientationError

from medldm.data.volume import Affine, Volume, Voxels
from medldm.errors import GeometryError, UsageError
from medldm.io import from_array, from_nibabel, guess_modality, read

SAME_GRID = 0.05  # voxels that the corners of two grids may lie apart; headers round


def as_volume(scan: Any, affine: Affine | None = None) -> Volume:
    """A Volume of what callers hold: a Volume, a nibabel image, or an array and its affine.

    Parameters
    ----------
    scan : Volume, nibabel image, or (X, Y, Z) array
    affine : (4, 4) RAS mm, with an array

    Raises
    ------
    UsageError
    """
    if isinstance(scan, Volume):
        return scan
    image = hasattr(scan, "get_fdata") and hasattr(scan, "affine")
    if not image and not (isinstance(scan, np.ndarray) and affine is not None):
        raise UsageError("A scan is a medldm.Volume, a nibabel image, or a NumPy array together with affine=.")
    if not 2 <= len(scan.shape) <= 3:
        raise UsageError(f"A scan has three axes, this one has {len(scan.shape)}.")
    try:
        if image and len(scan.shape) == 3:
            return from_nibabel(scan)
        array, affine = (np.asanyarray(scan.dataobj), scan.affine) if image else (scan, affine)
        if array.dtype.kind not in "iufb":
            raise UsageError(f"A scan has real numbers; these voxels are {array.dtype}.")
        return from_array(array.reshape(*array.shape, *(1,) * (3 - array.ndim)), np.asarray(affine, dtype=np.float64))
    except (ValueError, np.linalg.LinAlgError, OrientationError) as problem:
        raise GeometryError(
            "The affine of this scan cannot be used. Give a finite, invertible 4 x 4 matrix, voxel index to RAS mm."
        ) from problem


def scan_like(path: str, modality: str, what: str) -> Volume:
    """The scan that ``--like`` names.

    Parameters
    ----------
    path : file or folder
    modality : that it has to be of, a name in `medldm.modality.MODALITIES`
    what : it is to be like, for the sentence

    Raises
    ------
    UsageError
        It is of another modality.
    InputError
        It cannot be read.
    """
    scan = read(path)
    kind, _ = guess_modality(scan)
    if kind != modality:
        raise UsageError(f"--like {path} is {kind.upper()}, {what} is {modality.upper()}. Name a scan of that kind.")
    return scan


def on_axes_of(given: Any, scan: Any, volume: Volume) -> Any:
    """What came beside a scan, a mask or a map, as a Volume or with the axes of ``volume.voxels``.

    Parameters
    ----------
    given : Volume, nibabel image, or array laid out like `scan`
    scan, volume : as the caller gave it, and what `as_volume` made of it
    """
    if isinstance(given, Volume):
        return given
    if hasattr(given, "get_fdata"):
        return as_volume(given)
    array = np.asarray(given)
    if isinstance(scan, Volume):
        return array
    if array.ndim == 2:
        array = array[..., None]  # beside a flat scan, which is one slice
    return volume.from_stored(array) if array.ndim == 3 else array


def number_or_map(noise: Any, scan: Any, volume: Volume) -> tuple[Any, Any]:
    """A noise level as a number (None to estimate it) and as a map; one of both is None.

    Raises
    ------
    UsageError
        Neither.
    """
    if noise is None or isinstance(noise, str):
        return noise, None
    if isinstance(noise, Volume) or hasattr(noise, "get_fdata"):
        return None, on_axes_of(noise, scan, volume)
    array = np.asarray(noise)
    if array.dtype.kind not in "iuf":
        raise UsageError(f"--noise is a number or a map of numbers, not {noise!r}.")
    return (array.item(), None) if array.ndim == 0 else (None, on_axes_of(array, scan, volume))


def mask_on(volume: Volume, mask: Volume | Voxels) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """A mask on the grid of a scan.

    Parameters
    ----------
    volume : scan
    mask : volume with the same grid, or an array in the axes of ``volume.voxels``; non-zero means fill

    Raises
    ------
    GeometryError
        The grids differ.
    """
    if isinstance(mask, Volume):
        if differs := grid_difference(mask, volume):
            raise GeometryError(
                f"The mask {mask.name} does not lie on the grid of {volume.name}: {differs}. Resample it to the scan "
                "first."
            )
        mask = mask.voxels
    if mask.shape != volume.shape:
        ours, theirs = (" x ".join(map(str, grid.shape)) for grid in (mask, volume))
        raise GeometryError(f"The mask has {ours} voxels, {volume.name} has {theirs}. Draw it on the grid of the scan.")
    filled: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.nan_to_num(np.asarray(mask, dtype=np.float32)) != 0
    return filled


def grid_difference(mask: Volume, volume: Volume) -> str:
    """In what the grids of a mask and a scan differ, as text; empty where they are the same.

    Parameters
    ----------
    mask, volume : both in the axes nearest to RAS; sizes are given in the order in which they are stored
    """

    def stored(values: Sequence[float], grid: Volume) -> list[float]:
        return [values[axis] for axis in grid.stored.axes]

    moved = mask.affine - volume.affine
    ends = np.array([[*(k * (n - 1) for k, n in zip(at, volume.shape, strict=True)), 1] for at in np.ndindex(2, 2, 2)])
    aside_mm = float(np.linalg.norm(ends @ moved.T, axis=1).max())
    tolerance_mm = SAME_GRID * min(volume.spacing)
    if mask.shape == volume.shape and aside_mm <= tolerance_mm:
        return ""
    if mask.shape != volume.shape:
        ours, theirs = (" x ".join(f"{n:g}" for n in stored(grid.shape, grid)) for grid in (mask, volume))
        return f"it has {ours} voxels, the scan {theirs}"
    if not np.allclose(mask.spacing, volume.spacing, atol=tolerance_mm):
        ours, theirs = (" x ".join(f"{mm:.4g}" for mm in stored(grid.spacing, grid)) for grid in (mask, volume))
        return f"its voxels are {ours} mm, those of the scan {theirs} mm"
    axes, others = (grid.affine[:3, :3] / np.asarray(grid.spacing) for grid in (mask, volume))
    if not np.allclose(axes, others, atol=1e-3):
        cosine = (np.trace(axes @ np.linalg.inv(others)) - 1) / 2
        return f"its axes are turned by {np.degrees(np.arccos(np.clip(cosine, -1, 1))):.3g} degrees"
    names = (("left", "right"), ("back", "front"), ("down", "up"))
    shifts = [
        f"{abs(mm):.3g} mm {pair[int(mm > 0)]}" for mm, pair in zip(moved[:3, 3], names, strict=True) if abs(mm) > 0.005
    ]
    return f"it is shifted by {', '.join(shifts)}" if shifts else f"its corners lie up to {aside_mm:.2g} mm aside"
