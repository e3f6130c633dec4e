"""How noisy a scan is at each voxel: one number or a map, and every verb takes either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.data.volume import Volume, Voxels
from medldm.errors import GeometryError, UsageError


class NoiseLevel(NamedTuple):
    """Standard deviation of the noise, scaled intensity: the same everywhere, or a map of it.

    Parameters
    ----------
    sigma : (1, 1, 1), or (X, Y, Z) on the grid of the scan
    """

    sigma: Tensor

    @classmethod
    def uniform(cls, level: float) -> NoiseLevel:
        """The same level everywhere, scaled intensity."""
        return cls(torch.full((1, 1, 1), float(level)))

    @property
    def typical(self) -> float:
        """The median, scaled intensity."""
        return float(self.sigma.median())

    def on(self, shape: Sequence[int]) -> Tensor:
        """The level on another grid over the same field of view, outer edges aligned.

        Parameters
        ----------
        shape : (X', Y', Z')

        Returns
        -------
        (1, 1, 1) where it is the same everywhere, else (X', Y', Z'), linearly interpolated
        """
        if self.sigma.numel() == 1 or tuple(self.sigma.shape) == tuple(shape):
            return self.sigma
        return F.interpolate(self.sigma[None, None], size=tuple(shape), mode="trilinear", align_corners=False)[0, 0]


def map_on(volume: Volume, given: Volume | Voxels) -> Voxels:
    """A noise map that somebody measured, on the grid of a scan.

    Parameters
    ----------
    volume : scan
    given : volume on the grid of the scan, or an array in the axes of ``volume.voxels``; in the unit of ``--noise``

    Returns
    -------
    (X, Y, Z) float32

    Raises
    ------
    GeometryError
        It lies on another grid.
    UsageError
        It holds something that is no noise level.
    """
    if isinstance(given, Volume):
        if given.shape == volume.shape and not np.allclose(
            given.affine, volume.affine, atol=0.01 * min(volume.spacing)
        ):
            raise GeometryError(f"The noise map {given.name} does not lie where {volume.name} lies. Resample it first.")
        given = given.voxels
    levels = np.asarray(given, dtype=np.float32)
    if levels.shape != volume.shape:
        raise GeometryError(
            f"The noise map has shape {levels.shape}, {volume.name} has {volume.shape}. Resample it to the scan first."
        )
    if not (np.isfinite(levels).all() and (levels >= 0).all()):
        raise UsageError("The noise map holds values below zero or none at all (NaN, infinite); a level is 0 or more.")
    return levels


__all__ = ["NoiseLevel", "map_on"]
