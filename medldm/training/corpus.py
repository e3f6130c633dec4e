"""Scans on the device, and blocks of them drawn and augmented in batches: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.errors import InputError
from medldm.modality import MR, Modality
from medldm.training.data import BODY, Packed

CANDIDATES = 12  # voxels tried to find one with signal
SIGNAL = 0.1  # scaled intensity of a voxel with signal in MRI


class Blocks(NamedTuple):
    """A batch of clean blocks.

    Parameters
    ----------
    clean : (B, H, W, D) scaled intensity
    isotropic : (B,) bool, whether the block may lose slices along H
    scan : (B,) index of the scan each comes from
    noise : (B, H, W, D) scaled intensity, what a quarter of the dose would add; None for MRI
    modality : of all scans
    """

    clean: Tensor
    isotropic: Tensor
    scan: Tensor
    noise: Tensor | None = None
    modality: Modality = MR


class Corpus:
    """All training scans in one flat buffer on a device, so that a batch of blocks is one gather.

    Parameters
    ----------
    scans : packed scans of one modality, weighted as they shall be drawn
    device : where the buffer lies

    Raises
    ------
    InputError
        Scans of several modalities.
    """

    def __init__(self, scans: Sequence[Packed], device: torch.device | str = "cpu") -> None:
        kinds = {scan.kind.title: scan.kind for scan in scans}
        if len(kinds) > 1:
            raise InputError(
                f"Some of the {len(scans)} packed scans are {' and others '.join(sorted(kinds))}; a network learns one "
                "modality. Pack them into two files."
            )
        (self.modality,) = kinds.values()
        self.device = torch.device(device)
        self.voxels = _flat([scan.voxels for scan in scans], self.device)
        noise = [scan.noise for scan in scans if scan.noise is not None]
        self.noise = _flat(noise, self.device) if noise else None
        self.draws = len(noise[0]) if noise else 0  # of noise, beside each scan
        sizes = [scan.voxels.size for scan in scans]
        self.offset = self._long([sum(sizes[:k]) for k in range(len(sizes))])  # (N,)
        self.size = self._long(sizes)  # (N,)
        shapes = [scan.voxels.shape for scan in scans]
        self.shape = self._long(shapes)  # (N, 3)
        self.stride = self._long([(s[1] * s[2], s[2], 1) for s in shapes])  # (N, 3)
        self.scale = torch.tensor([scan.scale for scan in scans], device=self.device)
        self.shift = torch.tensor([scan.shift for scan in scans], device=self.device)
        self.coarse = torch.tensor([scan.coarse for scan in scans], device=self.device)
        self.isotropic = torch.tensor([scan.isotropic for scan in scans], device=self.device)
        self.slice_axis = self._long([scan.slice_axis for scan in scans])
        self.weight = torch.tensor([scan.weight for scan in scans], device=self.device)

    def _long(self, values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def preferring_thin(self, factor: float) -> Corpus:
        """The same corpus, with isotropic scans drawn more often by a factor."""
        other = copy(self)
        other.weight = self.weight * torch.where(self.isotropic, factor, 1.0)
        return other

    def with_thin_share(self, least: float) -> Corpus:
        """The same corpus, with isotropic scans drawn at least so often; as it is where there are none.

        Thin slices alone show what thick ones lack. Of sixteen CT scans one was thin, and a network that was trained on
        all alike lost a decibel between slices.

        Parameters
        ----------
        least : share of all blocks
        """
        thin = float(self.weight[self.isotropic].sum() / self.weight.sum())
        if not 0 < thin < least:
            return self
        return self.preferring_thin(least / (1 - least) * (1 - thin) / thin)

    def draw(self, count: int, size: tuple[int, int, int], generator: torch.Generator) -> Blocks:
        """Random blocks around voxels with signal, axes permuted and flipped at random.

        Parameters
        ----------
        count : blocks
        size : (H, W, D) voxels; of a scan with thick slices D lies across them
        generator : source of randomness, on the device

        Returns
        -------
        blocks; what lies outside a scan is air
        """
        scan = torch.multinomial(self.weight, count, replacement=True, generator=generator)
        # Axes in random order; the axis of thick slices goes last.
        key = self._rand(count, 3, generator=generator)
        across = torch.arange(3, device=self.device) == self.slice_axis[scan, None]
        order = (key + 2.0 * (across & ~self.isotropic[scan, None])).argsort(1)  # (B, 3)
        total = self.shape[scan].gather(1, order)
        stride = self.stride[scan].gather(1, order)
        centre = self._with_signal(scan, generator).gather(1, order)
        length = torch.tensor(size, device=self.device)
        start = (centre - length // 2).clamp_min(0).minimum((total - length).clamp_min(0))
        before = (self._rand(count, 3, generator=generator) * ((length - total).clamp_min(0) + 1)).long()
        start = torch.where(total >= length, start, -before)
        flip = self._rand(count, 3, generator=generator) < 0.5
        index = self.offset[scan].reshape(-1, 1, 1, 1)
        inside = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device)
        for place in range(3):
            at = torch.arange(size[place], device=self.device)
            at = torch.where(flip[:, place, None], size[place] - 1 - at, at) + start[:, place, None]  # (B, L)
            dims = [-1, *[size[place] if other == place else 1 for other in range(3)]]
            fits = (at >= 0) & (at < total[:, place, None])
            index = index + (at.clamp_min(0).minimum(total[:, place, None] - 1) * stride[:, place, None]).reshape(dims)
            inside = inside & fits.reshape(dims)
        scale = _over(self.scale[scan])
        values = self._stored(index)
        # Coarse voxels are spread over the half level that rounding took from them.
        dither = _over(self.coarse[scan]) & (values > 0) & inside
        values = values + dither * (torch.rand(values.shape, generator=generator, device=self.device) - 0.5)
        clean = (values * scale + _over(self.shift[scan])) * inside
        noise = None
        if self.noise is not None:
            draw = (self._rand(count, generator=generator) * self.draws).long()
            beside = self.offset[scan] * (self.draws - 1) + draw * self.size[scan]
            noise = self.noise[index + _over(beside)].float() * scale * inside
        return Blocks(clean, self.isotropic[scan], scan, noise, self.modality)

    def _rand(self, *shape: int, generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, device=self.device)

    def _stored(self, index: Tensor) -> Tensor:
        """Stored voxels as float; 16 bits lie in the buffer as if they had a sign."""
        values = self.voxels[index]
        return (values.int() & 0xFFFF).float() if values.dtype == torch.int16 else values.float()

    def _with_signal(self, scan: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 3) a voxel of each scan that holds signal, or any where none was found."""
        at = (self._rand(len(scan), CANDIDATES, 3, generator=generator) * self.shape[scan][:, None]).long()
        index = self.offset[scan][:, None] + (at * self.stride[scan][:, None]).sum(-1)
        signal = SIGNAL if self.modality.body_above is None else BODY
        values = self._stored(index) * self.scale[scan][:, None] + self.shift[scan][:, None]
        first = (values > signal).float().argmax(1)  # (B,)
        return at[torch.arange(len(scan), device=self.device), first]


