"""Layer to Volume and back, through the layer's whole data-to-world transform.

napari shows arrays as (z, y, x); a Volume is (x, y, z) with an affine to RAS millimetres. The world of our layers is
therefore (z, y, x) in RAS millimetres.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medldm.io.nifti import from_array
from medldm.volume import Volume

SWAP = np.eye(4)[[2, 1, 0, 3]]  # reverses the order of the three axes


def layer_data(volume: Volume, **more: Any) -> tuple[np.ndarray[Any, Any], dict[str, Any], str]:
    """A volume as what napari makes an image layer of.

    Parameters
    ----------
    volume : scan
    **more : further layer arguments

    Returns
    -------
    array (Z, Y, X), layer arguments, ``"image"``
    """
    array = np.ascontiguousarray(volume.voxels.transpose(2, 1, 0))
    world = SWAP @ volume.affine @ SWAP
    spacing = np.array(volume.spacing[::-1])
    # Scale and translate carry what they can, so that other plugins see millimetres; the rotation is the affine.
    turn = np.eye(4)
    turn[:3, :3] = world[:3, :3] / spacing
    offset = np.linalg.solve(turn[:3, :3], world[:3, 3])
    arguments = {
        "name": volume.name,
        "scale": spacing,
        "translate": offset,
        "affine": turn,
        "units": ("mm", "mm", "mm"),
        "axis_labels": ("z", "y", "x"),
        "metadata": {"medldm": volume},
        "contrast_limits": contrast(volume),
        **more,
    }
    return array, arguments, "image"


def contrast(volume: Volume) -> tuple[float, float]:
    """Grey window: up to the 99.5th percentile of what is there."""
    values = volume.voxels[np.isfinite(volume.voxels)] if volume.voxels.dtype.kind == "f" else volume.voxels
    low, high = (
        float(v)
        for v in np.percentile(values[:: max(1, values.size // 500_000)] if values.ndim == 1 else values, [0.5, 99.8])
    )
    return (low, high) if high > low else (low, low + 1)


def volume_of(layer: Any) -> Volume:
    """The volume that an image layer shows, with the geometry that it has now.

    Parameters
    ----------
    layer : napari image layer with three axes

    Raises
    ------
    ValueError
        Not a grey-scale image with three axes.
    """
    if getattr(layer, "rgb", False) or layer.ndim != 3 or getattr(layer, "multiscale", False):
        raise ValueError(f"{layer.name} is not a single grey-scale volume with three axes.")
    array = np.asarray(layer.data)
    to_world = np.eye(4)
    origin = np.array(layer.data_to_world((0, 0, 0)))
    for axis in range(3):
        unit = np.eye(3)[axis]
        to_world[:3, axis] = np.array(layer.data_to_world(unit)) - origin
    to_world[:3, 3] = origin
    affine = SWAP @ to_world @ SWAP
    known = layer.metadata.get("medldm")
    volume = from_array(array.transpose(2, 1, 0), affine, name=layer.name)
    if (
        isinstance(known, Volume)
        and known.shape == volume.shape
        and np.allclose(known.affine, volume.affine, atol=1e-4)
    ):
        # Unmoved: what the file said about orientation, voxel type and slices still holds.
        return known.with_voxels(volume.voxels, step=None)
    return volume
