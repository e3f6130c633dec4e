"""What a run is made on: device, number format, tile, model; and what it says of this process."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from medldm.data.volume import Volume
from medldm.errors import ModelError, UnfitModel
from medldm.system import free_bytes
from medldm.zoo import PATIENCE_S, Card, best, card

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


def pick_card(name: str, modality: str, volume: Volume, verb: str, device: str = "cpu") -> Card:
    """The card that was asked for, or the best for the scan.

    Parameters
    ----------
    name : ``--model``
    modality : name in `medldm.modality.MODALITIES`
    volume : scan
    verb : what is to be done
    device : torch device; on a CPU time matters

    Raises
    ------
    ModelError
    """
    if name == "auto":
        patience = PATIENCE_S if device == "cpu" else 0.0
        flat, size = min(volume.shape) == 1, float(np.prod(volume.shape)) / 1e6
        return best(modality, flat=flat, verb=verb, megavoxels=size, patience_s=patience)
    chosen = card(name)
    if chosen.modality != modality:
        raise UnfitModel(
            f"{chosen.name} restores {chosen.modality.upper()}, and {volume.name} is taken for {modality.upper()}. "
            "Choose another --model, or say --modality."
        )
    if verb not in chosen.verbs:
        raise UnfitModel(
            f"{chosen.name} cannot {verb}: its card names {', '.join(chosen.verbs)}. Choose another --model."
        )
    if chosen.spatial_dims == 3 and min(volume.shape) == 1:
        raise UnfitModel(f"{chosen.name} works in volumes, and {volume.name} is a single slice. Choose a 2D model.")
    return chosen


def our_version() -> str:
    """Installed version of medldm."""
    try:
        return version("medldm")
    except PackageNotFoundError:
        return "unknown"


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, MB."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return round(float(psutil.Process().memory_info().peak_wset) / 1024**2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1024 if sys.platform != "darwin" else peak / 1024**2)