def _flat(arrays: Sequence[np.ndarray[Any, Any]], device: torch.device) -> Tensor:
    """All voxels one after another on a device, copied scan by scan, since scans may lie on disk."""
    small = all(array.dtype == np.uint8 for array in arrays)
    kind = torch.uint8 if small else torch.int16
    flat = torch.empty(sum(array.size for array in arrays), dtype=kind, device=device)
    start = 0
    for array in arrays:
        own = array.reshape(-1) if small or array.dtype == np.int16 else array.reshape(-1).astype(np.uint16)
        flat[start : start + array.size] = torch.from_numpy(np.array(own if small else own.view(np.int16)))
        start += array.size
    return flat


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count,) uniform numbers on the generator's device."""
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


def smooth_fields(count: int, shape: Sequence[int], generator: torch.Generator, knots: int = 4) -> Tensor:
    """(count, H, W, D) random smooth fields in [0, 1], see `medldm.degradations.smooth_field`."""
    coarse = torch.rand((count, 1, knots, knots, knots), generator=generator, device=generator.device)
    return F.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)[:, 0]


def augmented(blocks: Blocks, generator: torch.Generator) -> Blocks:
    """The same anatomy as other sequences or coils might show it; values of CT mean something and stay."""
    if blocks.modality.window is not None:
        return blocks
    return blocks._replace(clean=augment(blocks.clean, generator))


def augment(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Other contrasts, coil fields and gains; air stays dark.

    Parameters
    ----------
    clean : (B, H, W, D) scaled intensity
    generator : source of randomness, on the device

    Returns
    -------
    (B, H, W, D)
    """
    count = len(clean)
    remapped = uniform(count, 0, 1, generator) < 0.45
    image = torch.where(_over(remapped), remap(clean, generator), clean)
    with_field = (uniform(count, 0, 1, generator) < 0.3).nonzero().flatten()
    if len(with_field):
        field = smooth_fields(len(with_field), clean.shape[1:], generator, knots=3)
        image = image.index_copy(0, with_field, image[with_field] * (0.65 + 0.7 * field))
    return image * _over(uniform(count, 0.8, 1.2, generator))


def remap(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast of each block by a gamma, a random rising curve, or one that turns round as T2 does to T1.

    Parameters
    ----------
    clean : (B, H, W, D) scaled intensity
    """
    count, device = len(clean), clean.device
    kind = uniform(count, 0, 1, generator)
    gamma = 2 ** uniform(count, -0.8, 0.8, generator)
    zero = torch.zeros(count, 1, device=device)
    rises = torch.rand((count, 6), generator=generator, device=device) + 0.15
    rising = torch.cat([zero, rises.cumsum(1) / rises.sum(1, keepdim=True) * 1.2], 1)
    # Tissue levels change places; the first knot keeps air dark, so that edges to air stay edges.
    turning = torch.cat([zero, 0.15 + torch.rand((count, 6), generator=generator, device=device)], 1)
    values = torch.where((kind < 0.7)[:, None], rising, turning)
    curved = piecewise_linear(clean, values, 1.3)
    return torch.where(_over(kind < 0.35), clean.clamp_min(0) ** _over(gamma), curved)


def piecewise_linear(image: Tensor, values: Tensor, last: float) -> Tensor:
    """Look intensities up in one curve a block; its first and last slopes go on beyond its ends.

    Parameters
    ----------
    image : (B, ...)
    values : (B, K) at K knots, equally spaced from 0 to `last`
    """
    step = last / (values.shape[1] - 1)
    flat = image.flatten(1)
    lower = (flat / step).floor().clamp(0, values.shape[1] - 2).long()
    slope = values.diff(dim=1) / step
    return (values.gather(1, lower) + (flat - lower * step) * slope.gather(1, lower)).reshape(image.shape)


def _over(numbers: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return numbers.reshape(-1, 1, 1, 1)
