"""Lower resolution in the planes: k-space truncation (MRI), antialiased decimation (CT)."""

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
    slice_centres,
)


class InPlane(Degradation):
    """Fewer voxels along one or more axes, edges aligned.

    Parameters
    ----------
    shape : (X, Y, Z) of the wanted scan
    axes : the axes that lost resolution
    factor : how many times fewer voxels; any ratio
    profile : ``"kspace"`` truncates the spectrum as an MRI matrix does; ``"rect"`` averages as a detector does
    noise_level : see `ThickSlices`
    """

    linear: ClassVar[bool] = True

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: tuple[int, ...] = (0, 1),
        factor: float | tuple[float, ...] = 2.0,
        profile: str = "kspace",
        noise_level: float = 0.0,
    ) -> None:
        factors = factor if isinstance(factor, tuple) else (factor,) * len(axes)
        self.matrices, self._up, self._weights = {}, {}, {}
        self.noise_level = noise_level
        for axis, ratio in zip(axes, factors, strict=True):
            centres = slice_centres(shape[axis], ratio)
            matrix = profile_matrix(centres, shape[axis], ratio, profile)
            self.matrices[axis] = matrix
            # Zero filling for Fourier data, linear interpolation otherwise.
            self._up[axis] = matrix.T * ratio if profile == "kspace" else interpolation_matrix(centres, shape[axis])
            self._weights[axis] = observation_weights(centres, shape[axis])

    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Fewer voxels along the axes."""
        return along_axes(self.matrices, clean)

    def adjoint(self, measured: Tensor) -> Tensor:
        """The transposed matrices."""
        return along_axes({axis: matrix.T for axis, matrix in self.matrices.items()}, measured)

    def to_grid(self, measured: Tensor) -> Tensor:
        """Zero filling (k-space) or linear interpolation to the output grid."""
        return along_axes(self._up, measured)

    def observe(self, measured: Tensor) -> Observation:
        """Interpolated image, and where its voxel centres were."""
        y = self.to_grid(measured)
        return Observation(y, outer(self._weights, y.shape).to(y.device))

    def spread(self, lacking: Tensor) -> Tensor:
        """A^T (A A^T + lambda I)^-1 of what the image lacks, on the output grid."""
        back = {axis: pseudo_inverse(matrix, self.noise_level) for axis, matrix in self.matrices.items()}
        return along_axes(back, lacking)

    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """Separable projection: measured again, the result gives the low-resolution image back."""
        return guess + self.spread(measured - self.degrade(guess))
