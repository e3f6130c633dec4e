"""Samplers: ways from noise to a latent along the flow, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from medldm.diffusion.objective import QUARTER, Velocity
from medldm.system import Registry


class Sampler(Protocol):
    """The signature that all samplers share."""

    def __call__(self, flow: Velocity, noise: Tensor, steps: int, start: float = 0.0) -> Tensor:
        """A latent.

        Parameters
        ----------
        flow : (z, time) to velocity, time being (B,) in [0, 1]
        noise : (B, C, ...) standard normal, where the path starts at time 0; else the point of the path at `start`
        steps : calls of `flow`
        start : time to begin at, in [0, 1)

        Returns
        -------
        (B, C, ...) latent
        """


SAMPLERS: Registry[Sampler] = Registry("medldm.samplers", callable, {})
DEFAULT = "euler"


def register(name: str) -> Callable[[Sampler], Sampler]:
    """Decorator that adds a sampler to `SAMPLERS`.

    Parameters
    ----------
    name : under which cards ask for it
    """

    def add(sampler: Sampler) -> Sampler:
        SAMPLERS[name] = sampler
        return sampler

    return add


@register(DEFAULT)
def euler(flow: Velocity, noise: Tensor, steps: int, start: float = 0.0) -> Tensor:
    """Equal Euler steps in the angle of the path; parameters as in `Sampler`."""
    z = noise
    for step in range(steps):
        time = torch.full((len(z),), start + (1 - start) * step / steps, device=z.device)
        z = z + flow(z, time) * ((1 - start) * QUARTER / steps)
    return z


@register("straight")
def straight(flow: Velocity, noise: Tensor, steps: int, start: float = 0.0) -> Tensor:
    """Equal Euler steps on the straight line between noise and latent; parameters as in `Sampler`.

    With the mean of the latent in the middle, this is how posterior-mean rectified flow goes from the regression mean
    with noise to a sample (Ohayon, Michaeli and Elad, 2024). A point of the line, scaled, is one of the quarter circle
    that the flow was trained on. Few steps draw less than there is: four leave 52 % of the variance of a Gaussian.
    """
    begin = math.sin(start * QUARTER) / (math.sin(start * QUARTER) + math.cos(start * QUARTER))  # of the line
    line = noise * math.hypot(begin, 1 - begin)
    for step in range(steps):
        time = begin + (1 - begin) * step / steps
        angle, length = math.atan2(time, 1 - time), math.hypot(time, 1 - time)
        z = line / length
        velocity = flow(z, torch.full((len(z),), angle / QUARTER, device=z.device))
        latent = math.sin(angle) * z + math.cos(angle) * velocity
        origin = math.cos(angle) * z - math.sin(angle) * velocity
        line = line + (latent - origin) * ((1 - begin) / steps)
    return line
