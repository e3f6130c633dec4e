"""A wider network that sees more slices, from a narrower one that sees fewer: it begins by saying the same.

Net2Net (Chen, Goodfellow and Shlens, ICLR 2016) copies channels; here new channels start at random instead, and nothing
that was there listens to them yet, so that no two channels learn the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from medldm.errors import UsageError
from medldm.models.unet import Residual
from medldm.settings import Architecture

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def widened(weights: dict[str, Tensor], network: Residual, was: Architecture, shape: Architecture) -> dict[str, Tensor]:
    """Weights of a U-Net of more channels and more neighbouring slices than the one it begins as.

    Parameters
    ----------
    weights : of the narrower network, the supervised one or the fusion decoder
    network : the wider one, freshly made; its random weights become those of the new channels
    was, shape : architectures; levels, strides and units are the same

    Returns
    -------
    weights of `network`, which then gives what the narrower network gave

    Raises
    ------
    UsageError
        The architectures differ in more than channels and context, or the new one is the narrower.
    """
    if (was.unet_strides, was.unet_units, was.unet_entry) != (shape.unet_strides, shape.unet_units, shape.unet_entry):
        raise UsageError("Only channels and context may grow, not levels, strides or units.")
    if len(was.unet) != len(shape.unet) or any(new < old for old, new in zip(was.unet, shape.unet, strict=True)):
        raise UsageError(f"Channels {was.unet} do not grow into {shape.unet}.")
    if was.context > shape.context or was.spatial_dims != shape.spatial_dims:
        raise UsageError(f"A context of {was.context} does not grow into {shape.context}.")
    grown = dict(network.state_dict())
    layers = {name: module for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)}
    door = next(iter(layers))
    shortcut = door.split("conv.")[0] + "residual"
    if shortcut not in layers or f"{shortcut}.weight" not in weights:
        raise UsageError("A network with as many channels inside as at its door does not grow: its shortcut is fixed.")
    extra = weights[f"{door}.weight"].shape[1] - was.measured_channels
    entrance = entrance_channels(was, shape, extra)
    for name, module in layers.items():
        old, new = weights[f"{name}.weight"].float(), grown[f"{name}.weight"].clone()
        transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
        if transposed:
            old, new = old.transpose(0, 1), new.transpose(0, 1)
        inputs = entrance if name in (door, shortcut) else _kept(old.shape[1], transposed, was, shape)
        # What was there does not listen to what is new.
        new[: old.shape[0]] = 0
        new[: old.shape[0], inputs] = old
        grown[f"{name}.weight"] = new.transpose(0, 1).contiguous() if transposed else new
        bias = weights.get(f"{name}.bias")
        if bias is not None:
            grown[f"{name}.bias"][: len(bias)] = bias.float()
    return grown


def flow_widened(weights: dict[str, Tensor], was: Architecture, shape: Architecture) -> dict[str, Tensor]:
    """Weights of a flow that is told of more neighbouring slices, and does not listen to them yet.

    Parameters
    ----------
    weights : of the flow that is told of fewer
    was, shape : architectures that differ in nothing but what `widened` lets grow

    Returns
    -------
    weights of `build_flow(shape)`
    """
    folds = shape.latent_factor**shape.spatial_dims
    entrances = entrance_channels(was, shape, int(was.staged))
    old = weights["door.weight"].float()
    door = old.new_zeros(old.shape[0], (shape.measured_channels + shape.staged) * folds, *old.shape[2:])
    door[:, [channel * folds + fold for channel in entrances for fold in range(folds)]] = old
    return {**weights, "door.weight": door}


def entrance_channels(was: Architecture, shape: Architecture, extra: int = 0) -> list[int]:
    """Where the measured channels of the narrower network stand among those of the wider one.

    Parameters
    ----------
    was, shape : architectures
    extra : channels behind the measured ones: b - y of each neighbour, then others

    Returns
    -------
    index of each channel
    """
    margin = (shape.context - was.context) // 2
    window = [margin + k for k in range(was.context)]
    channels = window + [shape.context + k for k in window] + [2 * shape.context, 2 * shape.context + 1]
    if extra:
        seen = was.context if extra > was.context else 0  # the flow is told of the plane itself only
        channels += [shape.measured_channels + k for k in window[:seen]]
        behind = shape.measured_channels + (shape.context if seen else 0)
        channels += [behind + k for k in range(extra - seen)]
    return channels


def _kept(channels: int, transposed: bool, was: Architecture, shape: Architecture) -> list[int]:
    """Where the channels that a layer reads stand in the wider network."""
    if transposed:
        # The way up reads a level's own features, then those from below: each group has grown.
        for level, own in enumerate(was.unet[:-1]):
            below = was.unet[level + 1] if level == len(was.unet) - 2 else own
            if channels == own + below:
                return [*range(own), *(shape.unet[level] + k for k in range(below))]
    return list(range(channels))
