"""Inpaint: a region is written anew, everything outside it stays bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medldm.errors import UsageError
from medldm.settings import Progress, Settings, knob
from medldm.tasks.base import RESAMPLING, AnyTask, Inputs, Keeps, Labels, Need, Task

if TYPE_CHECKING:
    from medldm.data.intensity import Mask
    from medldm.data.volume import Volume, Voxels
    from medldm.inference.pipeline import Samples
    from medldm.inference.resolve import ResolvedScan


@dataclass(frozen=True, kw_only=True)
class Inpaint(Settings):
    """Fill a region from its surroundings; everything outside it stays bit for bit."""

    mask: str | None = knob(None, "image that is non-zero where the scan is to be filled", metavar="MASK")


def run(inputs: Inputs, settings: Inpaint, progress: Progress) -> Volume:
    """Estimate the region from its surroundings; see `medldm.inpaint`."""
    from medldm.data.volume import merge_filled
    from medldm.inference.pipeline import in_stored_units, record

    assert inputs.scan is not None
    assert inputs.mask is not None
    volume = inputs.scan
    region = region_of(volume, inputs.mask)
    if not region.any():
        return volume
    scan, samples = filled(volume, region, settings, INPAINT, progress)
    voxels = merge_filled(volume, in_stored_units(scan, samples.mean), region)
    return record(scan, samples, voxels, region_facts(volume, region), restored=region)


def region_of(volume: Volume, mask: Volume | Voxels) -> Mask:
    """(X, Y, Z) bool, the region that a mask draws.

    Raises
    ------
    GeometryError
        The mask lies on another grid.
    UsageError
        It covers everything.
    """
    from medldm.tasks.inputs import mask_on

    region: Mask = mask_on(volume, mask)
    if region.all():
        raise UsageError(
            f"The mask covers all of {volume.name}; nothing is left to fill it from. Draw a smaller "
            "region, or invert the mask."
        )
    return region


def filled(
    volume: Volume, region: Mask, settings: Settings, task: AnyTask, progress: Progress
) -> tuple[ResolvedScan, Samples]:
    """The scan as resolved, and the networks' answer for a region, whose voxels they do not see."""
    import torch

    from medldm.data.volume import without_voxels
    from medldm.degradations import Regions
    from medldm.inference.conditioning import pick_orientations
    from medldm.inference.pipeline import Conditions, sample
    from medldm.inference.resolve import quiet_noise_level, resolve, scaled

    scan = resolve(without_voxels(volume, region), settings, task)
    measured, known = scaled(scan)
    regions = Regions(torch.from_numpy(region) | ~known)
    observation = regions.observe(measured)
    orientations = pick_orientations((), (), volume.shape, volume.spacing)
    return scan, sample(scan, Conditions(observation, quiet_noise_level(scan), orientations), progress)


def region_facts(volume: Volume, region: Mask) -> dict[str, Any]:
    """What a record says of a region that was written anew."""
    import numpy as np

    touched = np.flatnonzero(volume.to_stored(region).any(axis=(0, 1))).tolist()
    return {
        "invented_voxels": int(region.sum()),
        "invented_slices": touched,
        "slice_axis": volume.slice_axis,
        "consistency_residual": 0.0,
    }


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
