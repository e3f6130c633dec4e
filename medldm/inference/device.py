"""What a run is made on: the device, and how much fits on it at once."""

from __future__ import annotations

import numpy as np
import torch

from medldm.errors import ModelError
from medldm.system import free_bytes

BYTES_PER_VOXEL = 2000  # of a tile inside the networks: some ten tensors of up to 64 channels are alive at once
PIXELS_AT_ONCE = 200_000  # plane pixels per call of the networks; twice as many are a fifth slower, caches being small
MOST_PIXELS = 8_000_000  # on a GPU: enough to keep any busy


def pick_device(wanted: str) -> str:
    """A torch device for ``--device``.

    Raises
    ------
    ModelError
        A device this machine does not have.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise ModelError(f"There is no device {wanted!r} on this machine. Use --device cpu or auto.") from problem
    return wanted


def fitted_tile(device: str, spatial_dims: int) -> int:
    """Edge of a tile, voxels, so that a batch of four takes at most a quarter of the memory that is free.

    Parameters
    ----------
    device : torch device
    spatial_dims : of the networks
    """
    edge = int((_free(device) / 4 / BYTES_PER_VOXEL / 4) ** (1 / spatial_dims))
    return int(np.clip(edge // 16 * 16, 64, 384))


def fitted_pixels(device: str) -> int:
    """Plane pixels per call: what caches like on a CPU, on a GPU what takes at most a quarter of its free memory.

    Parameters
    ----------
    device : torch device
    """
    if not device.startswith("cuda"):
        return PIXELS_AT_ONCE
    return int(np.clip(_free(device) / 4 / BYTES_PER_VOXEL, PIXELS_AT_ONCE, MOST_PIXELS))


def _free(device: str) -> int:
    """Bytes that are free where the networks compute."""
    return int(torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else free_bytes())
