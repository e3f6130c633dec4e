"""Fill slices: those that were measured stay bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from medldm.degradations import MissingSlices
from medldm.errors import GeometryError, UsageError
from medldm.io import find_missing_slices
from medldm.settings import FillSlices
from medldm.tasks.pipeline import Job, inside_slices, without, written_into
from medldm.tasks.planes import Progress, looks
from medldm.volume import Volume


def fill_slices(volume: Volume, settings: FillSlices, told: Progress) -> Volume:
    """See `medldm.fill_slices`."""
    count = volume.shape[volume.stored.axes[settings.axis]]
    if count < 3:
        raise GeometryError(
            f"{volume.name} has {count} slice{'s' * (count > 1)}; there is nothing between slices to fill."
        )
    named = (
        parse_slices(settings.missing, count)
        if settings.missing is not None
        else find_missing_slices(volume, settings.axis)
    )
    if not named:
        return volume
    if len(named) >= count - 1:
        raise UsageError(
            f"{len(named)} of the {count} slices of {volume.name} are missing; that leaves too little to fill "
            "them from."
        )
    axis, places = inside_slices(volume, named, settings.axis)
    gone = torch.zeros(count, dtype=torch.bool)
    gone[places] = True
    mask = gone.numpy().reshape([-1 if a == axis else 1 for a in range(3)])
    job = Job(without(volume, mask), settings, "fill-slices", told)
    measured, _ = job.scaled()
    slices = MissingSlices(count, places, axis)
    observation = slices.observe(measured)
    restored, spread = job.run(observation, job.quiet_noise(), looks((axis,), (), volume.shape, volume.spacing))
    filled = job.scaling.invert(restored.numpy())
    if job.positive:
        filled = np.maximum(filled, 0)
    voxels = written_into(volume, filled, mask)
    std = (
        None if spread is None else np.where(mask, spread.numpy() * np.float32(job.scaling.unit), 0).astype(np.float32)
    )
    kept = ~np.broadcast_to(mask, volume.shape)
    exact = np.array_equal(voxels[kept], volume.voxels[kept], equal_nan=volume.voxels.dtype.kind == "f")
    facts = {
        "invented_slices": [int(k) for k in named],
        "measured_slices_bit_exact": exact,
        "consistency_residual": 0.0,
    }
    return job.record(voxels, std, None, replace(volume.stored, missing=()), facts)


def parse_slices(words: str | int | Iterable[int], count: int) -> tuple[int, ...]:
    """``"12,13,40-44"`` or numbers as slice numbers, ranges inclusive.

    Parameters
    ----------
    words : text or numbers
    count : slices of the scan

    Raises
    ------
    UsageError
        Not numbers, or beyond the scan.
    """
    numbers: set[int] = set()
    try:
        if isinstance(words, int):
            numbers = {words}
        elif not isinstance(words, str):
            numbers = {int(word) for word in words}
        else:
            for word in filter(None, (part.strip() for part in words.split(","))):
                first, _, last = word.partition("-")
                several = range(int(first), int(last or first) + 1)
                if not several:
                    raise ValueError(word)
                numbers |= set(several)
            if not numbers:
                raise ValueError(words)
    except (TypeError, ValueError) as problem:
        raise UsageError(f"--missing takes slice numbers like 12,13,40-44, not {words!r}.") from problem
    beyond = sorted(number for number in numbers if not 0 <= number < count)
    if beyond:
        raise UsageError(f"--missing names slice {beyond[0]}, the scan has slices 0 to {count - 1}.")
    return tuple(sorted(numbers))
