"""What the networks see of a measurement: planes of an orientation and their channels, the same wherever they run.

Functions with plain arguments compile as TorchScript, so that `medldm.export` uses these very ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.settings import Architecture

NOISE_GAIN = 10.0  # noise levels of a few percent become channels of the size of the image
MULTIPLE = 16  # grid axes are padded to this, so that every level of every network divides them


class Orientation(NamedTuple):
    """An order of axes.

    Parameters
    ----------
    order : axes of the volume that become (H, W, D); planes are (H, W), stacked along D
    """

    order: tuple[int, int, int]

    def to_planes(self, field: Tensor) -> Tensor:
        """(X, Y, Z) as (H, W, D)."""
        return field.permute(self.order)

    def from_planes(self, field: Tensor) -> Tensor:
        """(H, W, D) as (X, Y, Z)."""
        return field.permute(inverse(list(self.order)))


def inverse(order: list[int]) -> list[int]:
    """The order of axes that undoes another; compiles as TorchScript."""
    return [order.index(axis) for axis in range(3)]


def pick_orientations(
    damaged: Sequence[int], in_plane: Sequence[int], shape: Sequence[int], spacing: Sequence[float]
) -> list[Orientation]:
    """The planes in which the damage shows.

    Parameters
    ----------
    damaged : axes along which slices are thick or missing; empty for noise and regions
    in_plane : axes that lost resolution in the planes
    shape : voxels
    spacing : mm

    Returns
    -------
    for thick or missing slices the two planes that contain the slice axis; for lower resolution those planes; else
    see `orders_of_planes`
    """
    if damaged:
        axis = damaged[0]
        others = [a for a in range(3) if a != axis and shape[a] > 1]
        return [Orientation((axis, w, d)) for w, d in ((others[0], others[-1]), (others[-1], others[0])) if w != d] or [
            Orientation((axis, others[0], 3 - axis - others[0]))
        ]
    if in_plane:
        first = in_plane[0]
        second = in_plane[1] if len(in_plane) > 1 else next(a for a in range(3) if a != first)
        return [Orientation((first, second, 3 - first - second))]
    orders = orders_of_planes([int(size) for size in shape], [float(mm) for mm in spacing])
    return [Orientation((height, width, depth)) for height, width, depth in orders]


def orders_of_planes(shape: list[int], spacing: list[float]) -> list[list[int]]:
    """Orders of axes for noise and regions: all three planes, of a thick-sliced or thin stack its own planes only.

    Compiles as TorchScript.

    Parameters
    ----------
    shape : voxels
    spacing : mm
    """
    coarse, thin = 0, 0
    for axis in range(3):
        if spacing[axis] > spacing[coarse]:
            coarse = axis
        if shape[axis] < shape[thin]:
            thin = axis
    if shape[thin] < 8:
        coarse = thin
    elif spacing[coarse] <= 1.6 * min(spacing):
        return [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    if coarse == 0:
        return [[1, 2, 0]]
    return [[0, 2, 1]] if coarse == 1 else [[0, 1, 2]]


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


def centre_channel(config: Architecture) -> int:
    """Index of the channel that holds y of the plane itself."""
    return config.context // 2 if config.spatial_dims == 2 else 0


def centre_plane(inputs: Tensor, config: Architecture) -> Tensor:
    """(B, 1, ...) y, or the regression mean, of the plane itself."""
    at = centre_channel(config)
    return inputs[:, at : at + 1]
