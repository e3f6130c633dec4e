"""The tasks: each takes what it needs and gives a volume; every interface calls `run`.

`TASKS` is the registry. A task is one module, its settings beside it, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from medldm.errors import UsageError
from medldm.registry import Registry
from medldm.settings import Progress, Settings, make, silent
from medldm.tasks.base import AnyTask, Inputs, Keeps, Labels, Need, Task
from medldm.tasks.denoise import DENOISE, Denoise
from medldm.tasks.fill_slices import FILL_SLICES, FillSlices
from medldm.tasks.inpaint import INPAINT, Inpaint
from medldm.tasks.restore import RESTORE, Restore
from medldm.tasks.super_resolve import SUPER_RESOLVE, SuperResolve

if TYPE_CHECKING:
    from medldm.data.volume import Affine, Volume, Voxels

TASKS: Registry[AnyTask] = Registry(
    "medldm.tasks",
    lambda member: isinstance(member, Task),
    {task.name: task for task in (DENOISE, SUPER_RESOLVE, FILL_SLICES, INPAINT, RESTORE)},
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
    from medldm.tasks.history import with_step
    from medldm.tasks.inputs import check_scan

    task = TASKS[name]
    if scan is not None:
        check_scan(scan)
    elif Need.SCAN in task.needs:
        raise UsageError(f"{name} needs a scan.")
    if mask is None and Need.MASK in task.needs:
        raise UsageError(f"{name} needs a mask that says where to fill.")
    result = task.run(Inputs(scan=scan, mask=mask, noise_map=noise_map), settings, progress)
    return scan if scan is not None and result is scan else with_step(result, scan, settings, task)


def function(name: str) -> Callable[..., Volume]:
    """The Python function of a task: one of this module, else one made from the registry.

    Parameters
    ----------
    name : key of `TASKS`
    """
    if own := globals().get(name.replace("-", "_")):
        return cast("Callable[..., Volume]", own)

    def call(
        volume: Any = None,
        mask: Any = None,
        *,
        affine: Affine | None = None,
        progress: Progress = silent,
        **options: Any,
    ) -> Volume:
        from medldm.tasks.inputs import as_volume, on_axes_of

        settings = make(TASKS[name].settings, options)
        if volume is None:
            return run(name, None, settings, progress=progress)
        scan = as_volume(volume, affine)
        region = None if mask is None else on_axes_of(mask, volume, scan)
        return run(name, scan, settings, mask=region, progress=progress)

    call.__name__, call.__doc__ = name.replace("-", "_"), TASKS[name].settings.__doc__
    return call


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
    from medldm.tasks.inputs import as_volume, number_or_map

    scan = as_volume(volume, affine)
    number, noise_map = number_or_map(noise, volume, scan)
    return run("denoise", scan, make(Denoise, {"noise": number, **options}), noise_map=noise_map, progress=progress)


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
    from medldm.tasks.inputs import as_volume, number_or_map

    scan = as_volume(volume, affine)
    number, noise_map = number_or_map(noise, volume, scan)
    settings = make(SuperResolve, {"spacing": spacing, "noise": number, **options})
    return run("super-resolve", scan, settings, noise_map=noise_map, progress=progress)


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
    from medldm.tasks.inputs import as_volume

    options = {"missing": missing if isinstance(missing, str | int | None) else tuple(missing), **options}
    return run("fill-slices", as_volume(volume, affine), make(FillSlices, options), progress=progress)


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
    from medldm.tasks.inputs import as_volume, on_axes_of

    scan = as_volume(volume, affine)
    return run("inpaint", scan, make(Inpaint, options), mask=on_axes_of(mask, volume, scan), progress=progress)


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
    from medldm.tasks.inputs import as_volume

    return run("restore", as_volume(volume, affine), make(Restore, options), progress=progress)


__all__ = [
    "TASKS",
    "Denoise",
    "FillSlices",
    "Inpaint",
    "Inputs",
    "Keeps",
    "Labels",
    "Need",
    "Restore",
    "SuperResolve",
    "Task",
    "denoise",
    "fill_slices",
    "inpaint",
    "restore",
    "run",
    "super_resolve",
]
