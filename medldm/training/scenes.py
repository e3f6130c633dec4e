"""Damaged blocks on the device together with what a trained regression network makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medldm.inference.conditioning import NOISE_GAIN
from medldm.models.blocks import space_to_depth
from medldm.models.precision import full_precision
from medldm.models.residual import Conditions, PrincipalBlocks, features_and_correction
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
    network: Residual, measured: Measured, isotropic: Tensor, context: int
) -> tuple[Tensor, list[tuple[Planes, Tensor]]]:
    """Regression mean, averaged over orientations, and the features of each for `spread_of`.

    Parameters
    ----------
    network : frozen regression network for planes
    measured, isotropic, context : see `orientations`

    Returns
    -------
    (B, H, W, D) b, and the planes of each orientation with their features, (B' * D, channels, H, W)
    """
    total = torch.zeros_like(measured.y)
    count = torch.zeros(len(total), device=total.device)
    kept = []
    for planes in orientations(measured, isotropic, context):
        with torch.no_grad():
            features, correction = features_and_correction(network, planes.inputs)
        total = total.index_add(0, planes.which, planes.back(correction))
        count = count.index_add(0, planes.which, torch.ones_like(planes.which, dtype=count.dtype))
        kept.append((planes._replace(inputs=planes.inputs.new_empty(0)), features))
    return measured.y + total / count.reshape(-1, 1, 1, 1), kept


def spread_of(spread: nn.Module, kept: Sequence[tuple[Planes, Tensor]], like: Tensor) -> Tensor:
    """Log spread, averaged over orientations, with gradients of the spread head where autograd is on.

    Parameters
    ----------
    spread : spread head
    kept : from `regress`
    like : (B, H, W, D) the regression mean
    """
    total = torch.zeros_like(like)
    count = torch.zeros(len(like), device=like.device)
    for planes, features in kept:
        total = total.index_add(0, planes.which, planes.back(spread(features)))
        count = count.index_add(0, planes.which, torch.ones_like(planes.which, dtype=count.dtype))
    return total / count.reshape(-1, 1, 1, 1)


def draw_scenes(
    corpus: Corpus, network: Residual, count: int, size: int, context: int, generator: torch.Generator
) -> tuple[Scenes, list[tuple[Planes, Tensor]]]:
    """Damaged blocks with their regression mean; the spread is missing still.

    Returns
    -------
    scenes with log s of 0, and features for `spread_of`, whose blocks have `MARGIN` more at both ends
    """
    # Data are made in full precision, whatever the networks compute in.
    with torch.no_grad(), full_precision(corpus.device):
        blocks = corpus.draw(count, (size + 2 * MARGIN, size, size), generator)
        blocks = blocks._replace(clean=augment(blocks.clean, generator))
        task = draw_tasks(blocks.isotropic, generator, family_shares() | RESIDUAL_SHARES)
        measured = measure(blocks, generator, task)
    b, kept = regress(network, measured, blocks.isotropic, context)
    inner = slice(MARGIN, MARGIN + size)

    def cut(field: Tensor) -> Tensor:
        return field[:, None, inner]

    fields = (b, measured.y, measured.observed, measured.sigma, torch.zeros_like(b))
    conditions = Conditions._make([*(cut(field) for field in fields), measured.thickness])
    return Scenes((blocks.clean - b)[:, inner], conditions, task), kept


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
    """The first principal components of residual blocks, with an overlapping decoder.

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
    blocks = PrincipalBlocks(basis, scale, config.latent_factor).to(generator.device)
    return PrincipalBlocks(basis, scale, config.latent_factor, overlapping_decoder(pool, blocks, generator)).to(
        generator.device
    )


def overlapping_decoder(pool: Pool, blocks: PrincipalBlocks, generator: torch.Generator) -> Tensor:
    """The linear decoder of least squared error that sees the latents of a block and of those beside it.

    Parameters
    ----------
    pool : where residuals are drawn from
    blocks : whose latents are decoded
    generator : source of randomness, on the device

    Returns
    -------
    (block voxels, channels, 3, ...) weights of a convolution
    """
    left: Any = 0
    right: Any = 0
    for _ in range(40):
        u, conditions = pool.draw(8, generator)
        latent = blocks.latent(u, conditions.log_s)
        dims = latent.ndim - 2
        around = latent
        for axis in range(2, 2 + dims):
            around = around.unfold(axis, 3, 1)  # (B, C, ..., 3, ...)
        around = around.movedim(1, 1 + dims).flatten(1 + dims).flatten(0, dims).double()
        inner = (slice(None), slice(None), *[slice(1, -1)] * dims)
        target = space_to_depth(u, blocks.factor)[inner].movedim(1, -1).flatten(0, dims).double()
        left, right = left + around.T @ around, right + around.T @ target
    ridge = 1e-3 * left.diagonal().mean() * torch.eye(len(left), dtype=left.dtype, device=left.device)
    weights: Tensor = torch.linalg.solve(left + ridge, right).float()  # (channels * 3 ** dims, block voxels)
    return weights.T.reshape(-1, latent.shape[1], *[3] * dims)
