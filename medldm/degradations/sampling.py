"""Sampling along one axis, as matrices: how slices (or k-space) weigh the voxels of the wanted scan.

Every linear loss of resolution here is separable, so one small dense matrix an axis says it all: its rows are
the slices, its columns the voxels. The matrices are exact, tiny (hundreds squared) and easy to test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PROFILES = ("gaussian", "rect", "kspace")


def slice_centres(voxels: int, spacing: float) -> Tensor:
    """Centres of slices that cover the field of view with aligned edges.

    Parameters
    ----------
    voxels : number of output voxels along the axis
    spacing : distance between slices, output voxels; need not be an integer

    Returns
    -------
    (slices,) float64, output voxel coordinates (voxel i has its centre at i)
    """
    slices = max(1, math.floor(voxels / spacing + 1e-6))
    return (torch.arange(slices, dtype=torch.float64) + 0.5) * spacing - 0.5


def profile_matrix(centres: Tensor, voxels: int, thickness: float, profile: str = "gaussian") -> Tensor:
    """How much each voxel contributes to each slice.

    Parameters
    ----------
    centres : (slices,), output voxel coordinates
    voxels : number of output voxels
    thickness : FWHM of a Gaussian profile, width of a rectangular one, output voxels;
        for ``"kspace"`` the width of the resolved cell (the highest frequency kept is half its inverse)
    profile : ``"gaussian"``, ``"rect"`` or ``"kspace"`` (truncated spectrum)

    Returns
    -------
    (slices, voxels) float64; rows sum to 1
    """
    distance = torch.arange(voxels, dtype=torch.float64)[None, :] - centres[:, None].to(torch.float64)
    if profile == "gaussian":
        # FWHM = 2 sqrt(2 ln 2) sigma, and the voxel itself is a box of width 1: integrate over it.
        sigma = max(thickness, 1e-3) / (2 * math.sqrt(2 * math.log(2)))
        weights = torch.erf((distance + 0.5) / (sigma * math.sqrt(2))) - torch.erf(
            (distance - 0.5) / (sigma * math.sqrt(2))
        )
    elif profile == "rect":
        half = thickness / 2
        weights = (torch.clamp(distance + 0.5, -half, half) - torch.clamp(distance - 0.5, -half, half)).clamp_min(0)
    elif profile == "kspace":
        # Cosines, not a plain Fourier series: the image is mirrored at its ends, so that a cropped scan does not ring
        # from one end into the other. In air, where scans really end, both are the same.
        order = torch.arange(1, max(1, round(voxels / thickness)), dtype=torch.float64)[:, None]
        at_voxels = torch.cos(math.pi * order * (torch.arange(voxels, dtype=torch.float64) + 0.5) / voxels)
        at_samples = torch.cos(math.pi * order * (centres.to(torch.float64) + 0.5) / voxels)
        truncated: Tensor = (1 + 2 * at_samples.T @ at_voxels) / voxels
        return truncated
    else:
        raise ValueError(f"slice profile {profile!r} is none of {', '.join(PROFILES)}")
    # A slice whose centre lies off the grid still sees its nearest voxel.
    weights = weights + 1e-12 * (distance.abs() == distance.abs().min(1, keepdim=True).values)
    return weights / weights.sum(1, keepdim=True)


def interpolation_matrix(centres: Tensor, voxels: int) -> Tensor:
    """Linear interpolation from slice centres to voxels, the outermost slices repeated beyond the ends.

    Parameters
    ----------
    centres : (slices,) ascending, output voxel coordinates; spacing may vary
    voxels : number of output voxels

    Returns
    -------
    (voxels, slices) float64; rows sum to 1
    """
    centres = centres.to(torch.float64)
    slices = len(centres)
    matrix = torch.zeros(voxels, slices, dtype=torch.float64)
    at = torch.arange(voxels, dtype=torch.float64)
    if slices == 1:
        return matrix + 1
    upper = torch.searchsorted(centres, at).clamp(1, slices - 1)
    share = ((at - centres[upper - 1]) / (centres[upper] - centres[upper - 1])).clamp(0, 1)
    rows = torch.arange(voxels)
    matrix[rows, upper] = share
    matrix[rows, upper - 1] += 1 - share
    return matrix


def observation_weights(centres: Tensor, voxels: int) -> Tensor:
    """Where slices were measured: each centre shared between its two nearest voxels.

    Parameters
    ----------
    centres : (slices,), output voxel coordinates
    voxels : number of output voxels

    Returns
    -------
    (voxels,) float64 in [0, 1]; exactly 1 on measured voxels when every centre falls on a voxel
    """
    distance = (torch.arange(voxels, dtype=torch.float64)[:, None] - centres[None, :].to(torch.float64)).abs()
    return (1 - distance).clamp_min(0).sum(1).clamp_max(1)


def pseudo_inverse(matrix: Tensor, noise: float = 0.0) -> Tensor:
    """A^T (A A^T + lambda I)^-1: carries what a guess lacks in the slices back to the voxels.

    Parameters
    ----------
    matrix : (slices, voxels)
    noise : noise standard deviation of the slices, scaled intensity; lambda grows with it, so that
        noise is not projected into the image

    Returns
    -------
    (voxels, slices)
    """
    gram = matrix @ matrix.T
    scale = gram.diagonal().mean()
    # A voxel of the guess is wrong by about 2 % of the range: the prior that lambda weighs the noise against.
    ridge = 1e-8 * scale + (noise / 0.02) ** 2
    weighted: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), matrix)
    return weighted.T


def along(matrix: Tensor, image: Tensor, axis: int) -> Tensor:
    """Apply a matrix along one axis of an image.

    Parameters
    ----------
    matrix : (out, in)
    image : tensor whose `axis` has length `in`
    axis : which
    """
    moved = image.movedim(axis, -1)
    return (moved @ matrix.to(device=image.device, dtype=image.dtype).T).movedim(-1, axis)


def along_axes(matrices: dict[int, Tensor], image: Tensor) -> Tensor:
    """Apply one matrix an axis; axes without one stay as they are."""
    for axis, matrix in matrices.items():
        image = along(matrix, image, axis)
    return image


def outer(weights: dict[int, Tensor], shape: Sequence[int]) -> Tensor:
    """Product of per-axis weights on a whole grid, float32."""
    grid = torch.ones(tuple(shape), dtype=torch.float32)
    for axis, weight in weights.items():
        grid = grid * weight.to(torch.float32).reshape([-1 if axis == a else 1 for a in range(len(shape))])
    return grid
