"""Run a chain over a whole observation: planes or volumes, tiles, air left out, results averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.degradations import Observation
from medldm.inference.conditioning import measured_channels, neighbours
from medldm.inference.device import PIXELS_AT_ONCE
from medldm.inference.networks import Networks
from medldm.inference.orientations import Orientation
from medldm.models.monai_parts import SlidingWindowInferer

Progress = Callable[[int, int, str], None]

MULTIPLE = 16  # grid axes are padded to this, so that every level of every network divides them
AIR = 0.02  # scaled intensity; planes that never exceed it are copied
MARGIN = 8  # voxels of air around what is restored; a multiple of the latent factor
COPIED_UP_TO = 64_000_000  # voxels of a stack whose planes are brought into one piece each


class SamplerConfig(NamedTuple):
    """How one restoration is drawn.

    Parameters
    ----------
    steps, fidelity : as in the settings
    seed : of the white noise; None for the conditional mean
    tile : edge of a tile, voxels
    device : torch device
    pixels : of planes that go through the networks at once
    """

    steps: int = 1
    fidelity: float = 1.0
    seed: int | None = None
    tile: int = 384
    device: str = "cpu"
    pixels: int = PIXELS_AT_ONCE


def estimate(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    orientations: Sequence[Orientation],
    sampling: SamplerConfig,
    told: Progress,
) -> Tensor:
    """The regression mean of an observation, averaged over all orientations; drawn once, however many samples follow.

    Parameters
    ----------
    networks : networks
    observation : (X, Y, Z) on the output grid
    sigma : scaled noise level, (X, Y, Z) or broadcastable
    orientations : orientations to average; a volume network uses the first
    sampling : tile, device
    told : progress, called with (done, total, what)

    Returns
    -------
    (X, Y, Z) float32
    """
    return _averaged(networks, observation, observation.y, [], sigma, orientations, sampling, told, networks.estimate)


def refine(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    orientations: Sequence[Orientation],
    sampling: SamplerConfig,
    regression: Tensor,
    told: Progress,
) -> Tensor:
    """One restoration from the regression mean, through flow and fusion decoder.

    Parameters
    ----------
    networks, observation, sigma, orientations, told : see `estimate`
    sampling : steps, fidelity, seed, tile, device; with a seed it is a sample and uses one of the looks, since an
        average of samples would be none
    regression : (X, Y, Z) from `estimate`

    Returns
    -------
    (X, Y, Z) float32
    """
    noise = []
    if sampling.seed is not None:
        orientations = [orientations[sampling.seed % len(orientations)]]
        noise = [torch.randn(regression.shape, generator=torch.Generator().manual_seed(sampling.seed))]
    channels = networks.config.measured_channels
    seen = networks.config.context if networks.config.spatial_dims == 2 else 1

    def predict(tile: Tensor) -> Tensor:
        inputs, regression_planes, drawn = (
            tile[:, :channels],
            tile[:, channels : channels + seen],
            tile[:, channels + seen :],
        )
        return networks.refine(inputs, regression_planes, drawn if noise else None, sampling.steps, sampling.fidelity)

    return _averaged(
        networks, observation, regression, [regression, *noise], sigma, orientations, sampling, told, predict
    )


def _averaged(
    networks: Networks,
    observation: Observation,
    base: Tensor,
    extras: list[Tensor],
    sigma: Tensor,
    orientations: Sequence[Orientation],
    sampling: SamplerConfig,
    told: Progress,
    predict: Callable[[Tensor], Tensor],
) -> Tensor:
    """(X, Y, Z) mean over orientations; `base` stays in air, `extras` are the regression mean and white noise."""
    y = observation.y
    orientations = orientations[:1] if networks.config.spatial_dims == 3 else orientations
    box = content_box(y)
    total = sum(
        orientation.to_planes(y)[tuple(box[a] for a in orientation.order)].shape[2] for orientation in orientations
    )
    done = 0
    if total:
        told(0, total, "planes")  # all checks are made, the network comes next: here a dry run ends
    mean: Tensor | None = None
    for orientation in orientations:
        at = tuple(box[a] for a in orientation.order)
        fields = [observation.y, observation.observed, sigma, *extras]
        stack = [_by_planes(orientation.to_planes(field.expand_as(y))[at]) for field in fields]
        stack[4:] = [smooth_along_stack(noise) for noise in stack[4:]]

        def count(planes: int) -> None:
            nonlocal done
            done += planes
            told(done, total, "planes")

        turned = orientation.to_planes(base)
        whole = _by_planes(turned)
        whole = whole.clone() if whole is turned else whole
        _one_orientation(networks, stack, observation.thickness, sampling, count, predict, into=whole[at])
        seen = orientation.from_planes(whole)
        # In place: a whole-body CT is a gigabyte, and every copy of it another.
        mean = seen if mean is None else mean.add_(seen)
    assert mean is not None
    return mean if len(orientations) == 1 else mean.div_(len(orientations))


def _one_orientation(
    networks: Networks,
    stack: list[Tensor],
    thickness: float,
    sampling: SamplerConfig,
    count: Callable[[int], None],
    predict: Callable[[Tensor], Tensor],
    into: Tensor,
) -> None:
    """Restore plane by plane, or as one volume, into (H, W, D); what holds nothing stays as it was."""
    flat = networks.config.spatial_dims == 2
    half, depth = networks.config.context // 2 if flat else 0, stack[0].shape[2]
    at_once = max(1, sampling.pixels // (stack[0].shape[0] * stack[0].shape[1])) if flat else depth
    for start in range(0, depth, at_once):
        stop = min(depth, start + at_once)
        chunk = [_beside(field, start - half, stop + half) for field in stack]
        # The outline of a head changes from plane to plane: a third of its bounding box is air.
        here = _outline((chunk[0] > AIR).any(2)) if flat else (slice(None), slice(None))
        grid = chunk[0][here].shape
        # Padded before neighbours become channels: there are twenty channels of three fields.
        y, observed, sigma, *extras = (_padded(field[here]) if flat else field for field in chunk)
        parts = [measured_channels(y, observed, sigma, thickness, networks.config, inner=True)]
        if extras and flat:
            regression, *noise = extras
            parts.append(neighbours(regression, networks.config.context, inner=True))
            parts += [each[..., half : half + stop - start].permute(2, 0, 1)[:, None] for each in noise]
        elif extras:
            parts += [each[None, None] for each in extras]
        channels = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        guess = infer(channels, sampling, predict)
        into[(*here, slice(start, stop))] = guess[:, 0, : grid[0], : grid[1]].permute(1, 2, 0) if flat else guess[0, 0]
        count(stop - start)


def _by_planes(stack: Tensor) -> Tensor:
    """The same stack (H, W, D) with each plane in one piece of memory, where that is no matter of gigabytes."""
    planes = stack.permute(2, 0, 1)
    if planes.is_contiguous() or 0 in stack.stride() or stack.numel() > COPIED_UP_TO:
        return stack
    return planes.contiguous().permute(1, 2, 0)


def _padded(stack: Tensor) -> Tensor:
    """Planes (H, W, D) whose edges are multiples of `MULTIPLE`, their border repeated."""
    bottom, right = ((-size) % MULTIPLE for size in stack.shape[:2])
    return F.pad(stack.permute(2, 0, 1), (0, right, 0, bottom), mode="replicate").permute(1, 2, 0)


def _beside(stack: Tensor, low: int, high: int) -> Tensor:
    """Planes `low` to `high` of a stack (H, W, D); beyond its ends the outermost are repeated."""
    depth = stack.shape[-1]
    if low >= 0 and high <= depth:
        return stack[..., low:high]
    return stack[..., torch.arange(low, high).clamp_(0, depth - 1)]


def infer(channels: Tensor, sampling: SamplerConfig, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """One batch through the networks, in tiles where it is larger than one.

    Parameters
    ----------
    channels : (B, C, ...)
    sampling : tile, device
    predict : (B, C, ...) channels of a tile to (B, 1, ...)

    Returns
    -------
    (B, 1, ...)
    """
    grid = channels.shape[2:]
    pads = [(-size) % MULTIPLE for size in grid]
    margins = [n for pad in reversed(pads) for n in (0, pad)]
    padded = (F.pad(channels, margins, mode="replicate") if any(pads) else channels).to(sampling.device)
    with torch.inference_mode():
        tile = max(MULTIPLE, sampling.tile // MULTIPLE * MULTIPLE)
        if all(size <= tile for size in padded.shape[2:]):
            guess = predict(padded)
        else:
            roi = [min(tile, size) for size in padded.shape[2:]]
            # MONAI rounds the stride down; half a voxel keeps it from the next lower number.
            overlap = [max(0.0, 1 - (stride_of(edge) + 0.5) / edge) for edge in roi]
            inferer = SlidingWindowInferer(roi, sw_batch_size=4, overlap=overlap, mode="gaussian")
            guess = inferer(padded, predict)
    assert isinstance(guess, Tensor)
    inside: tuple[Any, ...] = (..., *(slice(0, size) for size in grid))
    return guess[inside].float().cpu()


def stride_of(edge: int) -> int:
    """Voxels from one tile to the next: a quarter of them overlaps, or more, so that tiles share one latent grid.

    Parameters
    ----------
    edge : of a tile, a multiple of `MULTIPLE`

    Returns
    -------
    a multiple of `MULTIPLE`
    """
    return max(MULTIPLE, edge * 3 // 4 // MULTIPLE * MULTIPLE)


def content_box(y: Tensor) -> tuple[slice, slice, slice]:
    """The part of a volume that is not air, with a margin; the rest is copied, it holds nothing to restore.

    Parameters
    ----------
    y : (X, Y, Z) scaled intensity
    """
    filled = y > AIR
    return (*_outline(filled.any(2)), _extent(filled.any(0).any(0)))


def _outline(filled: Tensor) -> tuple[slice, slice]:
    """The box around what is True in a plane, (H, W)."""
    return _extent(filled.any(1)), _extent(filled.any(0))


def _extent(filled: Tensor) -> slice:
    """From the first to the last True of a line, with a margin; all of it where there is none."""
    at = torch.nonzero(filled).flatten()
    if len(at) == 0:
        return slice(0, len(filled))
    # Boxes begin on the latent grid, so that planes beside each other fold the same noise into a latent voxel.
    begin = max(0, int(at[0]) - MARGIN) // MARGIN * MARGIN
    return slice(begin, min(len(filled), int(at[-1]) + 1 + MARGIN))


def smooth_along_stack(noise: Tensor) -> Tensor:
    """White noise that neighbouring planes share in part, so that samples do not flicker through the stack.

    Parameters
    ----------
    noise : (H, W, D) standard normal

    Returns
    -------
    (H, W, D), standard normal in every voxel, correlated along D
    """
    if noise.shape[-1] < 5:
        return noise
    weights = torch.tensor([0.25, 0.7, 1.0, 0.7, 0.25])
    weights = weights / weights.pow(2).sum().sqrt()
    padded = torch.cat([noise[..., -2:], noise, noise[..., :2]], -1)
    shared = torch.zeros_like(noise)
    for offset, weight in enumerate(weights):
        shared += weight * padded[..., offset : offset + noise.shape[-1]]
    return shared
