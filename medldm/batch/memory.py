"""Will it fit? Asked before a scan is read, and again when the grid of the result is known."""

from __future__ import annotations

import math
from pathlib import Path

from medldm.errors import ResourceError
from medldm.inspection import Plan
from medldm.io.scans import Case
from medldm.resample import new_shape_for_spacing
from medldm.settings import Settings, SuperResolve
from medldm.volume import Volume

BYTES_PER_VOXEL = 60  # of the result: image, maps, noise; 47 were measured from 2.6 to 3.9 million voxels
FIXED_BYTES = 2**30  # Python, torch, a model and one call of it; 1.05 GiB were measured
CONTROL_GROUP = Path("/sys/fs/cgroup")


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


def stored_voxels(case: Case) -> int:
    """Voxels of one volume of a case, by its header."""
    if case.series:
        return math.prod(case.series.shape)
    from medldm.io.nifti import probe_nifti

    return math.prod(probe_nifti(case.source).shape[:3])


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


def free_bytes() -> int:
    """Memory this process may still take: of the machine, of its limits, of its container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free = min(free, limit - int(psutil.Process().memory_info().vms))
    except ImportError:
        pass  # Windows has no such limits
    try:
        allowed = int((CONTROL_GROUP / "memory.max").read_text())
        used = int((CONTROL_GROUP / "memory.current").read_text())
        # Cached files count as used there, but the kernel gives them back.
        cached = dict(line.split() for line in (CONTROL_GROUP / "memory.stat").read_text().splitlines())
        free = min(free, allowed - used + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass  # no container, or one without a limit
    return free
