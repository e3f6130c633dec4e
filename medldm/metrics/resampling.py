"""How large is a distance of two sets? Its bootstrap interval, and what chance alone gives between halves of one set.

The kernel distance is unbiased: between halves of one set it is 0 on average, above and below it by chance. The size
of what chance gives is therefore the mean of its absolute value over many random halves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medldm.metrics.generative import cubic_kernel, frechet_distance

Array = npt.NDArray[Any]

COVERED = 0.9  # of an interval
HALVES = 500  # random halves, of the kernel distance
FEWER_HALVES = 100  # of the Frechet distance, which takes longer


class Estimate(NamedTuple):
    """A number and its 90 % interval.

    Parameters
    ----------
    value, low, high : in the unit of the score
    """

    value: float
    low: float
    high: float


def mean_estimate(values: Array, generator: np.random.Generator, draws: int = 2000) -> Estimate:
    """Mean over scans and its bootstrap interval.

    Parameters
    ----------
    values : (N,)
    generator : source of randomness
    draws : bootstrap samples
    """
    values = np.asarray(values, dtype=np.float64)
    drawn = values[generator.integers(0, len(values), (draws, len(values)))].mean(1)
    return interval(float(values.mean()), drawn)


def interval(value: float, drawn: Array) -> Estimate:
    """A value with the 90 % in the middle of what was drawn."""
    low, high = np.quantile(drawn, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Estimate(value, float(low), float(high))


def bootstrapped_kernel_distance(
    ours: Array, real: Array, generator: np.random.Generator, *, independent: Array | None = None, draws: int = 1000
) -> Estimate:
    """Unbiased kernel distance of `medldm.metrics.kernel_distance`, with the bootstrap interval over scans.

    A scan that is drawn twice is never compared with itself: its kernel with itself is larger than with others, and the
    distance would be biased.

    Parameters
    ----------
    ours, real : (N, D) and (M, D)
    generator : source of randomness
    independent : (N, M) bool, pairs that have nothing in common; a scan and its own reconstruction are no such pair.
        All when not given
    draws : bootstrap samples
    """
    within = cubic_kernel(ours, ours), cubic_kernel(real, real)
    across = cubic_kernel(ours, real)
    counted = np.ones(across.shape) if independent is None else np.asarray(independent, dtype=np.float64)

    def distance(w: Array, v: Array) -> float:
        cross = (w @ (across * counted) @ v) / max(float(w @ counted @ v), 1e-12)
        return float(_off_diagonal(within[0], w) + _off_diagonal(within[1], v) - 2 * cross)

    sizes = [len(ours), len(real)]
    drawn = [
        distance(*(generator.multinomial(n, np.full(n, 1 / n)).astype(float) for n in sizes)) for _ in range(draws)
    ]
    return interval(distance(*(np.ones(n) for n in sizes)), np.array(drawn))


def kernel_distances_of_halves(real: Array, size: int, generator: np.random.Generator, splits: int = HALVES) -> Array:
    """Unbiased kernel distances between two random sets of `size` scans of one set, without common scans.

    Parameters
    ----------
    real : (N, D), N at least twice the size
    size : scans of a half, at least two
    generator : source of randomness
    splits : how many

    Returns
    -------
    (splits,)
    """
    kernel, distances = cubic_kernel(real, real), []
    ones = np.ones(size)
    for _ in range(splits):
        one, other = _halves(len(real), size, generator)
        within = sum(_off_diagonal(kernel[np.ix_(part, part)], ones) for part in (one, other))
        distances.append(within - 2 * kernel[np.ix_(one, other)].mean())
    return np.array(distances)


def frechet_distances(
    ours: Array | None,
    real: Array,
    size: int,
    generator: np.random.Generator,
    *,
    paired: bool = False,
    splits: int = FEWER_HALVES,
) -> Array:
    """Frechet distances between random sets of `size` scans: of two kinds, or two halves of the real ones.

    Its bias depends on the size of the sets, so that only distances of sets of one size can be compared.

    Parameters
    ----------
    ours : (N, D), N at least the size; None for halves of the real scans
    real : (M, D), M at least twice the size
    size : scans of a set, at least two
    generator : source of randomness
    paired : whether row i of ours was made of real scan i, so that they are never in opposite sets
    splits : how many

    Returns
    -------
    (splits,)
    """
    distances = []
    for _ in range(splits):
        one, other = _halves(len(real), size, generator)
        if ours is None:
            first = real[other]
        elif paired:
            first = ours[other]
        else:
            first = ours[generator.permutation(len(ours))[:size]]
        distances.append(frechet_distance(first, real[one]))
    return np.array(distances)


def principal_coordinates(*sets: Array) -> list[Array]:
    """Sets of features in the coordinates that they span together: distances stay, and there are fewer numbers.

    Parameters
    ----------
    sets : (N, D) each

    Returns
    -------
    (N, min(D, all scans)) of each
    """
    together = np.concatenate(sets).astype(np.float64)
    centred = together - together.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return np.split(left * values, np.cumsum([len(part) for part in sets])[:-1])


def _halves(count: int, size: int, generator: np.random.Generator) -> tuple[Array, Array]:
    order = generator.permutation(count)
    return order[:size], order[size : 2 * size]


def _off_diagonal(kernel: Array, weights: Array) -> float:
    """Weighted mean of a kernel over pairs of different scans."""
    squares = weights * weights
    pairs = float(weights.sum() ** 2 - squares.sum())
    return float((weights @ kernel @ weights - squares @ np.diag(kernel)) / max(pairs, 1e-12))
