"""Steps of a rectified flow from noise to a latent, in equal times."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from medldm.diffusion.objective import Denoiser


def sample_flow(
    denoise: Denoiser, noise: Tensor, steps: int = 1, *, told: Callable[[int, int], None] = lambda step, steps: None
) -> Tensor:
    """Walk from noise to a clean latent in equal Euler steps.

    Parameters
    ----------
    denoise : (z_t, t) to clean z, t being (B,) in [0, 1]
    noise : (B, C, ...) standard normal, where the walk starts; one step jumps to the conditional mean
    steps : number of calls of `denoise`
    told : called after each step with (step, steps)

    Returns
    -------
    (B, C, ...) clean latent
    """
    times = [1 - step / steps for step in range(steps + 1)]
    z = noise
    for step, (now, after) in enumerate(itertools.pairwise(times)):
        clean = denoise(z, torch.full((len(z),), now, dtype=z.dtype, device=z.device))
        # The last step lands on the guess itself.
        z = clean if after == 0 else z + (clean - z) * ((now - after) / now)
        told(step + 1, steps)
    return z
