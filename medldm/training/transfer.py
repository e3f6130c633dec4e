"""Weights of a larger network from those of a trained one: more channels and context, or volumes from planes.

The larger network begins by giving what the trained one gave. Net2Net (Chen, Goodfellow and Shlens, ICLR 2016) widens
by copying channels; here new channels start at random, and the old ones do not read them yet, so that no two channels
learn the same. Kernels for planes get a third axis as in I3D (Carreira and Zisserman, CVPR 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.errors import UsageError
from medldm.models.unet import Residual, build_unet
from medldm.settings import Architecture

# How a kernel in planes is spread along the third axis, so that a stack of planes gives what each plane gave.
SAME = (0.0, 1.0, 0.0)
HALVED = (0.25, 0.5, 0.25)  # where every second plane is dropped
DOUBLED = (0.5, 1.0, 0.5)  # where planes come back: those in between are the mean of their neighbours
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def widened_unet(
    weights: dict[str, Tensor], network: Residual, source: Architecture, config: Architecture
) -> dict[str, Tensor]:
    """Weights of a U-Net of more channels and more neighbouring slices than the one it begins as.

    Parameters
    ----------
    weights : of the narrower network
    network : the wider one, freshly made; its random weights become those of the new channels
    source, config : architectures; levels, strides and units are the same

    Returns
    -------
    weights of `network`, which then gives what the narrower network gave

    Raises
    ------
    UsageError
        The architectures differ in more than channels and context, or the new one is the narrower.
    """
    if any(getattr(source, name) != getattr(config, name) for name in ("unet_strides", "unet_units", "unet_entry")):
        raise UsageError("Only channels and context may grow, not levels, strides or units.")
    if len(source.unet) != len(config.unet) or any(
        new < old for old, new in zip(source.unet, config.unet, strict=True)
    ):
        raise UsageError(f"Channels {source.unet} do not grow into {config.unet}.")
    if source.context > config.context or source.spatial_dims != config.spatial_dims:
        raise UsageError(f"A context of {source.context} does not grow into {config.context}.")
    grown = dict(network.state_dict())
    layers = {name: module for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)}
    input_layer = next(iter(layers))
    shortcut = input_layer.split("conv.")[0] + "residual"
    if shortcut not in layers or f"{shortcut}.weight" not in weights:
        raise UsageError("A network with as many channels inside as at its input does not grow: its shortcut is fixed.")
    positions = input_positions(source, config)
    for name, module in layers.items():
        old, new = weights[f"{name}.weight"].float(), grown[f"{name}.weight"].clone()
        transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
        if transposed:
            old, new = old.transpose(0, 1), new.transpose(0, 1)
        inputs = (
            positions if name in (input_layer, shortcut) else _read_positions(old.shape[1], transposed, source, config)
        )
        # Old channels do not read the new ones.
        new[: old.shape[0]] = 0
        new[: old.shape[0], inputs] = old
        grown[f"{name}.weight"] = new.transpose(0, 1).contiguous() if transposed else new
        bias = weights.get(f"{name}.bias")
        if bias is not None:
            grown[f"{name}.bias"][: len(bias)] = bias.float()
    return grown


def input_positions(source: Architecture, config: Architecture) -> list[int]:
    """Where the measured channels of the narrower network stand among those of the wider one.

    Parameters
    ----------
    source, config : architectures

    Returns
    -------
    index of each channel
    """
    margin = (config.context - source.context) // 2
    window = [margin + k for k in range(source.context)]
    return window + [config.context + k for k in window] + [2 * config.context, 2 * config.context + 1]


def _read_positions(channels: int, transposed: bool, source: Architecture, config: Architecture) -> list[int]:
    """Where the channels that a layer reads stand in the wider network."""
    if transposed:
        # The decoder reads a level's own features, then those from below: each group has grown.
        for level, own in enumerate(source.unet[:-1]):
            below = source.unet[level + 1] if level == len(source.unet) - 2 else own
            if channels == own + below:
                return [*range(own), *(config.unet[level] + k for k in range(below))]
    return list(range(channels))


def inflated_unet(planes: dict[str, Tensor], source: Architecture, config: Architecture) -> dict[str, Tensor]:
    """Weights of the supervised U-Net for volumes, from those for planes.

    It begins by doing in each plane what the other one did, but for the neighbouring planes two away, which it does not
    see in its first layer, and for every second plane at its lower levels.

    Parameters
    ----------
    planes : weights of `build_unet(source)`
    source : architecture in planes
    config : the same widths in volumes

    Returns
    -------
    weights of `build_unet(config)`
    """
    network = build_unet(config)
    weights = network.state_dict()
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            continue
        kernel = planes[f"{name}.weight"]
        if kernel.shape[1] == source.measured_channels != module.in_channels:
            grown = _input_kernel(kernel, source.context, module.kernel_size[2])
        else:
            taps = SAME
            if 2 in module.stride:
                taps = DOUBLED if isinstance(module, nn.ConvTranspose3d) else HALVED
            grown = kernel[..., None] * torch.tensor(taps if module.kernel_size[2] == 3 else (1.0,))
        weights[f"{name}.weight"] = grown
        if module.bias is not None:
            weights[f"{name}.bias"] = planes[f"{name}.bias"]
    return weights


def _input_kernel(kernel: Tensor, context: int, depth: int) -> Tensor:
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
    taps = torch.tensor(SAME if depth == 3 else (1.0,))
    return torch.cat([*parts, others[..., None] * taps], 1)
