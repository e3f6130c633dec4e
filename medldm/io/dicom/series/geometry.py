"""Where the slices of a stack lie: one regular grid, with or without gaps, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medldm.data.volume import Affine

RESAMPLE = "Ask for --fix, which resamples them to a regular grid."

Array = npt.NDArray[np.float64]

TOLERANCE_MM = 0.02  # by which positions may miss the grid, since scanners round; or 1 % of the spacing, if larger
LONGEST_GAP = 10  # missing slices in a row; beyond that a stray slice is likelier than a hole
FEWEST_MEASURED = 2 / 3  # at least this share of a stack must have been measured
DRIFT_MM = 0.1  # in-plane drift over a whole stack that is rounding, not tilt
DRIFT_PER_MM = 0.0005  # the same for each mm along the normal: what cosines rounded to three digits amount to
SAME_POSITION = 0.1  # share of the usual gap below which two images lie at one position
THICKER = 1.25  # slices thicker than this times the finest gap would overlap there, so that gap is the odd one
EVEN_RUN = 3  # so many equal wide gaps in a row are another spacing, not slices lost one by one


@dataclass(frozen=True)
class Grid:
    """The regular grid that the positions of some images form, or the reason why they form none.

    Parameters
    ----------
    verdict : regular, missing, duplicate, irregular, tilted, single, mixed, or not a volume
    reason : a sentence, where there is no regular grid
    order : indices of the images as they were given, sorted by position along the normal
    index : slice number on the grid, from 0, of each image in that order; empty without a grid
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
    """Directions along a row, along a column, and of the slice normal; None where they are not perpendicular or unit.

    Parameters
    ----------
    orientations : ImageOrientationPatient of each image, (6,), LPS; alike up to rounding, so they are averaged

    Returns
    -------
    three orthogonal (3,) unit vectors, LPS
    """
    along_row, along_column = np.mean(np.asarray(orientations, dtype=np.float64), axis=0).reshape(2, 3)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if not all(0.99 < length < 1.01 for length in lengths) or abs(along_row @ along_column) > 0.01:
        return None
    # Cosines are rounded in the file; voxel sizes must not inherit that.
    along_row = along_row / lengths[0]
    along_column = along_column - along_row * (along_row @ along_column)
    along_column = along_column / np.linalg.norm(along_column)
    return along_row, along_column, np.cross(along_row, along_column)


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
    origins: Array,
    normal: Array,
    *,
    instances: Sequence[int | None] | None = None,
    thicknesses: Sequence[float | None] | None = None,
    single_mm: float = 1.0,
) -> Grid:
    """Whether images lie on one regular grid.

    Parameters
    ----------
    origins : (N, 3) ImagePositionPatient, mm, LPS, in any order
    normal : (3,) slice normal
    instances : InstanceNumber of each; only used to tell lost slices from a change of spacing
    thicknesses : SliceThickness of each, mm; only used for the same
    single_mm : `Grid.step_mm` of a single image

    Returns
    -------
    verdict; with a grid when it is regular, missing or single
    """
    by_position = np.argsort(origins @ normal, kind="stable")
    order = tuple(int(number) for number in by_position)
    if len(origins) == 1:
        return Grid("single", order=order, index=(0,), step_mm=single_mm)
    origins = origins[by_position]
    along = origins @ normal
    gaps = np.diff(along)
    refused = _copies(gaps) or _shear(origins, along, normal)
    if refused:
        return Grid(*refused, order=order)
    index, step = _finest_grid(along)
    sorted_instances = None if instances is None else [instances[number] for number in order]
    sorted_thicknesses = None if thicknesses is None else [thicknesses[number] for number in order]
    reason = _misfit(along, gaps, index, step) or _changed_spacing(index, gaps, sorted_instances, sorted_thicknesses)
    if reason:
        return Grid("irregular", reason, order=order)
    grid = Grid("regular", "", order, tuple(int(number) for number in index), step)
    return Grid("missing", "", order, grid.index, step) if grid.missing else grid


def same_position_mm(along: Array) -> float:
    """Distance below which two images lie at one position, mm.

    Parameters
    ----------
    along : (N,) positions along the normal, mm, ascending
    """
    gaps = np.diff(along)
    wide = gaps[gaps > TOLERANCE_MM]
    return max(TOLERANCE_MM, SAME_POSITION * float(np.median(wide))) if len(wide) else TOLERANCE_MM


