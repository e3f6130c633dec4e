"""What noise and edges look like: power spectrum, edge response, and the jump from measured to filled slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from medldm.data.volume import Voxels
from medldm.metrics.images import Mask, fine_detail


def noise_spectrum(noise: Voxels, pixel_mm: float, bins: int = 20) -> tuple[Voxels, Voxels]:
    """Noise power spectrum of homogeneous squares, averaged over directions (IEC 61223-3-5; Siewerdsen, Med Phys 29).

    Parameters
    ----------
    noise : (N, S, S) noise of square regions, or of the same region in N slices; any unit u
    pixel_mm : edge of a pixel
    bins : from 0 to the Nyquist frequency

    Returns
    -------
    frequencies, 1/mm, and power, u^2 mm^2; integrated over the plane it gives the variance
    """
    size = noise.shape[-1]
    flat = noise - noise.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(flat)) ** 2).mean(0) * pixel_mm**2 / size**2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size, pixel_mm), np.fft.fftfreq(size, pixel_mm)))
    edges = np.linspace(0, 0.5 / pixel_mm, bins + 1)
    place = np.digitize(radius, edges) - 1
    inside = [place == index for index in range(bins)]
    mean = np.array([power[where].mean() if where.any() else np.nan for where in inside])
    return (edges[1:] + edges[:-1]) / 2, mean


def noise_frequency(noise: Voxels, pixel_mm: float) -> float:
    """Mean frequency of the noise power spectrum, 1/mm: low for the blotchy noise that denoisers leave.

    Parameters
    ----------
    noise, pixel_mm : see `noise_spectrum`
    """
    frequency, power = noise_spectrum(noise, pixel_mm)
    known = np.isfinite(power)
    total = float(power[known].sum())
    return float((frequency[known] * power[known]).sum() / total) if total > 0 else math.nan


def edge_width(image: Voxels, centre: Sequence[float], radius_mm: float, pixel_mm: float) -> float:
    """Width of a round edge, from 10 to 90 % of its height, averaged over angles and slices.

    As the task transfer function is measured on a rod (Richard et al., Med Phys 39, 2012): every pixel near the edge
    is one sample of the profile at its distance from the axis.

    Parameters
    ----------
    image : (X, Y, Z), slices along Z
    centre : of the rod, voxels along X and Y
    radius_mm : of the rod
    pixel_mm : edge of a pixel

    Returns
    -------
    mm; NaN where no edge is found
    """
    x, y = np.indices(image.shape[:2])
    distance = np.hypot(x - centre[0], y - centre[1]) * pixel_mm
    step = pixel_mm / 2
    edges = np.arange(max(0.0, radius_mm - 6 * pixel_mm), radius_mm + 6 * pixel_mm + step, step)
    place = np.digitize(distance, edges) - 1
    mean = image.mean(2)
    profile = np.array(
        [mean[place == index].mean() if (place == index).any() else np.nan for index in range(len(edges) - 1)]
    )
    at = (edges[1:] + edges[:-1]) / 2
    at, profile = at[np.isfinite(profile)], profile[np.isfinite(profile)]
    if len(profile) < 9:
        return math.nan
    low, high = np.mean(profile[-4:]), np.mean(profile[:4])
    if abs(high - low) < 1e-9:
        return math.nan
    height = np.minimum.accumulate((profile - low) / (high - low))
    crossing = [float(np.interp(-level, -height, at)) for level in (0.9, 0.1)]
    return crossing[1] - crossing[0]


def roughness_jump(image: Voxels, filled: Mask, axis: int, mask: Mask) -> float:
    """How rough filled slices are beside their measured neighbours: 1 is right, less shows as a smooth slice.

    Roughness is the robust spread (1.4826 MAD) of the fine detail in the plane; each filled slice that touches a
    measured one is compared with it.

    Parameters
    ----------
    image : (X, Y, Z) restored
    filled : (slices,) bool
    axis : slice axis
    mask : (X, Y, Z) bool, foreground

    Returns
    -------
    median ratio; NaN where no filled slice touches a measured one
    """
    planes = [a for a in range(3) if a != axis]
    detail, inside = np.moveaxis(fine_detail(image, planes), axis, 0), np.moveaxis(mask, axis, 0)
    ratios = []
    for here, beside in [(k, k + step) for k in np.flatnonzero(filled) for step in (-1, 1)]:
        if not 0 <= beside < len(filled) or filled[beside]:
            continue
        both = inside[here] & inside[beside]
        if both.sum() < 64:
            continue
        spreads = [float(ndimage.median(np.abs(detail[k] - np.median(detail[k][both])), both)) for k in (here, beside)]
        if spreads[1] > 0:
            ratios.append(spreads[0] / spreads[1])
    return float(np.median(ratios)) if ratios else math.nan
