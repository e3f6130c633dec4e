"""Regions without a measurement: an arbitrary mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.degradations.degradation import CleanScan, Degradation, NoiseOnTop, Observation, Row, uniform
from medldm.degradations.noise import smooth_field
from medldm.modality import CT, MR


class Regions(Degradation):
    """A 3D region that is to be inpainted.

    Parameters
    ----------
    mask : (X, Y, Z) bool, True where nothing was measured
    """

    linear: ClassVar[bool] = True
    masks: ClassVar[bool] = True
    shares: ClassVar[Mapping[str, float]] = {MR.name: 0.14, CT.name: 0.14}
    noise_on_top: ClassVar[NoiseOnTop] = NoiseOnTop(0.15, 0.06)

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

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """A corner."""
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[: shape[0] // 3, : shape[1] // 3, : shape[2] // 3] = True
        return (cls(mask),)

    @classmethod
    def draw(cls, shape: tuple[int, ...], generator: torch.Generator) -> Degradation:
        """One to three blobs of 6 to 34 voxels."""
        grid = torch.meshgrid(*[torch.arange(size, dtype=torch.float32) for size in shape], indexing="ij")
        mask = torch.zeros(tuple(shape), dtype=torch.bool)
        for _ in range(int(uniform(1, 4, generator))):
            wobble = 0.6 + 0.8 * smooth_field(tuple(shape), generator, knots=4)
            distance = torch.zeros(tuple(shape))
            for axis, size in enumerate(shape):
                centre = uniform(0, size, generator) if size > 16 else size / 2 + uniform(-12, 12, generator)
                distance = distance + ((grid[axis] - centre) / uniform(3, 17, generator)) ** 2
            mask |= distance * wobble < 1
        mask[0] = False
        return cls(mask)

    @classmethod
    def validation(cls, shape: tuple[int, int, int]) -> dict[str, Degradation]:
        """A ball of 20 voxels in the middle."""
        grid = torch.meshgrid(*[torch.arange(size) - size / 2 for size in shape], indexing="ij")
        return {"region": cls(sum(((axis / 10) ** 2 for axis in grid), torch.zeros(())) < 1)}

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """Option: diameter of three blobs, mm."""
        return (
            Row("region-20mm", "inpaint", cls, {"diameter": 20.0}, core=True, quick=True),
            Row("region-10mm", "inpaint", cls, {"diameter": 10.0}),
            Row("region-30mm", "inpaint", cls, {"diameter": 30.0}),
            Row("ct-region-20mm", "inpaint", cls, {"diameter": 20.0}, modality=CT.name),
        )

    @classmethod
    def of_row(cls, row: Row, scan: CleanScan, generator: torch.Generator) -> tuple[Degradation, dict[str, Any]]:
        """Three wobbly blobs around voxels of the foreground."""
        at = np.argwhere(scan.inside)
        mask = np.zeros(scan.shape, dtype=bool)
        grid = np.indices(scan.shape).astype(np.float32)
        wobble = 0.7 + 0.6 * smooth_field(scan.shape, generator, knots=6).numpy()
        for _ in range(3):
            centre = at[int(torch.randint(len(at), (1,), generator=generator))]
            radius_mm = row.options["diameter"] / 2
            distance = sum(((grid[a] - centre[a]) * scan.spacing[a] / radius_mm) ** 2 for a in range(3))
            mask |= np.asarray(distance * wobble < 1)
        return cls(torch.from_numpy(mask)), {"mask": mask}


def fill_smoothly(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown voxels from a pyramid of averages of the known ones ("pull-push", Gortler et al. 1996).

    Parameters
    ----------
    image : (..., X, Y, Z)
    known : (..., X, Y, Z) bool

    Returns
    -------
    (..., X, Y, Z); known voxels unchanged
    """
    grid = image.shape[-3:]
    weight = known.to(image).reshape(-1, 1, *grid)
    value = torch.where(known, image, torch.zeros_like(image)).reshape(-1, 1, *grid)
    return torch.where(known, image, _pull_push(value, weight).reshape(image.shape))


def _pull_push(value: Tensor, weight: Tensor) -> Tensor:
    # value is already multiplied by weight; one level averages 2^3 voxels and hands holes to the level above.
    mean = value / weight.clamp_min(1e-6)
    if max(value.shape[2:]) == 1:
        return mean
    kernel = [min(2, size) for size in value.shape[2:]]
    small_value = F.avg_pool3d(value, kernel, ceil_mode=True, count_include_pad=False)
    small_weight = F.avg_pool3d(weight, kernel, ceil_mode=True, count_include_pad=False)
    small = _pull_push(small_value, small_weight)
    up = F.interpolate(small, size=value.shape[2:], mode="trilinear", align_corners=False)
    share = weight.clamp(0, 1)
    # An image without holes at this level needs nothing of the level above.
    whole = (weight > 0).flatten(1).all(1).reshape(-1, 1, 1, 1, 1)
    return torch.where(whole, mean, torch.where(weight > 0, mean * share + up * (1 - share), up))
