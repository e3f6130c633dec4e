"""Were scans copied? The nearest training scan of a sample, against that of people who were not in the training.

A generator can draw a training scan again, shifted, turned or mirrored as it saw it in training. So the correlation of
voxels is taken of either side, and of the nearest scans after an affine alignment.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.metrics.resampling import Estimate, interval

Array = npt.NDArray[Any]

QUANTILE = 0.95  # of held-out people's nearest correlation: what lies above counts as a copy
CANDIDATES = 3  # training scans of highest correlation that are aligned
STEPS, RATE = 40, 0.01  # of the alignment
AT_ONCE = 16  # pairs that are aligned together


class Nearest(NamedTuple):
    """The nearest training scans of a set of scans.

    Parameters
    ----------
    scan : (N,) number of the training scan
    mirrored : (N,) bool, whether its mirror image is the nearer one
    correlation : (N,) in [-1, 1] after alignment
    margin : (N,) how much the second nearest falls behind; 0 where there is none
    """

    scan: Array
    mirrored: Array
    correlation: Array
    margin: Array


class Copies(NamedTuple):
    """How many scans count as copies.

    Parameters
    ----------
    threshold : correlation above which a scan counts as a copy
    share : of the samples, in [0, 1], with its bootstrap interval
    share_held_out : of held-out people, who are no copies: what the threshold takes for copies by chance
    excess : share of the samples less that of held-out people
    """

    threshold: float
    share: Estimate
    share_held_out: float
    excess: Estimate


def correlations(volumes: Tensor, others: Tensor, mask: Tensor) -> Tensor:
    """Correlation of the voxels in a mask, every volume with every other one.

    Parameters
    ----------
    volumes, others : (N, X, Y, Z) and (M, X, Y, Z)
    mask : (X, Y, Z) bool

    Returns
    -------
    (N, M) in [-1, 1]; 0 for volumes without contrast
    """
    return _unit(volumes[:, mask]) @ _unit(others[:, mask]).T


def nearest(volumes: Tensor, training: Tensor, mask: Tensor, *, align: bool = True) -> Nearest:
    """The nearest training scan of each volume.

    The candidates of highest correlation, of either side, are aligned by an affine map of their own each; the one that
    correlates most afterwards is the nearest.

    Parameters
    ----------
    volumes : (N, X, Y, Z) float on the grid of the training scans
    training : (M, X, Y, Z) float; X runs from left to right
    mask : (X, Y, Z) bool, foreground
    align : whether to align; without, the correlation as they lie
    """
    mirrored_training = training.flip(1)
    # A mask that is its own mirror image, so that both sides are compared over the same voxels.
    mask = mask | mask.flip(0)
    plain, mirrored = correlations(volumes, training, mask), correlations(volumes, mirrored_training, mask)
    count = min(CANDIDATES, len(training))
    best, index = torch.maximum(plain, mirrored).topk(count, dim=1)
    side = mirrored.gather(1, index) > plain.gather(1, index)
    if align:
        rows = torch.arange(len(volumes)).repeat_interleave(count)
        flat, flipped = index.flatten(), side.flatten()
        aligned = []
        for part in torch.split(torch.arange(len(rows)), AT_ONCE):
            moving = torch.where(flipped[part, None, None, None], mirrored_training[flat[part]], training[flat[part]])
            aligned.append(aligned_correlations(moving, volumes[rows[part]], mask))
        best = torch.cat(aligned).reshape(len(volumes), count)
    order = best.argsort(dim=1, descending=True)
    best, index, side = (values.gather(1, order) for values in (best, index, side))
    margin = best[:, 0] - best[:, 1] if count > 1 else torch.zeros(len(volumes))
    return Nearest(index[:, 0].numpy(), side[:, 0].numpy(), best[:, 0].double().numpy(), margin.double().numpy())


def aligned_correlations(moving: Tensor, fixed: Tensor, mask: Tensor, steps: int = STEPS) -> Tensor:
    """Highest correlation of pairs of volumes along an affine alignment by gradient ascent, from no map on.

    Parameters
    ----------
    moving, fixed : (N, X, Y, Z)
    mask : (X, Y, Z) bool, voxels of the fixed ones that count
    steps : of Adam

    Returns
    -------
    (N,) at least the correlation without alignment
    """
    start = torch.eye(3, 4).expand(len(moving), 3, 4)
    change = torch.zeros(len(moving), 3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([change], RATE)
    target, best = _unit(fixed[:, mask]), torch.full((len(moving),), -1.0)
    for step in range(steps + 1):
        grid = F.affine_grid(start + change, [len(moving), 1, *moving.shape[1:]], align_corners=False)
        moved = F.grid_sample(moving[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
        correlation = (_unit(moved[:, 0][:, mask]) * target).sum(1)
        best = torch.maximum(best, correlation.detach())
        if step < steps:
            optimizer.zero_grad()
            (-correlation.sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return best


def copies(samples: Array, held_out: Array, generator: np.random.Generator, draws: int = 2000) -> Copies:
    """Share of samples that lie nearer to a training scan than nearly all held-out people do.

    Held-out people are no copies of anybody, so the 95th percentile of their nearest correlation says how near a new
    person may lie by chance; one in twenty of them lies above it. A set of samples with more than that above it holds
    scans that are nearer to training scans than new people are.

    Parameters
    ----------
    samples, held_out : (N,) and (M,) correlations with the nearest training scan
    generator : source of randomness
    draws : bootstrap samples of the intervals; both sets are drawn
    """
    threshold = float(np.quantile(held_out, QUANTILE))
    share, chance = float((samples > threshold).mean()), float((held_out > threshold).mean())
    some = samples[generator.integers(0, len(samples), (draws, len(samples)))]
    people = held_out[generator.integers(0, len(held_out), (draws, len(held_out)))]
    thresholds = np.quantile(people, QUANTILE, axis=1)[:, None]
    shares, chances = (some > thresholds).mean(1), (people > thresholds).mean(1)
    return Copies(threshold, interval(share, shares), chance, interval(share - chance, shares - chances))


def _unit(rows: Tensor) -> Tensor:
    """Rows of mean 0 and norm 1."""
    centred = rows - rows.mean(1, keepdim=True)
    unit: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return unit
