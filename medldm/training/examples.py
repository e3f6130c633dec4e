"""Draw the protocol's families of damage with continuous parameters, as the networks will meet them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.degradations import (
    Degradation,
    InPlane,
    MissingSlices,
    Observation,
    Regions,
    Rician,
    ThickSlices,
    VaryingRician,
    smooth_field,
)
from medldm.degradations.sampling import slice_centres
from medldm.inference.conditioning import measured_channels
from medldm.inference.orientations import Orientation, pick_orientations
from medldm.settings import Architecture
from medldm.training.augment import augment
from medldm.training.data import Block, Packed, draw_block, pick

MARGIN = 8  # voxels along the damaged axis that are cut off again: a block's end is not a scan's end

# How often each family is drawn. Thick-sliced scans can teach noise, planes and regions only.
TASKS = {"noise": 0.32, "thick": 0.26, "gap": 0.18, "in-plane": 0.1, "region": 0.14}
CT_TASKS = {"noise": 0.6, "thick": 0.16, "gap": 0.1, "region": 0.14}
BODY = 0.25  # scaled intensity, -500 HU
NEEDS_THIN = ("thick", "gap")


class Example(NamedTuple):
    """One training example.

    Parameters
    ----------
    inputs : (C, ...) measured channels
    clean : (1, ...) the image behind them, scaled intensity
    task : family of the damage
    """

    inputs: Tensor
    clean: Tensor
    task: str


class Damage(NamedTuple):
    """What happens to one block: resolution or coverage is lost first, then noise comes on top.

    Parameters
    ----------
    sampling : None when every voxel is measured
    noise : None when the measurement is clean
    """

    sampling: Degradation | None
    noise: Rician | None


def draw_example(scans: Sequence[Packed], shape: Architecture, size: int, generator: torch.Generator) -> Example:
    """A patch of a random scan, augmented and damaged at random.

    Parameters
    ----------
    scans : training scans in memory
    shape : architecture; plane networks get (size, size) patches, volume networks (size, size, size)
    size : edge of a patch, a multiple of 16
    generator : source of randomness
    """
    scan = pick(list(scans), generator)
    depth = shape.context if shape.spatial_dims == 2 else size
    block = draw_block(scan, (size + 2 * MARGIN, size, depth), generator)
    observation, sigma, clean, task = damaged(block, generator)
    inputs = channels(observation, sigma, shape)
    wanted = clean[..., depth // 2] if shape.spatial_dims == 2 else clean
    inner = slice(MARGIN, MARGIN + size)
    return Example(inputs[:, inner], wanted[None, inner], task)


def damaged(block: Block, generator: torch.Generator) -> tuple[Observation, Tensor, Tensor, str]:
    """What might have been measured of a block.

    Parameters
    ----------
    block : clean
    generator : source of randomness

    Returns
    -------
    observation; noise level as it is told, (H, W, D) or broadcastable; clean image (H, W, D); family of the damage
    """
    # The noise level that a user or an estimator gives is never quite right.
    doubt = math.exp(0.15 * float(torch.randn((), generator=generator)))
    if block.noise is not None:
        task = draw_task(CT_TASKS, block.isotropic, generator)
        sampling = DRAW[task](tuple(block.clean.shape), generator).sampling
        added = low_dose(block.noise, task, generator)
        # Noise comes before thick slices: they average it.
        observation, _ = measure(block.clean + added, Damage(sampling, None), generator)
        bare = sampling.degrade(added) if isinstance(sampling, ThickSlices) else added
        body = block.clean > BODY
        level = bare[body].std() if bare.shape == body.shape and int(body.sum()) > 100 else bare.std()
        return observation, level.reshape(1, 1, 1) * doubt, block.clean, task
    clean = augment(block.clean, generator)
    task = draw_task(TASKS, block.isotropic, generator)
    observation, sigma = measure(clean, DRAW[task](tuple(clean.shape), generator), generator)
    return observation, sigma * doubt, clean, task


def low_dose(quarter: Tensor, task: str, generator: torch.Generator) -> Tensor:
    """Noise of a random dose, from that of a quarter: quantum noise grows with the root of 1 / dose - 1.

    Parameters
    ----------
    quarter : (H, W, D) scaled intensity, added at a quarter of the dose
    task : other families than noise keep the full dose more often than not
    """
    if task != "noise" and _uniform(0, 1, generator) < 0.6:
        return torch.zeros_like(quarter)
    dose = math.exp(_uniform(math.log(0.06), math.log(0.7), generator))
    sign = 1 if _uniform(0, 1, generator) < 0.5 else -1
    return quarter * (sign * math.sqrt((1 / dose - 1) / 3))


class Scene(NamedTuple):
    """A damaged block and all ways of looking at it.

    Parameters
    ----------
    observation : (H, W, D); damage lies along H
    sigma : noise level as it is told, (H, W, D) or broadcastable
    clean : (H, W, D) scaled intensity
    orientations : orientations that the verbs would average
    """

    observation: Observation
    sigma: Tensor
    clean: Tensor
    orientations: list[Orientation]


def draw_scene(scans: Sequence[Packed], size: int, generator: torch.Generator) -> Scene:
    """A block of a random scan, augmented and damaged at random; its first axis has `MARGIN` voxels more at both ends.

    Parameters
    ----------
    scans : training scans in memory
    size : edge of the block, a multiple of 16
    generator : source of randomness
    """
    scan = pick(list(scans), generator)
    block = draw_block(scan, (size + 2 * MARGIN, size, size), generator)
    observation, sigma, clean, task = damaged(block, generator)
    coarse = 1.0 if block.isotropic else 3.0  # thick slices lie along the last axis
    orientations = pick_orientations(
        (0,) if task in NEEDS_THIN else (), (0, 1) if task == "in-plane" else (), clean.shape, (1.0, 1.0, coarse)
    )
    return Scene(observation, sigma, clean, orientations)


def channels(observation: Observation, sigma: Tensor, shape: Architecture) -> Tensor:
    """(C, H, W) of the central plane, or (C, H, W, D)."""
    stack = measured_channels(observation.y, observation.observed, sigma, observation.thickness, shape)
    return stack[stack.shape[0] // 2]


def measure(clean: Tensor, damage: Damage, generator: torch.Generator) -> tuple[Observation, Tensor]:
    """What a scanner gives, on the grid of the clean image, and its noise level there.

    Parameters
    ----------
    clean : (H, W, D)
    damage : what happens

    Returns
    -------
    observation, and sigma (H, W, D) or broadcastable
    """
    measured = clean if damage.sampling is None else damage.sampling.degrade(clean)
    sigma = torch.zeros(1, 1, 1)
    if damage.noise is not None:
        measured = damage.noise.degrade(measured, generator)
        # Where the slices are fewer than the voxels, the map of a block is flat enough to be one number.
        level = damage.noise.level(measured)
        sigma = level if level.shape == clean.shape else level.mean().reshape(1, 1, 1)
    if damage.sampling is None:
        return Observation(measured, torch.ones_like(clean)), sigma
    if isinstance(damage.sampling, MissingSlices | Regions):
        measured = damage.sampling.degrade(measured)  # noise does not reach what was never measured
    return damage.sampling.observe(measured), sigma


def draw_task(shares_of: dict[str, float], isotropic: bool, generator: torch.Generator) -> str:
    """A family, by its share."""
    names = [name for name in shares_of if isotropic or name not in NEEDS_THIN]
    shares = torch.tensor([shares_of[name] for name in names])
    return names[int(torch.multinomial(shares, 1, generator=generator))]


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _noise(low: float, high: float, generator: torch.Generator) -> Rician:
    level = _uniform(low, high, generator)
    if _uniform(0, 1, generator) < 0.35:
        focus = (_uniform(-0.5, 1.5, generator), _uniform(-0.5, 1.5, generator), 0.5)
        return VaryingRician(
            level * 0.6, gain=_uniform(1, 3.5, generator), focus=focus, width=_uniform(0.4, 1.2, generator)
        )
    return Rician(level)


def _perhaps_noise(chance: float, high: float, generator: torch.Generator) -> Rician | None:
    return _noise(0.005, high, generator) if _uniform(0, 1, generator) < chance else None


def draw_noise(shape: tuple[int, ...], generator: torch.Generator) -> Damage:
    """Noise alone, from invisible to 12 %."""
    return Damage(None, _noise(0.003, 0.12, generator))


def draw_thick(shape: tuple[int, ...], generator: torch.Generator) -> Damage:
    """Slices 1.3 to 8 voxels apart, gap or overlap, either profile, any phase; some of them lost."""
    spacing = math.exp(_uniform(math.log(1.3), math.log(8), generator))
    thickness = spacing if _uniform(0, 1, generator) < 0.6 else spacing * _uniform(0.6, 1.25, generator)
    centres = slice_centres(shape[0] + math.ceil(spacing), spacing) - _uniform(0, spacing, generator)
    centres = centres[(centres > -0.5) & (centres < shape[0] - 0.5)]
    lost: tuple[int, ...] = ()
    if _uniform(0, 1, generator) < 0.1 and len(centres) > 4:
        lost = (int(_uniform(1, len(centres) - 1, generator)),)
    profile = "gaussian" if _uniform(0, 1, generator) < 0.6 else "rect"
    sampling = ThickSlices(shape[0], 0, spacing, thickness, profile, missing=lost, centres=centres)
    return Damage(sampling, _perhaps_noise(0.35, 0.09, generator))


def draw_gap(shape: tuple[int, ...], generator: torch.Generator) -> Damage:
    """Every n-th slice kept, random slices lost, or whole gaps."""
    slices = torch.arange(shape[0])
    kind = _uniform(0, 1, generator)
    if kind < 0.35:
        every = int(_uniform(2, 6, generator))
        lost = (slices + int(_uniform(0, every, generator))) % every != 0
    elif kind < 0.6:
        lost = torch.rand(shape[0], generator=generator) < _uniform(0.1, 0.5, generator)
    else:
        lost = torch.zeros(shape[0], dtype=torch.bool)
        for _ in range(int(_uniform(1, 5, generator))):
            start = int(_uniform(0, shape[0], generator))
            lost[start : start + int(_uniform(1, 7, generator))] = True
    lost[int(_uniform(0, shape[0], generator))] = False
    missing = slices[lost].tolist()
    return Damage(MissingSlices(shape[0], missing, axis=0), _perhaps_noise(0.25, 0.09, generator))


def draw_in_plane(shape: tuple[int, ...], generator: torch.Generator) -> Damage:
    """Fewer voxels along the two axes of a plane; never across the stack of a volume."""
    factor = _uniform(1.3, 2.6, generator)
    profile = "kspace" if _uniform(0, 1, generator) < 0.7 else "rect"
    axes = (0, 1) if _uniform(0, 1, generator) < 0.8 else (0,)
    return Damage(InPlane(tuple(shape), axes, factor, profile), _perhaps_noise(0.25, 0.06, generator))


def draw_region(shape: tuple[int, ...], generator: torch.Generator) -> Damage:
    """One to three blobs of 6 to 34 voxels."""
    grid = torch.meshgrid(*[torch.arange(size, dtype=torch.float32) for size in shape], indexing="ij")
    mask = torch.zeros(tuple(shape), dtype=torch.bool)
    for _ in range(int(_uniform(1, 4, generator))):
        wobble = 0.6 + 0.8 * smooth_field(tuple(shape), generator, knots=4)
        distance = torch.zeros(tuple(shape))
        for axis, size in enumerate(shape):
            centre = _uniform(0, size, generator) if size > 16 else size / 2 + _uniform(-12, 12, generator)
            distance = distance + ((grid[axis] - centre) / _uniform(3, 17, generator)) ** 2
        mask |= distance * wobble < 1
    mask[0] = False
    return Damage(Regions(mask), _perhaps_noise(0.15, 0.06, generator))


DRAW: dict[str, Callable[[tuple[int, ...], torch.Generator], Damage]] = {
    "noise": draw_noise,
    "thick": draw_thick,
    "gap": draw_gap,
    "in-plane": draw_in_plane,
    "region": draw_region,
}
