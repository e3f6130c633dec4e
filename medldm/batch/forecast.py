"""Memory and time that a case will take, before it is begun."""

from __future__ import annotations

import functools
import math
from pathlib import Path

from medldm.batch.memory import needed_bytes, result_voxels
from medldm.batch.record import seconds_per_voxel
from medldm.batch.summary import spent
from medldm.errors import ModelError, UnfitModel
from medldm.inspection import Plan
from medldm.io import guess_modality
from medldm.settings import Settings
from medldm.volume import Volume
from medldm.zoo import Card, best, card, cards


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
    try:
        found = fitting_card(volume, verb, settings, None, megavoxels)
    except ModelError:
        return "", 0.0
    return found.name, found.pace / 1e6


def fitting_card(volume: Volume, verb: str, settings: Settings, plan: Plan | None, megavoxels: float = 0.0) -> Card:
    """The card of the model that a scan will get, by what the card says; its weights are not looked at.

    Parameters
    ----------
    volume : scan
    verb, settings : what is asked
    plan : of `restore`
    megavoxels : of the result, in millions

    Raises
    ------
    UnfitModel
        None restores this modality, this verb, or a single slice.
    ModelError
        No such model.
    """
    modality = guess_modality(volume)[0] if settings.modality == "auto" else settings.modality
    asked = [step.verb for step in plan.steps] if plan else [] if verb == "restore" else [verb]
    flat = min(volume.shape) == 1
    if settings.model == "auto":
        cards()  # a card that cannot be read is not the scan's fault
        try:
            first, *_ = [best(modality, flat=flat, verb=each, megavoxels=megavoxels) for each in asked or [""]]
        except ModelError as problem:
            raise UnfitModel(str(problem)) from problem
        return first
    found = card(settings.model)
    if found.modality != modality or not set(asked) <= set(found.verbs) or (flat and found.spatial_dims == 3):
        raise UnfitModel(f"{found.name} is not made for {volume.name}.")
    return found
