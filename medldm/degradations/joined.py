"""Thick slices and coarse planes at once: separable losses, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from medldm.degradations.degradation import Degradation, Observation
from medldm.degradations.in_plane import InPlane
from medldm.degradations.thick_slices import ThickSlices


class Joined(Degradation):
    """Thick slices whose planes are coarse as well; the axes must differ.

    Parameters
    ----------
    thick : along the slice axis
    plane : along other axes
    """

    linear: ClassVar[bool] = True

    def __init__(self, thick: ThickSlices, plane: InPlane) -> None:
        self.thick, self.plane = thick, plane

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Average over slices, then over the planes."""
        return self.plane.degrade(self.thick.degrade(clean))

    def adjoint(self, measured: Tensor) -> Tensor:
        """Both adjoints, in the other order."""
        return self.thick.adjoint(self.plane.adjoint(measured))

    def observe(self, measured: Tensor) -> Observation:
        """Interpolated along all axes; a voxel is observed as far as it is along each."""
        slices = self.thick.observe(self.plane.to_grid(measured))
        planes = self.plane.observe(measured).observed
        share = planes.select(self.thick.axis, 0).unsqueeze(self.thick.axis)
        return Observation(slices.y, slices.observed * share, slices.thickness)

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """What the measurement lacks is spread along all axes; separable, so still exact."""
        return guess + self.thick.spread(self.plane.spread(measured - self.degrade(guess)))

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """Slices four voxels apart, planes one and a half times coarser."""
        return (cls(ThickSlices(shape[2], spacing=4.0), InPlane(shape, axes=(0, 1), factor=1.5)),)
