"""Differences of neighbours: what noise is measured by, and where a scan is flat enough to measure it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medldm.data.volume import Voxels

Mask = npt.NDArray[np.bool_]

FLAT = 0.35  # share of the tissue, flattest first, that noise is measured in


def fine_axes(shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Axes along which neighbours show the same tissue: long enough, and at most 1.6 times the finest spacing."""
    long = [axis for axis in range(3) if shape[axis] > 4]
    finest = min((spacing[axis] for axis in long), default=0.0)
    return tuple(axis for axis in long if spacing[axis] <= 1.6 * finest)


def second_difference(image: Voxels, axes: tuple[int, ...], lag: int = 1) -> Voxels:
    """Second difference along each of `axes`, over the root of 6, so that white noise keeps its standard deviation.

    Parameters
    ----------
    image : (X, Y, Z)
    axes : which
    lag : distance of the neighbours, voxels
    """
    before, middle, after = (slice(start, end) for start, end in ((None, -2 * lag), (lag, -lag), (2 * lag, None)))
    for axis in axes:
        wide = np.pad(image, [(lag, lag) if a == axis else (0, 0) for a in range(3)], mode="symmetric")
        at = [(slice(None),) * axis + (part,) for part in (before, middle, after)]
        # Slices of a padded copy: three times as fast as a convolution whose kernel is mostly zero.
        image = (wide[at[0]] - 2 * wide[at[1]] + wide[at[2]]) / np.float32(math.sqrt(6))
    return image


def flat_tissue(image: Voxels, tissue: Mask, axes: tuple[int, ...], share: float = FLAT) -> Mask:
    """The flattest share of the tissue, by the gradient of the image averaged over 5 voxels along each axis.

    Parameters
    ----------
    image : (X, Y, Z)
    tissue : (X, Y, Z)
    axes : to average and differentiate along
    share : of the tissue to keep, 0 to 1
    """
    smooth = image
    for axis in axes:
        smooth = ndimage.uniform_filter1d(smooth, 5, axis=axis)
    steepness = np.zeros(image.shape, dtype=np.float32)
    for axis in axes:
        steepness += central_difference(smooth, axis) ** 2
    flat: Mask = tissue & (steepness <= np.quantile(steepness[tissue], share))
    return flat


def central_difference(image: Voxels, axis: int) -> Voxels:
    """Half the difference of both neighbours along an axis; at its ends an image goes on as its mirror.

    Parameters
    ----------
    image : (X, Y, Z)
    axis : at least two voxels long
    """
    line = np.moveaxis(image, axis, 0)
    slope = np.empty_like(image)
    into = np.moveaxis(slope, axis, 0)
    np.subtract(line[2:], line[:-2], out=into[1:-1])
    np.subtract(line[1], line[0], out=into[0])
    np.subtract(line[-1], line[-2], out=into[-1])
    slope *= np.float32(0.5)
    return slope
