"""What the networks are asked to keep small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Features = Callable[[Tensor], Sequence[Tensor]]


def charbonnier(guess: Tensor, clean: Tensor, soft: float = 0.01) -> Tensor:
    """sqrt(e^2 + soft^2) - soft: squares small errors, takes large ones as they are.

    Parameters
    ----------
    guess, clean : (B, 1, ...)
    soft : where one becomes the other, scaled intensity

    Returns
    -------
    scalar
    """
    return ((guess - clean) ** 2 + soft**2).sqrt().mean() - soft


def gradient_loss(guess: Tensor, clean: Tensor) -> Tensor:
    """Absolute error of finite differences along every grid axis: edges count."""
    total = torch.zeros((), device=guess.device)
    for axis in range(2, guess.ndim):
        total = total + (guess.diff(dim=axis) - clean.diff(dim=axis)).abs().mean()
    return total / (guess.ndim - 2)


def feature_loss(features: Features, guess: Tensor, clean: Tensor) -> Tensor:
    """Distance of the encoder's features, each block scaled by its own energy (Zhang et al., LPIPS, 2018, in spirit).

    Parameters
    ----------
    features : image to activations, `VAE.features`
    guess, clean : (B, 1, ...)
    """
    with torch.no_grad():
        wanted = features(clean)
    total = torch.zeros((), device=guess.device)
    for have, want in zip(features(guess), wanted, strict=True):
        energy = want.float().pow(2).mean().sqrt().clamp_min(1e-4)
        total = total + (have.float() - want.float()).abs().mean() / energy
    return total / len(wanted)


def detail_energy_loss(guess: Tensor, clean: Tensor, window: int = 9) -> Tensor:
    """Local energy of fine detail: how much there is, not where each bit of it lies.

    A conditional mean is blurred: its detail is right in place and too weak. This term asks for as much local
    high-frequency energy as the clean image has, while the pixel terms hold it in place.

    Parameters
    ----------
    guess, clean : (B, 1, ...)
    window : edge of the neighbourhood that energy is averaged over, voxels
    """
    return (detail_energy(guess, window) - detail_energy(clean, window)).abs().mean()


def detail_energy(image: Tensor, window: int) -> Tensor:
    """Root of the locally averaged squared high-pass (image minus its 3-voxel mean)."""
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    fine = image - pool(image, 3, stride=1, padding=1)
    return (pool(fine**2, window, stride=window // 2) + 1e-6).sqrt()
