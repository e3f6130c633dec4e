"""Lower resolution in the planes: k-space truncation (MRI), antialiased decimation (CT)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from medldm.degradations.degradation import CleanScan, Degradation, NoiseOnTop, Row, uniform
from medldm.degradations.sampling import slice_centres
from medldm.degradations.separable import Separable
from medldm.modality import CT, MODALITIES, MR


class InPlane(Separable):
    """Fewer voxels along one or more axes, edges aligned.

    Parameters
    ----------
    shape : (X, Y, Z) of the wanted scan
    axes : the axes that lost resolution
    factor : how many times fewer voxels; any ratio
    profile : ``"kspace"`` truncates the spectrum as an MRI matrix does; ``"rect"`` averages as a detector does
    noise_level : see `Separable`
    """

    in_planes: ClassVar[bool] = True
    shares: ClassVar[Mapping[str, float]] = {MR.name: 0.1}
    noise_on_top: ClassVar[NoiseOnTop] = NoiseOnTop(0.25, 0.06)

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: tuple[int, ...] = (0, 1),
        factor: float | tuple[float, ...] = 2.0,
        profile: str = "kspace",
        noise_level: float = 0.0,
    ) -> None:
        factors = factor if isinstance(factor, tuple) else (factor,) * len(axes)
        super().__init__(noise_level)
        for axis, ratio in zip(axes, factors, strict=True):
            self.sample(axis, slice_centres(shape[axis], ratio), shape[axis], ratio, profile)

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """Half as many voxels along two axes."""
        return (cls(shape, axes=(0, 1), factor=2.0),)

    @classmethod
    def draw(cls, shape: tuple[int, ...], generator: torch.Generator) -> Degradation:
        """Fewer voxels along the two axes of a plane; never across the stack of a volume."""
        factor = uniform(1.3, 2.6, generator)
        profile = "kspace" if uniform(0, 1, generator) < 0.7 else "rect"
        axes = (0, 1) if uniform(0, 1, generator) < 0.8 else (0,)
        return cls(tuple(shape), axes, factor, profile)

    @classmethod
    def validation(cls, shape: tuple[int, int, int]) -> dict[str, Degradation]:
        """Half as many voxels along the two axes of a plane."""
        return {"plane2": cls(shape, (0, 1), 2.0)}

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """Option: how many times fewer voxels."""
        return (
            Row("plane-x2", "super-resolve", cls, {"factor": 2.0}, core=True),
            Row("ct-plane-x2", "super-resolve", cls, {"factor": 2.0}, modality=CT.name),
        )

    @classmethod
    def ratios(cls, row: Row, spacing: Sequence[float], axis: int) -> list[float]:
        """The row's factor, along all axes but that of slices."""
        return [1.0 if a == axis else row.options["factor"] for a in range(3)]

    @classmethod
    def of_row(cls, row: Row, scan: CleanScan, generator: torch.Generator) -> tuple[Degradation, dict[str, Any]]:
        """Coarse planes, as a scanner of the row's modality makes them."""
        planes = tuple(a for a in range(3) if a != scan.axis)
        factors = tuple(scan.ratios[a] for a in planes)
        return cls(scan.shape, planes, factors, MODALITIES[row.modality].plane_profile), {"spacing": scan.spacing}
