"""Memory and time that a case will take, before it is begun."""

from __future__ import annotations

import functools
import math
from pathlib import Path

from medldm.batch.ledger import seconds_per_voxel
from medldm.batch.memory import needed_bytes, result_voxels
from medldm.batch.summary import spent
from medldm.data.volume import Volume
from medldm.errors import ModelError
from medldm.io import guess_modality
from medldm.qc.inspection import Plan
from medldm.settings import Settings
from medldm.zoo import best, card


def forecast(volume: Volume, verb: str, settings: Settings, plan: Plan | None, folder: Path) -> tuple[str, float]:
    """Memory and time in words, and the seconds; NaN where nobody knows.

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
    modality = guess_modality(volume)[0] if settings.modality == "auto" else settings.modality
    asked = "" if verb == "restore" else verb
    try:
        if settings.model == "auto":
            found = best(modality, flat=min(volume.shape) == 1, verb=asked, megavoxels=megavoxels)
        else:
            found = card(settings.model)
    except ModelError:
        return "", 0.0
    return found.name, found.pace / 1e6
