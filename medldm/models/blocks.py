"""Space to depth (patchify) and back, and small changes of MONAI networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medldm.models.monai_parts import pixelshuffle, pixelunshuffle


def conv(spatial_dims: int, channels_in: int, channels_out: int, size: int = 3) -> nn.Module:
    """A plain convolution of 2 or 3 dimensions that keeps the grid."""
    kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    return kind(channels_in, channels_out, size, padding=size // 2)


def dense_format(image: Tensor) -> Tensor:
    """Channels last in memory: what oneDNN and cuDNN are fastest with."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return image.contiguous(memory_format=formats[image.ndim])


def as_weights(image: Tensor, layer: Any) -> Tensor:
    """An image in the number format of a layer's weights, so that a network can be kept in half precision whole.

    Autocast would convert the weights again at every call, a quarter of the time of a U-Net on a CPU.

    Parameters
    ----------
    image : any float
    layer : with ``weight``
    """
    return image.to(layer.weight.dtype)


def space_to_depth(image: Tensor, factor: int) -> Tensor:
    """(B, C, ...) to (B, C * factor^d, .../factor); every grid axis must be a multiple of `factor`."""
    return dense_format(pixelunshuffle(image, image.ndim - 2, factor)) if factor > 1 else dense_format(image)


def depth_to_space(image: Tensor, factor: int) -> Tensor:
    """The inverse of `space_to_depth`."""
    return dense_format(pixelshuffle(image, image.ndim - 2, factor)) if factor > 1 else image


def without_norm(network: nn.Module) -> nn.Module:
    """Take group normalisation and attention out of a MONAI network, in place.

    Both let the content of a tile change every voxel of it; without them a tiled and a whole restoration are the
    same wherever the receptive field is covered, and a CPU runs them faster. The residual blocks of MONAI start
    as identities, which is what keeps such a network trainable.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm) or type(child).__name__ in {"SpatialAttentionBlock", "SABlock"}:
            setattr(network, name, nn.Identity())
        else:
            without_norm(child)
    return network


def keep_variance(network: nn.Module) -> nn.Module:
    """Start every convolution so that signals keep their size (He et al., 2015), in place.

    PyTorch's default shrinks them by a third a layer; normalisation would hide that, and we have none.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            # A strided transposed convolution reaches each output voxel with only part of its kernel.
            reached = math.prod(module.stride) if module.transposed else 1
            fan = module.in_channels * math.prod(module.kernel_size) / reached
            nn.init.normal_(module.weight, std=(2 / fan) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        # Two branches of full size would double the variance in every residual block.
        branch = {"ResidualUnit": "conv", "AEKLResBlock": "conv2"}.get(type(module).__name__)
        if branch:
            last = [layer for layer in getattr(module, branch).modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)][
                -1
            ]
            last.weight.data.mul_(0.3)
    return network


def grow_inputs(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights of a narrower network for one whose convolutions read more channels; the new ones start at zero.

    Parameters
    ----------
    weights : state dict of the narrower network
    network : the wider one; channels it adds come last
    """
    grown = {}
    for name, want in network.state_dict().items():
        have = weights.get(name)
        if have is None:
            grown[name] = want
            continue
        have = have.to(want.dtype)
        if have.shape != want.shape:
            if have.ndim != want.ndim or have.shape[0] != want.shape[0] or have.shape[2:] != want.shape[2:]:
                raise ValueError(f"{name}: {tuple(have.shape)} does not grow into {tuple(want.shape)}")
            padded = torch.zeros_like(want)
            padded[:, : have.shape[1]] = have
            have = padded
        grown[name] = have
    return grown
