"""A drawn CT test object: water with rods, so that noise and edges can be measured where nothing else is."""

from __future__ import annotations

import math

import numpy as np

from medldm import metrics
from medldm.data.volume import Voxels

SIDE, SLICES = 192, 12  # voxels
PIXEL_MM = 1.0
BODY_MM, ROD_MM = 80.0, 15.0  # radii
ROD_AT = (SIDE / 2 - 0.5 + 40, SIDE / 2 - 0.5)  # voxels
RODS_HU = (300.0, -200.0)  # at ROD_AT and opposite
FLAT = slice(SIDE // 2 - 16, SIDE // 2 + 16)  # a square of water between the rods


def drawn_object() -> Voxels:
    """Water of 0 HU in air with a bright and a dark rod, edges one voxel soft, (192, 192, 12) float32, HU."""
    x, y = np.indices((SIDE, SIDE))
    middle = SIDE / 2 - 0.5

    def disc(centre: tuple[float, float], radius_mm: float) -> Voxels:
        distance = np.hypot(x - centre[0], y - centre[1]) * PIXEL_MM
        soft: Voxels = np.clip((radius_mm - distance) / PIXEL_MM + 0.5, 0, 1)
        return soft

    plane = -1000 + 1000 * disc((middle, middle), BODY_MM)
    opposite = (2 * middle - ROD_AT[0], ROD_AT[1])
    for centre, hounsfield in zip((ROD_AT, opposite), RODS_HU, strict=True):
        plane = plane + hounsfield * disc(centre, ROD_MM)
    return np.repeat(plane[..., None], SLICES, axis=2).astype(np.float32)


def object_scores(guess: Voxels, reference: Voxels, measured: Voxels) -> dict[str, float]:
    """Noise texture, edge response and bias in water, of one restoration of the object.

    Parameters
    ----------
    guess, reference, measured : (192, 192, 12) HU

    Returns
    -------
    ``nps_frequency`` (mean frequency of what noise is left over that of the measured noise; 1 keeps the texture),
    ``edge_ratio`` (width of the rod's edge over the reference's; 1 blurs nothing), ``noise_left`` (standard deviation
    in water over the measured one), ``water_bias`` (HU)
    """
    left, before = ((image - reference)[FLAT, FLAT].transpose(2, 0, 1) for image in (guess, measured))
    widths = [metrics.edge_width(image, ROD_AT, ROD_MM, PIXEL_MM) for image in (guess, reference)]
    frequencies = [metrics.noise_frequency(noise, PIXEL_MM) for noise in (left, before)]
    return {
        "nps_frequency": frequencies[0] / frequencies[1] if frequencies[1] > 0 else math.nan,
        "edge_ratio": widths[0] / widths[1] if widths[1] > 0 else math.nan,
        "noise_left": float(left.std() / before.std()) if before.std() > 0 else math.nan,
        "water_bias": float(left.mean()),
    }
