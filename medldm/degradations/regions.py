"""Regions without a measurement: an arbitrary mask."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.degradations.degradation import Degradation, Observation


class Regions(Degradation):
    """A 3D region that is to be inpainted.

    Parameters
    ----------
    mask : (X, Y, Z) bool, True where nothing was measured
    """

    linear: ClassVar[bool] = True

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask.bool()
        if self.mask.all():
            raise ValueError("the mask covers the whole image; nothing is left to restore from")

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The region becomes 0."""
        return clean.masked_fill(self.mask, 0)

    def adjoint(self, measured: Tensor) -> Tensor:
        """The same mask: it is its own adjoint."""
        return self.degrade(measured)

    def observe(self, measured: Tensor) -> Observation:
        """The region filled smoothly from its surroundings, and where it is."""
        return Observation(fill_smoothly(measured, ~self.mask), (~self.mask).to(measured))

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """What lies outside the region is copied, bit for bit."""
        return torch.where(self.mask, guess, measured)


def fill_smoothly(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown voxels from a pyramid of averages of the known ones ("pull-push", Gortler et al. 1996).

    Parameters
    ----------
    image : (X, Y, Z)
    known : (X, Y, Z) bool

    Returns
    -------
    (X, Y, Z); known voxels unchanged
    """
    weight = known.to(image)[None, None]
    value = torch.where(known, image, torch.zeros_like(image))[None, None]
    filled = _pull_push(value, weight)[0, 0]
    return torch.where(known, image, filled)


def _pull_push(value: Tensor, weight: Tensor) -> Tensor:
    # value is already multiplied by weight; one level averages 2^3 voxels and hands holes to the level above.
    if bool((weight > 0).all()) or max(value.shape[2:]) == 1:
        return value / weight.clamp_min(1e-6)
    kernel = [min(2, size) for size in value.shape[2:]]
    small_value = F.avg_pool3d(value, kernel, ceil_mode=True, count_include_pad=False)
    small_weight = F.avg_pool3d(weight, kernel, ceil_mode=True, count_include_pad=False)
    small = _pull_push(small_value, small_weight)
    up = F.interpolate(small, size=value.shape[2:], mode="trilinear", align_corners=False)
    share = weight.clamp(0, 1)
    return torch.where(weight > 0, value / weight.clamp_min(1e-6) * share + up * (1 - share), up)
