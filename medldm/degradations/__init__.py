"""Clean image to measured image, and back as far as the measurement goes.

To add a degradation: one file with a class, one line below; the contract tests then run on it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from medldm.degradations.degradation import Degradation, Observation
from medldm.degradations.in_plane import InPlane
from medldm.degradations.joined import Joined
from medldm.degradations.low_dose import LowDose
from medldm.degradations.missing_slices import MissingSlices
from medldm.degradations.noise import Rician, VaryingRician, smooth_field
from medldm.degradations.regions import Regions, fill_smoothly
from medldm.degradations.thick_slices import ThickSlices

# name -> a typical member for an image of the given shape (contract tests, demos)
DEGRADATIONS: dict[str, Callable[[tuple[int, int, int]], Degradation]] = {
    "rician": lambda shape: Rician(),
    "low-dose": lambda shape: LowDose(pixel_mm=8.0, views=24),
    "varying-rician": lambda shape: VaryingRician(),
    "thick-slices": lambda shape: ThickSlices(shape[2], spacing=4.0),
    "thick-slices-gap": lambda shape: ThickSlices(shape[2], spacing=3.3, thickness=2.5, profile="rect"),
    "missing-slices": lambda shape: MissingSlices(shape[2], missing=range(3, shape[2] - 3, 4)),
    "in-plane": lambda shape: InPlane(shape, axes=(0, 1), factor=2.0),
    "joined": lambda shape: Joined(ThickSlices(shape[2], spacing=4.0), InPlane(shape, axes=(0, 1), factor=1.5)),
    "regions": lambda shape: Regions(_corner(shape)),
}


def _corner(shape: tuple[int, int, int]) -> torch.Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[: shape[0] // 3, : shape[1] // 3, : shape[2] // 3] = True
    return mask


__all__ = [
    "DEGRADATIONS",
    "Degradation",
    "InPlane",
    "Joined",
    "LowDose",
    "MissingSlices",
    "Observation",
    "Regions",
    "Rician",
    "ThickSlices",
    "VaryingRician",
    "fill_smoothly",
    "smooth_field",
]
