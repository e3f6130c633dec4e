"""A drawn head without noise: real references carry noise of their own, which no method can be blamed for keeping."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from medldm.data.volume import Voxels

SHAPE = (160, 192, 48)  # voxels of 1 mm
FINER = 2  # drawn this many times finer, then averaged: voxels at a border hold part of both tissues
FAT, BONE, FLUID, GREY_MATTER, WHITE_MATTER, NUCLEUS = 1.0, 0.08, 0.18, 0.6, 0.88, 0.7  # as T1 weights them
TEXTURE = 0.03  # standard deviation of the brightness inside a tissue
GRAIN_MM = 1.5  # width of that texture
HEAD_MM = np.array([74.0, 90.0, 80.0])  # half axes of the outline
RIBBON = 0.05  # thickness of the grey matter, share of the half axes


@cache
def drawn_head() -> Voxels:
    """A T1-weighted head from scalp to ventricles, (160, 192, 48) float32, scalp near 1."""
    fine = [size * FINER for size in SHAPE]
    x, y, z = (
        np.moveaxis(((np.arange(size, dtype=np.float32) + 0.5) / FINER - whole / 2)[:, None, None], 0, axis)
        for axis, (size, whole) in enumerate(zip(fine, SHAPE, strict=True))
    )
    x, y, z = x / HEAD_MM[0], y / HEAD_MM[1], z / HEAD_MM[2]
    radius = np.sqrt(x**2 + y**2 + z**2)
    angle, height = np.arctan2(y, x), z / np.maximum(radius, 1e-3)
    # Folds run in all directions and are not symmetric.
    folds = (
        np.sin(13 * angle + 9 * height)
        + np.sin(8 * angle - 17 * height + 1.3)
        + 0.7 * np.sin(21 * angle + 4 * height + 40 * radius)
    )
    cortex = 0.79 + 0.032 * folds
    fissure = np.abs(x) < 0.012 + 0.05 * np.clip(radius - 0.55, 0, 1)
    head = np.zeros(fine, np.float32)
    for inside, brightness in (
        (radius < 1.0, FAT),
        (radius < 0.95, BONE),
        (radius < 0.89, FLUID),
        ((radius < cortex) & ~fissure, GREY_MATTER),
        ((radius < cortex - RIBBON) & ~fissure, WHITE_MATTER),
        (_blob(np.abs(x), y, z, (0.3, 0.05, 0.0), (0.1, 0.18, 0.22)), NUCLEUS),
        (_blob(np.abs(x), y, z, (0.1, 0.0, 0.05), (0.06, 0.28, 0.12)), FLUID),
    ):
        head[np.broadcast_to(inside, fine)] = brightness
    grain = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(fine, dtype=np.float32), GRAIN_MM * FINER)
    head *= 1 + TEXTURE * grain / grain.std()
    parts = head.reshape(SHAPE[0], FINER, SHAPE[1], FINER, SHAPE[2], FINER)
    averaged: Voxels = parts.mean((1, 3, 5), dtype=np.float32)
    return averaged


def _blob(x: Voxels, y: Voxels, z: Voxels, centre: tuple[float, ...], half: tuple[float, ...]) -> Voxels:
    """Bool, inside of an ellipsoid, in shares of the half axes of the head."""
    distances = [((v - c) / h) ** 2 for v, c, h in zip((x, y, z), centre, half, strict=True)]
    inside: Voxels = distances[0] + distances[1] + distances[2] < 1
    return inside
