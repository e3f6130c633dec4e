"""In which planes a volume is restored: those that show its damage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


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
