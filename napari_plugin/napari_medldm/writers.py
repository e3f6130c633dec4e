"""Save a layer as NIfTI, with the geometry that the layer has now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_image(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write one image layer.

    Parameters
    ----------
    path : .nii or .nii.gz
    data : (Z, Y, X) array
    attributes : of the layer

    Returns
    -------
    the paths written
    """
    from napari.layers import Image

    from medldm.io import write
    from napari_medldm.layers import volume_of

    known = {
        key: attributes[key]
        for key in ("name", "scale", "translate", "affine", "rotate", "shear", "metadata")
        if key in attributes
    }
    layer = Image(np.asarray(data), rgb=attributes.get("rgb", False), **known)
    target = Path(path)
    write(
        volume_of(layer),
        target if target.name.endswith((".nii", ".nii.gz")) else target.with_name(target.name + ".nii.gz"),
    )
    return [path]
