"""Draw the protocol's families of damage with continuous parameters, as the networks will meet them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.degradations import DEGRADATIONS, Degradation, Observation, draw_noise
from medldm.degradations.degradation import uniform
from medldm.inference.conditioning import Orientation, measured_channels, pick_orientations
from medldm.settings import Architecture
from medldm.training.augment import augment
from medldm.training.data import BODY, Block, Packed, draw_block, pick

MARGIN = 8  # voxels along the damaged axis that are cut off again: a block's end is not a scan's end


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
    noise: Degradation | None


def shares(modality: str) -> dict[str, float]:
    """How often each family is drawn; thick-sliced scans can teach those alone that lose nothing across slices.

    Parameters
    ----------
    modality : name in `medldm.modality.MODALITIES`
    """
    return {name: kind.shares[modality] for name, kind in DEGRADATIONS.items() if modality in kind.shares}


def draw_example(scans: Sequence[Packed], config: Architecture, size: int, generator: torch.Generator) -> Example:
    """A patch of a random scan, augmented and damaged at random.

    Parameters
    ----------
    scans : training scans in memory
    config : architecture; plane networks get (size, size) patches, volume networks (size, size, size)
    size : edge of a patch, a multiple of 16
    generator : source of randomness
    """
    scan = pick(list(scans), generator)
    depth = config.context if config.spatial_dims == 2 else size
    block = draw_block(scan, (size + 2 * MARGIN, size, depth), generator)
    observation, sigma, clean, task = damaged(block, generator)
    inputs = channels(observation, sigma, config)
    wanted = clean[..., depth // 2] if config.spatial_dims == 2 else clean
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
    observation; noise level as the network is given it, (H, W, D) or broadcastable; clean image (H, W, D); family of
    the damage
    """
    # The noise level that a user or an estimator gives is never quite right.
    doubt = math.exp(0.15 * float(torch.randn((), generator=generator)))
    clean = augment(block.clean, generator) if block.noise is None else block.clean
    task = draw_task(block, generator)
    damage = draw_damage(task, tuple(clean.shape), generator)
    if block.noise is not None:
        sampling = damage.sampling
        added = low_dose(block.noise, task, generator)
        # Noise comes before thick slices: they average it.
        observation, _ = measure(clean + added, Damage(sampling, None), generator)
        averaged = sampling is not None and sampling.linear and not sampling.masks
        bare = sampling.degrade(added) if sampling is not None and averaged else added
        body = clean > BODY
        level = bare[body].std() if bare.shape == body.shape and int(body.sum()) > 100 else bare.std()
        return observation, level.reshape(1, 1, 1) * doubt, clean, task
    observation, sigma = measure(clean, damage, generator)
    return observation, sigma * doubt, clean, task


def low_dose(quarter: Tensor, task: str, generator: torch.Generator) -> Tensor:
    """Noise of a random dose, from that of a quarter: quantum noise grows with the root of 1 / dose - 1.

    Parameters
    ----------
    quarter : (H, W, D) scaled intensity, added at a quarter of the dose
    task : families that lose something keep the full dose more often than not
    """
    if not DEGRADATIONS[task].adds_noise and uniform(0, 1, generator) < 0.6:
        return torch.zeros_like(quarter)
    dose = math.exp(uniform(math.log(0.06), math.log(0.7), generator))
    sign = 1 if uniform(0, 1, generator) < 0.5 else -1
    return quarter * (sign * math.sqrt((1 / dose - 1) / 3))


class Scene(NamedTuple):
    """A damaged block and all ways of looking at it.

    Parameters
    ----------
    observation : (H, W, D); damage lies along H
    sigma : noise level as the network is given it, (H, W, D) or broadcastable
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
    orientations = orientations_of(DEGRADATIONS[task], clean.shape, (1.0, 1.0, coarse))
    return Scene(observation, sigma, clean, orientations)


def orientations_of(
    kind: Degradation | type[Degradation] | None, shape: Sequence[int], spacing: Sequence[float]
) -> list[Orientation]:
    """Orientations that the verbs average, of damage along the first axis.

    Parameters
    ----------
    kind : of the damage; None where nothing is lost
    shape, spacing : of the block
    """
    damaged = (0,) if kind is not None and kind.across_slices else ()
    return pick_orientations(damaged, (0, 1) if kind is not None and kind.in_planes else (), shape, spacing)


def channels(observation: Observation, sigma: Tensor, config: Architecture) -> Tensor:
    """(C, H, W) of the central plane, or (C, H, W, D)."""
    stack = measured_channels(observation.y, observation.observed, sigma, observation.thickness, config)
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
    if damage.sampling.masks:
        measured = damage.sampling.degrade(measured)  # noise does not reach what was never measured
    return damage.sampling.observe(measured), sigma


def draw_task(block: Block, generator: torch.Generator) -> str:
    """A family, by its share in the block's modality."""
    shares_of = shares(block.modality.name)
    names = [name for name in shares_of if block.isotropic or not DEGRADATIONS[name].across_slices]
    chances = torch.tensor([shares_of[name] for name in names])
    return names[int(torch.multinomial(chances, 1, generator=generator))]


def draw_damage(task: str, shape: tuple[int, ...], generator: torch.Generator) -> Damage:
    """A random degradation of a family, and at times noise on top.

    Parameters
    ----------
    task : name in `medldm.degradations.DEGRADATIONS`
    shape : (H, W, D) of the block
    generator : source of randomness
    """
    kind = DEGRADATIONS[task]
    drawn = kind.draw(shape, generator)
    if kind.adds_noise:
        return Damage(None, drawn)
    noisy = uniform(0, 1, generator) < kind.noise_on_top.chance
    return Damage(drawn, draw_noise(kind.noise_on_top, generator) if noisy else None)
