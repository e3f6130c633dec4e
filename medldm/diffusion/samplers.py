"""Samplers: ways from noise to a clean latent along a rectified flow, by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from medldm.diffusion.objective import Denoiser
from medldm.system import Registry

StepProgress = Callable[[int, int], None]  # (step, steps)


def ignore(step: int, steps: int) -> None:
    """Progress that nobody follows."""


class Sampler(Protocol):
    """The signature that all samplers share."""

    def __call__(self, denoise: Denoiser, noise: Tensor, steps: int = 1, *, progress: StepProgress = ignore) -> Tensor:
        """A clean latent.

        Parameters
        ----------
        denoise : (z_t, t) to clean z, t being (B,) in [0, 1]
        noise : (B, C, ...) standard normal, where the path starts at t = 1
        steps : number of steps in time; one step jumps to the conditional mean
        progress : called after each step with (step, steps)

        Returns
        -------
        (B, C, ...) clean latent
        """


SAMPLERS: Registry[Sampler] = Registry("medldm.samplers", callable, {})
DEFAULT = "euler"


def register(name: str) -> Callable[[Sampler], Sampler]:
    """Decorator that adds a sampler to `SAMPLERS`.

    Parameters
    ----------
    name : under which cards and `medldm.inference.tiling.SamplerConfig` ask for it
    """

    def add(sampler: Sampler) -> Sampler:
        SAMPLERS[name] = sampler
        return sampler

    return add


@register(DEFAULT)
def euler(denoise: Denoiser, noise: Tensor, steps: int = 1, *, progress: StepProgress = ignore) -> Tensor:
    """Equal Euler steps, one call of `denoise` each; parameters as in `Sampler`."""
    times = [1 - step / steps for step in range(steps + 1)]
    z = noise
    for step, (now, after) in enumerate(itertools.pairwise(times)):
        clean = denoise(z, torch.full((len(z),), now, dtype=z.dtype, device=z.device))
        # The last step ends at the predicted clean latent itself.
        z = clean if after == 0 else z + (clean - z) * ((now - after) / now)
        progress(step + 1, steps)
    return z
