"""Matrices that measure an axis of each block of a batch and bring it back to the grid.

They are those of `medldm.degradations.sampling`, for a batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FAR = 1e6  # position of a slice that does not exist


class Sampling(NamedTuple):
    """How one axis of each block is measured and brought back to the grid.

    Parameters
    ----------
    measure : (B, S, H) rows sum to 1; rows beyond the last slice are zero
    interpolate : (B, H, S)
    observed : (B, H) in [0, 1]
    thickness : (B,) voxels
    changes : (B,) bool, whether this axis loses anything
    """

    measure: Tensor
    interpolate: Tensor
    observed: Tensor
    thickness: Tensor
    changes: Tensor


def sampling(
    centres: Tensor,
    there: Tensor,
    thickness: Tensor,
    rect: Tensor,
    fourier: Tensor,
    voxels: int,
    stated_thickness: Tensor,
    changes: Tensor,
) -> Sampling:
    """Matrices of `medldm.degradations.sampling` for a batch.

    Parameters
    ----------
    centres : (B, S) slice centres, voxels
    there : (B, S) bool, which of them exist
    thickness : (B,) FWHM of a Gaussian profile, width of a rectangular or a k-space one, voxels
    rect, fourier : (B,) bool, profiles that are not Gaussian
    voxels : of the output grid
    stated_thickness, changes : see `Sampling`
    """
    slices = there.sum(1)
    centres = torch.where(there, centres, torch.full_like(centres, FAR)).sort(1).values
    real = torch.arange(centres.shape[1], device=centres.device) < slices[:, None]  # (B, S)
    at = torch.arange(voxels, device=centres.device, dtype=centres.dtype)
    distance = at[None, None] - centres[..., None]  # (B, S, H)
    width = thickness.reshape(-1, 1, 1)
    sigma = width / (2 * math.sqrt(2 * math.log(2))) * math.sqrt(2)
    gaussian = torch.erf((distance + 0.5) / sigma) - torch.erf((distance - 0.5) / sigma)
    half = width / 2
    box = ((distance + 0.5).minimum(half).maximum(-half) - (distance - 0.5).minimum(half).maximum(-half)).clamp_min(0)
    weights = torch.where(rect.reshape(-1, 1, 1), box, gaussian)
    # A slice whose centre lies off the grid still sees its nearest voxel.
    weights = weights + 1e-6 * (distance.abs() == distance.abs().amin(2, keepdim=True))
    weights = weights / weights.sum(2, keepdim=True)
    if bool(fourier.any()):
        which = fourier.nonzero().flatten()
        weights = weights.index_copy(0, which, _truncated(centres[which], thickness[which], voxels))
    weights = weights * real[..., None]
    back = _interpolation(centres, slices, voxels)
    back = torch.where(fourier.reshape(-1, 1, 1), weights.mT * width, back)
    observed = ((1 - distance.abs()).clamp_min(0) * real[..., None]).sum(1).clamp_max(1)
    return Sampling(weights, back, observed, stated_thickness, changes)


def _truncated(centres: Tensor, thickness: Tensor, voxels: int) -> Tensor:
    """(B, S, H) truncated cosine series, see `medldm.degradations.sampling.profile_matrix`."""
    order = torch.arange(1, voxels, device=centres.device, dtype=centres.dtype)
    keeps = order[None] < (voxels / thickness).round()[:, None]  # (B, K)
    at = torch.arange(voxels, device=centres.device, dtype=centres.dtype)
    at_voxels = torch.cos(math.pi * order[:, None] * (at + 0.5) / voxels)  # (K, H)
    # A slice that does not exist lies far out; its row is cleared later, its cosine must only be finite.
    at_samples = torch.cos(math.pi * order * (centres.clamp_max(2.0 * voxels)[..., None] + 0.5) / voxels)  # (B, S, K)
    return (1 + 2 * (at_samples * keeps[:, None]) @ at_voxels) / voxels


def _interpolation(centres: Tensor, slices: Tensor, voxels: int) -> Tensor:
    """(B, H, S) linear interpolation between slices, the outermost repeated beyond the ends."""
    count, most = centres.shape
    at = torch.arange(voxels, device=centres.device, dtype=centres.dtype).expand(count, -1).contiguous()
    upper = torch.searchsorted(centres.contiguous(), at).minimum((slices - 1)[:, None]).clamp_min(1)  # (B, H)
    upper = upper.clamp_max(most - 1)
    below, above = centres.gather(1, upper - 1), centres.gather(1, upper)
    share = ((at - below) / (above - below)).clamp(0, 1)
    share = torch.where((slices == 1)[:, None], torch.zeros_like(share), share)
    matrix = torch.zeros(count, voxels, most, device=centres.device, dtype=centres.dtype)
    matrix.scatter_add_(2, upper[..., None], share[..., None])
    matrix.scatter_add_(2, upper[..., None] - 1, (1 - share)[..., None])
    return matrix
