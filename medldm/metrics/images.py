"""How good is a restoration? Thin over scikit-image; scaled intensity, range fixed from the reference alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage
from skimage.metrics import normalized_mutual_information, structural_similarity

from medldm.data.volume import Voxels

Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
DETAIL_SIGMA = 1.0  # voxels; what a Gaussian of this width removes is called fine detail
WINDOW = 11  # voxels along the edge of the SSIM window: sigma 1.5, cut at 3.5 sigma


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


def mae(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Mean absolute error over a mask, in the unit of the images (CT: give HU).

    Parameters
    ----------
    guess, reference : (X, Y, Z)
    mask : (X, Y, Z) bool
    """
    return float(np.abs(guess[mask].astype(np.float64) - reference[mask]).mean())


def ssim(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Structural similarity with a 3D Gaussian window of sigma 1.5, range 1, averaged over a mask.

    Wang et al., IEEE Trans Image Process 13 (2004); scikit-image's implementation with its settings for that paper.
    Axes shorter than the window are mirrored out to it.

    Parameters
    ----------
    guess, reference : (X, Y, Z) scaled intensity
    mask : (X, Y, Z) bool
    """
    lacking = [(0, max(0, WINDOW - size)) for size in reference.shape]
    padded = [np.pad(image.astype(np.float32), lacking, mode="symmetric") for image in (reference, guess)]
    _, full = structural_similarity(
        *padded, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    return float(full[tuple(slice(0, size) for size in mask.shape)][mask].mean())


def nmi(guess: Voxels, reference: Voxels, mask: Mask) -> float:
    """Normalised mutual information over a mask: 1 for independent images, 2 for the same.

    Studholme et al., Pattern Recognit 32 (1999); scikit-image's implementation, 100 bins over [0, 1] for both.

    Parameters
    ----------
    guess, reference : (X, Y, Z) scaled intensity; what lies outside [0, 1] counts to the outermost bins
    mask : (X, Y, Z) bool
    """
    # The bins hang on the extremes of the data, so both ends are put in: equal bins for every method.
    ends = np.array([0.0, 1.0])
    have, want = (np.concatenate([ends, np.clip(image[mask], 0, 1)]) for image in (guess, reference))
    return float(normalized_mutual_information(want, have, bins=100))


def fine_detail(image: Voxels, axes: Sequence[int] = (0, 1, 2)) -> Voxels:
    """The image minus its Gaussian average of sigma 1 voxel along some axes: a high-pass filter.

    Half its height is reached at sqrt(ln 2 / 2) / pi = 0.19 cycles a voxel, so it shows structures of up to five
    voxels; it is the difference-of-Gaussians kin of the Laplacian of Gaussian in the high-frequency error norm
    (Ravishankar and Bresler, IEEE Trans Med Imaging 30, 2011). Where slices were lost, detail is lost along the slice
    axis alone: named there, it is not drowned by the detail that the planes still have.

    Parameters
    ----------
    image : (X, Y, Z)
    axes : along which detail is looked for

    Returns
    -------
    (X, Y, Z) float32
    """
    sigmas = [DETAIL_SIGMA if axis in axes else 0.0 for axis in range(image.ndim)]
    image = image.astype(np.float32)
    smooth: Voxels = ndimage.gaussian_filter(image, sigmas)
    return image - smooth


def _details(guess: Voxels, reference: Voxels, mask: Mask, axes: Sequence[int]) -> tuple[Voxels, Voxels]:
    return fine_detail(guess, axes)[mask], fine_detail(reference, axes)[mask]


def detail_energy_ratio(guess: Voxels, reference: Voxels, mask: Mask, axes: Sequence[int] = (0, 1, 2)) -> float:
    """Energy of the fine detail over that of the reference; 1 is right, less is blur, more is texture or noise.

    Parameters
    ----------
    guess, reference : (X, Y, Z)
    mask : (X, Y, Z) bool
    axes : see `fine_detail`
    """
    have, want = _details(guess, reference, mask, axes)
    energy = np.square(want, dtype=np.float64).sum()
    return float(np.square(have, dtype=np.float64).sum() / energy) if energy > 0 else math.nan


def detail_correlation(guess: Voxels, reference: Voxels, mask: Mask, axes: Sequence[int] = (0, 1, 2)) -> float:
    """Correlation of the fine detail with the reference's: whether it lies where it should.

    Parameters
    ----------
    guess, reference, mask, axes : see `detail_energy_ratio`
    """
    have, want = _details(guess, reference, mask, axes)
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
    return [float(error[number == index].mean()) if (number == index).any() else math.nan for index in range(bins)]


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
        lengths = [np.sqrt(np.square(layer).sum(0, keepdims=True)) + 1e-6 for layer in (have, want)]
        total += float(np.square(have / lengths[0] - want / lengths[1]).sum(0).mean())
        count += 1
    return total / max(1, count)
