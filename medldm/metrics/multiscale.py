"""Structural similarity at several scales."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medldm.data.volume import Voxels
from medldm.metrics.images import Mask

# Wang, Simoncelli and Bovik, Asilomar 2003, give five. A slab of 48 voxels has no more than three windows of 11.
WEIGHTS = (0.0448, 0.2856, 0.3001)
SIGMA, TRUNCATE = 1.5, 3.5  # as in `medldm.metrics.ssim`


def ms_ssim(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Multi-scale structural similarity, three scales, 3D Gaussian window of sigma 1.5, range 1, over a mask.

    Contrast and structure at every scale, luminance at the coarsest; each averaged over the mask, then multiplied with
    the first three exponents of the paper, brought to the sum of 1. MONAI has it for whole images, at every scale with
    all of the window's 1331 weights; filtered axis by axis it takes a tenth of the time, and a mask is what we score.

    Parameters
    ----------
    guess, reference, mask : see `medldm.metrics.ssim`

    Returns
    -------
    1 for equal images
    """
    have, want = guess.astype(np.float32), reference.astype(np.float32)
    product = 1.0
    exponents = np.array(WEIGHTS) / sum(WEIGHTS)
    for scale, exponent in enumerate(exponents):
        luminance, structure = _terms(have, want)
        term = luminance * structure if scale == len(exponents) - 1 else structure
        product *= max(float(term[mask].mean()), 0.0) ** exponent
        if scale < len(exponents) - 1:
            have, want = _halved(have), _halved(want)
            coarse = _halved(mask.astype(np.float32)) >= 0.5
            mask = coarse if coarse.any() else _halved(mask.astype(np.float32)) > 0
    return product


def _terms(have: Voxels, want: Voxels) -> tuple[Voxels, Voxels]:
    """Luminance, and contrast times structure, at each voxel."""

    def smooth(image: Voxels) -> Voxels:
        smoothed: Voxels = ndimage.gaussian_filter(image, SIGMA, truncate=TRUNCATE)
        return smoothed

    mean_have, mean_want = smooth(have), smooth(want)
    spread_have = smooth(have * have) - mean_have**2
    spread_want = smooth(want * want) - mean_want**2
    shared = smooth(have * want) - mean_have * mean_want
    c1, c2 = np.float32(0.01**2), np.float32(0.03**2)
    luminance: Voxels = (2 * mean_have * mean_want + c1) / (mean_have**2 + mean_want**2 + c1)
    structure: Voxels = (2 * shared + c2) / (spread_have + spread_want + c2)
    return luminance, structure


def _halved(image: Voxels) -> Voxels:
    """Mean over 2 x 2 x 2; the last plane of an odd axis is left out, an axis of one voxel stays."""
    for axis, size in enumerate(image.shape):
        if size > 1:
            even, odd = (np.take(image, range(start, size // 2 * 2, 2), axis=axis) for start in (0, 1))
            image = (even + odd) * np.float32(0.5)
    return image
