"""Denoise: remove the noise, and change no voxel by more than four standard deviations of it.

The network sees the scan and its noise level, given or estimated, and answers with the scan without noise
(`medldm.inference.pipeline`). CT then gets back the local means of the measurement. Last, every voxel is drawn back to
within `BOUND` standard deviations of what was measured; voxels without a value (NaN) stay without one.
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

MEANS_MM = 2.5  # standard deviation of the Gaussian; 5 mm wins 0.03 dB on validation and leaves more bias
HAND_OVER = 0.25  # scaled intensity above the CT window, 1000 to 1500 HU: from the network's voxels to the measured


@dataclass(frozen=True, kw_only=True)
class Denoise(Settings):
    """Remove noise: MRI (Rician, also of parallel imaging) and CT (low dose)."""

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
    measured, known = scaled(scan)
    level, estimate = noise_level(scan, settings.noise if noise_map is None else map_on(volume, noise_map))
    seen = plausible(scan, measured)
    observation = observe_known(seen, known, volume.slice_axis)
    orientations = pick_orientations((), (), volume.shape, volume.spacing)
    samples = sample(scan, Conditions(observation, level, orientations), progress)
    restored = samples.mean
    if scan.modality.noise.high_pass:
        restored = keep_means(restored, observation.y, volume.spacing, volume.slice_axis)
    rician = scan.modality.noise.family == "rician"
    bounded = within_noise(restored, observation.y, level.sigma, rician)
    if scan.modality.plausible is not None:
        # Padding, dense bone and metal are kept as measured: no tissue hides in their noise.
        bounded = bounded.lerp_(measured, ((measured - 1) / HAND_OVER).clamp_(0, 1))
        if seen is not measured:
            bounded = torch.where(seen == measured, bounded, measured)
    result = bounded if bool(known.all()) else torch.where(known, bounded, torch.nan)
    typical = level.typical * scan.modality.noise.per_scaled(scan.scaling)
    facts = {
        "noise_level": round(typical, 5),
        "noise_estimated": estimate is not None,
        "consistency_residual": round(_residual(result, measured, known), 5),
        "invented_slices": [],
    }
    return record(scan, samples, with_outliers(scan, in_stored_units(scan, result)), facts)


def observe_known(measured: torch.Tensor, known: torch.Tensor, axis: int) -> Observation:
    """Every voxel measured but for those that are NaN: whole slices interpolated, single voxels filled smoothly.

    Parameters
    ----------
    measured : (X, Y, Z)
    known : (X, Y, Z) bool
    axis : slice axis
    """
    import torch

    from medldm.degradations import MissingSlices, Observation, Rician, fill_smoothly

    if bool(known.all()):
        return Rician(0).observe(measured)
    others = tuple(a for a in range(3) if a != axis)
    empty = ~known.any(others[1]).any(others[0])
    y = measured
    if bool(empty.any()):
        slices = MissingSlices(len(empty), torch.nonzero(empty).flatten().tolist(), axis)
        y = slices.observe(measured).y
    holes = ~known & ~empty.reshape([-1 if a == axis else 1 for a in range(3)])
    if bool(holes.any()):
        y = fill_smoothly(y, ~holes)
    return Observation(y, known.to(y))


def _residual(result: torch.Tensor, measured: torch.Tensor, known: torch.Tensor) -> float:
    """Standard deviation of what was taken away, scaled intensity."""
    away = result - measured
    return float((away if bool(known.all()) else away[known]).std(correction=0))


def keep_means(restored: torch.Tensor, measured: torch.Tensor, spacing: Sequence[float], axis: int) -> torch.Tensor:
    """CT whose local means, over half a centimetre or so of a slice, are those of the measurement.

    The ramp filter of a reconstruction leaves noise hardly any power at low frequencies (Riederer, Pelc and Chesler,
    Phys Med Biol 23, 1978): what a network says of them is no better than what was measured, and its bias goes.

    Parameters
    ----------
    restored, measured : (X, Y, Z) scaled intensity
    spacing : of X, Y, Z, mm
    axis : across slices
    """
    import torch
    from scipy import ndimage

    sigma = [MEANS_MM / mm for a, mm in enumerate(spacing) if a != axis]
    kept = restored.clone()
    for plane, seen in zip(kept.unbind(axis), measured.unbind(axis), strict=True):  # slices, for memory's sake
        plane += torch.from_numpy(ndimage.gaussian_filter((seen - plane).numpy(), sigma, truncate=3.0))
    return kept


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
