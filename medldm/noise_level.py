"""How noisy is a scan? Published estimators, and honesty about when they cannot know.

The main estimate is the median absolute deviation (Donoho and Johnstone, Biometrika 81, 1994) of a second
difference along every well-sampled axis (Immerkaer, CVIU 64, 1996; its 3D form leaves almost no anatomy behind),
over the foreground, corrected for the narrowing of Rician noise at low signal (Koay and Basser, J Magn Reson 179,
2006). Where the background was left as measured, its Rayleigh median gives a second opinion (Sijbers et al.,
Phys Med Biol 52, 2007).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import ive

from medldm.intensity import foreground_mask, mri_scaling
from medldm.volume import Voxels

MAD_TO_SIGMA = 1 / 0.674490  # of a normal distribution
RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))
SOFT_TISSUE_HU = (-50.0, 150.0)
SECOND_DIFFERENCE = np.array([1.0, -2.0, 1.0]) / math.sqrt(6)  # keeps the variance of white noise


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise of one scan.

    Parameters
    ----------
    sigma : standard deviation, stored units (CT: HU)
    level : the number that ``--noise`` takes: MRI a fraction of the 99.5th foreground percentile, CT HU
    unit : of `level`, in words
    reliable : False when the estimate should not be trusted blindly
    reasons : why not
    """

    sigma: float
    level: float
    unit: str
    reliable: bool
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        number = f"{100 * self.level:.1f} % of p99.5" if self.unit != "HU" else f"{self.level:.0f} HU"
        return number if self.reliable else f"{number} (unreliable: {'; '.join(self.reasons)})"


def estimate_noise(
    voxels: Voxels, spacing: tuple[float, float, float] = (1, 1, 1), modality: str = "mr"
) -> NoiseEstimate:
    """Noise level of a scan.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units; NaN where nothing was measured
    spacing : mm; axes much coarser than the finest are not differentiated along
    modality : ``"mr"`` (Rician) or ``"ct"`` (Gaussian, in soft tissue)
    """
    image = np.nan_to_num(np.asarray(voxels, dtype=np.float32))
    tissue = _tissue(voxels, modality)
    if tissue.sum() < 200:
        return NoiseEstimate(0.0, 0.0, "HU" if modality == "ct" else "fraction", False, ("too few tissue voxels",))
    axes = fine_axes(image.shape, spacing)
    inner = ndimage.binary_erosion(tissue, iterations=2)
    inner = inner if inner.sum() >= 200 else tissue
    sigma = _mad(second_difference(image, axes)[inner])
    reasons = []
    coarse = _mad(second_difference(image, axes, lag=2)[inner])
    if coarse > 1.6 * sigma:
        reasons.append("the noise is spatially correlated, or hidden by anatomy")
    if modality == "ct":
        return NoiseEstimate(sigma, sigma, "HU", not reasons, tuple(reasons))
    sigma = rician_correction(float(np.median(image[inner])), sigma)
    unit = mri_scaling(voxels).unit
    reasons += _background_opinion(voxels, tissue, sigma)
    return NoiseEstimate(sigma, sigma / unit, "fraction", not reasons, tuple(reasons))


def noise_map(
    voxels: Voxels, spacing: tuple[float, float, float] = (1, 1, 1), modality: str = "mr", reach_mm: float = 15.0
) -> Voxels:
    """Noise level at each voxel, smooth, for parallel imaging.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units
    spacing : mm
    reach_mm : neighbourhood that one value is averaged over

    Returns
    -------
    (X, Y, Z) float32, standard deviation in stored units
    """
    image = np.nan_to_num(np.asarray(voxels, dtype=np.float32))
    tissue = _tissue(voxels, modality)
    difference = np.abs(second_difference(image, fine_axes(image.shape, spacing)))
    typical = float(np.median(difference[tissue])) if tissue.any() else 0.0
    # Edges are not noise: what is far larger than the typical difference is cut.
    difference = np.minimum(difference, 4 * typical) * tissue
    size = [max(1, round(reach_mm / mm)) for mm in spacing]
    total = ndimage.gaussian_filter(difference, size, mode="nearest", truncate=2.0)
    weight = ndimage.gaussian_filter(tissue.astype(np.float32), size, mode="nearest", truncate=2.0)
    overall = float(difference[tissue].mean()) if tissue.any() else 0.0
    local = (total + 0.02 * overall) / (weight + 0.02)
    scale = estimate_noise(voxels, spacing, modality).sigma
    mapped: Voxels = (local / max(float(np.median(local[tissue])), 1e-12) * scale).astype(np.float32)
    return mapped


def fine_axes(shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Axes along which neighbours show the same tissue: long enough, and at most 1.6 times the finest spacing."""
    finest = min(mm for mm, count in zip(spacing, shape, strict=True) if count > 4) if max(shape) > 4 else min(spacing)
    return tuple(axis for axis in range(3) if shape[axis] > 4 and spacing[axis] <= 1.6 * finest)


def second_difference(image: Voxels, axes: tuple[int, ...], lag: int = 1) -> Voxels:
    """Second difference along each of `axes`; white noise keeps its standard deviation.

    Parameters
    ----------
    image : (X, Y, Z)
    axes : which
    lag : distance of the neighbours, voxels
    """
    kernel = np.zeros(2 * lag + 1)
    kernel[[0, lag, -1]] = SECOND_DIFFERENCE
    for axis in axes:
        image = ndimage.convolve1d(image, kernel, axis=axis, mode="reflect")
    return image


def rician_correction(signal: float, measured: float) -> float:
    """Gaussian sigma behind the standard deviation of Rician magnitudes (Koay and Basser 2006, fixed point).

    Parameters
    ----------
    signal : typical magnitude of the tissue
    measured : standard deviation of its magnitudes
    """
    if measured <= 0:
        return 0.0
    sigma = measured
    for _ in range(20):
        ratio = max(signal**2 / sigma**2 - 2, 0.0) ** 0.5
        sigma = measured / math.sqrt(max(_variance_share(ratio), 0.429))
    return sigma


def _variance_share(snr: float) -> float:
    # Variance of a Rician variable with sigma 1; ive() is the exponentially scaled Bessel function.
    half = snr**2 / 4
    mean = math.sqrt(math.pi / 2) * ((1 + 2 * half) * ive(0, half) + 2 * half * ive(1, half))
    return float(2 + snr**2 - mean**2)


def _tissue(voxels: Voxels, modality: str) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    if modality == "ct":
        smooth = ndimage.uniform_filter(np.nan_to_num(np.asarray(voxels, dtype=np.float32), nan=-1000.0), 3)
        inside: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1])
        return inside
    return foreground_mask(voxels)


def _mad(values: Voxels) -> float:
    return float(np.median(np.abs(values))) * MAD_TO_SIGMA


def _background_opinion(voxels: Voxels, tissue: Voxels, sigma: float) -> list[str]:
    image = np.nan_to_num(np.asarray(voxels, dtype=np.float32))
    air = ~ndimage.binary_dilation(tissue, iterations=6)
    if air.sum() < 2000:
        return []
    values = image[air]
    if (values == 0).mean() > 0.3:
        return ["the background is zeroed"]
    opinion = float(np.median(values)) / RAYLEIGH_MEDIAN
    # Parallel imaging and filters make air quieter than tissue; twofold is more than they do.
    return ["background and tissue disagree"] if not 0.5 < opinion / max(sigma, 1e-9) < 2 else []
