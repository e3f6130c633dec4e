"""How good is a restoration? Thin over scikit-image; scaled intensity, range fixed from the reference alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

from medldm.volume import Voxels

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
DETAIL_SIGMA = 1.0  # voxels; what a Gaussian of this width removes is called fine detail


def psnr(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Peak signal-to-noise ratio, range 1, over a mask.

    Parameters
    ----------
    guess, reference : (X, Y, Z) scaled intensity
    mask : (X, Y, Z) bool

    Returns
    -------
    dB; infinite for equal images
    """
    error = float(np.square(guess[mask].astype(np.float64) - reference[mask]).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Structural similarity with a 3D Gaussian window of sigma 1.5, range 1, averaged over a mask.

    Wang et al., IEEE Trans Image Process 13 (2004); scikit-image's implementation with its settings for that paper.

    Parameters
    ----------
    guess, reference : (X, Y, Z) scaled intensity, at least 11 voxels along each axis
    mask : (X, Y, Z) bool
    """
    _, full = structural_similarity(
        reference.astype(np.float32), guess.astype(np.float32), data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    return float(full[mask].mean())


def fine_detail(image: Voxels) -> Voxels:
    """The image minus its Gaussian average of sigma 1 voxel, (X, Y, Z)."""
    smooth: Voxels = image - ndimage.gaussian_filter(image.astype(np.float32), DETAIL_SIGMA)
    return smooth


def detail_energy_ratio(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Energy of the fine detail over that of the reference; 1 is right, less is blur, more is texture or noise.

    Parameters
    ----------
    guess, reference : (X, Y, Z)
    mask : (X, Y, Z) bool
    """
    have, want = fine_detail(guess)[mask], fine_detail(reference)[mask]
    return float(np.square(have).sum() / max(float(np.square(want).sum()), 1e-12))


def detail_correlation(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Correlation of the fine detail with the reference's: whether it lies where it should.

    Parameters
    ----------
    guess, reference : (X, Y, Z)
    mask : (X, Y, Z) bool
    """
    have, want = fine_detail(guess)[mask], fine_detail(reference)[mask]
    if have.std() < 1e-9 or want.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(have, want)[0, 1])


def bias_by_intensity(guess: Voxels, reference: Voxels, mask: Mask, bins: int = 5) -> list[float]:
    """Mean signed error in equal intensity bins of the reference, darkest first; NaN for an empty bin.

    Parameters
    ----------
    guess, reference : (X, Y, Z) scaled intensity
    mask : (X, Y, Z) bool
    bins : equal parts of [0, 1]
    """
    number = np.clip((reference[mask] * bins).astype(int), 0, bins - 1)
    error = guess[mask].astype(np.float64) - reference[mask]
    return [float(error[number == each].mean()) if (number == each).any() else math.nan for each in range(bins)]


def feature_distance(features: Callable[[Voxels], Sequence[Voxels]], guess: Voxels, reference: Voxels) -> float:
    """Perceptual distance on the features of some network: mean squared difference of unit-length feature vectors.

    As LPIPS (Zhang et al., CVPR 2018) without its learned weights. The network must be named beside the number.

    Parameters
    ----------
    features : image (X, Y, Z) to a list of activations, channels first
    guess, reference : (X, Y, Z)
    """
    total, count = 0.0, 0
    for have, want in zip(features(guess), features(reference), strict=True):
        lengths = [np.sqrt(np.square(each).sum(0, keepdims=True)) + 1e-6 for each in (have, want)]
        total += float(np.square(have / lengths[0] - want / lengths[1]).sum(0).mean())
        count += 1
    return total / max(1, count)
