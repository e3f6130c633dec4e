"""What every degradation offers: make the damage, show it to a network, and keep a guess true to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medldm.modality import MR


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


class NoiseOnTop(NamedTuple):
    """Rician noise that training adds to a degradation.

    Parameters
    ----------
    chance : share of the examples with noise
    highest, lowest : of its level, scaled intensity
    """

    chance: float = 0.0
    highest: float = 0.0
    lowest: float = 0.005


class CleanScan(NamedTuple):
    """A scan that a row of the benchmark is about to degrade.

    Parameters
    ----------
    shape, spacing : of its grid, voxels and mm
    axis : that its slices are stacked along
    ratios : voxels of the wanted scan per measured one, along each axis; see `Degradation.ratios`
    inside : (X, Y, Z) bool, foreground
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    axis: int
    ratios: Sequence[float]
    inside: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """One line of the benchmark's table: what is done to a scan, and which verb restores it.

    Parameters
    ----------
    name : as ``--tasks`` takes it
    verb : that restores it
    degradation : what is done
    options : how, as the class reads it in `Degradation.of_row`
    level : Rician noise, fraction of p99.5; 0 for none
    given : whether methods are given the noise level
    modality : name in `medldm.modality.MODALITIES`
    lesions : whether lesions are put into the scan before it is degraded
    drawn : the scan is a drawn test object
    without_ends : whether the scan is cut inside the head first, so that its outermost slices show anatomy
    core, quick : whether it stands in the README's table, and in that of `--quick`
    """

    name: str
    verb: str
    degradation: type[Degradation]
    options: Mapping[str, Any] = field(default_factory=dict)
    level: float = 0.0
    given: bool = True
    modality: str = MR.name
    lesions: bool = False
    drawn: bool = False
    without_ends: bool = False
    core: bool = False
    quick: bool = False

    @property
    def needs_thin(self) -> bool:
        """Whether the reference must have thin slices."""
        return self.degradation.across_slices

    @property
    def seeded_as(self) -> str:
        """Rows with one seed differ in what methods are given, not in what was measured."""
        return self.name.removesuffix("-blind").removesuffix("-mismatch")


class Degradation(ABC):
    """Something that happens to a scan between the body and the file.

    Tensors are (X, Y, Z) in scaled intensity. Members of this room are listed in ``DEGRADATIONS``: training draws
    those with `shares`, its validation takes `validation`, the benchmark `rows`, the contract tests `examples`.

    Attributes
    ----------
    linear : whether it is a matrix, and has an adjoint
    adds_noise : whether every voxel is measured, with noise
    masks : whether voxels are measured or not, on the same grid
    across_slices : whether detail is lost along the slice axis, so that references need thin slices
    in_planes : whether detail is lost along the two other axes
    shares : name of a modality to how often training draws it; those left out never see it
    noise_on_top : in training
    """

    linear: ClassVar[bool] = False
    adds_noise: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    across_slices: ClassVar[bool] = False
    in_planes: ClassVar[bool] = False
    shares: ClassVar[Mapping[str, float]] = {}
    noise_on_top: ClassVar[NoiseOnTop] = NoiseOnTop()

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

    def level(self, like: Tensor) -> Tensor:
        """Standard deviation of the noise that it adds, (X, Y, Z) or broadcastable to it; zero for most."""
        return like.new_zeros((1,) * like.ndim)

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

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """Typical members for an image of this shape, for the contract tests."""
        return ()

    @classmethod
    def draw(cls, shape: tuple[int, ...], generator: torch.Generator) -> Degradation:
        """A random member for training; damage lies along the first axis.

        Parameters
        ----------
        shape : (H, W, D) of the block
        generator : source of randomness
        """
        raise NotImplementedError(f"{cls.__name__} is not drawn in training")

    @classmethod
    def validation(cls, shape: tuple[int, int, int]) -> dict[str, Degradation]:
        """Name of each row of the validation curve to its degradation; damage lies along the first axis."""
        return {}

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """Rows of the benchmark's table."""
        return ()

    @classmethod
    def ratios(cls, row: Row, spacing: Sequence[float], axis: int) -> list[float]:
        """Voxels of the wanted scan per measured one that a row asks for, along each axis.

        Parameters
        ----------
        row : of `rows`
        spacing : of the wanted scan, mm
        axis : that its slices are stacked along
        """
        return [1.0, 1.0, 1.0]

    @classmethod
    def of_row(cls, row: Row, scan: CleanScan, generator: torch.Generator) -> tuple[Degradation, dict[str, Any]]:
        """What a row does to a scan, and the options that methods are given about it.

        Parameters
        ----------
        row : of `rows`
        scan : about to be degraded
        generator : source of randomness
        """
        raise NotImplementedError(f"{cls.__name__} has no rows")


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """A random number between two others."""
    return low + (high - low) * float(torch.rand((), generator=generator))
