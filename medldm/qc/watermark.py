"""A mark in the pixels of images that were generated wholly, when asked for; nothing that was measured bears it.

`medldm generate` calls this; the restoring verbs begin with a scan, whose voxels somebody may measure, and do not
(docs/decisions/0018). Who samples or decodes latents by hand can mark what comes out too, so that it is not taken for a
scan once its file name is lost. The mark is a faint pattern, repeated over the plane, so that a part of an
image shows it too. It outlives noise, blur, another grey scale, JPEG and cropping; turning, resizing, or somebody who
wants it gone, it does not.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from scipy import ndimage

from medldm.data.volume import Volume, Voxels
from medldm.errors import UsageError

EDGE = 64  # of the pattern, pixels
BAND = (0.06, 0.22)  # cycles a pixel: above what shading has, below what JPEG and blur take away
STRENGTH = 0.02  # standard deviation of the pattern where there is tissue, of the image's 99.5th percentile
SMALLEST, SMALL_STRENGTH = 24, 0.028  # pixels; planes below EDGE bear part of the pattern, so it has to be clearer
THRESHOLD = 6.0  # standard deviations; no image of pure noise comes near, a plane with little tissue may stay below


def mark(image: Any, key: str = "medldm", strength: float | None = None) -> Voxels:
    """An image that was generated wholly, with a mark in its pixels.

    Parameters
    ----------
    image : (X, Y) or (X, Y, Z) array; planes along the last axis bear the same pattern
    key : whoever knows it can find the mark
    strength : standard deviation of the pattern where there is tissue, of the image's 99.5th percentile; `STRENGTH`,
        or `SMALL_STRENGTH` in planes smaller than the pattern, when not given

    Returns
    -------
    as the image, float32

    Raises
    ------
    UsageError
        It is a `Volume`: those were measured, or restored from what was measured.
    """
    if isinstance(image, Volume):
        raise UsageError(
            f"{image.name} was measured, or restored from what was measured; its voxels are not to be marked. "
            "A watermark is for images that were generated wholly, as arrays. The record and the header of a result "
            "say what medldm did to it."
        )
    plain = np.asarray(image, dtype=np.float32)
    if plain.ndim not in (2, 3) or min(plain.shape[:2]) < SMALLEST:
        raise UsageError(
            f"An image of shape {plain.shape} cannot bear the mark: it needs planes of {SMALLEST} x {SMALLEST}."
        )
    if strength is None:
        strength = SMALL_STRENGTH if min(plain.shape[:2]) < EDGE else STRENGTH
    brightest = float(np.percentile(plain[plain > 0], 99.5)) if (plain > 0).any() else 1.0
    # Air stays air: the pattern would be seen there, and thresholds of other programs would see it too.
    tissue = np.clip(ndimage.uniform_filter(plain, (5, 5) + (1,) * (plain.ndim - 2)) / (0.2 * brightest), 0, 1)
    repeats = [-(-size // EDGE) for size in plain.shape[:2]]
    tiled = np.tile(pattern(key), repeats)[: plain.shape[0], : plain.shape[1]]
    marked: Voxels = (plain + strength * brightest * tissue * (tiled if plain.ndim == 2 else tiled[..., None])).astype(
        np.float32
    )
    return marked


def find(image: Any, key: str = "medldm") -> float:
    """How clearly an image bears the mark of a key: above `THRESHOLD` it does.

    Parameters
    ----------
    image : (X, Y) or (X, Y, Z) array
    key : as it was marked with

    Returns
    -------
    height of the highest correlation over all shifts, in standard deviations of the others
    """
    planes = np.asarray(image, dtype=np.float32)
    planes = planes[..., None] if planes.ndim == 2 else planes
    fine = planes - ndimage.gaussian_filter(planes, (3, 3, 0))
    # An edge is worth no more than a texture: without this a skull would hide the mark.
    fine = np.clip(fine, -2 * fine.std(), 2 * fine.std()).mean(2)
    repeats = [-(-size // EDGE) for size in fine.shape]
    padded = np.pad(fine, [(0, n * EDGE - size) for n, size in zip(repeats, fine.shape, strict=True)])
    folded = padded.reshape(repeats[0], EDGE, repeats[1], EDGE).mean((0, 2))
    spectrum, wanted = np.fft.fft2(folded), np.fft.fft2(pattern(key))
    # Only phases are compared: anatomy is strong in few frequencies, the pattern in all of its band.
    likeness = np.fft.ifft2(spectrum / (np.abs(spectrum) + 1e-12) * np.conj(wanted)).real
    spread = float(likeness.std())
    return float(likeness.max() - likeness.mean()) / spread if spread > 0 else 0.0  # one grey value bears no mark


def pattern(key: str) -> Voxels:
    """The pattern of a key, (EDGE, EDGE), mean 0, standard deviation 1."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    noise = np.random.default_rng(seed).standard_normal((EDGE, EDGE))
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(EDGE)] * 2))
    spectrum = np.fft.fft2(noise) * ((frequency >= BAND[0]) & (frequency <= BAND[1]))
    tile = np.fft.ifft2(spectrum).real
    made: Voxels = ((tile - tile.mean()) / tile.std()).astype(np.float32)
    return made
