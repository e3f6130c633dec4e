"""Inpaint: a region is written anew, everything outside it stays bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medldm.data.volume import Volume, Voxels
from medldm.degradations import Regions
from medldm.errors import GeometryError, UsageError
from medldm.inference.orientations import pick_orientations
from medldm.inference.pipeline import Job, without, written_into
from medldm.inference.tiling import Progress
from medldm.settings import Inpaint

SAME_GRID = 0.05  # voxels that the corners of two grids may lie apart; headers round


def inpaint(volume: Volume, mask: Volume | Voxels, settings: Inpaint, told: Progress) -> Volume:
    """See `medldm.inpaint`."""
    region = mask_on(volume, mask)
    if not region.any():
        return volume
    if region.all():
        raise UsageError(
            f"The mask covers all of {volume.name}; nothing is left to fill it from. Draw a smaller "
            "region, or invert the mask."
        )
    job = Job(without(volume, region), settings, "inpaint", told)
    measured, known = job.scaled()
    regions = Regions(torch.from_numpy(region) | ~known)
    observation = regions.observe(measured)
    restored, spread = job.run(observation, job.quiet_noise(), pick_orientations((), (), volume.shape, volume.spacing))
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
        if differs := grid_difference(mask, volume):
            raise GeometryError(
                f"The mask {mask.name} does not lie on the grid of {volume.name}: {differs}. Resample it to the scan "
                "first."
            )
        mask = mask.voxels
    if mask.shape != volume.shape:
        ours, theirs = (" x ".join(map(str, each.shape)) for each in (mask, volume))
        raise GeometryError(f"The mask has {ours} voxels, {volume.name} has {theirs}. Draw it on the grid of the scan.")
    filled: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.nan_to_num(np.asarray(mask, dtype=np.float32)) != 0
    return filled


def grid_difference(mask: Volume, volume: Volume) -> str:
    """In what the grids of a mask and a scan differ, in words; empty where they are the same.

    Parameters
    ----------
    mask, volume : each in the axes nearest to RAS; sizes are told in the order in which each is stored
    """

    def stored(values: Sequence[float], each: Volume) -> list[float]:
        return [values[axis] for axis in each.stored.axes]

    moved = mask.affine - volume.affine
    ends = np.array([[*(k * (n - 1) for k, n in zip(at, volume.shape, strict=True)), 1] for at in np.ndindex(2, 2, 2)])
    aside_mm = float(np.linalg.norm(ends @ moved.T, axis=1).max())
    tolerance_mm = SAME_GRID * min(volume.spacing)
    if mask.shape == volume.shape and aside_mm <= tolerance_mm:
        return ""
    if mask.shape != volume.shape:
        ours, theirs = (" x ".join(f"{n:g}" for n in stored(each.shape, each)) for each in (mask, volume))
        return f"it has {ours} voxels, the scan {theirs}"
    if not np.allclose(mask.spacing, volume.spacing, atol=tolerance_mm):
        ours, theirs = (" x ".join(f"{mm:.4g}" for mm in stored(each.spacing, each)) for each in (mask, volume))
        return f"its voxels are {ours} mm, those of the scan {theirs} mm"
    axes, others = (each.affine[:3, :3] / np.asarray(each.spacing) for each in (mask, volume))
    if not np.allclose(axes, others, atol=1e-3):
        cosine = (np.trace(axes @ np.linalg.inv(others)) - 1) / 2
        return f"its axes are turned by {np.degrees(np.arccos(np.clip(cosine, -1, 1))):.3g} degrees"
    names = (("left", "right"), ("back", "front"), ("down", "up"))
    told = [
        f"{abs(mm):.3g} mm {pair[int(mm > 0)]}" for mm, pair in zip(moved[:3, 3], names, strict=True) if abs(mm) > 0.005
    ]
    return f"it is shifted by {', '.join(told)}" if told else f"its corners lie up to {aside_mm:.2g} mm aside"
