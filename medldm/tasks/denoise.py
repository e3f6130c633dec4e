"""Denoise: remove the noise, and change no voxel by more than four standard deviations of it.

The network is given the scan and its noise level (from the user, or estimated), and predicts the scan without noise
(`medldm.inference.pipeline`). In CT, the local means of the prediction are then set to those of the measurement. Last,
every voxel is clamped to within four standard deviations of the noise around its measured value
(`medldm.degradations.noise.within_noise`). Voxels that are NaN in the scan are NaN in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medldm.settings import Progress, Settings, noise_knob
from medldm.tasks.base import SMOOTHING, Inputs, Labels, Task

if TYPE_CHECKING:
    import torch

    from medldm.data.volume import Volume
    from medldm.degradations import Observation

LOCAL_MEAN_SIGMA_MM = 2.5  # of the Gaussian that takes a local mean; 5 mm scores 0.03 dB more but leaves more bias
# CT, scaled intensity: 1 is the upper end of the window (1000 HU). From there the result goes over linearly from the
# network's voxels to the measured ones, which it equals at 1 + DENSE_BLEND_WIDTH (1500 HU).
DENSE_BLEND_WIDTH = 0.25


@dataclass(frozen=True, kw_only=True)
class Denoise(Settings):
    """Remove noise: Rician noise of MRI, which parallel imaging makes uneven, and noise of low-dose CT."""

    noise: float | None = noise_knob()


def run(inputs: Inputs, settings: Denoise, progress: Progress) -> Volume:
    """Estimate the scan without its noise, then bound the change of every voxel; see `medldm.denoise`."""
    import torch

    from medldm.degradations.noise import within_noise
    from medldm.inference.conditioning import pick_orientations
    from medldm.inference.pipeline import Conditions, in_stored_units, record, sample, with_outliers
    from medldm.inference.resolve import map_on, noise_level, plausible, resolve, scaled

    assert inputs.scan is not None
    volume, noise_map = inputs.scan, inputs.noise_map
    scan = resolve(volume, settings, DENOISE)
    measured, known = scaled(scan)  # (X, Y, Z) scaled intensity, and (X, Y, Z) bool: False where the scan is NaN
    given = settings.noise if noise_map is None else map_on(volume, noise_map)
    level, estimate = noise_level(scan, given)

    # CT values that no tissue has are clamped for the network; elsewhere and in MRI nothing changes.
    clamped = plausible(scan, measured)
    observation = observe_and_fill_gaps(clamped, known, volume.slice_axis)
    orientations = pick_orientations((), (), volume.shape, volume.spacing)  # noise damages no axis more than others
    samples = sample(scan, Conditions(observation, level, orientations), progress)

    restored = samples.mean
    if scan.modality.noise.high_pass:  # CT
        restored = keep_local_means(restored, observation.y, volume.spacing, volume.slice_axis)
    bounded = within_noise(restored, observation.y, level.sigma, rician=scan.modality.noise.family == "rician")
    if scan.modality.plausible is not None:  # CT
        # Padding, dense bone and metal are kept as measured: no tissue hides in their noise.
        bounded = bounded.lerp_(measured, ((measured - 1) / DENSE_BLEND_WIDTH).clamp_(0, 1))
        if clamped is not measured:  # the same tensor where there was nothing to clamp
            bounded = torch.where(clamped == measured, bounded, measured)
    result = bounded if bool(known.all()) else torch.where(known, bounded, torch.nan)
    facts = {
        "noise_level": round(level.typical * scan.modality.noise.per_scaled(scan.scaling), 5),  # in the unit of --noise
        "noise_estimated": estimate is not None,
        "consistency_residual": round(_removed_std(result, measured, known), 5),
        "invented_slices": [],
    }
    return record(scan, samples, with_outliers(scan, in_stored_units(scan, result)), facts)


def observe_and_fill_gaps(measured: torch.Tensor, known: torch.Tensor, axis: int) -> Observation:
    """The measurement as the networks take it: with a value everywhere, and a map of what was really measured.

    Slices of which nothing is known are interpolated from their neighbours; other unknown voxels are filled smoothly.

    Parameters
    ----------
    measured : (X, Y, Z) scaled intensity, 0 where it is not known
    known : (X, Y, Z) bool
    axis : across slices
    """
    import torch

    from medldm.degradations import MissingSlices, Observation, Rician, fill_smoothly

    if bool(known.all()):
        return Rician(0).observe(measured)  # unchanged, all of it measured
    in_plane = tuple(a for a in range(3) if a != axis)
    lost_slices = ~known.any(in_plane[1]).any(in_plane[0])  # (slices,) bool
    filled = measured
    if bool(lost_slices.any()):
        gaps = MissingSlices(len(lost_slices), torch.nonzero(lost_slices).flatten().tolist(), axis)
        filled = gaps.observe(measured).y
    holes = ~known & ~lost_slices.reshape([-1 if a == axis else 1 for a in range(3)])
    if bool(holes.any()):
        filled = fill_smoothly(filled, ~holes)
    return Observation(filled, known.to(filled))  # True becomes 1.0: measured


def _removed_std(result: torch.Tensor, measured: torch.Tensor, known: torch.Tensor) -> float:
    """Standard deviation of what was removed from the known voxels, scaled intensity."""
    removed = result - measured
    return float((removed if bool(known.all()) else removed[known]).std(correction=0))


def keep_local_means(
    restored: torch.Tensor, measured: torch.Tensor, spacing: Sequence[float], axis: int
) -> torch.Tensor:
    """Restored CT whose local means within each slice (`LOCAL_MEAN_SIGMA_MM`) are those of the measurement.

    The ramp filter of a CT reconstruction leaves noise hardly any power at low frequencies (Riederer, Pelc and Chesler,
    Phys Med Biol 23, 1978). There the measurement is already right, and what the network changes is bias.

    Parameters
    ----------
    restored, measured : (X, Y, Z) scaled intensity
    spacing : of X, Y, Z, mm
    axis : across slices
    """
    import torch
    from scipy import ndimage

    sigma = [LOCAL_MEAN_SIGMA_MM / mm for a, mm in enumerate(spacing) if a != axis]  # pixels
    corrected = restored.clone()
    # Slice by slice, to save memory; `unbind` gives views, so that adding to a slice changes `corrected`.
    for restored_slice, measured_slice in zip(corrected.unbind(axis), measured.unbind(axis), strict=True):
        difference = (measured_slice - restored_slice).numpy()
        restored_slice += torch.from_numpy(ndimage.gaussian_filter(difference, sigma, truncate=3.0))
    return corrected


def intent(scan: Volume, settings: Denoise) -> str:
    """What is going to be done with a scan."""
    level = "estimated from the scan" if settings.noise is None else f"{settings.noise:g}"
    return f"Remove noise; its level is {level}."


DENOISE = Task(
    name="denoise",
    help="remove noise (MRI, CT)",
    settings=Denoise,
    run=run,
    labels=Labels(
        title="Denoise",
        past="denoised",
        desc="denoised",
        derivation=(SMOOTHING,),
        examples=(
            "medldm denoise scan.nii.gz denoised.nii.gz",
            "medldm denoise a.nii.gz b.nii.gz denoised/ --noise 0.05",
        ),
    ),
    removes_noise=True,
    intent=intent,
)
