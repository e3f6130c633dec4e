"""Cubes of clean scans, damaged as the gates and the validation of a flow need them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medldm.benchmark.lesions import Lesion, planted
from medldm.degradations import Degradation, MissingSlices, Observation
from medldm.degradations.missing_slices import missing_slices
from medldm.inference.conditioning import Orientation, pick_orientations
from medldm.training.damage import Damage, measure_one
from medldm.training.data import Packed
from medldm.training.validation import CUBE, EDGE, damages

Array = npt.NDArray[Any]

ROWS = {
    "thick4": "thick slices, 4 mm",
    "gap4": "every 4th slice kept",
    "gap3": "gaps of 3 slices",
    "region": "a region",
    "noise7": "noise, 7 %",
}
LOSSY = ("thick4", "gap4", "gap3", "region")  # rows where information is missing
THIN = ("thick4", "gap4", "gap3")  # along the slice axis
FOREGROUND = 0.05  # scaled intensity
DAMAGED = Orientation((0, 1, 2))  # cubes are damaged along their first axis, as the flow was trained


class Case(NamedTuple):
    """A damaged cube.

    Parameters
    ----------
    row : in `ROWS`
    scanner : where the scan comes from
    clean : (H, W, D) scaled intensity; damage lies along H
    observation : (H, W, D)
    sigma : noise level, (H, W, D) or broadcastable
    sampling : what was lost; None for noise
    measured : as `sampling` gives it
    spacing : mm
    lesions : that were put into `clean`
    healthy : (H, W, D) `clean` without them
    """

    row: str
    scanner: str
    clean: Tensor
    observation: Observation
    sigma: Tensor
    sampling: Degradation | None
    measured: Tensor
    spacing: tuple[float, float, float]
    lesions: tuple[Lesion, ...] = ()
    healthy: Tensor | None = None

    @property
    def orientations(self) -> list[Orientation]:
        """Orientations that the verbs average."""
        damaged = (0,) if self.sampling is not None and self.sampling.across_slices else ()
        return pick_orientations(damaged, (), self.clean.shape, self.spacing)

    @property
    def inside(self) -> Array:
        """(H, W, D) bool, foreground away from the border of the cube."""
        return foreground(self.clean)

    @property
    def lost(self) -> Array | None:
        """(H, W, D) bool, what was not measured at all; None where every voxel was."""
        masks = self.sampling is not None and self.sampling.masks
        return (self.observation.observed.expand(self.clean.shape) == 0).numpy() if masks else None

    @property
    def scored(self) -> Array:
        """(H, W, D) bool, foreground; of missing slices and regions alone."""
        scored: Array = self.inside if self.lost is None else self.inside & self.lost
        return scored

    @property
    def detail_axes(self) -> tuple[int, ...]:
        """Along which fine detail was lost."""
        return (0,) if self.row in THIN else (0, 1, 2)

    def project(self, guess: Tensor) -> Tensor:
        """The nearest image that the measurement allows."""
        return guess if self.sampling is None else self.sampling.reconcile(guess, self.measured)


def foreground(clean: Tensor) -> Array:
    """(H, W, D) bool, foreground away from the border of a cube."""
    inside = np.zeros(tuple(clean.shape), dtype=bool)
    inner = (slice(EDGE, -EDGE),) * 3
    inside[inner] = (clean > FOREGROUND).numpy()[inner]
    return inside


def degradations(shape: tuple[int, int, int]) -> dict[str, Damage]:
    """What each row of `ROWS` does to a cube."""
    lost = missing_slices("gap of 3", shape[0], torch.Generator().manual_seed(0))
    known = damages(shape) | {"gap3": Damage(MissingSlices(shape[0], lost, axis=0), None)}
    return {row: known[row] for row in ROWS}


def cases(scan: Packed, scanner: str, rows: Sequence[str], cubes: int = 1, lesions: bool = False) -> Iterator[Case]:
    """Damaged cubes of a scan; a scan with thick slices serves the rows that lose nothing across them.

    Parameters
    ----------
    scan : clean
    scanner : for the table
    rows : of `ROWS`
    cubes : how many, from the middle of the scan on
    lesions : whether lesions are put in first
    """
    for number, (block, spacing) in enumerate(blocks(scan, cubes)):
        for row in rows:
            if scan.isotropic or row not in THIN:
                yield case(row, scanner, block, spacing, seed=1000 + number, lesions=lesions)


def case(
    row: str,
    scanner: str,
    clean: Tensor,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    seed: int = 0,
    lesions: bool = False,
) -> Case:
    """A cube damaged as a row says; parameters as in `Case`.

    Parameters
    ----------
    seed : of noise and lesions
    lesions : whether lesions are put in first
    """
    generator = torch.Generator().manual_seed(seed)
    healthy, put = None, list[Lesion]()
    if lesions:
        healthy = clean
        sick, put = planted(clean.numpy(), foreground(clean), spacing, generator)
        clean = torch.from_numpy(sick)
    shape = (clean.shape[0], clean.shape[1], clean.shape[2])
    damage = degradations(shape)[row]
    observation, sigma = measure_one(clean, damage, generator)
    measured = clean if damage.sampling is None else damage.sampling.degrade(clean)
    return Case(row, scanner, clean, observation, sigma, damage.sampling, measured, spacing, tuple(put), healthy)


def blocks(scan: Packed, count: int) -> Iterator[tuple[Tensor, tuple[float, float, float]]]:
    """Cubes from the middle of a scan and beside it along its longest axis, another axis first in each.

    Yields
    ------
    (H, W, D) scaled intensity, every axis a multiple of 16 voxels, and spacing, mm; thick slices lie along D
    """
    starts = [max(0, (size - CUBE) // 2) for size in scan.voxels.shape]
    longest = int(np.argmax(scan.voxels.shape))
    planes = [axis for axis in range(3) if axis != scan.slice_axis]
    for number in range(count):
        at = list(starts)
        beside = at[longest] + (number + 1) // 2 * CUBE * (-1) ** number
        at[longest] = min(max(0, beside), max(0, scan.voxels.shape[longest] - CUBE))
        where = tuple(slice(start, start + CUBE) for start in at)
        order = [(number + axis) % 3 for axis in range(3)] if scan.isotropic else [*planes, scan.slice_axis]
        block = scan.scaled(where, torch.Generator().manual_seed(number)).permute(order)
        whole = block[tuple(slice(0, size // 16 * 16) for size in block.shape)].contiguous()
        yield whole, (scan.spacing[order[0]], scan.spacing[order[1]], scan.spacing[order[2]])
