"""What scans show: numbers by ridge regression, classes by logistic regression, sizes of tissue classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import special

Array = npt.NDArray[Any]
Predictor = Callable[[Array], Array]

RIDGES = np.logspace(-4, 3, 15)  # over the mean of the squared singular values
DECAYS = np.logspace(-4, 1, 6)  # of the logistic regression
FOLDS = 5
BINS, ROUNDS = 256, 200  # of the mixture of Gaussians
SETTLED = 1e-5  # change of a share, after which it is taken as it is


def ridge_regression(features: Array, values: Array) -> Predictor:
    """Ridge regression; its strength has the least leave-one-out error, which is known in closed form.

    Golub, Heath and Wahba, Technometrics 21 (1979).

    Parameters
    ----------
    features : (N, D)
    values : (N,)

    Returns
    -------
    function of (M, D) features to (M,) values
    """
    centre, mean = features.mean(0), float(np.mean(values))
    left, sizes, right = np.linalg.svd(features - centre, full_matrices=False)
    squares, scores = sizes**2, left.T @ (values - mean)

    def error(ridge: float) -> float:
        shrunk = squares / (squares + ridge)
        leverage = (left**2 * shrunk).sum(1) + 1 / len(values)
        missed = (values - mean - left @ (shrunk * scores)) / np.maximum(1 - leverage, 1e-6)
        return float(np.square(missed).mean())

    ridge = min(RIDGES * max(float(squares.mean()), 1e-12), key=error)
    weights = right.T @ (sizes / (squares + ridge) * scores)

    def predict(others: Array) -> Array:
        predicted: Array = (others - centre) @ weights + mean
        return predicted

    return predict


def logistic_regression(features: Array, classes: Array, seed: int = 0) -> Predictor:
    """Multinomial logistic regression; its weight decay has the least cross-validated loss.

    Parameters
    ----------
    features : (N, D)
    classes : (N,) integers from 0 on
    seed : of the folds

    Returns
    -------
    function of (M, D) features to (M, classes) probabilities
    """
    centre = features.mean(0)
    # Rotated into the space of the scans: the same regression with fewer numbers.
    left, sizes, right = np.linalg.svd(features - centre, full_matrices=False)
    scale = max(float(sizes[0]) / np.sqrt(len(features)), 1e-12)
    inputs, basis = left * sizes / scale, right.T / scale
    count = int(classes.max()) + 1
    fold = np.random.default_rng(seed).permutation(len(classes)) % FOLDS

    def loss(decay: float) -> float:
        losses = []
        for number in range(min(FOLDS, len(classes))):
            held_out = fold == number
            weights = _fit(inputs[~held_out], classes[~held_out], count, decay)
            chances = _softmax(inputs[held_out], weights)
            losses.append(-np.log(chances[np.arange(held_out.sum()), classes[held_out]] + 1e-12))
        return float(np.concatenate(losses).mean())

    weights = _fit(inputs, classes, count, min(DECAYS, key=loss))

    def predict(others: Array) -> Array:
        return _softmax((others - centre) @ basis, weights)

    return predict


def tissue_shares(intensities: Array, classes: int = 3) -> tuple[Array, Array]:
    """Shares of tissue classes by a mixture of Gaussians of intensity (expectation maximisation on a histogram).

    Darkest class first; it takes no neighbours into account. Starts at equal parts of the voxels.

    Parameters
    ----------
    intensities : (N,) voxels of the foreground
    classes : how many

    Returns
    -------
    (classes,) mean intensities, (classes,) shares that sum to 1
    """
    values = np.asarray(intensities, dtype=np.float64)
    counts, edges = np.histogram(values, BINS)
    middles, counts = (edges[1:] + edges[:-1]) / 2, counts / max(len(values), 1)
    parts = [part.mean() for part in np.array_split(np.sort(values), classes)]
    means, narrowest = np.array(parts), max(float(edges[1] - edges[0]), 1e-6)
    spreads = np.full(classes, max(float(values.std()) / classes, narrowest))
    shares = np.full(classes, 1 / classes)
    for _ in range(ROUNDS):
        logs = -0.5 * ((middles[:, None] - means) / spreads) ** 2 - np.log(spreads) + np.log(shares + 1e-12)
        chances = np.exp(logs - logs.max(1, keepdims=True))
        chances *= counts[:, None] / chances.sum(1, keepdims=True)
        before, shares = shares, chances.sum(0)
        if np.abs(shares - before).max() < SETTLED:
            break
        safe = np.maximum(shares, 1e-12)
        means = (chances * middles[:, None]).sum(0) / safe
        spreads = np.maximum(np.sqrt((chances * (middles[:, None] - means) ** 2).sum(0) / safe), narrowest)
    order = np.argsort(means)
    return means[order], shares[order]


def _fit(inputs: Array, classes: Array, count: int, decay: float) -> Array:
    """(D + 1, classes) weights, the last row a constant that is not decayed."""
    x = torch.from_numpy(np.column_stack([inputs, np.ones(len(inputs))]))
    y = torch.from_numpy(np.asarray(classes, dtype=np.int64))
    weights = torch.zeros(x.shape[1], count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weights, y) + decay * (weights[:-1] ** 2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted: Array = weights.detach().numpy()
    return fitted


def _softmax(inputs: Array, weights: Array) -> Array:
    chances: Array = special.softmax(inputs @ weights[:-1] + weights[-1], axis=1)
    return chances
