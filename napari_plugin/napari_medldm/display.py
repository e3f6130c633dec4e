"""How a scan lies in the viewer: along its own axes, or turned as the patient lay.

napari slices along the axes of the world. A scan whose slices lie out of these planes would be cut between its slices,
so that no measured slice is ever on the screen. Our layers are therefore shown along their own axes, in millimetres,
and remember in their metadata the rotation that was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medldm.data.volume import Affine, Volume

KEY = "medldm_display"  # in a layer's metadata
SWAP = np.eye(4)[[2, 1, 0, 3]]  # reverses the order of the three axes


@dataclass(frozen=True)
class Shown:
    """How a layer is shown.

    Parameters
    ----------
    turn : (4, 4) coordinates (z, y, x) along the scan's own axes, mm, to the patient's (z, y, x), RAS mm
    along : whether the layer lies along its own axes, so that `turn` was left out of its affine
    """

    turn: Affine
    along: bool = True


def shown(layer: Any) -> Shown | None:
    """How a layer of ours is shown; None for a layer that medldm did not make."""
    known = layer.metadata.get(KEY)
    return known if isinstance(known, Shown) else None


def placed(volume: Volume) -> tuple[dict[str, Any], Shown]:
    """Layer arguments that put a volume along its own axes, and what they leave out.

    Parameters
    ----------
    volume : scan

    Returns
    -------
    scale, translate, units and axis labels; rotation or shear to the patient
    """
    world = SWAP @ volume.affine @ SWAP
    spacing = np.array(volume.spacing[::-1])
    turn = np.eye(4)
    turn[:3, :3] = world[:3, :3] / spacing
    arguments = {
        "scale": spacing,
        "translate": np.linalg.solve(turn[:3, :3], world[:3, 3]),
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
    }
    return arguments, Shown(turn)


def show_along(layer: Any, along: bool) -> None:
    """Lay a layer of ours along its own axes, or as the patient lay; where it was moved, it stays moved.

    Parameters
    ----------
    layer : napari layer; one that medldm did not make stays as it is
    along : its own axes
    """
    now = shown(layer)
    if now is None or now.along == along:
        return
    turn = now.turn if not along else np.linalg.inv(now.turn)
    wide = np.eye(layer.ndim + 1)
    wide[-4:, -4:] = turn
    layer.affine = wide @ np.asarray(layer.affine.affine_matrix)
    layer.metadata = dict(layer.metadata) | {KEY: replace(now, along=along)}


def left_out(layer: Any) -> Affine:
    """(4, 4) world of the viewer (z, y, x), mm, to the patient's (z, y, x), RAS mm, for what lies where a layer is."""
    now = shown(layer)
    return now.turn if now is not None and now.along else np.eye(4)


def on_screen(viewer: Any, layer: Any) -> dict[int, int]:
    """The slice of a layer that napari shows, by data axis; empty where it shows none, as in 3D.

    napari maps the sliders through the part of the transform that belongs to the axes that are not displayed: a
    rotation out of the slice is left out. The whole transform would name another slice.

    Parameters
    ----------
    viewer : of napari
    layer : with at least two axes

    Returns
    -------
    data axis to index along it, inside of the layer
    """
    dims = viewer.dims
    offset = dims.ndim - layer.ndim
    hidden = [axis for axis in dims.not_displayed if axis >= offset]
    if not hidden:
        return {}
    point = np.zeros(layer.ndim)
    for axis in hidden:
        point[axis - offset] = dims.point[axis]
    point = point / _per_unit(viewer, layer)
    index = np.asarray(layer.world_to_data(point))
    shape = _shape(layer)
    slices = {}
    for axis in hidden:
        own = axis - offset
        slices[own] = int(np.clip(np.round(index[own]), 0, shape[own] - 1))
    return slices


def _shape(layer: Any) -> Sequence[int]:
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    return tuple(data.shape)


def _per_unit(viewer: Any, layer: Any) -> Any:
    """Units of a layer in one unit of the viewer, by axis: napari shows layers of several units in one (since 0.9)."""
    from napari_medldm.layers import millimetres

    units = getattr(viewer.layers.extent, "units", None)  # napari 0.6 has none
    if units is None or len(units) < layer.ndim:
        return np.ones(layer.ndim)
    return millimetres(layer.units) / millimetres(units[-layer.ndim :])


def seen(to_view: Affine, hidden: int | None, points: Any) -> Any:
    """Where points of the screen lie in the array, as napari draws it.

    Parameters
    ----------
    to_view : (4, 4) index (z, y, x) to the viewer's world, mm
    hidden : data axis that is not displayed; None in 3D, where nothing is left out
    points : (N, 3) viewer's world (z, y, x), mm

    Returns
    -------
    (N, 3) index, fractions kept
    """
    points = np.asarray(points, float).reshape(-1, 3)
    inverse = np.linalg.inv(to_view)
    if hidden is None:
        return points @ inverse[:3, :3].T + inverse[:3, 3]
    index = np.empty_like(points)
    index[:, hidden] = points[:, hidden] * inverse[hidden, hidden] + inverse[hidden, 3]
    plane = [axis for axis in range(3) if axis != hidden]
    drawn = to_view[np.ix_(plane, plane)]
    index[:, plane] = np.linalg.solve(drawn, (points[:, plane] - to_view[plane, 3]).T).T
    return index


def lie_like(before: Any, result: Any) -> None:
    """Show a layer of ours as another one is shown, so that both overlay.

    Parameters
    ----------
    before : napari layer; one that medldm did not make lies in the patient's world
    result : layer of ours
    """
    now = shown(before) if before is not None else None
    show_along(result, now.along if now is not None else before is None)
