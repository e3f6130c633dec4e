"""What the networks are told about a measurement: one channel stack, the same in training and in use."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.settings import Architecture

NOISE_GAIN = 10.0  # noise levels of a few percent become channels of the size of the image


def measured_channels(
    y: Tensor, observed: Tensor, sigma: Tensor, thickness: float, shape: Architecture, *, inner: bool = False
) -> Tensor:
    """Channels of an observation, one batch entry a plane (2D) or a volume (3D).

    Parameters
    ----------
    y : (H, W, D) measurement on the output grid, scaled intensity; planes are stacked along D
    observed : (H, W, D) in [0, 1]
    sigma : noise standard deviation, scaled intensity, (H, W, D) or broadcastable to it
    thickness : slice thickness, voxels
    shape : architecture; `context` neighbouring planes become channels
    inner : for plane networks: whether the first and last ``context // 2`` planes are there as neighbours only

    Returns
    -------
    (D, C, H, W) for plane networks, fewer planes when `inner`; (1, C, H, W, D) for volume networks. Channels are y of
    each neighbour, then observed of each, then sigma, then thickness
    """
    sigma = sigma.expand_as(y)
    thick = torch.full_like(y, math.log2(max(thickness, 1.0)) / 3)
    if shape.spatial_dims == 3:
        return torch.stack([y, observed, sigma * NOISE_GAIN, thick])[None]
    own = torch.stack([sigma * NOISE_GAIN, thick]).permute(3, 0, 1, 2)
    if inner and shape.context > 1:
        own = own[shape.context // 2 : -(shape.context // 2)]
    return torch.cat([neighbours(y, shape.context, inner), neighbours(observed, shape.context, inner), own], 1)


def neighbours(stack: Tensor, context: int, inner: bool = False) -> Tensor:
    """(H, W, D) to (D, context, H, W): each plane with those beside it, the outermost repeated at the ends.

    With `inner` the outermost ``context // 2`` planes are there as neighbours only, and none is repeated.
    """
    half = context // 2
    planes = stack.permute(2, 0, 1)
    if inner:
        return planes.unfold(0, context, 1).permute(0, 3, 1, 2)
    padded = F.pad(planes[None, None], (0, 0, 0, 0, half, half), mode="replicate")[0, 0]
    return padded.unfold(0, context, 1).permute(0, 3, 1, 2)


def own_planes(inputs: Tensor, shape: Architecture) -> Tensor:
    """(B, context, ...) y of the plane itself and of those beside it, from measured channels."""
    return inputs[:, : shape.context if shape.spatial_dims == 2 else 1]


def stacked_neighbours(image: Tensor, shape: Architecture) -> Tensor:
    """An image on the planes of a stack, (D, 1, H, W), as (D, context, H, W); (1, 1, ...) of a volume as it is."""
    if shape.spatial_dims == 3:
        return image
    return neighbours(image[:, 0].permute(1, 2, 0), shape.context)


def centre_channel(shape: Architecture) -> int:
    """Index of the channel that holds y of the plane itself."""
    return shape.context // 2 if shape.spatial_dims == 2 else 0


def centre_plane(inputs: Tensor, shape: Architecture) -> Tensor:
    """(B, 1, ...) y of the plane itself."""
    at = centre_channel(shape)
    return inputs[:, at : at + 1]
