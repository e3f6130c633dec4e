"""Thick slices: a slice profile, a gap or an overlap, then fewer slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from medldm.degradations.degradation import CleanScan, Degradation, NoiseOnTop, Row, uniform
from medldm.degradations.sampling import slice_centres
from medldm.degradations.separable import Separable
from medldm.modality import CT, MR


class ThickSlices(Separable):
    """Slices that average over their thickness, at any spacing.

    Parameters
    ----------
    voxels : number of output voxels along `axis`
    axis : 0, 1 or 2
    spacing : distance between slice centres, output voxels; any ratio
    thickness : FWHM (Gaussian) or width (rectangular), output voxels; None: the spacing. Smaller than the
        spacing is a gap, larger an overlap.
    profile : ``"gaussian"`` or ``"rect"``
    noise_level : see `Separable`
    missing : slices that were not acquired at all, counted from 0
    centres : (slices,) positions in output voxels, when they do not follow from the spacing
    """

    across_slices: ClassVar[bool] = True
    shares: ClassVar[Mapping[str, float]] = {MR.name: 0.26, CT.name: 0.16}
    noise_on_top: ClassVar[NoiseOnTop] = NoiseOnTop(0.35, 0.09)

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
        super().__init__(noise_level, spacing if thickness is None else thickness)
        self.axis, self.voxels = axis, voxels
        every = slice_centres(voxels, spacing) if centres is None else centres
        self.kept = torch.tensor([k for k in range(len(every)) if k not in set(missing)])
        self.slices = len(every)
        self.sample(axis, every[self.kept], voxels, self.thickness, profile)

    @classmethod
    def examples(cls, shape: tuple[int, int, int]) -> Sequence[Degradation]:
        """Slices that touch, and slices with a gap at a ratio that is no whole number."""
        return (
            cls(shape[2], spacing=4.0),
            cls(shape[2], spacing=3.3, thickness=2.5, profile="rect"),
        )

    @classmethod
    def draw(cls, shape: tuple[int, ...], generator: torch.Generator) -> Degradation:
        """Slices 1.3 to 8 voxels apart, gap or overlap, either profile, any phase; some of them lost."""
        spacing = math.exp(uniform(math.log(1.3), math.log(8), generator))
        thickness = spacing if uniform(0, 1, generator) < 0.6 else spacing * uniform(0.6, 1.25, generator)
        centres = slice_centres(shape[0] + math.ceil(spacing), spacing) - uniform(0, spacing, generator)
        centres = centres[(centres > -0.5) & (centres < shape[0] - 0.5)]
        lost: tuple[int, ...] = ()
        if uniform(0, 1, generator) < 0.1 and len(centres) > 4:
            lost = (int(uniform(1, len(centres) - 1, generator)),)
        profile = "gaussian" if uniform(0, 1, generator) < 0.6 else "rect"
        return cls(shape[0], 0, spacing, thickness, profile, missing=lost, centres=centres)

    @classmethod
    def validation(cls, shape: tuple[int, int, int]) -> dict[str, Degradation]:
        """Slices four voxels apart."""
        return {"thick4": cls(shape[0], 0, 4.0)}

    @classmethod
    def rows(cls) -> Sequence[Row]:
        """Options: spacing and thickness in mm, profile as made and as methods are given it."""
        verb = "super-resolve"
        return (
            Row("thick-3mm", verb, cls, {"spacing": 3.0}, core=True),
            Row("thick-4mm", verb, cls, {"spacing": 4.0}, core=True, quick=True),
            Row("thick-6mm", verb, cls, {"spacing": 6.0}, core=True),
            Row("thick-3.7mm", verb, cls, {"spacing": 3.7}, core=True),
            Row("thick-4mm-noise-3", verb, cls, {"spacing": 4.0}, level=0.03, core=True),
            Row("thick-2mm", verb, cls, {"spacing": 2.0}),
            Row("thick-5mm", verb, cls, {"spacing": 5.0}),
            Row("thick-4mm-rect", verb, cls, {"spacing": 4.0, "profile": "rect", "given_profile": "rect"}),
            Row("thick-4mm-rect-mismatch", verb, cls, {"spacing": 4.0, "profile": "rect"}),
            Row("thick-3mm-gap-1mm", verb, cls, {"spacing": 4.0, "thickness": 3.0}),
            Row("lesions-thick-4mm", verb, cls, {"spacing": 4.0}, lesions=True),
            Row("ct-thick-4mm", verb, cls, {"spacing": 4.0}, modality=CT.name),
        )

    @classmethod
    def ratios(cls, row: Row, spacing: Sequence[float], axis: int) -> list[float]:
        """The row's spacing over the scan's, along the slice axis."""
        return [row.options["spacing"] / mm if a == axis else 1.0 for a, mm in enumerate(spacing)]

    @classmethod
    def of_row(cls, row: Row, scan: CleanScan, generator: torch.Generator) -> tuple[Degradation, dict[str, Any]]:
        """Slices of the row's spacing, thickness and profile."""
        options, ratio = row.options, scan.ratios[scan.axis]
        facts = {"spacing": scan.spacing, "slice_profile": options.get("given_profile", "gaussian")}
        thickness = None
        if "thickness" in options:
            facts["slice_thickness"] = options["thickness"]
            thickness = options["thickness"] / options["spacing"] * ratio
        return cls(scan.shape[scan.axis], scan.axis, ratio, thickness, options.get("profile", "gaussian")), facts
