"""Where the viewer looks, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Shapes

from napari_medldm.compare import scene
from napari_medldm.display import seen
from napari_medldm.layers import Snapshot, millimetres, snapshot
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


def voxel(viewer: Any, layer: Any, position: Sequence[float]) -> Any:
    """The voxel (z, y, x) of a layer that is drawn at a position of the viewer, such as that of the mouse.

    Parameters
    ----------
    viewer : of napari
    layer : scan
    position : world coordinates

    Returns
    -------
    (3,) index, rounded; it may lie outside of the layer
    """
    scan = snapshot(layer, viewer)
    where = (0.0, *in_mm(viewer, position, layer))[-3:]
    index = np.rint(seen(scan.to_view, scan.hidden, [where])[0]).astype(int)
    if scan.hidden is not None:
        index[scan.hidden] = scan.on_screen[scan.hidden]
    return index


def region(chosen: Any, scan: Snapshot) -> Corners:
    """What a preview shows.

    Parameters
    ----------
    chosen : shapes layer around whose outlines it lies; anything else means the slice on the screen
    scan : to be previewed

    Raises
    ------
    ValueError
        Nothing is drawn.
    """
    if isinstance(chosen, Shapes):
        outlines = drawn(chosen, scan).outlines
        if not outlines:
            raise ValueError(f"Draw a rectangle in {chosen.name} first.")
        return around(np.concatenate(outlines), scan)
    return current_slice(scan)


def go_to(viewer: Any, layer: Any, index: Sequence[int]) -> None:
    """Show a voxel of a layer in the middle of the viewer.

    Parameters
    ----------
    viewer : of napari
    layer : image
    index : voxel (z, y, x)
    """
    whole = (0,) * (layer.ndim - len(index)) + tuple(index)
    world = np.asarray(layer.data_to_world(whole)) / _units(viewer, layer)
    dims = viewer.dims
    first = dims.ndim - len(world)
    for axis in range(len(index)):
        dims.set_point(dims.ndim - len(index) + axis, float(world[axis - len(index)]))
    camera = scene(viewer).camera
    camera.center = tuple(float(world[axis - first]) if axis >= first else 0.0 for axis in dims.displayed)


def _units(viewer: Any, layer: Any) -> Any:
    """Units of the viewer in those of a layer, by axis."""
    units = getattr(viewer.layers.extent, "units", None)  # napari 0.6 has none
    if units is None or len(units) < layer.ndim:
        return np.ones(layer.ndim)
    return millimetres(units[-layer.ndim :]) / millimetres(layer.units)
