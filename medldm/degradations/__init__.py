"""Clean image to measured image, and back as far as the measurement goes.

To add a degradation: one file with a class, one line in `DEGRADATIONS`. Training, its validation, the benchmark and the
contract tests read that.
"""

from __future__ import annotations

from medldm.degradations.degradation import CleanScan, Degradation, NoiseOnTop, Observation, Row
from medldm.degradations.in_plane import InPlane
from medldm.degradations.joined import Joined
from medldm.degradations.low_dose import LowDose
from medldm.degradations.missing_slices import MissingSlices
from medldm.degradations.noise import Rician, VaryingRician, draw_noise, smooth_field
from medldm.degradations.regions import Regions, fill_smoothly
from medldm.degradations.thick_slices import ThickSlices
from medldm.system import Registry

# Training draws in this order: a new one at the end leaves the draws of the others as they are until it has a share.
DEGRADATIONS: Registry[type[Degradation]] = Registry(
    "medldm.degradations",
    lambda member: isinstance(member, type) and issubclass(member, Degradation),
    {
        "noise": Rician,
        "varying-noise": VaryingRician,
        "low-dose": LowDose,
        "thick": ThickSlices,
        "gap": MissingSlices,
        "in-plane": InPlane,
        "region": Regions,
        "joined": Joined,
    },
)

__all__ = [
    "DEGRADATIONS",
    "CleanScan",
    "Degradation",
    "InPlane",
    "Joined",
    "LowDose",
    "MissingSlices",
    "NoiseOnTop",
    "Observation",
    "Regions",
    "Rician",
    "Row",
    "ThickSlices",
    "VaryingRician",
    "draw_noise",
    "fill_smoothly",
    "smooth_field",
]
