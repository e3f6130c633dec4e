"""The same damaged cubes of validation subjects, again and again: what the curves show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medldm.degradations import DEGRADATIONS, Degradation, Observation
from medldm.inference.conditioning import Orientation, measured_channels, to_stack
from medldm.modality import CT
from medldm.settings import Architecture
from medldm.training.data import BODY, Packed
from medldm.training.examples import Damage, measure, orientations_of

CUBE = 64  # edge of a validation cube, voxels
EDGE = 4  # voxels at its border that are not scored


class Cube(NamedTuple):
    """One validation case.

    Parameters
    ----------
    task : row of the curve
    inputs : (N, C, ...) measured channels of every plane, or of the volume, in one orientation
    clean : (H, W, D) scaled intensity
    observation : (H, W, D); its y is what doing nothing would give
    sigma : noise level, (H, W, D) or broadcastable
    orientations : orientations that the verbs would average
    """

    task: str
    inputs: Tensor
    clean: Tensor
    observation: Observation
    sigma: Tensor
    orientations: list[Orientation]


def damages(shape: tuple[int, int, int]) -> dict[str, Damage]:
    """What every registered degradation shows on the validation curve."""
    return {
        name: Damage(None, degradation) if degradation.adds_noise else Damage(degradation, None)
        for kind in DEGRADATIONS.values()
        for name, degradation in kind.validation(shape).items()
    }


def cubes(scans: Sequence[Packed], config: Architecture, per_task: int = 3) -> list[Cube]:
    """Fixed cubes of the first validation scans, damaged along their first axis.

    Parameters
    ----------
    scans : validation scans
    config : architecture
    per_task : scans a row; thin-sliced ones first
    """
    ordered = sorted(scans, key=lambda scan: (not scan.isotropic, scan.file))
    chosen = [scan for scan in ordered if scan.isotropic][:per_task] or ordered[:per_task]
    cases = []
    # Of a few CT scans other places are taken; phantoms and heads have one middle.
    turns = per_task if any(scan.noise is not None for scan in chosen) else min(per_task, len(chosen))
    for number in range(turns):
        scan = chosen[number % len(chosen)]
        generator = torch.Generator().manual_seed(1000 + number)
        where = _middle(scan, number // len(chosen))
        block = scan.scaled(where, generator)
        order = [number % 3, (number + 1) % 3, (number + 2) % 3]  # another slice axis for each scan
        inner = tuple(slice(0, block.shape[axis] // 16 * 16) for axis in order)
        block = block.permute(order)[inner]
        shape_of = (block.shape[0], block.shape[1], block.shape[2])
        if scan.noise is not None:
            noise: Any = scan.noise[0]
            quarter = torch.from_numpy(noise[where].astype("float32")).permute(order)[inner] * scan.scale
            cases += [_ct_case(task, block, quarter, damage, config) for task, damage in ct_damages(shape_of).items()]
            continue
        cases += [_case(task, block, damage, config, generator) for task, damage in damages(shape_of).items()]
    return cases


def _middle(scan: Packed, turn: int) -> tuple[slice, ...]:
    """The middle of a scan; at a second turn, where there are few scans, beside it along the longest axis."""
    starts = [max(0, (size - CUBE) // 2) for size in scan.voxels.shape]
    longest = max(range(3), key=lambda axis: scan.voxels.shape[axis])
    beside = starts[longest] + (0, -CUBE, CUBE)[turn % 3]
    starts[longest] = min(max(0, beside), max(0, scan.voxels.shape[longest] - CUBE))
    return tuple(slice(start, start + CUBE) for start in starts)


def ct_damages(shape: tuple[int, int, int]) -> dict[str, tuple[float, Degradation | None]]:
    """The core rows for CT: how much of a quarter dose's noise, and what is lost."""
    tenth = math.sqrt((10 - 1) / (4 - 1))
    lost = [kind.validation(shape) for kind in DEGRADATIONS.values() if CT.name in kind.shares and not kind.adds_noise]
    return {
        "dose1/4": (1.0, None),
        "dose1/10": (tenth, None),
        **{name: (0.0, sampling) for rows in lost for name, sampling in rows.items()},
    }


def _ct_case(
    task: str, clean: Tensor, quarter: Tensor, damage: tuple[float, Degradation | None], config: Architecture
) -> Cube:
    factor, sampling = damage
    added = factor * quarter
    observation, _ = measure(clean + added, Damage(sampling, None), torch.Generator())
    sigma = added[clean > BODY].std().reshape(1, 1, 1) if factor else torch.zeros(1, 1, 1)
    return _cube(task, clean, observation, sigma, sampling, config)


def _case(task: str, clean: Tensor, damage: Damage, config: Architecture, generator: torch.Generator) -> Cube:
    observation, sigma = measure(clean, damage, generator)
    return _cube(task, clean, observation, sigma, damage.sampling, config)


def _cube(
    task: str,
    clean: Tensor,
    observation: Observation,
    sigma: Tensor,
    sampling: Degradation | None,
    config: Architecture,
) -> Cube:
    inputs = measured_channels(observation.y, observation.observed, sigma, observation.thickness, config)
    return Cube(task, inputs, clean, observation, sigma, orientations_of(sampling, clean.shape, (1.0, 1.0, 1.0)))


def score(cases: Sequence[Cube], restore: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """PSNR of each row in dB, in one orientation; mean over its cubes, foreground only, range 1.

    Parameters
    ----------
    cases : from `cubes`
    restore : (N, C, ...) measured channels to (N, 1, ...) image
    """
    return score_volumes(cases, lambda case: to_stack(restore(case.inputs)))


def score_volumes(cases: Sequence[Cube], restore: Callable[[Cube], Tensor]) -> dict[str, float]:
    """The same of cubes restored in all orientations.

    Parameters
    ----------
    cases : from `cubes`
    restore : cube to (H, W, D) image
    """
    rows: dict[str, list[float]] = {}
    for case in cases:
        rows.setdefault(case.task, []).append(psnr(restore(case), case.clean))
    return {task: sum(values) / len(values) for task, values in rows.items()}


def psnr(guess: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, range 1, over voxels brighter than 5 %, the border left out."""
    inner = tuple(slice(EDGE, -EDGE) for _ in range(3))
    guess, clean = guess[inner], clean[inner]
    error = ((guess - clean) ** 2)[clean > 0.05].mean()
    return float(-10 * torch.log10(error.clamp_min(1e-12)))
