"""What to look at in a result: voxels that nobody measured, and the places that are most uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medldm.data.resample import resample_to
from medldm.data.volume import Volume

PLACES = 8  # in the list
APART_MM = 12.0  # between two of them
SMOOTH_MM = 3.0  # over which an interval is averaged: single voxels say little


@dataclass(frozen=True)
class Place:
    """A place worth a look.

    Parameters
    ----------
    index : voxel (z, y, x) of the result
    half_width : of the 90 % interval there, averaged over a few millimetres, in the unit of the scan
    """

    index: tuple[int, int, int]
    half_width: float


def not_measured(before: Volume, after: Volume, invented: Sequence[int], mask: Volume | None, axis: int = 2) -> Volume:
    """Voxels of a result that nobody measured: filled slices and filled regions.

    Parameters
    ----------
    before : scan
    after : result, maybe on a finer grid
    invented : slices that were filled, counted along the stored axis
    mask : region that was filled, on the grid of the scan; None for none
    axis : stored axis

    Returns
    -------
    1 where nothing was measured, 0 elsewhere, on the grid of the result
    """
    there = np.zeros(before.shape, np.float32)
    if mask is not None:
        there[np.asarray(mask.voxels) > 0] = 1
    across = before.stored.axes[axis]
    count = before.shape[across]
    for number in invented:
        place = count - 1 - number if before.stored.flips[axis] else number
        if 0 <= place < count:
            there[(slice(None),) * across + (place,)] = 1
    marked = replace(before, voxels=there, std=None, half_width=None)
    if before.shape != after.shape or not np.allclose(before.affine, after.affine):
        there = np.nan_to_num(resample_to(marked, after.affine, after.shape, "nearest"))
    return after.as_map(there).with_voxels((there > 0.5).astype(np.uint8))


def widest(after: Volume, count: int = PLACES) -> tuple[Place, ...]:
    """The places whose 90 % intervals are widest, the widest first, and none close to another.

    Parameters
    ----------
    after : result with intervals; without them the list is empty
    count : at most so many
    """
    if after.half_width is None:
        return ()
    from scipy.ndimage import gaussian_filter
    from skimage.feature import peak_local_max

    known = np.isfinite(after.half_width)
    width = np.where(known, after.half_width, 0).astype(np.float32)
    sigma = [min(SMOOTH_MM / mm / 2, n / 4) for mm, n in zip(after.spacing, after.shape, strict=True)]
    smooth = gaussian_filter(width, sigma)
    distance = max(1, round(APART_MM / min(after.spacing)))
    peaks = peak_local_max(
        smooth, min_distance=distance, num_peaks=count, exclude_border=False, labels=known.astype(int)
    )
    return tuple(Place((int(z), int(y), int(x)), float(smooth[x, y, z])) for x, y, z in peaks if smooth[x, y, z] > 0)
