"""Damaged blocks on the device together with what a trained regression network makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medldm.inference.conditioning import NOISE_GAIN
from medldm.models.blocks import space_to_depth
from medldm.models.precision import full_precision
from medldm.models.residual import Conditions, PrincipalBlocks, SpreadHead, features_and_correction
from medldm.models.unet import Residual
from medldm.settings import Architecture
from medldm.training.batches import Measured, draw_tasks, family_shares, having, measure
from medldm.training.corpus import Corpus, augment
from medldm.training.examples import MARGIN

# How often a family is drawn for the residual, where that differs: most where information is missing.
RESIDUAL_SHARES = {"noise": 0.2, "thick": 0.34, "gap": 0.26, "in-plane": 0.07, "region": 0.13}


class Planes(NamedTuple):
    """The blocks of a batch that are averaged over one orientation, as planes.

    Parameters
    ----------
    order : axes of a block that become (H, W, D), as in `medldm.inference.conditioning.Orientation`
    which : (B',) index of the blocks
    inputs : (B' * D, C, H, W) measured channels
    """

    order: tuple[int, int, int]
    which: Tensor
    inputs: Tensor

    def back(self, planes: Tensor) -> Tensor:
        """(B' * D, 1, H, W) as blocks (B', ...) in their own order of axes."""
        stack = planes[:, 0].reshape(len(self.which), -1, *planes.shape[2:]).permute(0, 2, 3, 1)
        return stack.permute(0, *[1 + self.order.index(axis) for axis in range(3)])


class Scenes(NamedTuple):
    """Blocks whose ends along the damaged axis are cut off.

    Parameters
    ----------
    residual : (B, H, W, D) x - b, scaled intensity
    conditions : see `medldm.models.residual.Conditions`, (B, 1, H, W, D)
    task : (B,) index into `medldm.training.batches.family_shares`
    """

    residual: Tensor
    conditions: Conditions
    task: Tensor


def orientations(measured: Measured, isotropic: Tensor, context: int) -> Iterator[Planes]:
    """Each block in the orientations that the verbs average (`medldm.inference.conditioning.pick_orientations`).

    Parameters
    ----------
    measured : batch
    isotropic : (B,) bool
    context : planes that become channels
    """
    thin = having("across_slices", measured.task)
    plane = having("in_planes", measured.task)
    around = isotropic & ~thin & ~plane  # noise and regions are restored in three orientations
    for order, chosen in (
        ((0, 1, 2), torch.ones_like(thin)),
        ((0, 2, 1), thin),
        ((1, 2, 0), around),
        ((2, 0, 1), around),
    ):
        which = chosen.nonzero().flatten()
        if len(which):
            yield Planes(order, which, plane_stack(measured, which, order, context))


def plane_stack(measured: Measured, which: Tensor, order: Sequence[int], context: int) -> Tensor:
    """Channels of every plane of some blocks, (B' * D, C, H, W), the outermost planes repeated at the ends."""

    def planes(field: Tensor) -> Tensor:
        return field[which].permute(0, *[1 + axis for axis in order]).permute(0, 3, 1, 2)  # (B', D, H, W)

    def neighbours(field: Tensor) -> Tensor:
        stack, half = planes(field), context // 2
        stack = torch.cat([stack[:, :1].expand(-1, half, -1, -1), stack, stack[:, -1:].expand(-1, half, -1, -1)], 1)
        return stack.unfold(1, context, 1).permute(0, 1, 4, 2, 3).flatten(0, 1)

    sigma = planes(measured.sigma).flatten(0, 1)[:, None] * NOISE_GAIN
    thick = (measured.thickness[which].clamp_min(1).log2() / 3).repeat_interleave(len(sigma) // len(which))
    return torch.cat(
        [neighbours(measured.y), neighbours(measured.observed), sigma, thick.reshape(-1, 1, 1, 1).expand_as(sigma)], 1
    )


def regress(
    network: Residual, spread: nn.Module | None, measured: Measured, isotropic: Tensor, context: int
) -> tuple[Tensor, Tensor]:
    """Regression mean and log spread, averaged over orientations, (B, H, W, D) each.

    Parameters
    ----------
    network : frozen regression network for planes
    spread : spread head; zeros stand for its answer without one
    measured, isotropic, context : see `orientations`
    """
    total = torch.zeros_like(measured.y)
    log_s = torch.zeros_like(measured.y)
    count = torch.zeros(len(total), device=total.device)
    for planes in orientations(measured, isotropic, context):
        with torch.no_grad():
            features, correction = features_and_correction(network, planes.inputs)
        total = total.index_add(0, planes.which, planes.back(correction))
        if spread is not None:
            log_s = log_s.index_add(0, planes.which, planes.back(spread(features)))
        count = count.index_add(0, planes.which, torch.ones_like(planes.which, dtype=count.dtype))
    share = 1 / count.reshape(-1, 1, 1, 1)
    return measured.y + total * share, log_s * share


def draw_scenes(
    corpus: Corpus,
    network: Residual,
    spread: SpreadHead,
    count: int,
    size: int,
    context: int,
    generator: torch.Generator,
) -> tuple[Scenes, Tensor]:
    """Damaged blocks with regression mean and spread; with gradients of the spread where autograd is on.

    Returns
    -------
    scenes, and log s (B, H, W, D)
    """
    # Data are made in full precision, whatever the networks compute in.
    with torch.no_grad(), full_precision(corpus.device):
        blocks = corpus.draw(count, (size + 2 * MARGIN, size, size), generator)
        blocks = blocks._replace(clean=augment(blocks.clean, generator))
        task = draw_tasks(blocks.isotropic, generator, family_shares() | RESIDUAL_SHARES)
        measured = measure(blocks, generator, task)
    b, log_s = regress(network, spread, measured, blocks.isotropic, context)
    inner = slice(MARGIN, MARGIN + size)

    def cut(field: Tensor) -> Tensor:
        return field[:, None, inner]

    conditions = Conditions(
        cut(b), cut(measured.y), cut(measured.observed), cut(measured.sigma), cut(log_s), measured.thickness
    )
    return Scenes((blocks.clean - b)[:, inner], conditions, task), log_s[:, inner]


def save_scenes(scenes: Sequence[Scenes], path: Path) -> None:
    """Scenes in one safetensors file."""
    parts = {name: torch.cat([getattr(s.conditions, name) for s in scenes]) for name in Conditions._fields}
    parts |= {"residual": torch.cat([s.residual for s in scenes]), "task": torch.cat([s.task for s in scenes])}
    save_file({name: value.cpu() for name, value in parts.items()}, path)


def load_scenes(path: Path, device: torch.device) -> Scenes:
    """The scenes of a file of `save_scenes`, on a device."""
    parts = {name: value.to(device) for name, value in load_file(path).items()}
    return Scenes(parts["residual"], Conditions(*(parts[name] for name in Conditions._fields)), parts["task"])


class Pool:
    """Scenes kept on the device in half precision; batches are drawn from them, flipped at random."""

    def __init__(self, scenes: list[Scenes]) -> None:
        fields = [torch.cat([s.residual[:, None] for s in scenes])]
        fields += [torch.cat([s.conditions[k] for s in scenes]) for k in range(5)]
        self.fields, self.thickness = fields, torch.cat([s.conditions.thickness for s in scenes])

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """(B, 1, H, W, D) u, and conditions."""
        which = torch.randint(len(self.thickness), (count,), generator=generator, device=generator.device)
        turn = torch.rand(4, generator=generator, device=generator.device).cpu() < 0.5
        flips = [axis + 2 for axis in range(3) if turn[axis]]
        fields = [field[which].float().flip(flips) for field in self.fields]
        if turn[3]:
            fields = [field.transpose(3, 4) for field in fields]
        r, b, y, m, sigma, log_s = fields
        return r / log_s.exp(), Conditions(b, y, m, sigma, log_s, self.thickness[which])


def principal_blocks(pool: Pool, config: Architecture, generator: torch.Generator) -> PrincipalBlocks:
    """The first principal components of residual blocks: the autoencoder's baseline.

    Parameters
    ----------
    pool : where residuals are drawn from
    config : edge of a block (`latent_factor`) and number of components (`latent_channels`)
    generator : source of randomness, on the device
    """
    total, count = torch.zeros((), device=generator.device), 0
    for _ in range(20):
        u, _ = pool.draw(16, generator)
        rows = space_to_depth(u, config.latent_factor).flatten(2).transpose(1, 2).flatten(0, 1)
        total, count = total + rows.T @ rows, count + len(rows)
    values, vectors = torch.linalg.eigh(total.double() / count)
    basis, scale = (
        vectors[:, -config.latent_channels :].flip(1).float(),
        values[-config.latent_channels :].flip(0).sqrt().float(),
    )
    return PrincipalBlocks(basis, scale, config.latent_factor).to(generator.device)