def _copies(gaps: Array) -> tuple[str, str] | None:
    """Verdict and reason where positions repeat; None where they do not. `gaps` are (N - 1,), mm."""
    if gaps.max() <= TOLERANCE_MM:
        what = f"its {len(gaps) + 1} images are copies of one another"
        return "duplicate", f"{what}. Remove all but one, or ask for --fix, which keeps the first."
    along = np.concatenate([[0.0], np.cumsum(gaps)])
    close = gaps <= same_position_mm(along)
    if not close.any():
        return None
    repeated = int((close & ~np.concatenate([[False], close[:-1]])).sum())  # a run of close images is one position
    what = "1 of its positions holds" if repeated == 1 else f"{repeated} of its positions hold"
    return "duplicate", f"{what} copies of an image. Remove the copies, or ask for --fix, which keeps the first."


def _shear(origins: Array, along: Array, normal: Array) -> tuple[str, str] | None:
    """Verdict and reason where slices do not lie above each other: tilted where a straight line fits, else irregular.

    Parameters
    ----------
    origins, along : (N, 3) and (N,) mm, in order along the normal
    normal : (3,) slice normal
    """
    height = along - along[0]
    shift = origins - origins[0] - np.outer(height, normal)  # (N, 3) mm, in the plane
    farthest = float(np.linalg.norm(shift, axis=1).max())
    if farthest <= max(DRIFT_MM, 0.02 * float(np.median(np.diff(along))), DRIFT_PER_MM * float(height[-1])):
        return None
    slope = (height @ shift) / (height @ height)  # mm in the plane for each mm along the normal
    off_line = float(np.linalg.norm(shift - np.outer(height, slope), axis=1).max())
    if off_line > max(0.25, 0.05 * farthest):
        return "irregular", f"its slices do not lie above each other, but up to {off_line:.1f} mm aside. {RESAMPLE}"
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    return "tilted", (
        f"its slices are sheared by {angle:.1f} degrees (gantry tilt). Ask for --fix, which shears them back."
    )


def _finest_grid(along: Array) -> tuple[npt.NDArray[np.int64], float]:
    """The grid whose step is the smallest gap: (N,) slice numbers from 0, and the step in mm."""
    gaps = np.diff(along)
    smallest = float(np.mean(gaps[gaps < 1.5 * gaps.min()]))  # the mean of all gaps without a missing slice
    # Gap by gap, so that rounding does not add up; then the step once more, by least squares over the whole stack.
    index = np.concatenate([[0], np.cumsum(np.maximum(1, np.rint(gaps / smallest)))]).astype(np.int64)
    centred = index - index.mean()
    return index, float(centred @ along / (centred @ centred))


def _misfit(along: Array, gaps: Array, index: npt.NDArray[np.int64], step: float) -> str:
    """A sentence where the grid does not fit the positions, or has too many empty slices; empty where it fits."""
    off = along - index * step
    # The grid starts where its largest error is smallest: halfway between the extremes.
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


def _changed_spacing(
    index: npt.NDArray[np.int64],
    gaps: Array,
    instances: Sequence[int | float | None] | None,
    thicknesses: Sequence[int | float | None] | None,
) -> str:
    """A sentence where wide gaps are likelier another spacing than lost slices, else empty.

    Positions 0, 1, 2, 4, 6, 8 mm may be a spacing of 1 mm with three slices lost, or one that changes from 1 to 2 mm.

    Parameters
    ----------
    index : (N,) slice numbers on the finest grid
    gaps : (N - 1,) mm
    instances, thicknesses : InstanceNumber, SliceThickness in mm, in order along the normal
    """
    strides = np.diff(index)  # in slices of the finest grid; 1 where none is missing
    wide = strides > 1
    if not wide.any():
        return ""
    known = [thickness for thickness in thicknesses or () if thickness]
    run = _longest_run(strides)
    uneven = len(known) > 1 and max(known) > 1.1 * min(known)
    # One slice out of place makes the finest gap too small. In a short stack only the slice thickness shows that.
    too_fine = (strides == 1).sum() <= 2 * wide.sum() and len(known) > 0 and np.median(known) > THICKER * gaps.min()
    if run < EVEN_RUN and not (uneven and run > 1) and not too_fine:
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
