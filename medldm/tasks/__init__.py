"""The verbs. Each takes a volume and gives a volume; all doors call `run`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from nibabel.orientations import OrientationError

from medldm.data.volume import Affine, Volume, Voxels
from medldm.errors import GeometryError, NotRestorable, UsageError
from medldm.inference.pipeline import silent
from medldm.inference.tiling import Progress
from medldm.io import check_content, from_array, from_nibabel, looks_like_labels
from medldm.settings import VERBS, Denoise, FillSlices, Inpaint, Restore, Settings, SuperResolve, make
from medldm.tasks import denoise as _denoise
from medldm.tasks import fill_slices as _fill_slices
from medldm.tasks import inpaint as _inpaint
from medldm.tasks import restore as _restore
from medldm.tasks import super_resolve as _super_resolve

log = logging.getLogger(__name__)

TASKS: dict[str, Callable[..., Volume]] = {
    "denoise": _denoise.denoise,
    "super-resolve": _super_resolve.super_resolve,
    "fill-slices": _fill_slices.fill_slices,
    "inpaint": _inpaint.inpaint,
    "restore": _restore.restore,
}


def run(
    verb: str,
    volume: Volume,
    settings: Settings,
    *,
    mask: Volume | Voxels | None = None,
    noise_map: Volume | Voxels | None = None,
    progress: Progress = silent,
) -> Volume:
    """One verb on one volume.

    Parameters
    ----------
    verb : name in `TASKS`
    volume : scan
    settings : of the verb
    mask : of `inpaint`, on the grid of the scan
    noise_map : of `denoise` and `super-resolve`, on the grid of the scan, in the unit of their ``noise``
    progress : called with (done, total, what); may raise to stop

    Returns
    -------
    restored volume; the volume itself when there was nothing to do

    Raises
    ------
    MedldmError
    """
    # Here and not later: a scan of nothing must not come back "unchanged" because nothing is to be done.
    check_content(volume)
    if looks_like_labels(volume.voxels):
        raise NotRestorable(
            f"{volume.name} looks like a mask or label map (few distinct values). Name the scan that it was made from."
        )
    for note in volume.stored.note:
        log.warning(note)
    if verb == "inpaint":
        if mask is None:
            raise UsageError("inpaint needs a mask that says where to fill.")
        return TASKS[verb](volume, mask, settings, progress)
    if noise_map is not None:
        return TASKS[verb](volume, settings, progress, noise_map)
    return TASKS[verb](volume, settings, progress)


def as_volume(scan: Any, affine: Affine | None = None) -> Volume:
    """A Volume of what callers hold: a Volume, a nibabel image, or an array and its affine.

    Parameters
    ----------
    scan : Volume, nibabel image, or (X, Y, Z) array
    affine : (4, 4) RAS mm, with an array

    Raises
    ------
    UsageError
    """
    if isinstance(scan, Volume):
        return scan
    image = hasattr(scan, "get_fdata") and hasattr(scan, "affine")
    if not image and not (isinstance(scan, np.ndarray) and affine is not None):
        raise UsageError("A scan is a medldm.Volume, a nibabel image, or a NumPy array together with affine=.")
    if not 2 <= len(scan.shape) <= 3:
        raise UsageError(f"A scan has three axes, this one has {len(scan.shape)}.")
    try:
        if image and len(scan.shape) == 3:
            return from_nibabel(scan)
        array, affine = (np.asanyarray(scan.dataobj), scan.affine) if image else (scan, affine)
        if array.dtype.kind not in "iufb":
            raise UsageError(f"A scan has real numbers; these voxels are {array.dtype}.")
        return from_array(array.reshape(*array.shape, *(1,) * (3 - array.ndim)), np.asarray(affine, dtype=np.float64))
    except (ValueError, np.linalg.LinAlgError, OrientationError) as problem:
        raise GeometryError(
            "The affine of this scan cannot be used. Give a finite, invertible 4 x 4 matrix, voxel index to RAS mm."
        ) from problem


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
    scan = as_volume(volume, affine)
    number, noise_map = _number_or_map(noise, volume, scan)
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
    scan = as_volume(volume, affine)
    number, noise_map = _number_or_map(noise, volume, scan)
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
    scan = as_volume(volume, affine)
    return run("inpaint", scan, make(Inpaint, options), mask=_on_axes_of(mask, volume, scan), progress=progress)


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
    return run("restore", as_volume(volume, affine), make(Restore, options), progress=progress)


def _on_axes_of(given: Any, scan: Any, volume: Volume) -> Any:
    """What came beside a scan, a mask or a map, as a Volume or with the axes of ``volume.voxels``.

    Parameters
    ----------
    given : Volume, nibabel image, or array laid out like `scan`
    scan, volume : as the caller gave it, and what `as_volume` made of it
    """
    if isinstance(given, Volume):
        return given
    if hasattr(given, "get_fdata"):
        return as_volume(given)
    array = np.asarray(given)
    if isinstance(scan, Volume):
        return array
    if array.ndim == 2:
        array = array[..., None]  # beside a flat scan, which is one slice
    return volume.from_stored(array) if array.ndim == 3 else array


def _number_or_map(noise: Any, scan: Any, volume: Volume) -> tuple[Any, Any]:
    """A noise level as a number (None to estimate it) and as a map; one of both is None.

    Raises
    ------
    UsageError
        Neither.
    """
    if noise is None or isinstance(noise, str):
        return noise, None
    if isinstance(noise, Volume) or hasattr(noise, "get_fdata"):
        return None, _on_axes_of(noise, scan, volume)
    array = np.asarray(noise)
    if array.dtype.kind not in "iuf":
        raise UsageError(f"--noise is a number or a map of numbers, not {noise!r}.")
    return (array.item(), None) if array.ndim == 0 else (None, _on_axes_of(array, scan, volume))


__all__ = ["TASKS", "VERBS", "as_volume", "denoise", "fill_slices", "inpaint", "restore", "run", "super_resolve"]
