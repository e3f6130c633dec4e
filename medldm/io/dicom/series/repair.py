"""What --fix does: keep the first of duplicates, shear tilted slices back, make the spacing even.

`without_duplicates` works on headers, before pixels are read; `make_regular` on the stack of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medldm.data.volume import Affine, Voxels
from medldm.errors import GeometryError
from medldm.io.dicom.header.frames import Frame
from medldm.io.dicom.header.parse import Header
from medldm.io.dicom.series.geometry import LONGEST_GAP, Array, affine_ras, fit_grid, same_position_mm
from medldm.io.dicom.series.stack import Series, axes_of, members_of, with_geometry

REPAIRABLE = ("duplicate", "irregular", "tilted")
WIDEST_INTERPOLATED = 2.5  # grid steps; interpolation across a wider gap would invent a slice, so it stays missing
MOST_SLICES = 4  # times as many slices as were measured; more would be interpolation, not a scan
WHOLE = 1e-3  # pixels; a shift nearer to a whole number is taken as one, which needs no interpolation
MOST_SHIFT = 1.0  # in-plane shift between any two slices, as a share of the slice's width or height


@dataclass(frozen=True)
class SlicePositions:
    """Where the N slices of a stack lie, in order along the normal.

    Parameters
    ----------
    origins : (N, 3) ImagePositionPatient, mm, LPS
    axes : along a row, along a column, slice normal; unit vectors, LPS
    pixel_mm : between columns, between rows
    """

    origins: Array
    axes: tuple[Array, Array, Array]
    pixel_mm: tuple[float, float]

    @property
    def along_mm(self) -> Array:
        """(N,) positions along the normal, from the first."""
        along: Array = (self.origins - self.origins[0]) @ self.axes[2]
        return along

    @property
    def in_plane_shift(self) -> Array:
        """(N, 2) columns and rows from the corner of the smallest rectangle that holds all slices; none is negative.

        The rectangle starts a whole number of pixels from the first slice, which thus needs no interpolation.
        """
        shift = (self.origins - self.origins[0]) @ np.stack(self.axes[:2], axis=1) / np.array(self.pixel_mm)
        lowest: Array = np.floor(shift.min(axis=0) + WHOLE)
        from_corner: Array = np.maximum(shift - lowest, 0.0)
        return from_corner


def without_duplicates(series: Series) -> tuple[Series, str]:
    """The series with the first image of each position only and its new verdict, and a sentence about what was done.

    The first has the lowest AcquisitionNumber, and of equal ones the lowest InstanceNumber.

    Parameters
    ----------
    series : with the verdict "duplicate"
    """
    members = members_of(series)
    axes = axes_of(members)
    assert axes is not None, "a series without axes is not a volume, and never comes here"
    along = np.array([header.position for header in members]) @ axes[2]
    close = same_position_mm(np.sort(along))
    kept: list[int] = []
    for number in sorted(range(len(members)), key=lambda number: _acquisition_order(members[number])):
        if all(abs(along[number] - along[other]) > close for other in kept):
            kept.append(number)
    deduplicated = with_geometry(series, [members[number] for number in kept])
    dropped = len(members) - len(kept)
    what = "1 image that repeats a position was" if dropped == 1 else f"{dropped} images that repeat positions were"
    return deduplicated, f"{what} left out of {series.name}."


def _acquisition_order(header: Header) -> tuple[float, float, Frame]:
    number = float(acquisition) if (acquisition := header.acquisition).isdigit() else np.inf
    return number, np.inf if header.instance is None else header.instance, header.source


def positions_of(series: Series) -> SlicePositions:
    """Where the images of a tilted or irregular series lie; its images are in order along the normal already."""
    members = members_of(series)
    axes, pixel = axes_of(members), members[0].pixel_spacing
    assert axes is not None, "a series without axes is not a volume, and never comes here"
    assert pixel is not None, "neither is one without pixel spacing"
    return SlicePositions(np.array([header.position for header in members]), axes, (pixel[1], pixel[0]))


def make_regular(stack: Voxels, positions: SlicePositions, name: str) -> tuple[Voxels, Affine, tuple[int, ...], str]:
    """Slices on a rectangular, regular grid.

    First, slices are shifted inside their planes until they lie above each other. If their spacing is even then, gaps
    stay gaps. Else slices at an even spacing, about the smallest that was measured, are interpolated linearly.

    Parameters
    ----------
    stack : (columns, rows, N), in the order of `positions`
    positions : of the slices
    name : for messages

    Returns
    -------
    (columns', rows', slices) float32, NaN in missing slices; (4, 4) index to RAS mm; missing slices, counted from 0; a
    sentence about what was done

    Raises
    ------
    GeometryError
        Slices too far apart, or too far aside.
    """
    aligned = _shifted(stack, positions, name)
    along, normal = positions.along_mm, positions.axes[2]
    grid = fit_grid(np.outer(along, normal), normal)  # of the slices as they lie now, all above each other
    if grid.index:
        regular = np.full((*aligned.shape[:2], grid.index[-1] + 1), np.nan, dtype=np.float32)
        regular[:, :, list(grid.index)] = aligned
        step, missing = grid.step_mm, grid.missing
        done = "its slices were shifted in their planes (linear interpolation)"
    else:
        regular, step, missing = _resampled(aligned, along, name)
        done = f"its slices were resampled to {step:.2f} mm (linear interpolation)"
    _fill_outside(regular, missing, float(np.nanmin(stack)))
    # The corner of the rectangle, from the first slice back by its shift.
    first_shift = zip(positions.in_plane_shift[0], positions.pixel_mm, positions.axes[:2], strict=True)
    origin = positions.origins[0] - sum(pixels * mm * axis for pixels, mm, axis in first_shift)
    affine = affine_ras(positions.axes, origin, (*positions.pixel_mm, step))
    return regular, affine, missing, f"{name} was repaired: {done}."


def _shifted(stack: Voxels, positions: SlicePositions, name: str) -> Voxels:
    """(columns', rows', N) float32: every slice where it lies in the rectangle that holds all, NaN around it."""
    shifts = positions.in_plane_shift
    extra = np.ceil(shifts.max(axis=0) - WHOLE).astype(int)  # columns, rows
    if (extra > MOST_SHIFT * np.array(stack.shape[:2])).any():
        raise GeometryError(f"{name} cannot be repaired: its slices lie further aside than they are wide.")
    shape = tuple(np.array(stack.shape[:2]) + extra)
    shifted = np.full((*shape, stack.shape[2]), np.nan, dtype=np.float32)
    for k, shift in enumerate(shifts):
        whole = np.rint(shift).astype(int)
        if np.abs(shift - whole).max() < WHOLE:
            # Nothing to interpolate: measured values stay as they are.
            (left, top), (columns, rows) = whole, stack.shape[:2]
            shifted[left : left + columns, top : top + rows, k] = stack[:, :, k]
            continue
        shifted[:, :, k] = ndimage.affine_transform(
            stack[:, :, k].astype(np.float32), [1.0, 1.0], -shift, shape, order=1, mode="constant", cval=np.nan
        )
    return shifted


def _fill_outside(voxels: Voxels, missing: tuple[int, ...], value: float) -> None:
    """Give pixels around the slices the lowest value of the scan, which is background in CT and MR alike; in place."""
    present = np.setdiff1d(np.arange(voxels.shape[2]), missing)
    voxels[:, :, present] = np.where(np.isnan(voxels[:, :, present]), np.float32(value), voxels[:, :, present])


def _resampled(stack: Voxels, along: Array, name: str) -> tuple[Voxels, float, tuple[int, ...]]:
    """Slices at an even spacing from the first to the last, that spacing in mm, and which of them are missing.

    Parameters
    ----------
    stack : (columns, rows, N)
    along : (N,) mm along the normal, ascending from 0
    name : for messages
    """
    gaps = np.diff(along)
    step = max(float(gaps.min()), float(np.median(gaps)) / 2)  # one slice out of place is no reason for a fine grid
    if gaps.max() > (LONGEST_GAP + 1) * step:
        raise GeometryError(
            f"{name} cannot be repaired: it has a hole of {gaps.max():.1f} mm at a spacing of {step:.2f} mm. Remove "
            "the slices beyond the hole, if they are strays."
        )
    count = int(np.floor(along[-1] / step + 1e-6)) + 1
    if count > MOST_SLICES * len(along):
        raise GeometryError(
            f"{name} cannot be repaired: its slices lie {step:.2f} to {gaps.max():.2f} mm apart, so that most slices "
            "of an even grid would be made up. Remove the slices that do not belong."
        )
    step = float(along[-1]) / (count - 1)  # so that the last slice is where it was measured
    at = np.arange(count) * step
    below = np.clip(np.searchsorted(along, at, side="right") - 1, 0, len(along) - 2)  # index of the measured slice
    weight = (at - along[below]) / gaps[below]  # 0 at that slice, 1 at the next one
    resampled = np.empty((*stack.shape[:2], count), dtype=np.float32)
    for k, (low, part) in enumerate(zip(below, weight, strict=True)):
        resampled[:, :, k] = stack[:, :, low] * (1 - part) + stack[:, :, low + 1] * part
    # In a wide gap, slices are missing but for those within 2 % of a step of a measured one.
    inside_gap = np.abs(weight - 0.5) < 0.5 - 0.02 * step / gaps[below]
    missing = (gaps[below] > WIDEST_INTERPOLATED * step) & inside_gap
    resampled[:, :, missing] = np.nan
    return resampled, step, tuple(int(k) for k in np.flatnonzero(missing))
