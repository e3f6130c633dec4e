"""Run a chain over a whole observation: planes or volumes, tiles, air left out, results averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor
from torch.nn import functional as F

from medldm.chain import Chain
from medldm.degradations import Observation
from medldm.models.inputs import measured_channels

Progress = Callable[[int, int, str], None]

MULTIPLE = 16  # grid axes are padded to this, so that every level of every network divides them
AIR = 0.02  # scaled intensity; planes that never exceed it are copied
MARGIN = 8  # voxels of air around what is restored; a multiple of the latent factor
PIXELS_AT_ONCE = 400_000  # plane pixels per call of the network, keeps CPU memory under 4 GB


class Look(NamedTuple):
    """One way of looking at the volume.

    Parameters
    ----------
    order : axes of the volume that become (H, W, D); planes are (H, W), stacked along D
    """

    order: tuple[int, int, int]


class Drawing(NamedTuple):
    """How one restoration is drawn.

    Parameters
    ----------
    steps, fidelity : as in the settings
    seed : of the white noise; None for the conditional mean
    tile : edge of a tile, voxels
    device : torch device
    """

    steps: int = 1
    fidelity: float = 1.0
    seed: int | None = None
    tile: int = 384
    device: str = "cpu"


def looks(
    damaged: Sequence[int], in_plane: Sequence[int], shape: Sequence[int], spacing: Sequence[float]
) -> list[Look]:
    """The planes in which the damage shows.

    Parameters
    ----------
    damaged : axes along which slices are thick or missing; empty for noise and regions
    in_plane : axes that lost resolution in the planes
    shape : voxels
    spacing : mm

    Returns
    -------
    for noise and regions all three planes, of a thick-sliced scan its own planes only; for thick or missing slices
    the two planes that contain the slice axis
    """
    if damaged:
        axis = damaged[0]
        others = [a for a in range(3) if a != axis and shape[a] > 1]
        return [Look((axis, w, d)) for w, d in ((others[0], others[-1]), (others[-1], others[0])) if w != d] or [
            Look((axis, others[0], 3 - axis - others[0]))
        ]
    if in_plane:
        first = in_plane[0]
        second = in_plane[1] if len(in_plane) > 1 else next(a for a in range(3) if a != first)
        return [Look((first, second, 3 - first - second))]
    coarse = max(range(3), key=lambda a: spacing[a])
    thin = min(range(3), key=lambda a: shape[a])
    if shape[thin] < 8:
        coarse = thin
    elif spacing[coarse] <= 1.6 * min(spacing):
        return [Look((0, 1, 2)), Look((1, 2, 0)), Look((2, 0, 1))]
    rest = [a for a in range(3) if a != coarse]
    return [Look((rest[0], rest[1], coarse))]


def run_chain(
    chain: Chain, observation: Observation, sigma: Tensor, ways: Sequence[Look], drawing: Drawing, told: Progress
) -> Tensor:
    """Restore an observation once.

    Parameters
    ----------
    chain : networks
    observation : (X, Y, Z) on the output grid
    sigma : scaled noise level, (X, Y, Z) or broadcastable
    ways : looks to average; a volume network uses the first
    drawing : steps, fidelity, seed, tile, device
    told : progress, called with (done, total, what)

    Returns
    -------
    (X, Y, Z) float32
    """
    y = observation.y
    ways = ways[:1] if chain.shape.spatial_dims == 3 else ways
    white = None
    if drawing.seed is not None:
        white = torch.randn(y.shape, generator=torch.Generator().manual_seed(drawing.seed))
    box = content_box(y)
    total = sum(y.permute(way.order)[tuple(box[a] for a in way.order)].shape[2] for way in ways)
    done = 0
    summed = torch.zeros_like(y)
    for way in ways:
        at = tuple(box[a] for a in way.order)
        stack = [field.expand_as(y).permute(way.order)[at] for field in (y, observation.observed, sigma)]
        noise = None if white is None else smooth_along_stack(white.permute(way.order)[at])

        def count(planes: int) -> None:
            nonlocal done
            done += planes
            told(done, total, "planes")

        restored = _one_way(chain, stack, observation.thickness, noise, drawing, count)
        whole = y.permute(way.order).clone()
        whole[at] = restored
        back = [way.order.index(a) for a in range(3)]
        summed += whole.permute(back)
    return summed / len(ways)


def _one_way(
    chain: Chain,
    stack: list[Tensor],
    thickness: float,
    noise: Tensor | None,
    drawing: Drawing,
    count: Callable[[int], None],
) -> Tensor:
    """(H, W, D) restored plane by plane, or as one volume."""
    half = chain.shape.context // 2
    flat = chain.shape.spatial_dims == 2
    depth = stack[0].shape[2]
    at_once = max(1, PIXELS_AT_ONCE // (stack[0].shape[0] * stack[0].shape[1])) if flat else depth
    results = []
    for start in range(0, depth, at_once):
        stop = min(depth, start + at_once)
        low, high = max(0, start - half), min(depth, stop + half)
        # The outline of a head changes from plane to plane: a third of its bounding box is air.
        here = content_box(stack[0][..., low:high])[:2] if flat else (slice(None), slice(None))
        y, observed, sigma = (field[(*here, slice(low, high))] for field in stack)
        inputs = measured_channels(y, observed, sigma, thickness, chain.shape)
        if flat:
            inputs = inputs[start - low : inputs.shape[0] - (high - stop)]
        white = None
        if noise is not None:
            drawn = noise[(*here, slice(start, stop))]
            white = drawn.permute(2, 0, 1)[:, None] if flat else drawn[None, None]
        guess = infer(chain, inputs, white, drawing)
        restored = stack[0][..., start:stop].clone()
        restored[here] = guess[:, 0].permute(1, 2, 0) if flat else guess[0, 0]
        results.append(restored)
        count(stop - start)
    return torch.cat(results, 2)


def infer(chain: Chain, inputs: Tensor, white: Tensor | None, drawing: Drawing) -> Tensor:
    """One batch through the chain, in tiles where it is larger than one; see `run_chain`.

    Parameters
    ----------
    inputs : (B, C, ...)
    white : (B, 1, ...) or None

    Returns
    -------
    (B, 1, ...)
    """
    grid = inputs.shape[2:]
    stack = inputs if white is None else torch.cat([inputs, white], 1)
    pads = [(-size) % MULTIPLE for size in grid]
    stack = F.pad(stack, [n for pad in reversed(pads) for n in (0, pad)], mode="replicate").to(drawing.device)
    channels = inputs.shape[1]

    def predict(tile: Tensor) -> Tensor:
        drawn = tile[:, channels:] if white is not None else None
        return chain.restore(tile[:, :channels], drawn, drawing.steps, drawing.fidelity)

    with torch.inference_mode():
        tile = max(MULTIPLE, drawing.tile // MULTIPLE * MULTIPLE)
        if all(size <= tile for size in stack.shape[2:]):
            guess = predict(stack)
        else:
            # A quarter of overlap, blended; its stride stays a multiple of 16, so tiles share one latent grid.
            roi = [min(tile, size) for size in stack.shape[2:]]
            inferer = SlidingWindowInferer(roi, sw_batch_size=4, overlap=0.25, mode="gaussian")
            guess = inferer(stack, predict)
    assert isinstance(guess, Tensor)
    inside: tuple[Any, ...] = (..., *(slice(0, size) for size in grid))
    return guess[inside].float().cpu()


def content_box(y: Tensor) -> tuple[slice, slice, slice]:
    """The part of a volume that is not air, with a margin; the rest is copied, it holds nothing to restore.

    Parameters
    ----------
    y : (X, Y, Z) scaled intensity
    """
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        filled = torch.nonzero((y > AIR).any(others[1]).any(others[0])).flatten()
        if len(filled) == 0:
            return slice(0, y.shape[0]), slice(0, y.shape[1]), slice(0, y.shape[2])
        # Boxes begin on the latent grid, so that planes beside each other fold the same noise into a latent voxel.
        begin = max(0, int(filled[0]) - MARGIN) // MARGIN * MARGIN
        box.append(slice(begin, min(y.shape[axis], int(filled[-1]) + 1 + MARGIN)))
    return box[0], box[1], box[2]


def smooth_along_stack(white: Tensor) -> Tensor:
    """White noise that neighbouring planes share in part, so that samples do not flicker through the stack.

    Parameters
    ----------
    white : (H, W, D) standard normal

    Returns
    -------
    (H, W, D), standard normal in every voxel, correlated along D
    """
    if white.shape[-1] < 5:
        return white
    weights = torch.tensor([0.25, 0.7, 1.0, 0.7, 0.25])
    weights = weights / weights.pow(2).sum().sqrt()
    padded = torch.cat([white[..., -2:], white, white[..., :2]], -1)
    shared = torch.zeros_like(white)
    for offset, weight in enumerate(weights):
        shared += weight * padded[..., offset : offset + white.shape[-1]]
    return shared
