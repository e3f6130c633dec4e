"""The training loss of a rectified flow for one batch; mathematics only, the network arrives as a function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (noisy latent, time) -> clean latent

SMALLEST_TIME = 0.1  # velocities are divided by time: below this the weight would explode


def draw_times(count: int, generator: torch.Generator, at_noise: float = 0.35) -> Tensor:
    """Times in [0, 1] for a batch.

    A share of exactly 1 trains the one-step answer, the conditional mean; the rest is logit-normal, which spends
    the training where the flow is hard (Esser et al., "Scaling rectified flow transformers", 2024).

    Parameters
    ----------
    count : batch size
    generator : source of randomness
    at_noise : share of times that are exactly 1

    Returns
    -------
    (count,)
    """
    times = torch.sigmoid(torch.randn(count, generator=generator))
    ones = torch.rand(count, generator=generator) < at_noise
    return torch.where(ones, torch.ones(count), times)


def interpolate(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """z_t = (1 - t) z + t noise, the straight path (Liu et al., "Flow straight and fast", 2023).

    Parameters
    ----------
    clean, noise : (B, C, ...)
    times : (B,)
    """
    t = times.reshape([-1] + [1] * (clean.ndim - 1)).to(clean)
    return (1 - t) * clean + t * noise


def flow_loss(denoise: Denoiser, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Squared error of the velocity, written as an error of the predicted clean latent.

    v = noise - z = (z_t - z) / t, so the velocity error is the error of z divided by t.

    Parameters
    ----------
    denoise : (z_t, t) to clean z
    clean, noise : (B, C, ...)
    times : (B,)

    Returns
    -------
    scalar
    """
    guess = denoise(interpolate(clean, noise, times), times)
    weight = 1 / times.clamp_min(SMALLEST_TIME) ** 2
    return (((guess - clean) ** 2).flatten(1).mean(1) * weight.to(clean)).mean()
