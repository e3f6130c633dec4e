"""Denoisers of other packages, asked only where they are installed (`pip install 'medldm[baselines]'`).

BM4D's licence allows non-commercial use only, which is why none of this is a dependency.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from medldm.data.volume import Voxels

NODES = 48  # of the quadrature along each part of the complex noise
STEPS = 400  # of the table of Rician means


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def dipy_nlm(noisy: Voxels, sigma: float, family: str) -> Voxels:
    """Blockwise non-local means with the Rician correction of DIPY (Coupe et al., IEEE Trans Med Imaging 27, 2008)."""
    nlmeans: Any = importlib.import_module("dipy.denoise.nlmeans").nlmeans
    smooth: Voxels = nlmeans(
        noisy.astype(np.float64), sigma, rician=family == "rician", patch_radius=1, block_radius=5, num_threads=None
    )
    return smooth.astype(np.float32)


def ants_denoise(noisy: Voxels, sigma: float, family: str) -> Voxels:
    """DenoiseImage of ANTs (Manjon et al., J Magn Reson Imaging 31, 2010); it estimates the noise itself."""
    ants: Any = importlib.import_module("ants")
    image = ants.from_numpy(np.ascontiguousarray(noisy, dtype=np.float32))
    smooth: Voxels = ants.denoise_image(image, noise_model=family.capitalize()).numpy()
    return smooth.astype(np.float32)


def bm4d_plain(noisy: Voxels, sigma: float, family: str) -> Voxels:
    """BM4D (Maggioni et al., IEEE Trans Image Process 22, 2013), as if the noise were Gaussian."""
    bm4d: Any = importlib.import_module("bm4d").bm4d
    smooth: Voxels = bm4d(noisy.astype(np.float64), sigma)
    return smooth.astype(np.float32)


def bm4d_unbiased(noisy: Voxels, sigma: float, family: str) -> Voxels:
    """BM4D; then the magnitude whose Rician mean is what came out (Koay and Basser, J Magn Reson 179, 2006)."""
    if family != "rician":
        return bm4d_plain(noisy, sigma, family)
    truth, mean, _ = rician_moments()
    magnitudes = bm4d_plain(noisy, sigma, family) / sigma
    return _from_mean(magnitudes, truth, mean, sigma)


def bm4d_stabilised(noisy: Voxels, sigma: float, family: str) -> Voxels:
    """BM4D between a variance-stabilising transform and its exact unbiased inverse (Foi, ISBI 2011).

    The transform is f(m) = integral of 1 / std(M | mean m), so that noise has standard deviation 1 everywhere to first
    order; the inverse is taken of E[f(M)], by quadrature.
    """
    if family != "rician":
        return bm4d_plain(noisy, sigma, family)
    truth, mean, spread = rician_moments()
    knots = np.concatenate([[0.0], mean])
    slope = 1 / np.concatenate([spread[:1], spread])
    values = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (slope[1:] + slope[:-1]) / 2)])

    def stabilise(magnitude: Voxels) -> Voxels:
        # Far above the table the spread is 1: the transform goes on as a straight line.
        beyond: Voxels = np.interp(magnitude, knots, values) + np.maximum(magnitude - knots[-1], 0)
        return beyond

    expected = np.array([np.sum(_weights() * stabilise(_magnitudes(float(nu)))) for nu in truth])
    stable = bm4d_plain(stabilise(noisy / sigma), 1.0, family)
    return _from_mean(stable, truth, expected, sigma)


@lru_cache
def rician_moments() -> tuple[Voxels, Voxels, Voxels]:
    """Noiseless magnitudes in units of sigma, and mean and standard deviation of what is measured of each."""
    truth = np.concatenate([np.linspace(0, 8, STEPS), np.geomspace(8.02, 400, STEPS)])
    mean, spread = [], []
    for nu in truth:
        magnitude = _magnitudes(float(nu))
        middle = np.sum(_weights() * magnitude)
        mean.append(middle)
        spread.append(np.sqrt(np.sum(_weights() * (magnitude - middle) ** 2)))
    return truth, np.array(mean), np.array(spread)


def _magnitudes(nu: float) -> Voxels:
    nodes, _ = np.polynomial.hermite_e.hermegauss(NODES)
    magnitudes: Voxels = np.hypot(nu + nodes[:, None], nodes[None, :])
    return magnitudes


@lru_cache
def _weights() -> Voxels:
    _, weights = np.polynomial.hermite_e.hermegauss(NODES)
    both: Voxels = np.outer(weights, weights) / (2 * np.pi)
    return both


def _from_mean(values: Voxels, truth: Voxels, expected: Voxels, sigma: float) -> Voxels:
    """The noiseless magnitude whose expected value is given, stored back in units of the image."""
    inside = np.interp(values, expected, truth)
    beyond = np.where(values > expected[-1], values - expected[-1], 0)
    return ((inside + beyond) * sigma).astype(np.float32)


OPTIONAL: dict[str, Callable[[Voxels, float, str], Voxels]] = {
    "dipy-nlm": dipy_nlm,
    "ants": ants_denoise,
    "bm4d": bm4d_plain,
    "bm4d-unbiased": bm4d_unbiased,
    "bm4d-stabilised": bm4d_stabilised,
}
NEEDS = {"dipy-nlm": "dipy", "ants": "ants", "bm4d": "bm4d", "bm4d-unbiased": "bm4d", "bm4d-stabilised": "bm4d"}
# Named by the protocol, and run nowhere yet: they stand in the table as what they are.
UNAVAILABLE = {
    "eclare": "it trains a network for each scan, hours on a CPU; no interface to it yet",
    "synthsr": "it comes as a part of FreeSurfer, with networks that are downloaded; no interface to it yet",
}
