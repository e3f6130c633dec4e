"""The tasks: each takes what it needs and gives a volume; every interface calls `run`.

`TASKS` is the registry. A task is one module, its settings beside it, and one line here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from medldm.errors import NotRestorable, UsageError
from medldm.settings import Progress, Settings, make, silent
from medldm.system import Registry
from medldm.tasks.base import AnyTask, Inputs, Keeps, Labels, Need, Task
from medldm.tasks.denoise import DENOISE, Denoise
from medldm.tasks.edit import EDIT, Edit
from medldm.tasks.fill_slices import FILL_SLICES, FillSlices
from medldm.tasks.generate import GENERATE, Generate
from medldm.tasks.inpaint import INPAINT, Inpaint
from medldm.tasks.restore import RESTORE, Restore
from medldm.tasks.super_resolve import SUPER_RESOLVE, SuperResolve

if TYPE_CHECKING:
    from medldm.data.volume import Affine, Volume, Voxels

log = logging.getLogger(__name__)

TASKS: Registry[AnyTask] = Registry(
    "medldm.tasks",
    lambda member: isinstance(member, Task),
    {task.name: task for task in (DENOISE, SUPER_RESOLVE, FILL_SLICES, INPAINT, RESTORE, GENERATE, EDIT)},
)


def run(
    name: str,
    scan: Volume | None,
    settings: Settings,
    *,
    mask: Volume | Voxels | None = None,
    noise_map: Volume | Voxels | None = None,
    progress: Progress = silent,
) -> Volume:
    """One task.

    Parameters
    ----------
    name : key of `TASKS`
    scan : None for tasks that need none
    settings : of the task
    mask : of tasks that need one, on the grid of the scan
    noise_map : of `denoise` and `super-resolve`, on the grid of the scan, in the unit of their ``noise``
    progress : called with (done, total, what); may raise to stop

    Returns
    -------
    result, with the task as last step of its history; the scan itself when there was nothing to do

    Raises
    ------
    MedldmError
    """
    task = TASKS[name]
    if scan is not None:
        _check(scan)
    elif Need.SCAN in task.needs:
        raise UsageError(f"{name} needs a scan.")
    if mask is None and Need.MASK in task.needs:
        raise UsageError(f"{name} needs a mask that says where to fill.")
    result = task.run(Inputs(scan=scan, mask=mask, noise_map=noise_map), settings, progress)
    return scan if scan is not None and result is scan else with_step(result, scan, settings, task)


def _check(scan: Volume) -> None:
    """Refuse what holds no image, and log what the reader noted about it."""
    from medldm.io import check_content, looks_like_labels

    # Before the task looks: a scan of nothing must not come back "unchanged" because nothing is to be done.
    check_content(scan)
    if looks_like_labels(scan.voxels):
        raise NotRestorable(
            f"{scan.name} looks like a mask or label map (few distinct values). Name the scan that it was made from."
        )
    for note in scan.stored.note:
        log.warning(note)


def with_step(result: Volume, scan: Volume | None, settings: Settings, task: AnyTask) -> Volume:
    """The result with the task as last step of its history, and the DICOM codes of what was done.

    Parameters
    ----------
    result, scan : of the task; without a scan every slice is invented
    settings : it ran with
    task : whose codes count, unless it ran a plan of others
    """
    from importlib.metadata import version

    from medldm.data.volume import Step

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


def function(name: str) -> Callable[..., Any]:
    """The Python function of a task: one of this module, else one made from the registry.

    Parameters
    ----------
    name : key of `TASKS`
    """
    if own := globals().get(name.replace("-", "_")):
        return cast("Callable[..., Volume]", own)
    called: Any = partial(_call, name)
    called.__name__, called.__doc__ = name.replace("-", "_"), TASKS[name].settings.__doc__
    return cast("Callable[..., Volume]", called)


def _call(
    name: str,
    /,
    volume: Any = None,
    mask: Any = None,
    *,
    affine: Affine | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Volume:
    """A task on what callers hold; `denoise` and `inpaint` say what that may be."""
    from medldm.tasks.inputs import as_volume, number_or_map, on_axes_of

    task = TASKS[name]
    if volume is None and Need.SCAN not in task.needs:
        return run(name, None, make(task.settings, options), progress=progress)
    scan, noise_map = as_volume(volume, affine), None
    if "noise" in options:
        number, noise_map = number_or_map(options["noise"], volume, scan)
        options["noise"] = number
    region = None if mask is None else on_axes_of(mask, volume, scan)
    return run(name, scan, make(task.settings, options), mask=region, noise_map=noise_map, progress=progress)


def denoise(
    volume: Any,
    noise: Any = None,
    *,
    affine: Affine | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Volume:
    """Remove noise from an MR (Rician, also of parallel imaging) or CT scan.

    Parameters
    ----------
    volume : Volume, nibabel image, or (X, Y, Z) array with `affine`
    noise : MRI a fraction of the 99.5th percentile of the foreground, CT HU; a number, or a map as a Volume, a nibabel
        image or an array laid out like the scan that was given; estimated when not given
    affine : (4, 4) RAS mm, with an array
    progress : called with (done, total, what)
    **options : fields of `medldm.settings.Denoise`

    Returns
    -------
    Volume on the same grid; ``std`` is filled when ``samples`` > 1; no voxel moves more than 4 sigma

    Raises
    ------
    MedldmError
    """
    return _call("denoise", volume, noise=noise, affine=affine, progress=progress, **options)


def super_resolve(
    volume: Any,
    spacing: Any = 1.0,
    *,
    noise: Any = None,
    affine: Affine | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Volume:
    """Thin slices from thick ones, at any ratio; finer planes where asked.

    Parameters
    ----------
    volume : Volume, nibabel image, or (X, Y, Z) array with `affine`
    spacing : mm; one number for every coarser axis, or one for each stored axis
    noise, affine, progress : see `denoise`
    **options : fields of `medldm.settings.SuperResolve` (``slice_thickness``, ``slice_profile``, ...)

    Returns
    -------
    Volume over the same field of view; measured again with its slice profile it gives the scan back

    Raises
    ------
    MedldmError
    """
    return _call("super-resolve", volume, spacing=spacing, noise=noise, affine=affine, progress=progress, **options)


def fill_slices(
    volume: Any, missing: Any = None, *, affine: Affine | None = None, progress: Progress = silent, **options: Any
) -> Volume:
    """Fill missing or damaged slices; measured slices come out bit for bit.

    Parameters
    ----------
    volume : Volume, nibabel image, or (X, Y, Z) array with `affine`
    missing : slice numbers along the stored third axis, from 0, or text like ``"12,13,40-44"``; found when not given
    affine, progress : see `denoise`
    **options : fields of `medldm.settings.FillSlices`

    Returns
    -------
    Volume on the same grid

    Raises
    ------
    MedldmError
    """
    named = missing if isinstance(missing, str | int | None) else tuple(missing)
    return _call("fill-slices", volume, missing=named, affine=affine, progress=progress, **options)


def inpaint(
    volume: Any, mask: Any, *, affine: Affine | None = None, progress: Progress = silent, **options: Any
) -> Volume:
    """Fill a region from its surroundings; what lies outside comes out bit for bit.

    Parameters
    ----------
    volume : Volume, nibabel image, or (X, Y, Z) array with `affine`
    mask : Volume or nibabel image on the grid of the scan, or an array laid out like the scan that was given
    affine, progress : see `denoise`
    **options : fields of `medldm.settings.Inpaint`

    Returns
    -------
    Volume on the same grid

    Raises
    ------
    MedldmError
    """
    return _call("inpaint", volume, mask, affine=affine, progress=progress, **options)


def edit(
    volume: Any,
    mask: Any,
    prompt: str = "",
    *,
    affine: Affine | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Volume:
    """Draw a region anew, as words or another scan say; what lies outside comes out bit for bit.

    Parameters
    ----------
    volume : Volume, nibabel image, or (X, Y, Z) array with `affine`
    mask : Volume or nibabel image on the grid of the scan, or an array laid out like the scan that was given
    prompt : words, where a generator knows what the scan shows
    affine, progress : see `denoise`
    **options : fields of `medldm.settings.Edit` (``strength``, ``like``, ...)

    Returns
    -------
    Volume on the same grid; its record says by what the region was drawn and how visible its seam is

    Raises
    ------
    MedldmError
    """
    return _call("edit", volume, mask, affine=affine, progress=progress, prompt=prompt, **options)


def restore(volume: Any, *, affine: Affine | None = None, progress: Progress = silent, **options: Any) -> Volume:
    """Look at the scan, make a plan, and do what it needs: fill, super-resolve, denoise.

    Parameters
    ----------
    volume : Volume, nibabel image, or (X, Y, Z) array with `affine`
    affine, progress : see `denoise`
    **options : fields of `medldm.settings.Restore`

    Returns
    -------
    Volume; the one that was given when it needs nothing. The plan stands in ``history[-1].facts["plan"]``

    Raises
    ------
    MedldmError
    """
    return _call("restore", volume, affine=affine, progress=progress, **options)


def generate(
    prompt: str = "", *, count: int | None = None, progress: Progress = silent, **options: Any
) -> Volume | list[Volume]:
    """Draw scans of people who do not exist; each says so in its record, its header and its voxels.

    Parameters
    ----------
    prompt : words, as in ``"T1w brain, female, 34 years"``, see `medldm.data.description`
    count : how many; the k-th has the seed ``seed + k``. One Volume when not given, else a list
    progress : called with (done, total, what)
    **options : fields of `medldm.settings.Generate` (``contrast``, ``age``, ``sex``, ``spacing``, ``like``, ...)

    Returns
    -------
    Volume, or list of them

    Raises
    ------
    MedldmError
        Words that are not understood; a description that no model was trained on.
    """
    settings = make(Generate, {"prompt": prompt, **options})
    if count is None:
        return run("generate", None, settings, progress=progress)
    if count < 1:
        raise UsageError(f"count={count} makes no sense: at least 1.")
    return [run("generate", None, replace(settings, seed=settings.seed + k), progress=progress) for k in range(count)]


__all__ = [
    "TASKS",
    "Denoise",
    "Edit",
    "FillSlices",
    "Generate",
    "Inpaint",
    "Inputs",
    "Keeps",
    "Labels",
    "Need",
    "Restore",
    "SuperResolve",
    "Task",
    "denoise",
    "edit",
    "fill_slices",
    "generate",
    "inpaint",
    "restore",
    "run",
    "super_resolve",
]
