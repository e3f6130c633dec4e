"""Missing slices: a mask along the slice axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from medldm.degradations.degradation import Degradation, Observation
from medldm.degradations.sampling import along, interpolation_matrix, outer


class MissingSlices(Degradation):
    """Slices that were never acquired, or are damaged beyond use.

    Parameters
    ----------
    voxels : number of slices of the wanted scan
    missing : which are missing, counted from 0
    axis : slice axis
    """

    linear: ClassVar[bool] = True

    def __init__(self, voxels: int, missing: Sequence[int] = (), axis: int = 2) -> None:
        self.axis = axis
        self.measured = torch.ones(voxels, dtype=torch.bool)
        self.measured[list(missing)] = False
        if not self.measured.any():
            raise ValueError("every slice is missing; nothing is left to restore from")
        self._interpolate = interpolation_matrix(torch.nonzero(self.measured).flatten().to(torch.float64), voxels)

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Missing slices become 0; the shape stays."""
        return clean * outer({self.axis: self.measured}, clean.shape).to(clean)

    def adjoint(self, measured: Tensor) -> Tensor:
        """The same mask: it is its own adjoint."""
        return self.degrade(measured)

    def to_grid(self, measured: Tensor) -> Tensor:
        """Measured slices as they are, linear interpolation between them."""
        kept = measured.index_select(self.axis, torch.nonzero(self.measured).flatten().to(measured.device))
        return along(self._interpolate, kept, self.axis)

    def observe(self, measured: Tensor) -> Observation:
        """Interpolated slices, and which were measured."""
        return Observation(self.to_grid(measured), outer({self.axis: self.measured}, measured.shape).to(measured))

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """Measured slices are copied, bit for bit."""
        mask = self.measured.to(guess.device).reshape([-1 if a == self.axis else 1 for a in range(guess.ndim)])
        return torch.where(mask, measured, guess)
