"""A network for volumes from one for planes: its kernels get a third axis (I3D: Carreira and Zisserman, CVPR 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.models.unet import build_unet
from medldm.settings import Architecture

# How a kernel in planes is spread along the third axis, so that a stack of planes gives what each plane gave.
ALIKE = (0.0, 1.0, 0.0)
HALVED = (0.25, 0.5, 0.25)  # where every second plane is dropped
DOUBLED = (0.5, 1.0, 0.5)  # where planes come back: those in between are the mean of their neighbours


def inflated_unet(planes: dict[str, Tensor], was: Architecture, shape: Architecture) -> dict[str, Tensor]:
    """Weights of the supervised U-Net for volumes, from those for planes.

    It begins by doing in each plane what the other one did, but for the neighbouring planes two away, which it does not
    see in its first layer, and for every second plane at its lower levels.

    Parameters
    ----------
    planes : weights of `build_unet(was)`
    was : architecture in planes
    shape : the same widths in volumes

    Returns
    -------
    weights of `build_unet(shape)`
    """
    network = build_unet(shape)
    weights = network.state_dict()
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            continue
        kernel = planes[f"{name}.weight"]
        if kernel.shape[1] == was.measured_channels != module.in_channels:
            grown = _entrance(kernel, was.context, module.kernel_size[2])
        else:
            taps = ALIKE
            if 2 in module.stride:
                taps = DOUBLED if isinstance(module, nn.ConvTranspose3d) else HALVED
            grown = kernel[..., None] * torch.tensor(taps if module.kernel_size[2] == 3 else (1.0,))
        weights[f"{name}.weight"] = grown
        if module.bias is not None:
            weights[f"{name}.bias"] = planes[f"{name}.bias"]
    return weights


def _entrance(kernel: Tensor, context: int, depth: int) -> Tensor:
    """Neighbouring planes were channels; now they are neighbours."""
    y, observed, others = kernel[:, :context], kernel[:, context : 2 * context], kernel[:, 2 * context :]
    parts = []
    for stack in (y, observed):
        if depth == 1:
            parts.append(stack.sum(1, keepdim=True)[..., None])
        else:
            half = context // 2
            sides = (stack[:, :half].sum(1), stack[:, half], stack[:, half + 1 :].sum(1))
            parts.append(torch.stack(sides, -1)[:, None])
    taps = torch.tensor(ALIKE if depth == 3 else (1.0,))
    return torch.cat([*parts, others[..., None] * taps], 1)
