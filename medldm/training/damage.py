"""Damage to one block, drawn from the families of the protocol with continuous parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.degradations import DEGRADATIONS, Degradation, Observation, draw_noise
from medldm.degradations.degradation import uniform
from medldm.inference.conditioning import Orientation, pick_orientations
from medldm.modality import MR


class Damage(NamedTuple):
    """What happens to one block: resolution or coverage is lost first, then noise comes on top.

    Parameters
    ----------
    sampling : None when every voxel is measured
    noise : None when the measurement is clean
    """

    sampling: Degradation | None
    noise: Degradation | None


def family_shares(modality: str = MR.name) -> dict[str, float]:
    """How often each family is drawn; thick-sliced scans can teach those alone that lose nothing across slices.

    Parameters
    ----------
    modality : name in `medldm.modality.MODALITIES`

    Returns
    -------
    all families that any modality draws, in one order; 0 for those that this one does not
    """
    return {name: kind.shares.get(modality, 0.0) for name, kind in DEGRADATIONS.items() if kind.shares}


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


def measure_one(clean: Tensor, damage: Damage, generator: torch.Generator) -> tuple[Observation, Tensor]:
    """What a scanner gives, on the grid of the clean image, and its noise level there.

    Parameters
    ----------
    clean : (H, W, D)
    damage : what happens
    generator : source of randomness

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
