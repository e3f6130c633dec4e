"""Inpaint: a region is written anew, everything outside it stays bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medldm.errors import UsageError
from medldm.settings import Progress, Settings, knob
from medldm.tasks.base import RESAMPLING, Inputs, Keeps, Labels, Need, Task

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

    from medldm.data.volume import merge_filled, without_voxels
    from medldm.degradations import Regions
    from medldm.inference.conditioning import pick_orientations
    from medldm.inference.pipeline import Conditions, in_stored_units, record, sample
    from medldm.inference.resolve import quiet_noise_level, resolve, scaled
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
    scan = resolve(without_voxels(volume, region), settings, INPAINT)
    measured, known = scaled(scan)
    regions = Regions(torch.from_numpy(region) | ~known)
    observation = regions.observe(measured)
    orientations = pick_orientations((), (), volume.shape, volume.spacing)
    samples = sample(scan, Conditions(observation, quiet_noise_level(scan), orientations), progress)
    voxels = merge_filled(volume, in_stored_units(scan, samples.mean), region)
    axis = volume.slice_axis
    touched = np.flatnonzero(volume.to_stored(region).any(axis=(0, 1))).tolist()
    facts = {
        "invented_voxels": int(region.sum()),
        "invented_slices": touched,
        "slice_axis": axis,
        "consistency_residual": 0.0,
    }
    return record(scan, samples, voxels, facts, restored=region)


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
