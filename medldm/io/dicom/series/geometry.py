"""Where the slices of a stack lie: one regular grid, with or without gaps, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medldm.data.volume import Affine

RESAMPLE = "Ask for --fix, which resamples them to a regular grid."

Array = npt.NDArray[np.float64]

TOLERANCE_MM = 0.02  # scanners round positions; 1 % of the spacing where that is more
LONGEST_GAP = 10  # slices; beyond that a stray slice is likelier than a hole
FEWEST_MEASURED = 2 / 3  # at least this share of a stack must have been measured
NUDGE_MM = 0.1  # in-plane drift over a whole stack that is rounding, not tilt
ROUNDED = 0.0005  # of the way along the normal: what cosines with three digits do to it
SAME_PLACE = 0.1  # share of the usual gap below which two images lie at one position
HALVED = 1.25  # thicknesses beyond that are no gap that the scanner left between its slices
EVEN_RUN = 3  # so many equal wide gaps in a row are another spacing, not slices lost one by one


@dataclass(frozen=True)
class Grid:
    """The regular grid that the positions of some images form, or the reason why they form none.

    Parameters
    ----------
    verdict : regular, missing, duplicate, irregular, tilted, single, mixed, or not a volume
    reason : a sentence, where there is no regular grid
    order : image numbers in order of position along the normal
    index : slice on the regular grid of each image in that order; empty without a grid
    step_mm : distance between slices of the grid
    """

    verdict: str
    reason: str = ""
    order: tuple[int, ...] = ()
    index: tuple[int, ...] = ()
    step_mm: float = 0.0

    @property
    def missing(self) -> tuple[int, ...]:
        """Slices of the grid that no image fills."""
        return tuple(sorted(set(range(self.index[-1] + 1)) - set(self.index))) if self.index else ()


def unit_axes(orientations: Sequence[Array]) -> tuple[Array, Array, Array] | None:
    """Directions along a row, along a column, and of the slice normal; None when they are no directions.

    Parameters
    ----------
    orientations : (6,) each, LPS; alike up to rounding

    Returns
    -------
    three orthogonal (3,) unit vectors, LPS
    """
    across, down = np.mean(np.asarray(orientations, dtype=np.float64), axis=0).reshape(2, 3)
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if not all(0.99 < length < 1.01 for length in lengths) or abs(across @ down) > 0.01:
        return None
    # Cosines are rounded in the file; voxel sizes must not inherit that.
    across = across / lengths[0]
    down = down - across * (across @ down)
    down = down / np.linalg.norm(down)
    return across, down, np.cross(across, down)


def affine_ras(axes: tuple[Array, Array, Array], origin: Array, spacing: tuple[float, float, float]) -> Affine:
    """Index (column, row, slice) to RAS mm.

    Parameters
    ----------
    axes : along a row, along a column, slice normal; unit vectors, LPS
    origin : (3,) centre of the first voxel, mm, LPS
    spacing : mm between columns, rows, slices
    """
    lps = np.eye(4)
    for number, (direction, mm) in enumerate(zip(axes, spacing, strict=True)):
        lps[:3, number] = direction * mm
    lps[:3, 3] = origin
    ras: Affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return ras


def fit_grid(
    places: Array,
    normal: Array,
    *,
    instances: Sequence[int | None] | None = None,
    thicknesses: Sequence[float | None] | None = None,
    thickness_mm: float = 1.0,
) -> Grid:
    """Whether images lie on one regular grid.

    Parameters
    ----------
    places : (N, 3) ImagePositionPatient, mm, LPS
    normal : (3,) slice normal
    instances : InstanceNumber of each; only used where positions allow two readings
    thicknesses : SliceThickness of each, mm; only used where positions allow two readings
    thickness_mm : what a single image is given as its extent

    Returns
    -------
    verdict; with a grid when it is regular, missing or single
    """
    order = np.argsort(places @ normal, kind="stable")
    ordered = tuple(int(number) for number in order)
    places = places[order]
    if len(places) == 1:
        return Grid("single", order=ordered, index=(0,), step_mm=thickness_mm)
    along = places @ normal
    gaps = np.diff(along)
    refused = _repeated(gaps) or _sheared(places, along, normal)
    if refused:
        return Grid(*refused, order=ordered)
    index, step = _grid(along)
    hints = [None if values is None else [values[number] for number in ordered] for values in (instances, thicknesses)]
    reason = _misfit(along, gaps, index, step) or _two_readings(index, gaps, *hints)
    if reason:
        return Grid("irregular", reason, order=ordered)
    grid = Grid("regular", "", ordered, tuple(int(place) for place in index), step)
    return Grid("missing", "", ordered, grid.index, step) if grid.missing else grid


def same_place_mm(along: Array) -> float:
    """Distance below which two images lie at one position, mm.

    Parameters
    ----------
    along : (N,) positions along the normal, mm, ascending
    """
    gaps = np.diff(along)
    wide = gaps[gaps > TOLERANCE_MM]
    return max(TOLERANCE_MM, SAME_PLACE * float(np.median(wide))) if len(wide) else TOLERANCE_MM


def _repeated(gaps: Array) -> tuple[str, str] | None:
    if gaps.max() <= TOLERANCE_MM:
        what = f"its {len(gaps) + 1} images are copies of one another"
        return "duplicate", f"{what}. Remove all but one, or ask for --fix, which keeps the first."
    close = gaps <= same_place_mm(np.concatenate([[0.0], np.cumsum(gaps)]))
    if not close.any():
        return None
    twice = int((close & ~np.concatenate([[False], close[:-1]])).sum())
    what = "1 of its positions holds" if twice == 1 else f"{twice} of its positions hold"
    return "duplicate", f"{what} copies of an image. Remove the copies, or ask for --fix, which keeps the first."


def _sheared(places: Array, along: Array, normal: Array) -> tuple[str, str] | None:
    gone = along - along[0]
    shift = places - places[0] - np.outer(gone, normal)  # (N, 3) in the plane
    rounding = max(NUDGE_MM, 0.02 * float(np.median(np.diff(along))), ROUNDED * float(gone[-1]))
    if np.linalg.norm(shift, axis=1).max() <= rounding:
        return None
    slope = (gone @ shift) / (gone @ gone)  # mm in the plane for each mm along the normal
    left = float(np.linalg.norm(shift - np.outer(gone, slope), axis=1).max())
    if left > max(0.25, 0.05 * float(np.linalg.norm(shift, axis=1).max())):
        return "irregular", f"its slices do not lie above each other, but up to {left:.1f} mm aside. {RESAMPLE}"
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    return "tilted", (
        f"its slices are sheared by {angle:.1f} degrees (gantry tilt). Ask for --fix, which shears them back."
    )


def _grid(along: Array) -> tuple[npt.NDArray[np.int64], float]:
    """The finest regular grid that the positions suggest: slice numbers from 0, and their distance in mm."""
    gaps = np.diff(along)
    usual = float(np.mean(gaps[gaps < 1.5 * gaps.min()]))
    # Gap by gap, so that rounding does not add up; then the spacing once more, over the whole stack.
    index = np.concatenate([[0], np.cumsum(np.maximum(1, np.rint(gaps / usual)))]).astype(np.int64)
    centred = index - index.mean()
    return index, float(centred @ along / (centred @ centred))


def _misfit(along: Array, gaps: Array, index: npt.NDArray[np.int64], step: float) -> str:
    off = along - index * step
    # The grid may lie anywhere between its extremes.
    if (off.max() - off.min()) / 2 > max(TOLERANCE_MM, 0.01 * step):
        return f"its slice spacing varies ({gaps.min():.2f} to {gaps.max():.2f} mm): no regular grid fits. {RESAMPLE}"
    hole = int(np.diff(index).max()) - 1
    if hole > LONGEST_GAP:
        return (
            f"it has a hole of {gaps.max():.1f} mm at a spacing of {step:.2f} mm ({hole} slices): a stray slice, or "
            "too much to fill. Remove the slices beyond the hole, if they are strays."
        )
    if len(index) < FEWEST_MEASURED * (index[-1] + 1):
        return (
            f"its gaps reach from {gaps.min():.2f} to {gaps.max():.2f} mm: at the finest spacing only {len(index)} of "
            f"{index[-1] + 1} slices are there. Remove the slices that do not belong, or export the series again."
        )
    return ""


def _two_readings(
    index: npt.NDArray[np.int64],
    gaps: Array,
    instances: Sequence[int | float | None] | None,
    thicknesses: Sequence[int | float | None] | None,
) -> str:
    """A sentence when wide gaps are likelier another spacing than lost slices."""
    strides = np.diff(index)
    wide = strides > 1
    if not wide.any():
        return ""
    known = [thickness for thickness in thicknesses or () if thickness]
    runs = _longest_run(strides)
    uneven = len(known) > 1 and max(known) > 1.1 * min(known)
    # One slice out of place halves the finest gap; in a short stack, its thickness says that the wide one is usual.
    halved = (strides == 1).sum() <= 2 * wide.sum() and len(known) > 0 and np.median(known) > HALVED * gaps.min()
    if runs < EVEN_RUN and not (uneven and runs > 1) and not halved:
        return ""
    if instances is not None and None not in instances:
        numbers = np.abs(np.diff(np.array(instances, dtype=np.float64)))
        if not uneven and np.array_equal(numbers, strides):
            return ""  # the scanner counted the slices that we miss
    return f"its slice spacing changes ({gaps.min():.2f} to {gaps.max():.2f} mm): no regular grid fits. {RESAMPLE}"


def _longest_run(strides: npt.NDArray[np.int64]) -> int:
    """How many equal wide gaps follow each other."""
    longest = run = 0
    for before, stride in zip([0, *strides[:-1]], strides, strict=True):
        run = 0 if stride == 1 else (run + 1 if stride == before else 1)
        longest = max(longest, run)
    return longest
