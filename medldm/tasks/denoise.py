"""Denoise: keep the anatomy, lose the noise, move no voxel farther than the noise can have moved it."""

from __future__ import annotations

import torch

from medldm.degradations import Rician
from medldm.degradations.noise import BOUND
from medldm.models.looks import looks
from medldm.settings import Denoise
from medldm.tasks.pipeline import Job, observe_known
from medldm.tasks.planes import Progress
from medldm.volume import Volume

HAND_OVER = 0.25  # scaled intensity above the CT window, 1000 to 1500 HU: from the network's voxels to the measured


def denoise(volume: Volume, settings: Denoise, told: Progress) -> Volume:
    """See `medldm.denoise`."""
    job = Job(volume, settings, "denoise", told)
    measured, known = job.scaled()
    sigma, estimate = job.noise(settings.noise)
    seen = job.plausible(measured)
    observation, _ = observe_known(seen, known, volume.slice_axis)
    restored, spread = job.run(observation, sigma, looks((), (), volume.shape, volume.spacing))
    bounded = bound(restored, observation.y, sigma, job.modality)
    if job.modality == "ct":
        # Padding, dense bone and metal mean what they mean; no tissue is lost in the noise of theirs.
        bounded = bounded.lerp_(measured, ((measured - 1) / HAND_OVER).clamp_(0, 1))
        if seen is not measured:
            bounded = torch.where(seen == measured, bounded, measured)
    result = bounded if bool(known.all()) else torch.where(known, bounded, torch.nan)
    typical = float(sigma.median()) * (1 if job.modality == "mr" else job.scaling.unit)
    return job.finish(
        result,
        spread,
        noise_level=round(typical, 5),
        noise_estimated=estimate is not None,
        consistency_residual=round(_residual(result, measured, known), 5),
        invented_slices=[],
    )


def _residual(result: torch.Tensor, measured: torch.Tensor, known: torch.Tensor) -> float:
    """Standard deviation of what was taken away, scaled intensity."""
    away = result - measured
    return float((away if bool(known.all()) else away[known]).std(correction=0))


def bound(restored: torch.Tensor, measured: torch.Tensor, sigma: torch.Tensor, modality: str) -> torch.Tensor:
    """No voxel moves more than four standard deviations; MRI counts from the bias-corrected magnitude."""
    if modality == "ct":
        kept = measured - BOUND * sigma
        kept = torch.maximum(restored, kept, out=kept)
        return torch.minimum(kept, measured + BOUND * sigma, out=kept)

    class Level(Rician):
        def level(self, like: torch.Tensor) -> torch.Tensor:
            return sigma.expand_as(like)

    return Level().reconcile(restored, measured)
