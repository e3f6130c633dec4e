"""MRI noise: Rician, and Rician whose level varies over the image (parallel imaging)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.degradations.degradation import Degradation, Observation

BOUND = 4.0  # a denoised voxel moves at most this many standard deviations


class Rician(Degradation):
    """Magnitude of a complex image with Gaussian noise in both parts: sqrt((x + n1)^2 + n2^2).

    Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", Magn Reson Med 34 (1995).

    Parameters
    ----------
    noise_level : standard deviation of n1 and n2, as a fraction of the scaled range (1 is the 99.5th percentile)
    """

    def __init__(self, noise_level: float = 0.05) -> None:
        self.noise_level = noise_level

    def level(self, like: Tensor) -> Tensor:
        """Noise standard deviation at each voxel, (X, Y, Z) or broadcastable to it."""
        return torch.full((1,) * like.ndim, self.noise_level, dtype=like.dtype, device=like.device)

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noisy magnitude image; never negative where there is noise."""
        if self.noise_level == 0:
            return clean
        level = self.level(clean)
        real = clean + level * torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        imaginary = level * torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        return torch.hypot(real, imaginary)

    def observe(self, measured: Tensor) -> Observation:
        """The noisy image itself: every voxel was measured."""
        return Observation(measured, measured.new_ones((1,) * measured.ndim).expand_as(measured))

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """Keep each voxel within 4 standard deviations of the bias-corrected measurement.

        The measurement is not copied, since it is the noise that we want to lose; the bound keeps a network from
        inventing what the noise cannot have hidden. E[M^2] = x^2 + 2 sigma^2 gives the corrected measurement.
        """
        level = self.level(measured)
        unbiased = (measured**2 - 2 * level**2).clamp_min(0).sqrt()
        lower = torch.minimum(unbiased, measured) - BOUND * level
        # One bound after the other, in place: a scan may fill a good part of the memory.
        kept = torch.maximum(guess, lower, out=lower)
        return torch.minimum(kept, measured + BOUND * level, out=kept)


class VaryingRician(Rician):
    """Rician noise that grows towards the middle of the head, as parallel imaging makes it.

    The amplification (g-factor) rises smoothly from 1 at the edge of the field of view to `gain` at a focus
    (Pruessmann et al., "SENSE", Magn Reson Med 42 (1999)).

    Parameters
    ----------
    noise_level : smallest standard deviation, scaled intensity
    gain : largest amplification
    focus : where it is largest, as a fraction of each axis
    width : how far it reaches, as a fraction of each axis
    """

    def __init__(
        self,
        noise_level: float = 0.03,
        gain: float = 3.0,
        focus: tuple[float, float, float] = (0.5, 0.5, 0.5),
        width: float = 0.35,
    ) -> None:
        super().__init__(noise_level)
        self.gain, self.focus, self.width = gain, focus, width

    def level(self, like: Tensor) -> Tensor:
        """(X, Y, Z) noise standard deviation."""
        distance = torch.zeros((), dtype=like.dtype, device=like.device)
        for axis, size in enumerate(like.shape):
            at = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) / size - self.focus[axis]
            distance = distance + (at**2).reshape([-1 if a == axis else 1 for a in range(like.ndim)])
        return self.noise_level * (1 + (self.gain - 1) * torch.exp(-distance / (2 * self.width**2)))


def smooth_field(shape: tuple[int, ...], generator: torch.Generator, knots: int = 4) -> Tensor:
    """A random smooth field in [0, 1], used for noise maps, bias fields and blobs.

    Parameters
    ----------
    shape : (X, Y, Z)
    generator : source of randomness
    knots : control points along each axis
    """
    coarse = torch.rand((1, 1) + (knots,) * 3, generator=generator)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]
