"""What the networks see of a measurement: its channels, the same in training, in use and in exported models.

Functions with plain arguments compile as TorchScript, so that `medldm.export` uses these very ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.degradations import Observation
from medldm.inference.orientations import Orientation
from medldm.settings import Architecture

NOISE_GAIN = 10.0  # noise levels of a few percent become channels of the size of the image
MULTIPLE = 16  # grid axes are padded to this, so that every level of every network divides them


def measured_channels(
    y: Tensor, observed: Tensor, sigma: Tensor, thickness: float, config: Architecture, *, inner: bool = False
) -> Tensor:
    """Channels of an observation for the networks of an architecture; parameters and result as in `channels`."""
    return channels(y, observed, sigma, thickness, config.spatial_dims, config.context, inner)


def channels(
    y: Tensor,
    observed: Tensor,
    sigma: Tensor,
    thickness: float,
    dims: int,
    context: int,
    inner: bool = False,
    gain: float = NOISE_GAIN,
) -> Tensor:
    """Channels of an observation, one batch entry a plane (2D) or a volume (3D).

    Parameters
    ----------
    y : (H, W, D) measurement on the output grid, scaled intensity; planes are stacked along D
    observed : (H, W, D) in [0, 1]
    sigma : noise standard deviation, scaled intensity, (H, W, D) or broadcastable to it
    thickness : slice thickness, voxels
    dims : 2 for plane networks, 3 for volume networks
    context : neighbouring planes that become channels
    inner : for plane networks: whether the first and last ``context // 2`` planes are there as neighbours only
    gain : factor of the noise channel

    Returns
    -------
    (D, C, H, W) for plane networks, fewer planes when `inner`; (1, C, H, W, D) for volume networks. Channels are y of
    each neighbour, then observed of each, then sigma, then thickness
    """
    sigma = sigma.expand_as(y) * gain
    thick = torch.full_like(y, math.log(max(thickness, 1.0)) / math.log(8.0))
    if dims == 3:
        return torch.stack([y, observed, sigma, thick])[None]
    own = torch.stack([sigma, thick]).permute(3, 0, 1, 2)
    if inner and context > 1:
        own = own[context // 2 : -(context // 2)]
    return torch.cat([neighbours(y, context, inner), neighbours(observed, context, inner), own], 1)


def neighbours(stack: Tensor, context: int, inner: bool = False) -> Tensor:
    """(H, W, D) to (D, context, H, W): each plane with those beside it, the outermost repeated at the ends.

    With `inner` the outermost ``context // 2`` planes are there as neighbours only, and none is repeated.
    """
    half = context // 2
    planes = stack.permute(2, 0, 1)
    if not inner:
        planes = F.pad(planes[None, None], (0, 0, 0, 0, half, half), mode="replicate")[0, 0]
    return planes.unfold(0, context, 1).permute(0, 3, 1, 2)


def with_neighbours(stack: Tensor, dims: int, context: int) -> Tensor:
    """(H, W, D) to (D, context, H, W) for plane networks, to (1, 1, H, W, D) for volume networks."""
    return stack[None, None] if dims == 3 else neighbours(stack, context)


def to_batch(stack: Tensor, dims: int) -> Tensor:
    """(H, W, D) to (D, 1, H, W) for plane networks, to (1, 1, H, W, D) for volume networks."""
    return stack[None, None] if dims == 3 else stack.permute(2, 0, 1)[:, None]


def to_stack(batch: Tensor) -> Tensor:
    """(D, 1, H, W), or (1, 1, H, W, D), to (H, W, D)."""
    return batch[0, 0] if batch.dim() == 5 else batch[:, 0].permute(1, 2, 0)


def padded(batch: Tensor, multiple: int = MULTIPLE) -> Tensor:
    """(B, C, ...) with grid axes brought to multiples of `multiple`, the ends repeated."""
    pads: list[int] = []
    for size in batch.shape[2:]:
        pads = [0, (-size) % multiple] + pads
    return F.pad(batch, pads, mode="replicate") if max(pads) > 0 else batch


def cropped(batch: Tensor, grid: list[int]) -> Tensor:
    """(B, C, ...) without what `padded` added to a grid."""
    for axis, size in enumerate(grid):
        batch = batch.narrow(axis + 2, 0, size)
    return batch


def condition(
    observation: Observation,
    sigma: Tensor,
    orientation: Orientation,
    config: Architecture,
    regression: Tensor | None = None,
) -> list[Tensor]:
    """A whole volume in one orientation: measured channels, and the regression mean where there is one.

    Parameters
    ----------
    observation : (X, Y, Z)
    sigma : (X, Y, Z) or broadcastable
    orientation : of the planes
    config : architecture
    regression : (X, Y, Z)

    Returns
    -------
    (D, C, H, W), and (D, context, H, W); or (1, C, H, W, D), and (1, 1, H, W, D)
    """
    fields = (observation.y, observation.observed, sigma)
    y, observed, sigma = (orientation.to_planes(field.expand_as(observation.y)) for field in fields)
    parts = [measured_channels(y, observed, sigma, observation.thickness, config)]
    if regression is not None:
        parts.append(with_neighbours(orientation.to_planes(regression), config.spatial_dims, config.context))
    return parts


def own_planes(inputs: Tensor, config: Architecture) -> Tensor:
    """(B, context, ...) y of the plane itself and of those beside it, from measured channels."""
    return inputs[:, : config.context if config.spatial_dims == 2 else 1]


def centre_channel(config: Architecture) -> int:
    """Index of the channel that holds y of the plane itself."""
    return config.context // 2 if config.spatial_dims == 2 else 0


def centre_plane(inputs: Tensor, config: Architecture) -> Tensor:
    """(B, 1, ...) y, or the regression mean, of the plane itself."""
    at = centre_channel(config)
    return inputs[:, at : at + 1]
