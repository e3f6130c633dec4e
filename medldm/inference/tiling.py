"""Restore a whole observation: planes or volumes, in tiles, air left out, averaged over orientations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.degradations import Observation
from medldm.inference.conditioning import (
    MULTIPLE,
    Orientation,
    cropped,
    measured_channels,
    padded,
    to_stack,
)
from medldm.inference.device import MOST_PIXELS, PIXELS_AT_ONCE
from medldm.inference.networks import Networks
from medldm.models.monai_parts import SlidingWindowInferer
from medldm.models.residual import SPREAD
from medldm.settings import Progress, silent

AIR = 0.02  # scaled intensity; planes that never exceed it are copied
MARGIN = 8  # voxels of air around what is restored; a multiple of the latent factor
COPIED_UP_TO = 64_000_000  # voxels of a stack whose planes are brought into one piece each


class Tiling(NamedTuple):
    """How much of a scan goes through the networks at once, and where.

    Parameters
    ----------
    tile : edge of a tile, voxels
    device : torch device
    pixels : of planes that go through the networks at once
    skip_air : whether air is copied; training restores its blocks whole
    """

    tile: int = 384
    device: str = "cpu"
    pixels: int = PIXELS_AT_ONCE
    skip_air: bool = True

    @classmethod
    def whole(cls, device: str = "cpu") -> Tiling:
        """For blocks whose axes are multiples of `MULTIPLE`, as training takes them: no tiles, no air left out."""
        return cls(device=device, pixels=MOST_PIXELS, skip_air=False)


def estimate(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    orientations: Sequence[Orientation],
    tiling: Tiling,
    progress: Progress = silent,
) -> Tensor:
    """The regression mean of an observation, averaged over orientations.

    Parameters
    ----------
    networks : of a model
    observation : (X, Y, Z) on the output grid
    sigma : scaled noise level, (X, Y, Z) or broadcastable
    orientations : to average; a volume network uses the first
    tiling : tile, device
    progress : called with (done, total, what)

    Returns
    -------
    (X, Y, Z) float32
    """
    predict = networks.estimate
    return _averaged(networks, observation, [observation.y], sigma, orientations, tiling, progress, predict)[0]


def estimate_with_spread(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    orientations: Sequence[Orientation],
    tiling: Tiling,
    progress: Progress = silent,
) -> tuple[Tensor, Tensor]:
    """The regression mean, and the logarithm of the spread around it, from the same passes; parameters as `estimate`.

    Returns
    -------
    (X, Y, Z) b, scaled intensity, and (X, Y, Z) log s, both averaged over orientations
    """
    air = torch.full_like(observation.y, math.log(SPREAD[0]))
    bases, predict = [observation.y, air], networks.estimate_with_spread
    mean, log_s = _averaged(networks, observation, bases, sigma, orientations, tiling, progress, predict)
    return mean, log_s


def _averaged(
    networks: Networks,
    observation: Observation,
    bases: list[Tensor],
    sigma: Tensor,
    orientations: Sequence[Orientation],
    tiling: Tiling,
    progress: Progress,
    predict: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """(X, Y, Z) means over orientations of what `predict` gives; `bases` stay in air."""
    y = observation.y
    orientations = orientations[:1] if networks.config.spatial_dims == 3 else orientations
    box = content_box(y) if tiling.skip_air else (slice(None),) * 3
    boxes = [tuple(box[axis] for axis in orientation.order) for orientation in orientations]
    total = sum(orientation.to_planes(y)[at].shape[2] for orientation, at in zip(orientations, boxes, strict=True))
    done = 0
    if total:
        progress(0, total, "planes")  # all checks are made, the network comes next: here a dry run ends

    def count(planes: int) -> None:
        nonlocal done
        done += planes
        progress(done, total, "planes")

    means: list[Tensor] = []
    for orientation, at in zip(orientations, boxes, strict=True):
        fields = (observation.y, observation.observed, sigma)
        stack = [_by_planes(orientation.to_planes(field.expand_as(y))[at]) for field in fields]
        wholes = []
        for base in bases:
            planes = orientation.to_planes(base)
            whole = _by_planes(planes)
            wholes.append(whole.clone() if whole is planes else whole)
        into = [whole[at] for whole in wholes]
        _restore_stack(networks, stack, observation.thickness, tiling, count, predict, into)
        restored = [orientation.from_planes(whole) for whole in wholes]
        # In place: a whole-body CT is a gigabyte, and every copy of it another.
        means = [mean.add_(more) for mean, more in zip(means, restored, strict=True)] if means else restored
    return means if len(orientations) == 1 else [mean.div_(len(orientations)) for mean in means]


def _restore_stack(
    networks: Networks,
    stack: list[Tensor],
    thickness: float,
    tiling: Tiling,
    count: Callable[[int], None],
    predict: Callable[[Tensor], Tensor],
    into: Sequence[Tensor],
) -> None:
    """Restore plane by plane, or as one volume, into fields (H, W, D); what holds nothing stays as it was."""
    config = networks.config
    flat = config.spatial_dims == 2
    half, depth = config.context // 2 if flat else 0, stack[0].shape[2]
    at_once = max(1, tiling.pixels // (stack[0].shape[0] * stack[0].shape[1])) if flat else depth
    for start in range(0, depth, at_once):
        stop = min(depth, start + at_once)
        chunk = [_beside(field, start - half, stop + half) for field in stack]
        # The outline of a head changes from plane to plane: a third of its bounding box is air.
        outlined = flat and tiling.skip_air
        here = _outline((chunk[0] > AIR).any(2)) if outlined else (slice(None), slice(None))
        grid = chunk[0][here].shape
        # Padded before neighbours become channels: there are twenty channels of three fields.
        y, observed, sigma = (_padded(field[here]) if flat else field for field in chunk)
        channels = measured_channels(y, observed, sigma, thickness, config, inner=True)
        guess = infer(channels, tiling, predict)
        for number, field in enumerate(into):
            field[(*here, slice(start, stop))] = to_stack(guess[:, number : number + 1])[: grid[0], : grid[1]]
        count(stop - start)


def _by_planes(stack: Tensor) -> Tensor:
    """The same stack (H, W, D) with each plane in one piece of memory, where that is no matter of gigabytes."""
    planes = stack.permute(2, 0, 1)
    if planes.is_contiguous() or 0 in stack.stride() or stack.numel() > COPIED_UP_TO:
        return stack
    return planes.contiguous().permute(1, 2, 0)


def _padded(stack: Tensor) -> Tensor:
    """Planes (H, W, D) whose edges are multiples of `MULTIPLE`, their border repeated."""
    return padded(stack.permute(2, 0, 1)[None])[0].permute(1, 2, 0)


def _beside(stack: Tensor, low: int, high: int) -> Tensor:
    """Planes `low` to `high` of a stack (H, W, D); beyond its ends the outermost are repeated."""
    depth = stack.shape[-1]
    if low >= 0 and high <= depth:
        return stack[..., low:high]
    return stack[..., torch.arange(low, high).clamp_(0, depth - 1)]


def infer(channels: Tensor, tiling: Tiling, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """One batch through the networks, in tiles where it is larger than one.

    Parameters
    ----------
    channels : (B, C, ...)
    tiling : tile, device
    predict : (B, C, ...) channels of a tile to (B, K, ...)

    Returns
    -------
    (B, K, ...) float32 on the device of `tiling`
    """
    batch = padded(channels).to(tiling.device)
    with torch.no_grad():
        tile = max(MULTIPLE, tiling.tile // MULTIPLE * MULTIPLE)
        if all(size <= tile for size in batch.shape[2:]):
            guess = predict(batch)
        else:
            roi = [min(tile, size) for size in batch.shape[2:]]
            # MONAI rounds the stride down; half a voxel keeps it from the next lower number.
            overlap = [max(0.0, 1 - (stride_of(edge) + 0.5) / edge) for edge in roi]
            inferer = SlidingWindowInferer(roi, sw_batch_size=4, overlap=overlap, mode="gaussian")
            guess = inferer(batch, predict)
    assert isinstance(guess, Tensor)
    return cropped(guess, list(channels.shape[2:])).float()


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
