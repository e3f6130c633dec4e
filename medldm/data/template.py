"""The grid that a generator draws on, and scans brought onto it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from medldm.data.intensity import Scaling, mri_scaling
from medldm.data.resample import nearest_filled, resample_to
from medldm.data.volume import Affine, Volume, Voxels

SMALL_MM = 80.0  # scans of a smaller field of view show one organ, cut out: they are centred, not registered
BRIGHTEST = 1.5  # scaled intensity; brighter voxels are cut, since vessels and fat would take the whole scale
BINS, VOXELS, SEED = 32, 50_000, 1  # of mutual information, over so many voxels drawn with a seed


def centred_affine(shape: Sequence[int], spacing: float) -> Affine:
    """(4, 4) RAS mm of a grid whose middle is the origin."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-spacing * (size - 1) / 2 for size in shape]
    return affine


def scaling_of(scan: Volume) -> Scaling:
    """Zero to the 99.5th percentile of the foreground of an MR scan, as 0 to 1."""
    return mri_scaling(np.nan_to_num(scan.voxels.astype(np.float32), posinf=0, neginf=0))


def scaled_intensity(scan: Volume) -> Volume:
    """An MR scan as float32 with 0 to 1 being zero to the 99.5th percentile of the foreground.

    Parameters
    ----------
    scan : as read
    """
    clean = np.nan_to_num(scan.voxels.astype(np.float32), posinf=0, neginf=0)
    scaled = np.clip(scaling_of(scan).apply(clean), 0, BRIGHTEST).astype(np.float32)
    return replace(scan, voxels=scaled, std=None, half_width=None)


def middle(scan: Volume) -> Affine:
    """(3,) RAS mm of the middle of a scan's field of view."""
    centre: Affine = (scan.affine @ [*((size - 1) / 2 for size in scan.shape), 1.0])[:3]
    return centre


def centre_of_signal(scan: Volume) -> Affine:
    """(3,) RAS mm, mean place of all voxels weighted by their scaled intensity."""
    weight = scan.voxels.astype(np.float64)
    total = max(float(weight.sum()), 1e-12)
    index = [
        float((weight.sum(tuple(a for a in range(3) if a != axis)) * np.arange(scan.shape[axis])).sum() / total)
        for axis in range(3)
    ]
    centre: Affine = (scan.affine @ [*index, 1.0])[:3]
    return centre


def centred(scan: Volume, shape: Sequence[int], spacing: float) -> Voxels:
    """A cut-out organ in the middle of the grid, its ends repeated where the scan is shorter than the grid.

    Parameters
    ----------
    scan : scaled intensity, axes nearest to RAS
    shape, spacing : of the grid, voxels and mm

    Returns
    -------
    (X, Y, Z) float32 scaled intensity
    """
    # Along the scan's own axes: these cut-outs have no world that means anything.
    own = replace(scan, affine=centred_scan_affine(scan))
    on_grid = resample_to(own, centred_affine(shape, spacing), shape)
    inside = np.isfinite(on_grid)
    return on_grid if inside.all() else nearest_filled(on_grid, inside)


def centred_scan_affine(scan: Volume) -> Affine:
    """(4, 4) of a scan whose axes are those of the world and whose middle is the origin."""
    affine = np.diag([*scan.spacing, 1.0])
    affine[:3, 3] = [-mm * (size - 1) / 2 for mm, size in zip(scan.spacing, scan.shape, strict=True)]
    return affine


def registered(scan: Volume, template: Volume, start: Affine | None = None) -> Affine:
    """The affine map from the template's world to the scan's that makes the two most alike (mutual information).

    Mattes mutual information, regular steps down the gradient, three resolutions (SimpleITK).

    Parameters
    ----------
    scan, template : scaled intensity
    start : (4, 4) RAS mm to begin with; the shift between the centres of their signal when not given

    Returns
    -------
    (4, 4) RAS mm
    """
    if start is None:
        start = np.eye(4)
        start[:3, 3] = centre_of_signal(scan) - centre_of_signal(template)
    fixed, moving = _image(template), _image(scan)
    pivot = centre_of_signal(template)
    transform = sitk.AffineTransform(3)
    transform.SetCenter(pivot.tolist())
    transform.SetMatrix(start[:3, :3].ravel().tolist())
    transform.SetTranslation((start[:3, :3] @ pivot + start[:3, 3] - pivot).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(min(1.0, VOXELS / template.voxels.size), SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetNumberOfThreads(1)  # sums in one order: the same result on every machine with the same numbers
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre, shift = np.asarray(transform.GetCenter()), np.asarray(transform.GetTranslation())
    matrix[:3, 3] = centre + shift - matrix[:3, :3] @ centre
    return matrix


def on_template(scan: Volume, mapping: Affine, shape: Sequence[int], spacing: float) -> Voxels:
    """A scan on the grid of a template; what lies outside its field of view is air.

    Parameters
    ----------
    scan : scaled intensity
    mapping : (4, 4) RAS mm, from the template's world to the scan's, see `registered`
    shape, spacing : of the grid

    Returns
    -------
    (X, Y, Z) float32
    """
    own = replace(scan, affine=np.linalg.inv(mapping) @ scan.affine)
    # A voxel of the grid stands for all it covers: fine scans are smoothed first, or detail would alias.
    smooth = [max(0.0, (spacing / mm) ** 2 - 1) ** 0.5 * 0.42 for mm in own.spacing]
    if max(smooth) > 0:
        from scipy import ndimage

        own = replace(own, voxels=ndimage.gaussian_filter(own.voxels, smooth, truncate=3.0))
    return np.nan_to_num(resample_to(own, centred_affine(shape, spacing), shape))


def _image(scan: Volume) -> sitk.Image:
    """A scan for SimpleITK, whose world is RAS here on both sides."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.voxels.T.astype(np.float32)))
    image.SetSpacing([float(mm) for mm in scan.spacing])
    image.SetOrigin(scan.affine[:3, 3].tolist())
    axes = scan.affine[:3, :3] / np.asarray(scan.spacing)
    image.SetDirection(_orthogonal(axes).ravel().tolist())
    return image


def _orthogonal(axes: Affine) -> Affine:
    """The rotation nearest to three directions: SimpleITK takes no shear."""
    left, _, right = np.linalg.svd(axes)
    nearest: Affine = left @ right
    return nearest
