"""Damage a batch of blocks on the device: the protocol's families with continuous parameters, as `examples` draws one.

Every loss of resolution is a small matrix along an axis, one for each block (`batch_sampling`). Damage lies along the
first axis of a block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.degradations import DEGRADATIONS, fill_smoothly
from medldm.modality import MR
from medldm.training import examples
from medldm.training.batch_sampling import Sampling, sampling
from medldm.training.corpus import Blocks, smooth_fields, uniform

TOGETHER = ("noise", "thick", "gap", "in-plane", "region")  # families that are drawn for a whole batch at once


class Measured(NamedTuple):
    """A batch of measurements on the grid of the clean blocks.

    Parameters
    ----------
    y : (B, H, W, D) measurement, interpolated, scaled intensity
    observed : (B, H, W, D) in [0, 1]
    sigma : (B, H, W, D) noise level as a user would state it, scaled intensity
    thickness : (B,) slice thickness, voxels
    task : (B,) index into `family_shares`
    """

    y: Tensor
    observed: Tensor
    sigma: Tensor
    thickness: Tensor
    task: Tensor


def family_shares() -> dict[str, float]:
    """The families, in the order that `Measured.task` counts, and how often each is drawn."""
    return examples.shares(MR.name)


def having(attribute: str, task: Tensor) -> Tensor:
    """(B,) bool, whether the families of a batch have an attribute of `medldm.degradations.Degradation`.

    Parameters
    ----------
    attribute : name
    task : (B,) index into `family_shares`
    """
    known = [bool(getattr(DEGRADATIONS[name], attribute)) for name in family_shares()]
    return torch.tensor(known, device=task.device)[task]


def measure(blocks: Blocks, generator: torch.Generator, task: Tensor | None = None) -> Measured:
    """What might have been measured of each block.

    Parameters
    ----------
    blocks : clean, augmented
    generator : source of randomness, on the device
    task : (B,) families; drawn by their shares when not given

    Returns
    -------
    measurements
    """
    clean = blocks.clean
    count, height, width = clean.shape[:3]
    task = draw_tasks(blocks.isotropic, generator) if task is None else task
    rows, columns = _sampling(task, count, height, width, generator)
    low = torch.einsum("bsh,bhwd->bswd", rows.measure, clean)
    both = columns.changes.nonzero().flatten()  # the others keep their columns
    if len(both):
        low = low.index_copy(0, both, torch.einsum("btw,bswd->bstd", columns.measure[both], low[both]))
    sigma = _noise_map(task, clean.shape, generator)
    level = torch.einsum("bsh,bhwd->bswd", rows.measure, sigma)
    real = low + level * torch.randn(low.shape, generator=generator, device=low.device)
    imaginary = level * torch.randn(low.shape, generator=generator, device=low.device)
    low = torch.where(level > 0, torch.hypot(real, imaginary), low)
    if len(both):
        low = low.index_copy(0, both, torch.einsum("bwt,bstd->bswd", columns.interpolate[both], low[both]))
    y = torch.einsum("bhs,bswd->bhwd", rows.interpolate, low)
    observed = (rows.observed[:, :, None] * columns.observed[:, None, :])[..., None].expand_as(y)
    holes = of_family("region", task).nonzero().flatten()
    if len(holes):
        mask = draw_regions(len(holes), clean.shape[1:], generator)
        y = y.index_copy(0, holes, fill_smoothly(y[holes], ~mask))
        observed = observed.index_copy(0, holes, (~mask).to(y))
    thickness = rows.thickness
    alone = ~torch.stack([of_family(name, task) for name in TOGETHER]).any(0)
    if bool(alone.any()):
        y, observed, sigma, thickness = _one_by_one(alone, clean, task, y, observed, sigma, thickness, generator)
    # The noise level that a user or an estimator gives is never quite right.
    doubt = (0.15 * torch.randn(count, generator=generator, device=clean.device)).exp()
    return Measured(y, observed, sigma * doubt.reshape(-1, 1, 1, 1), thickness, task)


def of_family(name: str, task: Tensor) -> Tensor:
    """(B,) bool, which blocks are of a family.

    Parameters
    ----------
    name : in `family_shares`
    task : (B,) index into `family_shares`
    """
    return task == list(family_shares()).index(name)


def _one_by_one(
    alone: Tensor,
    clean: Tensor,
    task: Tensor,
    y: Tensor,
    observed: Tensor,
    sigma: Tensor,
    thickness: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fields of `Measured` with those blocks that only their own class can degrade, on the CPU.

    Parameters
    ----------
    alone : (B,) bool, which
    clean, task : of all blocks
    y, observed, sigma, thickness : of the others
    generator : source of randomness, on the device
    """
    seed = torch.randint(2**31 - 1, (1,), generator=generator, device=clean.device)
    own = torch.Generator().manual_seed(int(seed))
    y, observed, sigma, thickness = (field.clone() for field in (y, observed, sigma, thickness))
    names = list(family_shares())
    for number in alone.nonzero().flatten().tolist():
        block = clean[number].cpu()
        damage = examples.draw_damage(names[int(task[number])], tuple(block.shape), own)
        observation, level = examples.measure(block, damage, own)
        y[number], observed[number], sigma[number] = observation.y, observation.observed, level
        thickness[number] = observation.thickness
    return y, observed, sigma, thickness


