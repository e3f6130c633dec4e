"""Super-resolve: thin slices from thick ones, finer planes; measured again, the result gives the scan back.

`wanted_grid` says which axes are refined, `damage` how the scan was measured from an image on that grid (slice profile,
thickness, lost slices, resolution in the planes). `refine_grid` asks the network for the image, checks whether another
slice profile explains the scan better, and projects the estimate onto what was measured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from medldm.errors import GeometryError
from medldm.settings import Progress, Settings, knob, noise_knob, profile_knob, thickness_knob
from medldm.tasks.base import RESAMPLING, Inputs, Labels, Task

if TYPE_CHECKING:
    from torch import Tensor

    from medldm.data.volume import Volume
    from medldm.degradations import Degradation
    from medldm.inference.resolve import NoiseLevel, ResolvedScan
    from medldm.modality import Modality

log = logging.getLogger(__name__)

# The other profile is the scan's own where its residual is below so many times that of the assumed one. On validation
# scans it was 0.77 to 1.01 times that of a wrong profile, and 1.04 to 1.8 times that of a right one; with noise down to
# 0.97 times that of a right one (docs/decisions/0032).
CONTRADICTS, CONTRADICTS_NOISY = 1.02, 0.95
ROUNDS = 24  # each costs two passes of a small matrix along the slice axis


@dataclass(frozen=True, kw_only=True)
class SuperResolve(Settings):
    """Turn thick slices into thin ones, at any ratio, and refine the planes."""

    spacing: float | tuple[float, float, float] = knob(
        1.0,
        "distance between the new voxels; one number, or SX,SY,SZ in stored axis order",
        unit="mm",
        low=0.05,
        high=20,
        title="New voxel spacing",
    )
    slice_thickness: float | None = thickness_knob()
    slice_profile: str = profile_knob()
    noise: float | None = noise_knob()


class Grid(NamedTuple):
    """The wanted grid.

    Parameters
    ----------
    shape : (X', Y', Z')
    slice_axis : axis of ``voxels`` that slices are stacked along
    thick : whether the slice axis is refined
    planes : other axes that are refined
    """

    shape: tuple[int, int, int]
    slice_axis: int
    thick: bool
    planes: tuple[int, ...]


def run(inputs: Inputs, settings: SuperResolve, progress: Progress) -> Volume:
    """Refine the grid; see `medldm.super_resolve`."""
    from medldm.inference.resolve import map_on, quiet_noise_level, resolve

    assert inputs.scan is not None
    volume, noise_map = inputs.scan, inputs.noise_map
    grid = wanted_grid(volume, settings)
    if not grid.thick and not grid.planes:
        return volume
    if grid.thick and volume.shape[grid.slice_axis] == 1:
        raise GeometryError(
            f"{volume.name} is a single slice; there is nothing to super-resolve across. Name in-plane spacings only."
        )
    if any(volume.shape[axis] == 1 for axis in grid.planes):
        raise GeometryError(
            f"{volume.name} has one voxel along an axis that would be refined; nothing beside it says what lies there. "
            "Name three spacings, and leave that axis as it is."
        )
    scan = resolve(volume, settings, SUPER_RESOLVE)
    level = quiet_noise_level(scan, settings.noise if noise_map is None else map_on(volume, noise_map))
    return refine_grid(scan, grid, settings.slice_thickness, settings.slice_profile, level, progress)


def refine_grid(
    scan: ResolvedScan, grid: Grid, thickness_mm: float | None, profile: str, level: NoiseLevel, progress: Progress
) -> Volume:
    """One pass of the network that thins slices, fills lost ones and, where there is noise, denoises."""
    import torch

    from medldm.data.resample import field_of_view_affine
    from medldm.data.volume import stored_to_voxel_slices
    from medldm.degradations import fill_smoothly
    from medldm.inference.conditioning import pick_orientations
    from medldm.inference.pipeline import (
        Conditions,
        in_stored_units,
        record,
        relative_residual,
        sample,
    )
    from medldm.inference.resolve import scaled
    from medldm.io import find_missing_slices
    from medldm.zoo import IN_PLANE

    volume, axis = scan.volume, grid.slice_axis
    missing = find_missing_slices(volume, volume.stored.axes.index(axis))
    _, places = stored_to_voxel_slices(volume, missing, volume.stored.axes.index(axis))
    measured, known = scaled(scan)
    unseen = never_seen(known, axis, places, grid.shape)
    kept = [k for k in range(volume.shape[axis]) if k not in set(places)]
    noise = level.typical
    profile = volume.stored.slice_profile or profile
    degradation = damage(volume, grid, thickness_mm, profile, noise, tuple(places), scan.modality)
    if grid.thick:
        measured, known = measured.index_select(axis, torch.tensor(kept)), known.index_select(axis, torch.tensor(kept))
    if not bool(known.all()):
        measured = fill_smoothly(measured, known)
    observation = degradation.observe(measured)
    spacing = [mm * old / new for mm, old, new in zip(volume.spacing, volume.shape, grid.shape, strict=True)]
    orientations = pick_orientations((axis,) if grid.thick else (), grid.planes, grid.shape, spacing)
    positive = scan.modality.magnitude and bool((measured >= 0).all())

    def project(guess: Tensor) -> Tensor:
        return reconcile(degradation, guess, measured, positive=positive, exact=noise == 0)

    conditions = Conditions(observation, level, orientations, "" if grid.thick else IN_PLANE, project)
    samples = sample(scan, conditions, progress)
    restored = samples.mean
    if grid.thick and not volume.stored.slice_profile:
        other = {"gaussian": "rect", "rect": "gaussian"}[profile]
        alternative = damage(volume, grid, thickness_mm, other, noise, tuple(places), scan.modality)
        assumed_residual, other_residual = (
            relative_residual(model, restored, measured) for model in (degradation, alternative)
        )
        if other_residual < (CONTRADICTS_NOISY if noise else CONTRADICTS) * assumed_residual:
            # Gaussian is the default; a rectangle was asked for, so it stays.
            assumed, used = profile, profile if profile == "rect" else other
            note = (
                f"the slices of {volume.name} do not look as if they had a {assumed} profile: measured again, the "
                f"estimate's residual with a {other} one is {other_residual / assumed_residual:.2f} times as large, "
                f"which is too little; {used} was used"
            )
            degradation, profile = (degradation, profile) if used == assumed else (alternative, other)
            scan.notes.append(note)
            log.info(note)  # no warning: most scans made in planes are closer to rectangles
    restored = project(restored)
    left = relative_residual(degradation, restored, measured)
    signal = max(float(measured.pow(2).mean().sqrt()), 1e-6)
    restored = torch.where(unseen, torch.nan, restored)
    affine = field_of_view_affine(volume.affine, volume.shape, grid.shape)
    slices = grid.shape[axis]
    stored_axis = volume.stored.axes.index(axis)
    stored = (
        replace(volume.stored, missing=(), thickness_mm=spacing[axis])
        if stored_axis == 2 and grid.thick
        else volume.stored
    )
    facts = {
        "old_spacing_mm": [round(mm, 5) for mm in volume.spacing],
        "new_spacing_mm": [round(mm, 5) for mm in spacing],
        "filled_slices": [int(k) for k in missing],
        # Between thick slices every thin one holds voxels that nobody measured alone.
        "invented_slices": list(range(slices)) if grid.thick else [],
        "consistency_residual": round(left, 6),
        "noise_level": round(noise * scan.modality.noise.per_scaled(scan.scaling), 5),
        **({"slice_profile": profile} if grid.thick else {}),
    }
    return record(scan, samples, in_stored_units(scan, restored), facts, affine=affine, stored=stored, signal=signal)


def never_seen(known: Tensor, axis: int, missing: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """(X', Y', Z') bool, voxels of the new grid that lie in NaN of the old one; lost slices are filled, not these.

    Parameters
    ----------
    known : (X, Y, Z) bool
    axis, missing : slices along it that are filled
    shape : of the new grid, over the same field of view
    """
    from torch.nn import functional as F

    known = known.clone()
    known.movedim(axis, 0)[list(missing)] = True
    return F.interpolate((~known).float()[None, None], size=shape, mode="nearest-exact")[0, 0] > 0


def reconcile(degradation: Degradation, guess: Tensor, measured: Tensor, *, positive: bool, exact: bool) -> Tensor:
    """The guess projected onto what was measured; magnitudes also onto what is not negative.

    Two projections, one after the other, until they agree (POCS; Youla and Webb, IEEE Trans Med Imaging 1, 1982).

    Parameters
    ----------
    degradation : how the scan was measured
    guess : (X', Y', Z') restored, scaled intensity
    measured : (X, Y, Z) scaled intensity
    positive : whether negative voxels are impossible
    exact : whether the measurement is free of noise; with noise one projection is enough, more would copy it
    """
    restored = degradation.reconcile(guess, measured)
    for _ in range(ROUNDS if positive and exact else 0):
        if not bool((restored < -0.001).any()):
            break
        restored = degradation.reconcile(restored.clamp_min(0), measured)
    return restored.clamp_min(0) if positive else restored


def wanted_grid(volume: Volume, settings: SuperResolve) -> Grid:
    """Which axes are refined, and to how many voxels; the field of view stays."""
    from medldm.data.resample import new_shape_for_spacing

    given = settings.spacing
    per_stored = given if isinstance(given, tuple) else (given,) * 3
    target = [0.0, 0.0, 0.0]
    for stored_axis, mm in enumerate(per_stored):
        target[volume.stored.axes[stored_axis]] = mm
    shape = new_shape_for_spacing(volume.shape, volume.spacing, target)
    axis = volume.stored.axes[settings.axis]
    planes = tuple(a for a in range(3) if a != axis and shape[a] != volume.shape[a])
    return Grid((shape[0], shape[1], shape[2]), axis, shape[axis] != volume.shape[axis], planes)


def damage(
    volume: Volume,
    grid: Grid,
    thickness_mm: float | None,
    profile: str,
    noise: float,
    missing: tuple[int, ...],
    modality: Modality,
) -> Degradation:
    """The measurement as a degradation of the wanted scan."""
    import numpy as np

    from medldm.degradations import InPlane, Joined, ThickSlices

    axis = grid.slice_axis
    thick = None
    if grid.thick:
        ratio = grid.shape[axis] / volume.shape[axis]
        spacing_mm = volume.spacing[axis]
        thickness = (thickness_mm or volume.stored.thickness_mm or spacing_mm) / spacing_mm * ratio
        thick = ThickSlices(
            grid.shape[axis], axis, ratio, float(np.clip(thickness, 0.05, 8 * ratio)), profile, noise, missing
        )
        if not grid.planes:
            return thick
    factors = tuple(grid.shape[a] / volume.shape[a] for a in grid.planes)
    plane = InPlane(grid.shape, grid.planes, factors, modality.plane_profile, noise)
    return plane if thick is None else Joined(thick, plane)


def intent(scan: Volume, settings: SuperResolve) -> str:
    """What is going to be done with a scan."""
    shape = wanted_grid(scan, settings).shape
    refined = [axis for axis in scan.stored.axes if shape[axis] != scan.shape[axis]]
    if not refined:
        return "Nothing to refine: every axis is as fine as that already."
    targets = [
        f"{scan.spacing[a]:.2f} to {scan.spacing[a] * scan.shape[a] / shape[a]:.2f} mm ({scan.shape[a]} to {shape[a]})"
        for a in refined
    ]
    return f"Refine {' and '.join(targets)}. The field of view stays."


SUPER_RESOLVE = Task(
    name="super-resolve",
    help="make thin slices from thick ones, and finer planes",
    settings=SuperResolve,
    run=run,
    labels=Labels(
        title="Super-resolve",
        past="super-resolved",
        desc="thin",
        derivation=(RESAMPLING,),
        examples=("medldm super-resolve thick.nii.gz thin.nii.gz --spacing 1.0",),
    ),
    across_slices=True,
    intent=intent,
)
