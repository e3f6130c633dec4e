"""Will it fit? Asked before a scan is read, and again when the grid of the result is known."""

from __future__ import annotations

import math

from medldm.data.resample import new_shape_for_spacing
from medldm.data.volume import Volume
from medldm.errors import ResourceError
from medldm.qc.inspection import Plan
from medldm.settings import Settings, SuperResolve
from medldm.system import free_bytes

BYTES_PER_VOXEL = 60  # of the result: image, maps, noise; 47 were measured from 2.6 to 3.9 million voxels
FIXED_BYTES = 2**30  # Python, torch, a model and one call of it; 1.05 GiB were measured


def check_memory(name: str, voxels: int) -> None:
    """Refuse a scan that cannot fit, before the machine starts to swap.

    Parameters
    ----------
    name : of the scan
    voxels : of its largest grid

    Raises
    ------
    ResourceError
    """
    need, free = needed_bytes(voxels), free_bytes()
    if need > free:
        raise ResourceError(
            f"{name} needs about {need / 2**30:.1f} GiB of memory, {max(0, free) / 2**30:.1f} GiB are free. "
            "Close other programs, crop the scan, or run it on a larger machine."
        )


def needed_bytes(voxels: int) -> int:
    """Memory that a restoration takes, by the voxels of its largest grid."""
    return voxels * BYTES_PER_VOXEL + FIXED_BYTES


def result_voxels(volume: Volume, settings: Settings, plan: Plan | None) -> int:
    """Voxels of the result, or of the scan where that is larger.

    Parameters
    ----------
    volume : scan
    settings : of the verb
    plan : of `restore`
    """
    wanted = [step.options["spacing"] for step in plan.steps if "spacing" in step.options] if plan else []
    if isinstance(settings, SuperResolve):
        wanted.append(settings.spacing)
    voxels = [math.prod(volume.shape)]
    for spacing in wanted:
        stored = spacing if isinstance(spacing, tuple) else (spacing,) * 3
        inside = [stored[volume.stored.axes.index(axis)] for axis in range(3)]
        voxels.append(math.prod(new_shape_for_spacing(volume.shape, volume.spacing, inside)))
    return max(voxels)
