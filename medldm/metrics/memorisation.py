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
CANDIDATES = 2  # training scans of highest correlation that are aligned
STEPS, RATE = 30, 0.01  # of the alignment
POINTS = 3000  # voxels that it takes
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
    """Highest correlation of pairs of volumes under an affine map, by gradient ascent from no map on.

    The ascent takes some voxels that are drawn with a seed, the result all of them.

    Parameters
    ----------
    moving, fixed : (N, X, Y, Z)
    mask : (X, Y, Z) bool, voxels of the fixed ones that count
    steps : of Adam

    Returns
    -------
    (N,) at least the correlation without alignment
    """
    sizes = torch.tensor(moving.shape[1:])
    # `grid_sample` counts the last axis first, from -1 to 1 between the middles of the outermost voxels.
    everywhere = (torch.nonzero(mask) / (sizes - 1).clamp_min(1) * 2 - 1).flip(1)
    order = torch.randperm(len(everywhere), generator=torch.Generator().manual_seed(0))[:POINTS]
    change = torch.zeros(len(moving), 4, 3, requires_grad=True)
    optimizer = torch.optim.Adam([change], RATE)

    def values(points: Tensor, change: Tensor) -> Tensor:
        places = (points + F.pad(points, (0, 1), value=1.0) @ change)[:, :, None, None]
        moved = F.grid_sample(moving[:, None], places, mode="bilinear", padding_mode="border", align_corners=True)
        return _unit(moved.flatten(1))

    target, points = fixed[:, mask], everywhere[order]
    some = _unit(target[:, order])
    for _ in range(steps):
        optimizer.zero_grad()
        (-(values(points, change) * some).sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        maps = torch.zeros_like(change), change
        both = [(values(everywhere, affine) * _unit(target)).sum(1) for affine in maps]
    return torch.maximum(*both)


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
