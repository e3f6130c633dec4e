"""Memory and time that a case will take: asked before it is read, and again when the grid of the result is known."""

from __future__ import annotations

import functools
import math
from pathlib import Path

from medldm.batch.ledger import seconds_per_voxel
from medldm.batch.summary import spent
from medldm.data.resample import new_shape_for_spacing
from medldm.data.volume import Volume
from medldm.errors import ModelError, ResourceError
from medldm.io import guess_modality
from medldm.qc.inspection import Plan
from medldm.settings import Settings
from medldm.system import free_bytes
from medldm.tasks import TASKS
from medldm.zoo import best, card

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
    if asked := getattr(settings, "spacing", None):
        wanted.append(asked)
    voxels = [math.prod(volume.shape)]
    for spacing in wanted:
        stored = spacing if isinstance(spacing, tuple) else (spacing,) * 3
        inside = [stored[volume.stored.axes.index(axis)] for axis in range(3)]
        voxels.append(math.prod(new_shape_for_spacing(volume.shape, volume.spacing, inside)))
    return max(voxels)


def forecast(volume: Volume, verb: str, settings: Settings, plan: Plan | None, folder: Path) -> tuple[str, float]:
    """Memory and time as text, and the seconds; NaN where nobody knows.

    Parameters
    ----------
    volume : scan
    verb, settings : what is asked
    plan : of `restore`
    folder : that the result goes to; finished cases in it tell the pace of this machine
    """
    voxels = result_voxels(volume, settings, plan)
    memory = f"about {needed_bytes(voxels) / 2**30:.1f} GiB"
    if plan and not plan.steps:
        return f"{memory}, no time in the network", 0.0
    if pace := known_pace(folder, verb):
        return f"{memory}, {spent(pace * voxels)} at the pace of what lies in {folder}", pace * voxels
    name, pace = card_pace(volume, verb, settings, voxels / 1e6)
    if pace:
        return f"{memory}, {spent(pace * voxels)} on two CPU cores, by the card of {name}", pace * voxels
    return f"{memory}, time unknown until a first case lies in {folder}", math.nan


def known_pace(folder: Path, verb: str) -> float | None:
    """Seconds per voxel of the finished cases of a folder, None where none is; looked up anew when the folder changes.

    Parameters
    ----------
    folder : of results
    verb : task
    """
    try:
        return _pace(folder, verb, folder.stat().st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=1024)
def _pace(folder: Path, verb: str, changed: int) -> float | None:
    return seconds_per_voxel(folder, verb)


def card_pace(volume: Volume, verb: str, settings: Settings, megavoxels: float) -> tuple[str, float]:
    """Name of the model that a scan will get, and its seconds per voxel by its card; 0 where nobody measured them."""
    modality = guess_modality(volume, settings.modality)[0]
    asked = "" if TASKS[verb].plan else verb
    try:
        if settings.model == "auto":
            model = best(
                modality, flat=min(volume.shape) == 1, verb=asked, megavoxels=megavoxels, draws=settings.draws > 0
            )
        else:
            model = card(settings.model)
    except ModelError:
        return "", 0.0
    return model.name, model.pace / 1e6
