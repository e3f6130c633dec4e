"""MRI noise: Rician, and Rician whose level varies over the image (parallel imaging)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.degradations.degradation import CleanScan, Degradation, NoiseOnTop, Observation, Row, uniform
from medldm.modality import CT, MR

BOUND = 4.0  # a denoised voxel moves at most this many standard deviations


class Rician(Degradation):
    """Magnitude of a complex image with Gaussian noise in both parts: sqrt((x + n1)^2 + n2^2).

    Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", Magn Reson Med 34 (1995).

    Parameters
    ----------
    noise_level : standard deviation of n1 and n2, as a fraction of the scaled range (1 is the 99.5th percentile)
    """

    adds_noise: ClassVar[bool] = True
    # Of CT scans training takes the noise of a lower dose instead, see `medldm.training.batches.low_dose`.
    shares: ClassVar[Mapping[str, float]] = {MR.name: 0.32, CT.name: 0.6}
    noise_on_top: ClassVar[NoiseOnTop] = NoiseOnTop(1.0, 0.12, 0.003)  # this noise itself

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
        return within_noise(guess, measured, self.level(measured), rician=True)

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """Noise of the default level."""
        return (cls(),)

    @classmethod
    def draw(cls, shape: tuple[int, ...], generator: torch.Generator) -> Rician:
        """Noise from invisible to 12 %, a third of it as parallel imaging makes it."""
        return draw_noise(cls.noise_on_top, generator)

    @classmethod
    def validation(cls, shape: tuple[int, int, int]) -> dict[str, Degradation]:
        """Little noise and much."""
        return {"noise3": Rician(0.03), "noise7": Rician(0.07)}

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """Levels of even noise, given or estimated."""
        return (
            Row("noise-3", "denoise", cls, level=0.03, core=True, quick=True),
            Row("noise-3-blind", "denoise", cls, level=0.03, given=False, core=True),
            Row("noise-7", "denoise", cls, level=0.07, core=True),
            Row("noise-7-blind", "denoise", cls, level=0.07, given=False, core=True),
            Row("noise-1", "denoise", cls, level=0.01),
            Row("noise-5", "denoise", cls, level=0.05),
            Row("noise-5-blind", "denoise", cls, level=0.05, given=False),
            Row("noise-9", "denoise", cls, level=0.09),
            Row("noise-9-blind", "denoise", cls, level=0.09, given=False),
            Row("lesions-noise-7", "denoise", cls, level=0.07, lesions=True),
            Row("drawn-noise-3", "denoise", cls, level=0.03, drawn=True),
            Row("drawn-noise-7", "denoise", cls, level=0.07, drawn=True),
        )

    @classmethod
    def of_row(cls, row: Row, scan: CleanScan, generator: torch.Generator) -> tuple[Degradation, dict[str, Any]]:
        """Noise of the row's level."""
        return cls(row.level, **row.options), {}


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

    shares: ClassVar[Mapping[str, float]] = {}  # `Rician.draw` draws it too

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

    @classmethod
    def validation(cls, shape: tuple[int, int, int]) -> dict[str, Degradation]:
        """None: even noise stands for it."""
        return {}

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """The verbs take one number, and the level differs at every voxel: it is never given."""
        return (
            Row("noise-varying", "denoise", cls, {"gain": 3.0}, level=0.02, given=False, core=True),
            Row("noise-varying-x2", "denoise", cls, {"gain": 2.0}, level=0.03, given=False),
        )


def draw_noise(limits: NoiseOnTop, generator: torch.Generator) -> Rician:
    """Random noise, a third of it varying over the image.

    Parameters
    ----------
    limits : of its level; its chance does not matter here
    generator : source of randomness
    """
    level = uniform(limits.lowest, limits.highest, generator)
    if uniform(0, 1, generator) < 0.35:
        focus = (uniform(-0.5, 1.5, generator), uniform(-0.5, 1.5, generator), 0.5)
        gain = uniform(1, 3.5, generator)
        return VaryingRician(level * 0.6, gain=gain, focus=focus, width=uniform(0.4, 1.2, generator))
    return Rician(level)


def within_noise(guess: Tensor, measured: Tensor, sigma: Tensor, rician: bool, bound: float = BOUND) -> Tensor:
    """The guess with no voxel farther from the measurement than the noise can have moved it.

    Compiles as TorchScript, for exported models.

    Parameters
    ----------
    guess, measured : (X, Y, Z) scaled intensity
    sigma : noise level, (X, Y, Z) or broadcastable
    rician : whether the lower bound counts from the bias-corrected magnitude, E[M^2] = x^2 + 2 sigma^2
    bound : standard deviations
    """
    lower = measured
    if rician:
        lower = torch.minimum((measured**2 - 2 * sigma**2).clamp_min(0).sqrt(), measured)
    # One bound after the other, in place: a scan may fill a good part of the memory.
    kept = lower - bound * sigma
    kept = torch.maximum(guess, kept, out=kept)
    return torch.minimum(kept, measured + bound * sigma, out=kept)


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
