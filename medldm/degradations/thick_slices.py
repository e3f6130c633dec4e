"""Thick slices: a slice profile, a gap or an overlap, then fewer slices."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from medldm.degradations.degradation import Degradation, Observation
from medldm.degradations.sampling import (
    along,
    interpolation_matrix,
    observation_weights,
    outer,
    profile_matrix,
    pseudo_inverse,
    slice_centres,
)


class ThickSlices(Degradation):
    """Slices that average over their thickness, at any spacing.

    Parameters
    ----------
    voxels : number of output voxels along `axis`
    axis : 0, 1 or 2
    spacing : distance between slice centres, output voxels; any ratio
    thickness : FWHM (Gaussian) or width (rectangular), output voxels; None: the spacing. Smaller than the
        spacing is a gap, larger an overlap.
    profile : ``"gaussian"`` or ``"rect"``
    noise_level : noise standard deviation of the slices, scaled intensity; the projection then leaves a residual
        of about that size instead of copying the noise
    missing : slices that were not acquired at all, counted from 0
    centres : (slices,) positions in output voxels, when they do not follow from the spacing
    """

    linear: ClassVar[bool] = True

    def __init__(
        self,
        voxels: int,
        axis: int = 2,
        spacing: float = 4.0,
        thickness: float | None = None,
        profile: str = "gaussian",
        noise_level: float = 0.0,
        missing: tuple[int, ...] = (),
        centres: Tensor | None = None,
    ) -> None:
        self.axis, self.voxels = axis, voxels
        self.thickness = spacing if thickness is None else thickness
        every = slice_centres(voxels, spacing) if centres is None else centres
        self.kept = torch.tensor([k for k in range(len(every)) if k not in set(missing)])
        self.slices = len(every)
        centres = every[self.kept]
        self.matrix = profile_matrix(centres, voxels, self.thickness, profile)
        self._interpolate = interpolation_matrix(centres, voxels)
        self._weights = observation_weights(centres, voxels)
        self.noise_level = noise_level

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Average over each slice's profile; (X, Y, Z) to as many slices along `axis` as were acquired."""
        return along(self.matrix, clean, self.axis)

    def adjoint(self, measured: Tensor) -> Tensor:
        """Spread each slice over its profile."""
        return along(self.matrix.T, measured, self.axis)

    def to_grid(self, measured: Tensor) -> Tensor:
        """Linear interpolation of the slices to the output grid."""
        return along(self._interpolate, measured, self.axis)

    def observe(self, measured: Tensor) -> Observation:
        """Interpolated slices, and where their centres were."""
        y = self.to_grid(measured)
        observed = outer({self.axis: self._weights}, y.shape).to(y.device)
        return Observation(y, observed, self.thickness)

    def spread(self, lacking: Tensor) -> Tensor:
        """A^T (A A^T + lambda I)^-1 of what the slices lack, on the output grid."""
        return along(pseudo_inverse(self.matrix, self.noise_level), lacking, self.axis)

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """X + A^T (A A^T + lambda I)^-1 (y0 - A x): measured again, the result gives the slices back."""
        return guess + self.spread(measured - self.degrade(guess))
