"""What the networks are asked to keep small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

STRENGTH = 0.12  # price of detail that is half or twice as strong, against detail in the wrong place

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


def root_mean_square(guess: Tensor, clean: Tensor, soft: float = 0.003) -> Tensor:
    """Root mean square error of each patch.

    Where much is unknown an absolute error asks for the median, which is darker or brighter than the mean; PSNR is
    highest at the mean. Taking the root of each patch keeps patches with much to invent from drowning the others.

    Parameters
    ----------
    guess, clean : (B, 1, ...)
    soft : keeps the gradient finite, scaled intensity

    Returns
    -------
    (B,)
    """
    return ((guess - clean) ** 2).flatten(1).mean(1).add(soft**2).sqrt() - soft


def gradient_loss(guess: Tensor, clean: Tensor) -> Tensor:
    """Absolute error of finite differences along every grid axis: edges count."""
    total = torch.zeros((), device=guess.device)
    for axis in range(2, guess.ndim):
        total = total + (guess.diff(dim=axis) - clean.diff(dim=axis)).abs().mean()
    return total / (guess.ndim - 2)


def feature_loss(features: Features, guess: Tensor, clean: Tensor) -> Tensor:
    """Squared difference of unit-length feature vectors (Zhang et al., LPIPS, 2018, without its learned weights).

    Parameters
    ----------
    features : image to activations, `VAE.features`
    guess, clean : (B, 1, ...)
    """
    with torch.no_grad():
        wanted = features(clean)
    total = torch.zeros((), device=guess.device)
    for have, want in zip(features(guess), wanted, strict=True):
        total = total + (_unit(have) - _unit(want)).pow(2).sum(1).mean()
    return total / len(wanted)


def _unit(activations: Tensor) -> Tensor:
    activations = activations.float()
    return activations / (activations.pow(2).sum(1, keepdim=True) + 1e-4).sqrt()


def detail_loss(guess: Tensor, clean: Tensor, where: Tensor) -> Tensor:
    """Fine detail must lie where it should, and be as strong: 1 - correlation + |log energy ratio| * STRENGTH.

    A conditional mean is blurred: its detail is right in place and too weak. Correlation does not see strength, so
    this term asks for strength, at a lower price than place. Detail is looked for along the first grid axis, along
    which slices are thick or missing, and along all of them.

    Parameters
    ----------
    guess, clean : (B, 1, ...)
    where : (B, 1, ...) in [0, 1], how much each voxel counts
    """
    axes = tuple(range(2, guess.ndim))
    total = torch.zeros((), device=guess.device)
    for along in ((2,), axes):
        have, want = fine_detail(guess.float(), along), fine_detail(clean, along)
        means = [(field * where).sum(axes) / (where.sum(axes) + 1) for field in (have**2, want**2, have * want)]
        # Patches of air have no detail to speak of: the small number leaves them out of both terms.
        energy, true, common = (mean + 1e-5 for mean in means)
        place = 1 - common / (energy * true).sqrt()
        total = total + place.mean() + STRENGTH * (energy / true).log().abs().mean()
    return total / 2


def fine_detail(image: Tensor, axes: Sequence[int], sigma: float = 1.0) -> Tensor:
    """The image minus its Gaussian average along some axes, as `medldm.metrics.fine_detail` measures it.

    Parameters
    ----------
    image : (B, 1, ...)
    axes : of the tensor
    sigma : voxels
    """
    reach = torch.arange(-4, 5, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    smooth = image
    for axis in axes:
        last = smooth.movedim(axis, -1)
        rows = F.pad(last.reshape(-1, 1, last.shape[-1]), (4, 4), mode="replicate")
        smooth = F.conv1d(rows, kernel.reshape(1, 1, -1)).reshape(last.shape).movedim(-1, axis)
    return image - smooth
