"""Sets of images against sets of images, from arrays of features; whose features they are stands beside the number.

With tens of subjects the Frechet distance is mostly noise, and biased; the kernel distance is unbiased. Both are
indicative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
    centred = [(features - features.mean(0)) / np.sqrt(len(features) - 1) for features in (ours, real)]
    # With C1 = A'A and C2 = B'B the trace of the root is the sum of the singular values of A B'. With A = QR they are
    # those of R1 R2', which stays small with fewer images than features and with fewer features than images.
    first, second = (np.asarray(np.linalg.qr(features, mode="r")) for features in centred)
    cross = float(np.linalg.svd(first @ second.T, compute_uv=False).sum())
    return float(gap @ gap + sum(float(np.square(features).sum()) for features in centred) - 2 * cross)


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
    return float(_mean_off_diagonal(cubic_kernel(ours, ours)) + _mean_off_diagonal(cubic_kernel(real, real))
                 - 2 * cubic_kernel(ours, real).mean())  # fmt: skip


def cubic_kernel(one: Features, other: Features) -> Features:
    """(N, M) kernel (x y / D + 1)^3 of two sets of features, (N, D) and (M, D)."""
    kernel: Features = (one @ other.T / one.shape[1] + 1) ** 3
    return kernel


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


def _mean_off_diagonal(kernel: Features) -> float:
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))
