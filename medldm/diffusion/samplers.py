"""Steps of a rectified flow from noise to a latent, over MONAI's scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from medldm.diffusion.objective import Denoiser
from medldm.from_monai import RFlowScheduler


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
    scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
    scheduler.set_timesteps(steps, device=noise.device, input_img_size_numel=noise[0, 0].numel())
    times = [float(time) / scheduler.num_train_timesteps for time in scheduler.timesteps] + [0.0]
    z = noise
    for step, (now, after) in enumerate(itertools.pairwise(times)):
        clean = denoise(z, torch.full((len(z),), now, dtype=z.dtype, device=z.device))
        # The last step lands on the guess itself.
        z = clean if after == 0 else z + (clean - z) * ((now - after) / now)
        told(step + 1, steps)
    return z
