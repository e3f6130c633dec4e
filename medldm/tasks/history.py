"""What a task writes into the history of its result."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

from medldm.data.volume import Step, Volume
from medldm.settings import Settings
from medldm.tasks.base import AnyTask


def with_step(result: Volume, scan: Volume | None, settings: Settings, task: AnyTask) -> Volume:
    """The result with the task as last step of its history, and the DICOM codes of what was done.

    Parameters
    ----------
    result, scan : of the task; without a scan every slice is invented
    settings : it ran with
    task : whose codes count, unless it ran a plan of others
    """
    from medldm.tasks import TASKS

    history = result.history
    if len(history) == (0 if scan is None else len(scan.history)):  # the task wrote nothing itself
        slices = result.to_stored(result.voxels).shape[2]
        facts: dict[str, Any] = {"medldm": version("medldm")}
        facts |= {"invented_slices": list(range(slices))} if scan is None else {}
        history = (*history, Step(task.name, settings.asdict(), facts))
    *before, last = history
    planned = [TASKS[step["verb"]] for step in last.facts.get("plan") or ()]
    codes = dict.fromkeys(code for part in planned or [task] for code in part.labels.derivation)
    return replace(result, history=(*before, replace(last, derivation=tuple(codes))))
