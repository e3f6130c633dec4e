"""In which planes a volume is looked at: where its damage shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Orientation(NamedTuple):
    """One way of looking at the volume.

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
        return field.permute([self.order.index(axis) for axis in range(3)])


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
    for noise and regions all three planes, of a thick-sliced scan its own planes only; for thick or missing slices
    the two planes that contain the slice axis
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
    coarse = max(range(3), key=lambda a: spacing[a])
    thin = min(range(3), key=lambda a: shape[a])
    if shape[thin] < 8:
        coarse = thin
    elif spacing[coarse] <= 1.6 * min(spacing):
        return [Orientation((0, 1, 2)), Orientation((1, 2, 0)), Orientation((2, 0, 1))]
    rest = [a for a in range(3) if a != coarse]
    return [Orientation((rest[0], rest[1], coarse))]
