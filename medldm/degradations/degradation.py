"""What every degradation offers: make the damage, show it to a network, and keep a guess true to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class Observation(NamedTuple):
    """A measurement on the grid of the wanted scan, as the networks see it.

    Parameters
    ----------
    y : (X, Y, Z), measurement brought to the output grid by plain interpolation, scaled intensity
    observed : (X, Y, Z) in [0, 1]; 1 where a voxel was measured, 0 where nothing was; for slices r voxels apart
        each slice centre is shared between its two nearest voxels, so the mean is 1 / r
    thickness : slice thickness, output voxels
    """

    y: Tensor
    observed: Tensor
    thickness: float = 1.0


class Degradation(ABC):
    """Something that happens to a scan between the body and the file.

    Tensors are (X, Y, Z) in scaled intensity. Members of this room are listed in ``DEGRADATIONS``, and the
    contract tests run on each by themselves.
    """

    linear: ClassVar[bool] = False

    @abstractmethod
    def degrade(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What a scanner with this flaw measures of the clean image.

        Parameters
        ----------
        clean : (X, Y, Z)
        generator : source of randomness; needed by degradations that draw noise

        Returns
        -------
        measured : (X', Y', Z'), smaller where slices or k-space lines were not acquired
        """

    @abstractmethod
    def observe(self, measured: Tensor) -> Observation:
        """The measurement on the output grid.

        Parameters
        ----------
        measured : (X', Y', Z'), as `degrade` gives it
        """

    @abstractmethod
    def reconcile(self, guess: Tensor, measured: Tensor) -> Tensor:
        """The nearest image to `guess` that the measurement allows.

        Parameters
        ----------
        guess : (X, Y, Z), a restored image
        measured : (X', Y', Z')

        Returns
        -------
        (X, Y, Z)
        """

    def adjoint(self, measured: Tensor) -> Tensor:
        """A^T of a linear degradation: <A x, u> equals <x, A^T u>.

        Parameters
        ----------
        measured : (X', Y', Z')

        Returns
        -------
        (X, Y, Z)
        """
        raise TypeError(f"{type(self).__name__} is not linear, it has no adjoint")
