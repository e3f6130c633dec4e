"""Losses of resolution that are one small matrix an axis."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from medldm.degradations.degradation import Degradation, Observation
from medldm.degradations.sampling import (
    along_axes,
    interpolation_matrix,
    observation_weights,
    outer,
    profile_matrix,
    pseudo_inverse,
)


class Separable(Degradation):
    """Samples along some axes; each averages the voxels around its centre.

    Parameters
    ----------
    noise_level : noise standard deviation of the samples, scaled intensity; the projection then leaves a residual of
        about that size instead of copying the noise
    thickness : of the slices, output voxels
    """

    linear: ClassVar[bool] = True

    def __init__(self, noise_level: float = 0.0, thickness: float = 1.0) -> None:
        self.noise_level, self.thickness = noise_level, thickness
        self.matrices: dict[int, Tensor] = {}
        self._up: dict[int, Tensor] = {}
        self._weights: dict[int, Tensor] = {}

    def sample(self, axis: int, centres: Tensor, voxels: int, width: float, profile: str) -> None:
        """Sample one axis.

        Parameters
        ----------
        axis : 0, 1 or 2
        centres : (samples,) output voxel coordinates
        voxels : of the wanted scan along the axis
        width : of a sample, output voxels
        profile : see `medldm.degradations.sampling.profile_matrix`
        """
        matrix = self.matrices[axis] = profile_matrix(centres, voxels, width, profile)
        # Zero filling for Fourier data, linear interpolation otherwise.
        self._up[axis] = matrix.T * width if profile == "kspace" else interpolation_matrix(centres, voxels)
        self._weights[axis] = observation_weights(centres, voxels)

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Average over each sample; (X, Y, Z) to as many samples along the axes as were acquired."""
        return along_axes(self.matrices, clean)

    def adjoint(self, measured: Tensor) -> Tensor:
        """The transposed matrices: each sample is spread over its profile."""
        return along_axes({axis: matrix.T for axis, matrix in self.matrices.items()}, measured)

    def to_grid(self, measured: Tensor) -> Tensor:
        """Zero filling (k-space) or linear interpolation to the output grid."""
        return along_axes(self._up, measured)

    def observe(self, measured: Tensor) -> Observation:
        """Interpolated image, and where the centres of its samples were."""
        y = self.to_grid(measured)
        return Observation(y, outer(self._weights, y.shape).to(y.device), self.thickness)

    def spread(self, lacking: Tensor) -> Tensor:
        """A^T (A A^T + lambda I)^-1 of what the samples lack, on the output grid."""
        back = {axis: pseudo_inverse(matrix, self.noise_level) for axis, matrix in self.matrices.items()}
        return along_axes(back, lacking)

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """X + A^T (A A^T + lambda I)^-1 (y0 - A x): measured again, the result gives the samples back."""
        return guess + self.spread(measured - self.degrade(guess))
