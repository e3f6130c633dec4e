"""What --fix does: keep the first of duplicates, shear tilted slices back, make the spacing even."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medldm.data.volume import Affine, Voxels
from medldm.errors import GeometryError
from medldm.io.dicom.header.frames import Frame
from medldm.io.dicom.header.parse import Header
from medldm.io.dicom.series.geometry import LONGEST_GAP, Array, affine_ras, fit_grid, same_place_mm
from medldm.io.dicom.series.stack import Series, axes_of, members_of, with_geometry

REPAIRABLE = ("duplicate", "irregular", "tilted")
BRIDGED = 2.5  # grid steps; linear interpolation across a wider gap would invent a slice, so it stays missing
MOST_SLICES = 4  # times as many slices as were measured; more would be interpolation, not a scan
WHOLE = 1e-3  # of a voxel: nothing to interpolate
MOST_ASIDE = 1.0  # times the size of a slice that the slices together may reach aside


@dataclass(frozen=True)
class Places:
    """Where the images of a stack lie, in order along the normal.

    Parameters
    ----------
    corners : (N, 3) ImagePositionPatient, mm, LPS
    axes : along a row, along a column, slice normal; unit vectors, LPS
    pixel_mm : between columns, between rows
    """

    corners: Array
    axes: tuple[Array, Array, Array]
    pixel_mm: tuple[float, float]

    @property
    def along_mm(self) -> Array:
        """(N,) positions along the normal, from the first."""
        gone: Array = (self.corners - self.corners[0]) @ self.axes[2]
        return gone

    @property
    def aside(self) -> Array:
        """(N, 2) columns and rows by which each image is shifted, on a grid of whole shifts that holds all of them."""
        shift = (self.corners - self.corners[0]) @ np.stack(self.axes[:2], axis=1) / np.array(self.pixel_mm)
        lowest: Array = np.floor(shift.min(axis=0) + WHOLE)
        aside: Array = np.maximum(shift - lowest, 0.0)
        return aside


def without_duplicates(series: Series) -> tuple[Series, str]:
    """The series with the first image of each position, judged again, and a sentence.

    First is the lowest acquisition, then the lowest InstanceNumber.

    Parameters
    ----------
    series : with the verdict "duplicate"
    """
    members = members_of(series)
    axes = axes_of(members)
    assert axes is not None, "a series without axes is not a volume, and never comes here"
    along = np.array([header.position for header in members]) @ axes[2]
    near = same_place_mm(np.sort(along))
    kept: list[int] = []
    for number in sorted(range(len(members)), key=lambda number: _age(members[number])):
        if all(abs(along[number] - along[other]) > near for other in kept):
            kept.append(number)
    left = with_geometry(series, [members[number] for number in kept])
    dropped = len(members) - len(kept)
    what = "1 image that repeats a position was" if dropped == 1 else f"{dropped} images that repeat positions were"
    return left, f"{what} left out of {series.name}."


def _age(header: Header) -> tuple[float, float, Frame]:
    number = float(acquisition) if (acquisition := header.acquisition).isdigit() else np.inf
    return number, np.inf if header.instance is None else header.instance, header.source


def places_of(series: Series) -> Places:
    """Where the images of a tilted or irregular series lie, as they are ordered in it."""
    members = members_of(series)
    axes, pixel = axes_of(members), members[0].pixel_spacing
    assert axes is not None, "a series without axes is not a volume, and never comes here"
    assert pixel is not None, "neither is one without pixel spacing"
    return Places(np.array([header.position for header in members]), axes, (pixel[1], pixel[0]))


def regular(stack: Voxels, places: Places, name: str) -> tuple[Voxels, Affine, tuple[int, ...], str]:
    """Slices on a rectangular, regular grid.

    Slices are shifted inside their planes until they lie above each other; where they do so evenly, that is all, and
    gaps stay gaps. Else values between slices are interpolated linearly, at the smallest distance that was measured.

    Parameters
    ----------
    stack : (columns, rows, N), in the order of `places`
    places : of the slices
    name : for messages

    Returns
    -------
    (columns', rows', slices) float32, NaN in missing slices; (4, 4) to RAS mm; missing slices; what was done

    Raises
    ------
    GeometryError
        Slices too far apart, or too far aside.
    """
    upright = _shifted(stack, places, name)
    along = places.along_mm
    grid = fit_grid(np.outer(along, places.axes[2]), places.axes[2])
    if grid.index:
        filled = np.full((*upright.shape[:2], grid.index[-1] + 1), np.nan, dtype=np.float32)
        filled[:, :, list(grid.index)] = upright
        step, missing = grid.step_mm, grid.missing
        done = "its slices were shifted in their planes (linear interpolation)"
    else:
        filled, step, missing = _resampled(upright, along, name)
        done = f"its slices were resampled to {step:.2f} mm (linear interpolation)"
    _fill_outside(filled, missing, float(np.nanmin(stack)))
    origin = places.corners[0] - sum(
        aside * mm * axis for aside, mm, axis in zip(places.aside[0], places.pixel_mm, places.axes[:2], strict=True)
    )
    affine = affine_ras(places.axes, origin, (*places.pixel_mm, step))
    return filled, affine, missing, f"{name} was repaired: {done}."


def _shifted(stack: Voxels, places: Places, name: str) -> Voxels:
    """(columns', rows', N) float32: every slice shifted to where it lies, on one grid that holds all; NaN around it."""
    aside = places.aside
    reach = np.ceil(aside.max(axis=0) - WHOLE).astype(int)
    if (reach > MOST_ASIDE * np.array(stack.shape[:2])).any():
        raise GeometryError(f"{name} cannot be repaired: its slices lie further aside than they are wide.")
    shape = tuple(np.array(stack.shape[:2]) + reach)
    moved = np.full((*shape, stack.shape[2]), np.nan, dtype=np.float32)
    for place, shift in enumerate(aside):
        whole = np.rint(shift).astype(int)
        if np.abs(shift - whole).max() < WHOLE:
            # Nothing to interpolate: measured values stay as they are.
            (left, top), (columns, rows) = whole, stack.shape[:2]
            moved[left : left + columns, top : top + rows, place] = stack[:, :, place]
            continue
        moved[:, :, place] = ndimage.affine_transform(
            stack[:, :, place].astype(np.float32), [1.0, 1.0], -shift, shape, order=1, mode="constant", cval=np.nan
        )
    return moved


def _fill_outside(filled: Voxels, missing: tuple[int, ...], value: float) -> None:
    """What no slice reached becomes background, which the lowest value is in CT and MR alike; in place."""
    there = np.setdiff1d(np.arange(filled.shape[2]), missing)
    filled[:, :, there] = np.where(np.isnan(filled[:, :, there]), np.float32(value), filled[:, :, there])


def _resampled(stack: Voxels, along: Array, name: str) -> tuple[Voxels, float, tuple[int, ...]]:
    """Slices at even distances between the first and the last, the step in mm, and which of them are missing."""
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
    below = np.clip(np.searchsorted(along, at, side="right") - 1, 0, len(along) - 2)
    weight = (at - along[below]) / gaps[below]
    grid = np.empty((*stack.shape[:2], count), dtype=np.float32)
    for place, (low, part) in enumerate(zip(below, weight, strict=True)):
        grid[:, :, place] = stack[:, :, low] * (1 - part) + stack[:, :, low + 1] * part
    lost = (gaps[below] > BRIDGED * step) & (np.abs(weight - 0.5) < 0.5 - 0.02 * step / gaps[below])
    grid[:, :, lost] = np.nan
    return grid, step, tuple(int(place) for place in np.flatnonzero(lost))
