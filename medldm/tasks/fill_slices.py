"""Fill slices: those that were measured stay bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medldm.data.slice_numbers import parse_slices, slice_ranges, spell_slices
from medldm.errors import GeometryError, UsageError
from medldm.settings import Progress, Settings, knob
from medldm.tasks.base import RESAMPLING, Inputs, Keeps, Labels, Task

if TYPE_CHECKING:
    from medldm.data.volume import Volume


@dataclass(frozen=True, kw_only=True)
class FillSlices(Settings):
    """Fill slices that are missing or damaged; measured slices stay bit for bit."""

    missing: str | tuple[int, ...] | None = knob(
        None,
        "slices to fill, counted from 0, ranges inclusive; found in the scan when not given",
        metavar="12,13,40-44",
        title="Slices to fill",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.missing is not None:
            slice_ranges(self.missing)


def run(inputs: Inputs, settings: FillSlices, progress: Progress) -> Volume:
    """Estimate the missing slices from the others; see `medldm.fill_slices`."""
    import numpy as np
    import torch

    from medldm.data.outliers import set_aside
    from medldm.data.volume import merge_filled, stored_to_voxel_slices, without_voxels
    from medldm.degradations import MissingSlices, fill_smoothly
    from medldm.inference.conditioning import pick_orientations
    from medldm.inference.pipeline import (
        Conditions,
        in_stored_units,
        record,
        sample,
    )
    from medldm.inference.resolve import quiet_noise_level, resolve, scaled
    from medldm.io import find_missing_slices

    assert inputs.scan is not None
    volume = inputs.scan
    count = volume.shape[volume.stored.axes[settings.axis]]
    if count < 3:
        raise GeometryError(
            f"{volume.name} has {count} slice{'s' * (count > 1)}; there is nothing between slices to fill. At "
            "least 3 are needed."
        )
    named = (
        parse_slices(settings.missing, count)
        if settings.missing is not None
        else find_missing_slices(set_aside(volume)[0], settings.axis)
    )
    if not named:
        return volume
    if len(named) >= count - 1:
        raise UsageError(
            f"{len(named)} of the {count} slices of {volume.name} are missing; that leaves too little to fill "
            "them from. At least 2 measured slices are needed."
        )
    axis, places = stored_to_voxel_slices(volume, named, settings.axis)
    gone = torch.zeros(count, dtype=torch.bool)
    gone[places] = True
    mask = gone.numpy().reshape([-1 if a == axis else 1 for a in range(3)])
    scan = resolve(without_voxels(volume, mask), settings, FILL_SLICES)
    measured, known = scaled(scan)
    if not bool(known[torch.from_numpy(~np.broadcast_to(mask, volume.shape))].all()):
        measured = fill_smoothly(measured, known)  # a hole in a slice beside a gap is no zero
    slices = MissingSlices(count, places, axis)
    observation = slices.observe(measured)
    orientations = pick_orientations((axis,), (), volume.shape, volume.spacing)
    samples = sample(scan, Conditions(observation, quiet_noise_level(scan), orientations), progress)
    voxels = merge_filled(volume, in_stored_units(scan, samples.mean), mask)
    kept = ~np.broadcast_to(mask, volume.shape)
    exact = np.array_equal(voxels[kept], volume.voxels[kept], equal_nan=volume.voxels.dtype.kind == "f")
    facts = {
        "filled_slices": [int(k) for k in named],
        "invented_slices": [int(k) for k in named],
        "measured_slices_bit_exact": exact,
        "consistency_residual": 0.0,
    }
    stored = replace(volume.stored, missing=())
    return record(scan, samples, voxels, facts, restored=mask, stored=stored)


def intent(scan: Volume, settings: FillSlices) -> str:
    """What is going to be done with a scan."""
    if settings.missing is None:
        return "Fill the slices that are found missing or empty. Measured slices stay bit for bit."
    count = scan.shape[scan.stored.axes[settings.axis]]
    named = parse_slices(settings.missing, count)
    return f"Fill {len(named)} of {count} slices ({spell_slices(named)}). Measured slices stay bit for bit."


FILL_SLICES = Task(
    name="fill-slices",
    help="fill missing or damaged slices; measured ones stay bit for bit",
    settings=FillSlices,
    run=run,
    labels=Labels(
        title="Fill slices",
        past="filled",
        desc="filled",
        derivation=(RESAMPLING,),
        examples=("medldm fill-slices scan.nii.gz filled.nii.gz --missing 12,13,40-44",),
    ),
    keeps=Keeps.MEASURED_SLICES,
    across_slices=True,
    intent=intent,
)
