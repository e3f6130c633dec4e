"""Inpaint: a region is written anew, everything outside it stays bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medldm.errors import UsageError
from medldm.settings import Settings, knob
from medldm.tasks.base import RESAMPLING, Inputs, Keeps, Labels, Need, Progress, Task

if TYPE_CHECKING:
    from medldm.data.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Inpaint(Settings):
    """Fill a region from its surroundings; everything outside it stays bit for bit."""

    mask: str | None = knob(None, "image that is non-zero where the scan is to be filled", metavar="MASK")


def run(inputs: Inputs, settings: Inpaint, progress: Progress) -> Volume:
    """Estimate the region from its surroundings; see `medldm.inpaint`."""
    import numpy as np
    import torch

    from medldm.degradations import Regions
    from medldm.inference.orientations import pick_orientations
    from medldm.inference.pipeline import Job, without, written_into
    from medldm.tasks.inputs import mask_on

    assert inputs.scan is not None
    assert inputs.mask is not None
    volume = inputs.scan
    region = mask_on(volume, inputs.mask)
    if not region.any():
        return volume
    if region.all():
        raise UsageError(
            f"The mask covers all of {volume.name}; nothing is left to fill it from. Draw a smaller "
            "region, or invert the mask."
        )
    job = Job(without(volume, region), settings, "inpaint", progress)
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


INPAINT = Task(
    name="inpaint",
    help="fill a region; everything outside stays bit for bit",
    settings=Inpaint,
    run=run,
    labels=Labels(
        title="Inpaint",
        past="inpainted",
        desc="inpainted",
        derivation=(RESAMPLING,),
        examples=("medldm inpaint scan.nii.gz filled.nii.gz --mask mask.nii.gz",),
    ),
    needs=frozenset({Need.SCAN, Need.MASK}),
    keeps=Keeps.OUTSIDE_MASK,
)
