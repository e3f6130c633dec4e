"""Are samples drawn from what is possible? Scores of an ensemble, or of a Gaussian, against the one truth there is.

All scores are proper: on average they are smallest for the distribution that the truth comes from (Gneiting and
Raftery, J Am Stat Assoc 102, 2007). The fair versions do not depend on the number of samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[Any]


def fair_crps(samples: Array, truth: Array) -> Array:
    """Continuous ranked probability score of independent samples, corrected for their number.

    mean |x_i - y| - sum_{i<j} |x_i - x_j| / (K (K - 1)); Ferro, Q J R Meteorol Soc 140 (2014).

    Parameters
    ----------
    samples : (K, ...) independent samples, K > 1
    truth : (...)

    Returns
    -------
    (...) in the unit of the samples; smaller is better
    """
    samples, truth = _checked(samples, truth)
    count = len(samples)
    # In a sorted row the i-th value is the larger one of i pairs, and the smaller one of the others.
    larger = (2 * np.arange(count) - count + 1).reshape([-1] + [1] * truth.ndim)
    pairs = (larger * np.sort(samples, 0)).sum(0)
    score: Array = np.abs(samples - truth).mean(0) - pairs / (count * (count - 1))
    return score


def gaussian_crps(mean: Array, std: Array, truth: Array) -> Array:
    """The same score of a Gaussian, in closed form (Gneiting et al., Mon Weather Rev 133, 2005).

    Parameters
    ----------
    mean, std : (...) of the Gaussian, std > 0
    truth : (...)

    Returns
    -------
    (...) in the unit of `mean`
    """
    z = (np.asarray(truth, np.float64) - mean) / std
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    score: Array = std * (z * (2 * special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return score


def energy_score(samples: Array, truth: Array, where: Array | None = None, block: int = 4) -> float:
    """Energy score over cubes of voxels, mean over the cubes: whether voxels vary together as they should.

    mean |x_i - y| - sum_{i<j} |x_i - x_j| / (K (K - 1)) with the Euclidean norm over a cube; Gneiting and Raftery
    (2007), section 4.3, corrected for the number of samples as in `fair_crps`.

    Parameters
    ----------
    samples : (K, X, Y, Z) independent samples, K > 1
    truth : (X, Y, Z)
    where : (X, Y, Z) bool, voxels that count; cubes without any are left out. None for all
    block : edge of a cube, voxels; what is left at the ends of an axis is not scored

    Returns
    -------
    in the unit of the samples, times the root of the voxels of a cube; smaller is better
    """
    samples, truth = _checked(samples, truth)
    count = len(samples)
    counted = np.ones(truth.shape, dtype=bool) if where is None else where
    chosen = _squares(counted.astype(np.float64), block) > 0
    if not chosen.any():
        raise ValueError(f"no cube of {block} voxels holds a voxel to score")

    def distance(one: Array, other: Array) -> float:
        return float(np.sqrt(_squares((one - other) * counted, block)[chosen]).mean())

    error = sum(distance(sample, truth) for sample in samples) / count
    pairs = sum(distance(samples[i], samples[j]) for i in range(count) for j in range(i))
    return error - pairs / (count * (count - 1))


def gaussian_energy_score(
    mean: Array,
    std: Array,
    truth: Array,
    generator: np.random.Generator,
    where: Array | None = None,
    block: int = 4,
    count: int = 8,
) -> float:
    """Energy score of a Gaussian whose voxels are independent of each other, from draws.

    Parameters
    ----------
    mean, std : (X, Y, Z)
    truth, where, block : see `energy_score`
    generator : source of randomness
    count : draws
    """
    draws = mean + std * generator.standard_normal((count, *np.shape(truth)))
    return energy_score(draws, truth, where, block)


def rank_histogram(samples: Array, truth: Array, generator: np.random.Generator) -> Array:
    """How often the truth is larger than none of the samples, than one, than all: flat where samples are calibrated.

    Hamill, Mon Weather Rev 129 (2001): a U says too little spread, an arch too much, a slope a bias.

    Parameters
    ----------
    samples : (K, ...) independent samples
    truth : (...)
    generator : a truth that equals samples gets one of their ranks at random

    Returns
    -------
    (K + 1,) shares that sum to 1
    """
    samples, truth = _checked(samples, truth)
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    ranks = below + generator.integers(0, equal + 1)
    counts = np.bincount(ranks.ravel(), minlength=len(samples) + 1)
    shares: Array = counts / counts.sum()
    return shares


def spread_to_error(samples: Array, mean: Array, truth: Array) -> float:
    """Standard deviation of independent samples over the error of the conditional mean: 1 where they are calibrated.

    Fortin et al., J Hydrometeorol 15 (2014): variances are averaged, then the root is taken.

    Parameters
    ----------
    samples : (K, ...), K > 1
    mean : (...) what is taken for the conditional mean
    truth : (...)
    """
    samples, truth = _checked(samples, truth)
    error = float(np.square(mean - truth).mean())
    return math.sqrt(float(samples.var(0, ddof=1).mean()) / error) if error > 0 else math.nan


def _checked(samples: Array, truth: Array) -> tuple[Array, Array]:
    samples, truth = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    if samples.shape[1:] != truth.shape or len(samples) < 2:
        raise ValueError(f"samples are (K, ...) with K > 1 of a truth (...), not {samples.shape} of {truth.shape}")
    return samples, truth


def _squares(field: Array, block: int) -> Array:
    """Sum of squares over cubes of voxels, (X / block, Y / block, Z / block)."""
    sizes = [size // block for size in field.shape]
    whole = field[tuple(slice(0, size * block) for size in sizes)]
    split = whole.reshape([part for size in sizes for part in (size, block)])
    squares: Array = np.square(split).sum(tuple(range(1, 2 * field.ndim, 2)))
    return squares
