"""Where the viewer looks, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Shapes

from napari_medldm.layers import Snapshot, millimetres
from napari_medldm.regions import Corners, around, current_slice, drawn

Point = tuple[float, ...]


def in_mm(viewer: Any, position: Sequence[float], scan: Any) -> Point:
    """A position of the viewer, in mm; it counts in the units that layers agree on, else in those of the scan.

    Parameters
    ----------
    viewer : of napari
    position : world coordinates
    scan : layer, or None
    """
    factors = np.ones(len(position))
    units = getattr(viewer.layers.extent, "units", None)  # napari 0.6 has none
    if units is None and scan is not None:
        units = scan.units
    if units is not None:
        factors[-len(units) :] = millimetres(units[-len(position) :])
    return tuple((np.asarray(position) * factors).tolist())


def region(viewer: Any, chosen: Any, scan: Snapshot, point: Point) -> Corners:
    """What a preview shows.

    Parameters
    ----------
    viewer : of napari
    chosen : shapes layer around whose outlines it lies; anything else means the current slice
    scan : to be previewed
    point : that the viewer shows, mm

    Raises
    ------
    ValueError
        Nothing is drawn.
    """
    if isinstance(chosen, Shapes):
        outlines = drawn(chosen, point).outlines
        if not outlines:
            raise ValueError(f"Draw a rectangle in {chosen.name} first.")
        return around(np.concatenate(outlines), scan)
    dims = viewer.dims
    # The axis of space that is not shown; the first one where all are (in 3D), whatever else a slider moves.
    hidden = [axis - dims.ndim + 3 for axis in dims.not_displayed if axis >= dims.ndim - 3]
    return current_slice(scan, (0.0, *point), min(hidden, default=0))
