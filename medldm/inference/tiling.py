"""Restore a whole observation: planes or volumes, in tiles, air left out, averaged over orientations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.degradations import Observation
from medldm.diffusion.samplers import DEFAULT
from medldm.inference.conditioning import (
    MULTIPLE,
    Orientation,
    cropped,
    measured_channels,
    neighbours,
    padded,
    to_batch,
    to_stack,
)
from medldm.inference.device import MOST_PIXELS, PIXELS_AT_ONCE
from medldm.inference.networks import Networks
from medldm.models.monai_parts import SlidingWindowInferer
from medldm.settings import Progress, silent

AIR = 0.02  # scaled intensity; planes that never exceed it are copied
MARGIN = 8  # voxels of air around what is restored; a multiple of the latent factor
COPIED_UP_TO = 64_000_000  # voxels of a stack whose planes are brought into one piece each


class SamplerConfig(NamedTuple):
    """How a restoration is computed.

    Parameters
    ----------
    steps, fidelity : as in the settings
    seed : of the white noise; None for the conditional mean
    tile : edge of a tile, voxels
    device : torch device
    pixels : of planes that go through the networks at once
    sampler : name in `medldm.diffusion.SAMPLERS`
    skip_air : whether air is copied; training restores its blocks whole
    """

    steps: int = 1
    fidelity: float = 1.0
    seed: int | None = None
    tile: int = 384
    device: str = "cpu"
    pixels: int = PIXELS_AT_ONCE
    sampler: str = DEFAULT
    skip_air: bool = True

    @classmethod
    def whole(cls, device: str = "cpu", fidelity: float = 1.0) -> SamplerConfig:
        """For blocks whose axes are multiples of `MULTIPLE`, as training takes them: no tiles, no air left out."""
        return cls(fidelity=fidelity, device=device, pixels=MOST_PIXELS, skip_air=False)


def estimate(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    orientations: Sequence[Orientation],
    sampling: SamplerConfig,
    progress: Progress = silent,
) -> Tensor:
    """The regression mean of an observation, averaged over orientations; the same for all samples that follow.

    Parameters
    ----------
    networks : of a model
    observation : (X, Y, Z) on the output grid
    sigma : scaled noise level, (X, Y, Z) or broadcastable
    orientations : to average; a volume network uses the first
    sampling : tile, device
    progress : called with (done, total, what)

    Returns
    -------
    (X, Y, Z) float32
    """
    predict = networks.estimate
    return _averaged(networks, observation, observation.y, [], sigma, orientations, sampling, progress, predict)


def refine(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    orientations: Sequence[Orientation],
    sampling: SamplerConfig,
    regression: Tensor,
    progress: Progress = silent,
) -> Tensor:
    """One restoration from the regression mean, through flow and fusion decoder.

    Parameters
    ----------
    networks, observation, sigma, orientations, progress : see `estimate`
    sampling : of the restoration; with a seed it is a sample and uses one of the orientations, since an average of
        samples would be none
    regression : (X, Y, Z) from `estimate`

    Returns
    -------
    (X, Y, Z) float32
    """
    noise = []
    if sampling.seed is not None:
        orientations = [orientations[sampling.seed % len(orientations)]]
        noise = [torch.randn(regression.shape, generator=torch.Generator().manual_seed(sampling.seed)).to(regression)]
    config = networks.config
    measured, seen = config.measured_channels, config.context if config.spatial_dims == 2 else 1

    def predict(tile: Tensor) -> Tensor:
        inputs, planes, drawn = tile.tensor_split((measured, measured + seen), 1)
        start = drawn if noise else None
        return networks.refine(inputs, planes, start, sampling.steps, sampling.fidelity, sampling.sampler)

    fields = [regression, *noise]
    return _averaged(networks, observation, regression, fields, sigma, orientations, sampling, progress, predict)


def restore(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    orientations: Sequence[Orientation],
    sampling: SamplerConfig,
    progress: Progress = silent,
) -> Tensor:
    """The regression mean, refined where the networks do; parameters and result as in `estimate`."""
    regression = estimate(networks, observation, sigma, orientations, sampling, progress)
    if not networks.refines:
        return regression
    return refine(networks, observation, sigma, orientations, sampling, regression, progress)


def _averaged(
    networks: Networks,
    observation: Observation,
    base: Tensor,
    extras: list[Tensor],
    sigma: Tensor,
    orientations: Sequence[Orientation],
    sampling: SamplerConfig,
    progress: Progress,
    predict: Callable[[Tensor], Tensor],
) -> Tensor:
    """(X, Y, Z) mean over orientations; `base` stays in air, `extras` are the regression mean and white noise."""
    y = observation.y
    orientations = orientations[:1] if networks.config.spatial_dims == 3 else orientations
    box = content_box(y) if sampling.skip_air else (slice(None),) * 3
    boxes = [tuple(box[axis] for axis in orientation.order) for orientation in orientations]
    total = sum(orientation.to_planes(y)[at].shape[2] for orientation, at in zip(orientations, boxes, strict=True))
    done = 0
    if total:
        progress(0, total, "planes")  # all checks are made, the network comes next: here a dry run ends

    def count(planes: int) -> None:
        nonlocal done
        done += planes
        progress(done, total, "planes")

    mean: Tensor | None = None
    for orientation, at in zip(orientations, boxes, strict=True):
        fields = [observation.y, observation.observed, sigma, *extras]
        stack = [_by_planes(orientation.to_planes(field.expand_as(y))[at]) for field in fields]
        stack[4:] = [smooth_along_stack(noise) for noise in stack[4:]]
        planes = orientation.to_planes(base)
        whole = _by_planes(planes)
        whole = whole.clone() if whole is planes else whole
        _restore_stack(networks, stack, observation.thickness, sampling, count, predict, into=whole[at])
        restored = orientation.from_planes(whole)
        # In place: a whole-body CT is a gigabyte, and every copy of it another.
        mean = restored if mean is None else mean.add_(restored)
    assert mean is not None
    return mean if len(orientations) == 1 else mean.div_(len(orientations))


def _restore_stack(
    networks: Networks,
    stack: list[Tensor],
    thickness: float,
    sampling: SamplerConfig,
    count: Callable[[int], None],
    predict: Callable[[Tensor], Tensor],
    into: Tensor,
) -> None:
    """Restore plane by plane, or as one volume, into (H, W, D); what holds nothing stays as it was."""
    config = networks.config
    flat = config.spatial_dims == 2
    half, depth = config.context // 2 if flat else 0, stack[0].shape[2]
    at_once = max(1, sampling.pixels // (stack[0].shape[0] * stack[0].shape[1])) if flat else depth
    for start in range(0, depth, at_once):
        stop = min(depth, start + at_once)
        chunk = [_beside(field, start - half, stop + half) for field in stack]
        # The outline of a head changes from plane to plane: a third of its bounding box is air.
        outlined = flat and sampling.skip_air
        here = _outline((chunk[0] > AIR).any(2)) if outlined else (slice(None), slice(None))
        grid = chunk[0][here].shape
        # Padded before neighbours become channels: there are twenty channels of three fields.
        y, observed, sigma, *extras = (_padded(field[here]) if flat else field for field in chunk)
        parts = [measured_channels(y, observed, sigma, thickness, config, inner=True)]
        if extras:
            regression, *noise = extras
            parts.append(neighbours(regression, config.context, inner=True) if flat else regression[None, None])
            parts += [to_batch(field[..., half : half + stop - start], config.spatial_dims) for field in noise]
        channels = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        guess = to_stack(infer(channels, sampling, predict))
        into[(*here, slice(start, stop))] = guess[: grid[0], : grid[1]]
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


def infer(channels: Tensor, sampling: SamplerConfig, predict: Callable[[Tensor], Tensor]) -> Tensor:
    """One batch through the networks, in tiles where it is larger than one.

    Parameters
    ----------
    channels : (B, C, ...)
    sampling : tile, device
    predict : (B, C, ...) channels of a tile to (B, 1, ...)

    Returns
    -------
    (B, 1, ...) float32 on the device of `sampling`
    """
    batch = padded(channels).to(sampling.device)
    with torch.no_grad():
        tile = max(MULTIPLE, sampling.tile // MULTIPLE * MULTIPLE)
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