def draw_tasks(isotropic: Tensor, generator: torch.Generator, shares_of: dict[str, float] | None = None) -> Tensor:
    """(B,) a family for each block, by its share; blocks of thick slices lose no slices.

    Parameters
    ----------
    isotropic : (B,) bool
    generator : source of randomness, on the device
    shares_of : family to its share; `family_shares` when not given
    """
    shares_of = shares_of or family_shares()
    shares = torch.tensor(list(shares_of.values()), device=isotropic.device).repeat(len(isotropic), 1)
    thin = torch.tensor([DEGRADATIONS[name].across_slices for name in shares_of], device=isotropic.device)
    shares = shares * ~(thin & ~isotropic[:, None])
    return torch.multinomial(shares, 1, generator=generator)[:, 0]


def _sampling(
    task: Tensor, count: int, height: int, width: int, generator: torch.Generator
) -> tuple[Sampling, Sampling]:
    """Sampling along the first and the second axis, drawn as `examples` draws it."""
    device = task.device
    grid = torch.arange(height, device=device, dtype=torch.float32)
    is_ = {name: of_family(name, task) for name in TOGETHER}
    one = torch.full((count,), 1e-3, device=device)  # thin enough to select a voxel

    # Thick slices: 1.3 to 8 voxels apart, gap or overlap, any phase, one of them lost at times.
    spacing = uniform(count, math.log(1.3), math.log(8), generator).exp()
    same = uniform(count, 0, 1, generator) < 0.6
    thickness = spacing * torch.where(same, torch.ones_like(spacing), uniform(count, 0.6, 1.25, generator))
    thick = (grid + 0.5) * spacing[:, None] - 0.5 - uniform(count, 0, 1, generator)[:, None] * spacing[:, None]
    exists = (thick > -0.5) & (thick < height - 0.5)
    slices = exists.sum(1, keepdim=True)
    lost = (uniform(count, 0, 1, generator)[:, None] * (slices - 2)).floor() + 1
    loses = (uniform(count, 0, 1, generator)[:, None] < 0.1) & (slices > 4)
    exists &= ~(loses & (exists.cumsum(1) - 1 == lost))
    # Missing slices: every n-th kept, random ones, or whole gaps.
    kept = draw_kept(count, height, generator)
    # In-plane: fewer samples, edges aligned.
    factor = uniform(count, 1.3, 2.6, generator)
    kspace = uniform(count, 0, 1, generator) < 0.7
    both = uniform(count, 0, 1, generator) < 0.8

    def coarse(size: int) -> tuple[Tensor, Tensor]:
        at = torch.arange(size, device=device)
        return (at + 0.5) * factor[:, None] - 0.5, at < (size / factor + 1e-6).floor()[:, None]

    def column(name: str) -> Tensor:
        return is_[name][:, None]

    plane, plane_exists = coarse(height)
    centres = torch.where(column("thick"), thick, torch.where(column("in-plane"), plane, grid.expand(count, -1)))
    there = torch.where(column("thick"), exists, torch.where(column("in-plane"), plane_exists, kept | ~column("gap")))
    wide = torch.where(is_["thick"], thickness, torch.where(is_["in-plane"], factor, one))
    rect = (is_["thick"] & (uniform(count, 0, 1, generator) >= 0.6)) | (is_["in-plane"] & ~kspace)
    fourier = is_["in-plane"] & kspace
    stated_thickness = torch.where(is_["thick"], thickness, torch.ones_like(thickness))
    changes = is_["thick"] | is_["gap"] | is_["in-plane"]
    rows = sampling(centres, there, wide, rect, fourier, height, stated_thickness, changes)
    second = is_["in-plane"] & both
    plane, plane_exists = coarse(width)
    across = torch.arange(width, device=device, dtype=torch.float32).expand(count, -1)
    columns = sampling(
        torch.where(second[:, None], plane, across),
        torch.where(second[:, None], plane_exists, torch.ones_like(plane_exists)),
        torch.where(second, factor, one),
        rect & second,
        fourier & second,
        width,
        stated_thickness,
        second,
    )
    return rows, columns


