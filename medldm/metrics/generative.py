"""Sets of images against sets of images, from arrays of features; whose features they are stands beside the number.

With tens of subjects the Frechet distance is mostly noise, and biased; the kernel distance is unbiased. Both are
indicative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

Features = npt.NDArray[Any]


def frechet_distance(ours: Features, real: Features) -> float:
    """Frechet distance of the Gaussians through two sets of features (Heusel et al., NeurIPS 2017).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    Parameters
    ----------
    ours, real : (N, D) and (M, D), at least two each

    Returns
    -------
    0 for equal Gaussians
    """
    ours, real = _checked(ours, real)
    gap = ours.mean(0) - real.mean(0)
    first, second = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (ours, real))
    # C1 C2 has the eigenvalues of C2^(1/2) C1 C2^(1/2), which is symmetric: fewer features than images do no harm.
    root = linalg.sqrtm(_regular(second)).real
    cross = linalg.sqrtm(_regular(root @ first @ root)).real
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * np.trace(cross))


def kernel_distance(ours: Features, real: Features) -> float:
    """Kernel distance: unbiased squared maximum mean discrepancy, kernel (x y / D + 1)^3 (Binkowski et al., ICLR 2018).

    Parameters
    ----------
    ours, real : (N, D) and (M, D), at least two each

    Returns
    -------
    0 on average for sets of one kind; may be negative
    """
    ours, real = _checked(ours, real)
    return float(_mean_off_diagonal(_cubic(ours, ours)) + _mean_off_diagonal(_cubic(real, real))
                 - 2 * _cubic(ours, real).mean())  # fmt: skip


def inception_score(chances: Features) -> float:
    """Exponential of the mean divergence of each image's classes from those of all (Salimans et al., NeurIPS 2016).

    Parameters
    ----------
    chances : (N, classes), rows sum to 1

    Returns
    -------
    1 for images of which nothing is known or which are all of one class, up to the number of classes
    """
    chances = np.asarray(chances, dtype=np.float64)
    if chances.ndim != 2 or not np.allclose(chances.sum(1), 1, atol=1e-3):
        raise ValueError("an inception score is taken of class probabilities, (images, classes), that sum to 1")
    mean_chances = chances.mean(0)
    ratio = np.divide(chances, mean_chances, out=np.ones_like(chances), where=chances > 0)
    return float(np.exp((chances * np.log(ratio)).sum(1).mean()))


def _checked(ours: Features, real: Features) -> tuple[Features, Features]:
    ours, real = np.asarray(ours, dtype=np.float64), np.asarray(real, dtype=np.float64)
    if ours.ndim != 2 or real.ndim != 2 or ours.shape[1] != real.shape[1] or min(len(ours), len(real)) < 2:
        raise ValueError(f"two sets of features are (N, D) and (M, D) with N, M > 1, not {ours.shape} and {real.shape}")
    return ours, real


def _regular(matrix: Features) -> Features:
    """With a ridge far below its size, so that a square root of a singular matrix exists."""
    size = max(float(np.trace(matrix)) / len(matrix), 1e-300)
    return matrix + 1e-12 * size * np.eye(len(matrix))


def _cubic(one: Features, other: Features) -> Features:
    kernel: Features = (one @ other.T / one.shape[1] + 1) ** 3
    return kernel


def _mean_off_diagonal(kernel: Features) -> float:
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
