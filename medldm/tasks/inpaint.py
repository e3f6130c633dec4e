"""Inpaint: a region is written anew, everything outside it stays bit for bit."""

from __future__ import annotations

import numpy as np
import torch

from medldm.degradations import Regions
from medldm.errors import GeometryError, UsageError
from medldm.models.looks import looks
from medldm.settings import Inpaint
from medldm.tasks.pipeline import Job, without, written_into
from medldm.tasks.planes import Progress
from medldm.volume import Volume, Voxels


def inpaint(volume: Volume, mask: Volume | Voxels, settings: Inpaint, told: Progress) -> Volume:
    """See `medldm.inpaint`."""
    region = mask_on(volume, mask)
    if not region.any():
        return volume
    if region.all():
        raise UsageError(f"The mask covers all of {volume.name}; nothing is left to fill it from.")
    job = Job(without(volume, region), settings, "inpaint", told)
    measured, known = job.scaled()
    regions = Regions(torch.from_numpy(region) | ~known)
    observation = regions.observe(measured)
    restored, spread = job.run(observation, job.quiet_noise(), looks((), (), volume.shape, volume.spacing))
    filled = job.scaling.invert(restored.numpy())
    if job.positive:
        filled = np.maximum(filled, 0)
    voxels = written_into(volume, filled, region)
    std = (
        None
        if spread is None
        else np.where(region, spread.numpy() * np.float32(job.scaling.unit), 0).astype(np.float32)
    )
    axis = volume.slice_axis
    touched = np.flatnonzero(volume.to_stored(region).any(axis=(0, 1))).tolist()
    facts = {
        "invented_voxels": int(region.sum()),
        "invented_slices": touched,
        "slice_axis": axis,
        "consistency_residual": 0.0,
    }
    return job.record(voxels, std, None, None, facts)


def mask_on(volume: Volume, mask: Volume | Voxels) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """A mask on the grid of a scan.

    Parameters
    ----------
    volume : scan
    mask : volume with the same grid, or an array in the axes of ``volume.voxels``; non-zero means fill

    Raises
    ------
    GeometryError
        The grids differ.
    """
    if isinstance(mask, Volume):
        if mask.shape != volume.shape or not np.allclose(mask.affine, volume.affine, atol=0.01 * min(volume.spacing)):
            raise GeometryError(
                f"The mask {mask.name} ({mask.shape}, {np.round(mask.spacing, 3)} mm) does not lie on the grid of "
                f"{volume.name} "
                f"({volume.shape}, {np.round(volume.spacing, 3)} mm). Resample it to the scan first."
            )
        mask = mask.voxels
    if mask.shape != volume.shape:
        raise GeometryError(f"The mask has shape {mask.shape}, {volume.name} has {volume.shape}.")
    filled: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.nan_to_num(np.asarray(mask, dtype=np.float32)) != 0
    return filled