def draw_kept(count: int, slices: int, generator: torch.Generator) -> Tensor:
    """(B, S) bool, which slices a scan kept: every second to fifth, a random share, or all but up to four gaps."""
    device = generator.device
    at = torch.arange(slices, device=device)
    every = uniform(count, 2, 6, generator).floor()[:, None]
    phase = (uniform(count, 0, 1, generator)[:, None] * every).floor()
    regular = (at + phase) % every == 0
    share = uniform(count, 0.1, 0.5, generator)[:, None]
    scattered = torch.rand((count, slices), generator=generator, device=device) >= share
    gaps = torch.ones(count, slices, dtype=torch.bool, device=device)
    number = uniform(count, 1, 5, generator).floor()
    for k in range(4):
        start = (uniform(count, 0, 1, generator) * slices).floor()[:, None]
        length = uniform(count, 1, 7, generator).floor()[:, None]
        gaps &= ~((at >= start) & (at < start + length) & (number > k)[:, None])
    kind = uniform(count, 0, 1, generator)[:, None]
    kept = torch.where(kind < 0.35, regular, torch.where(kind < 0.6, scattered, gaps))
    always = (uniform(count, 0, 1, generator) * slices).long()[:, None]
    return kept | (at == always)


def _noise_map(task: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """(B, H, W, D) standard deviation of the noise; a third of the maps vary as those of parallel imaging do."""
    count = len(task)
    limits = torch.tensor([DEGRADATIONS[name].noise_on_top for name in family_shares()], device=task.device)[task]
    chance, highest, lowest = limits.unbind(1)
    level = lowest + (highest - lowest) * uniform(count, 0, 1, generator)
    level = level * (uniform(count, 0, 1, generator) < chance)
    varies = uniform(count, 0, 1, generator) < 0.35
    gain, width = uniform(count, 1, 3.5, generator), uniform(count, 0.4, 1.2, generator)
    distance = torch.zeros((count, 1, 1, 1), device=task.device)
    for axis, size in enumerate(shape[1:]):
        focus = uniform(count, -0.5, 1.5, generator) if axis < 2 else torch.full((count,), 0.5, device=task.device)
        at = (torch.arange(size, device=task.device) + 0.5) / size - focus[:, None]
        distance = distance + (at**2).reshape([count, *[size if other == axis else 1 for other in range(3)]])
    rise = 1 + (gain - 1).reshape(-1, 1, 1, 1) * torch.exp(-distance / (2 * width.reshape(-1, 1, 1, 1) ** 2))
    flat = level.reshape(-1, 1, 1, 1)
    return torch.where(varies.reshape(-1, 1, 1, 1), 0.6 * flat * rise, flat.expand_as(rise))


def draw_regions(count: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """(B, H, W, D) bool masks of one to three blobs of 6 to 34 voxels; the first plane is always measured."""
    device = generator.device
    mask = torch.zeros((count, *shape), dtype=torch.bool, device=device)
    number = uniform(count, 1, 4, generator).floor()
    for k in range(3):
        distance = torch.zeros((count, 1, 1, 1), device=device)
        for axis, size in enumerate(shape):
            span = (0.0, float(size)) if size > 16 else (size / 2 - 12, size / 2 + 12)
            centre, radius = uniform(count, *span, generator), uniform(count, 3, 17, generator)
            at = (torch.arange(size, device=device) - centre[:, None]) / radius[:, None]
            distance = distance + (at**2).reshape([count, *[size if other == axis else 1 for other in range(3)]])
        wobble = 0.6 + 0.8 * smooth_fields(count, shape, generator)
        mask |= (distance * wobble < 1) & (number > k).reshape(-1, 1, 1, 1)
    mask[:, 0] = False
    return mask


def plane_channels(measured: Measured, context: int) -> Tensor:
    """Channels of the central plane of each block, (B, C, H, W), see `medldm.inference.conditioning.measured_channels`.

    Parameters
    ----------
    measured : with D equal to `context`
    context : planes that become channels
    """
    middle = context // 2
    thick = (measured.thickness.clamp_min(1).log2() / 3).reshape(-1, 1, 1, 1)
    return torch.cat(
        [
            measured.y.permute(0, 3, 1, 2),
            measured.observed.permute(0, 3, 1, 2),
            measured.sigma[..., middle][:, None] * 10.0,
            thick.expand(-1, 1, *measured.y.shape[1:3]),
        ],
        1,
    )
