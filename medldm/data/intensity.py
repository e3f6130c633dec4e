"""HU windows and MRI percentiles: scaled intensity for the networks, stored intensity for the files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

FOREGROUND_PERCENTILE = 99.5
SAMPLE = 2_000_000  # voxels that a histogram needs at most


@dataclass(frozen=True)
class Scaling:
    """A straight line between stored and scaled intensity; nothing is clipped, so the way back is exact.

    Parameters
    ----------
    low, high : stored values that become 0 and 1
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not np.isfinite([self.low, self.high]).all() or self.high <= self.low:
            raise ValueError(f"high must lie above low, these are {self.high} and {self.low}")

    @property
    def unit(self) -> float:
        """Stored units per scaled unit: multiply a scaled standard deviation by it to get a stored one."""
        return self.high - self.low

    def apply(self, stored: Array) -> Array:
        """Stored values as scaled intensity.

        Parameters
        ----------
        stored : any shape, stored units

        Returns
        -------
        same shape, float32 (float64 stays), scaled intensity; low becomes 0, high 1, NaN stays NaN
        """
        scaled: Array = (_as_float(stored) - self.low) / self.unit
        return scaled

    def invert(self, scaled: Array) -> Array:
        """Scaled intensity as stored values, the way back of `apply`.

        Parameters
        ----------
        scaled : any shape, scaled intensity

        Returns
        -------
        same shape, float32 (float64 stays), stored units
        """
        stored: Array = _as_float(scaled) * self.unit + self.low
        return stored


def mri_scaling(voxels: Array, inside: Mask | None = None) -> Scaling:
    """Zero to the 99.5th percentile of the foreground, as 0 to 1.

    Scans that were standardised to zero mean hold many negative voxels; they begin at the 0.5th percentile.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units; NaN and exact zeros are left out
    inside : (X, Y, Z) bool, of `foreground_mask`, where it is known already

    Returns
    -------
    scaling; an image without any signal maps 1 to 1
    """
    foreground = voxels[foreground_mask(voxels) if inside is None else inside]
    if foreground.size == 0:
        return Scaling(0.0, 1.0)
    high = float(np.percentile(foreground, FOREGROUND_PERCENTILE))
    low = _low(foreground, high)
    return Scaling(low, high) if high > low else Scaling(low, low + max(abs(low), 1.0))


def body_mask(voxels: Array, denser_than: float) -> Mask:
    """Where the patient is in CT: what is dense, and the air inside it (lungs, bowel).

    That air is what flooding from the X and Y faces does not reach.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units
    denser_than : stored units

    Returns
    -------
    (X, Y, Z) bool
    """
    body: Mask = _without_cavities(voxels > denser_than, faces=(0, 1)) & np.isfinite(voxels)
    return body


def foreground_mask(voxels: Array) -> Mask:
    """Where the patient is in MRI.

    Exact zeros and NaN are never foreground. In the histogram of what is left, air shows as a narrow heap of dark
    voxels (averaged over 2 x 2 x 2, so that noise does not smear it); everything brighter than twice its mode is
    foreground, dark cavities included. A skull-stripped scan has no such heap and keeps all its non-zero voxels.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units

    Returns
    -------
    (X, Y, Z) bool
    """
    signal: Mask = voxels != 0
    if voxels.dtype.kind == "f":
        signal &= np.isfinite(voxels)
    threshold = _air_threshold(voxels, signal)
    if threshold is None:
        return signal
    coarse, step = _averaged(voxels, signal)
    # Specks go; along short axes there is nothing to open, and a single slice would vanish.
    cross = ndimage.generate_binary_structure(3, 1)[tuple(slice(None) if n > 4 else slice(1, 2) for n in coarse.shape)]
    head = _without_cavities(ndimage.binary_opening(coarse > threshold, cross), faces=(0, 1, 2))
    fine = head
    for axis in range(3):
        fine = np.repeat(fine, step[axis], axis=axis)
    mask: Mask = signal & fine[tuple(slice(0, size) for size in voxels.shape)]
    # Pure noise, or a heap that was the patient after all: better everything than nothing.
    return mask if mask.sum() > 0.005 * signal.sum() else signal


def _as_float(values: Array) -> Array:
    values = np.asarray(values)
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def _low(foreground: Array, high: float) -> float:
    percentile = float(np.percentile(foreground, 0.5))
    return percentile if percentile < -0.1 * max(high, 0.0) else 0.0


def _air_threshold(voxels: Array, signal: Mask) -> float | None:
    """Value between air and patient, stored units; None where there is no air but zeros."""
    coarse, _ = _averaged(voxels, signal)
    values = coarse[coarse > 0]
    if values.size < 64:
        return None
    values = values[:: max(1, values.size // SAMPLE)]
    top = float(np.percentile(values, FOREGROUND_PERCENTILE))
    counts, edges = np.histogram(values, bins=200, range=(0.0, top))
    # Rayleigh noise of 15 % of the highest signal has its mean at 19 %; tissue of a skull-stripped scan has its mode
    # above that.
    dark = int(np.argmax(counts[:40]))
    mode = float(edges[dark] + edges[dark + 1]) / 2
    heap = counts[: 2 * dark + 2].sum() / values.size
    valley = counts[dark] > 2 * counts[min(2 * dark + 2, 199)]
    return max(2.0 * mode, 0.02 * top) if heap > 0.15 and valley else None


def _averaged(voxels: Array, signal: Mask) -> tuple[Array, tuple[int, ...]]:
    """Mean over 2 x 2 x 2 blocks (1 along short axes), float32, zeros where nothing was measured; and the steps."""
    step = tuple(2 if size >= 32 else 1 for size in voxels.shape)
    filled = np.where(signal, voxels, np.float32(0)).astype(np.float32, copy=False)
    for axis, (size, by) in enumerate(zip(voxels.shape, step, strict=True)):
        if by == 1:
            continue
        if size % 2:
            filled = np.concatenate([filled, np.take(filled, [-1], axis=axis)], axis=axis)
        even, odd = (filled[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
        filled = (even + odd) * np.float32(0.5)
    return filled, step


def _without_cavities(mask: Mask, faces: tuple[int, ...]) -> Mask:
    """The mask and everything that flooding from the named pairs of faces does not reach."""
    labels, count = ndimage.label(~mask)
    if count == 0:
        return mask
    outside = np.zeros(count + 1, dtype=bool)
    for axis in faces:
        for end in (0, -1):
            outside[np.unique(np.take(labels, end, axis=axis))] = True
    outside[0] = False
    filled: Mask = (~outside)[labels]
    return filled
