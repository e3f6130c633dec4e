"""A smaller regression network that learns the answers of a larger one, and begins with the best of its channels.

The larger network is pruned (channels that move the answer least are left out: the first-order criterion of Molchanov
et al., "Pruning convolutional neural networks for resource efficient inference", ICLR 2017, with the weights that read
a channel in place of its gradient), then distilled (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural
network", 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medldm.errors import UsageError
from medldm.models.unet import Residual, build_unet
from medldm.settings import Architecture
from medldm.training.transfer import CONVOLUTIONS

Group = tuple[str, int]  # channels that layers have in common: role, level


class Layer(NamedTuple):
    """A convolution of the regression network.

    Parameters
    ----------
    name : in the weights
    reads : groups whose channels it reads, one after the other
    writes : group of the channels that it gives
    """

    name: str
    reads: list[Group]
    writes: Group


def smaller(config: Architecture) -> Architecture:
    """The architecture of a network with a little less than half the operations.

    The two upper levels keep three quarters of their channels, the others five eighths: of the widths tried, those cost
    the answers of `brain-mri-2d` least (`docs/decisions/0053-a-distilled-network.md`).
    """
    shares = (6, 6, *[5] * (len(config.unet) - 2))  # eighths
    return replace(
        config, unet=tuple(max(8, width * share // 64 * 8) for width, share in zip(config.unet, shares, strict=True))
    )


def layers_of(config: Architecture) -> list[Layer]:
    """Every convolution of `medldm.models.unet.build_unet`."""
    last = len(config.unet) - 1
    listed, prefix, before = [], "unet.model.", ("input", 0)
    for level in range(last + 1):
        place = f"{prefix}0." if level < last else prefix
        inner, outer = ("inner", level), ("down", level)
        listed += [
            Layer(f"{place}residual", [before], outer),
            Layer(f"{place}conv.unit0.conv", [before], inner),
            Layer(f"{place}conv.unit1.conv", [inner], outer),
        ]
        if level < last:
            below = ("up", level + 1) if level + 1 < last else ("down", last)
            listed += [
                Layer(f"{prefix}2.0.conv", [outer, below], ("up", level)),
                Layer(f"{prefix}2.1.conv.unit0.conv", [("up", level)], ("up", level)),
            ]
        prefix, before = f"{prefix}1.submodule.", outer
    return [*listed, Layer("head", [("up", 0)], ("answer", 0))]


def width_of(group: Group, config: Architecture) -> int:
    """How many channels a group has."""
    role, level = group
    if role == "input":
        return config.measured_channels
    if role == "answer":
        return int(config.unet_entry**config.spatial_dims)
    place = max(0, level - 1) if role == "up" else level
    return config.unet[place]


def pruned_unet(network: Residual, source: Architecture, config: Architecture, inputs: Tensor) -> dict[str, Tensor]:
    """Weights of a narrower regression network: those channels of a trained one that move its answer most.

    Parameters
    ----------
    network : trained, with two units a level
    source, config : of the network and of the narrower one, equal in all but channels
    inputs : (B, C, ...) measured channels, to see how strong each channel is

    Returns
    -------
    weights of ``build_unet(config)``

    Raises
    ------
    UsageError
        A network with one unit a level, or with a level as wide as the one above it: their layers are others.
    """
    layers, small = layers_of(source), build_unet(config)
    for one, shape in ((network, source), (small, config)):
        there = {name for name, module in one.named_modules() if isinstance(module, CONVOLUTIONS)}
        if there != {layer.name for layer in layers}:
            raise UsageError(
                f"A network of {shape.unet_units} units a level and {', '.join(map(str, shape.unet))} channels is none "
                "to prune or to prune to: it takes two units, and more channels at every level."
            )
    importance = {group: torch.zeros(width_of(group, source)) for layer in layers for group in layer.reads}
    with read_power(network, [layer.name for layer in layers]) as power, torch.no_grad():
        network(inputs)
    for layer in layers:
        module: Any = network.get_submodule(layer.name)
        moved: Tensor = power[layer.name] * _by_input(module).float().pow(2).flatten(1).sum(1).cpu()
        sizes = [width_of(group, source) for group in layer.reads]
        for group, part in zip(layer.reads, torch.split(moved, sizes), strict=True):
            importance[group] += part
    kept = {}
    for group, value in importance.items():
        kept[group] = value.topk(min(len(value), width_of(group, config))).indices.sort().values
    weights = {key: value.clone() for key, value in small.state_dict().items()}
    for layer in layers:
        module = network.get_submodule(layer.name)
        starts = [sum(width_of(group, source) for group in layer.reads[:n]) for n in range(len(layer.reads))]
        reads = torch.cat([kept[group] + start for group, start in zip(layer.reads, starts, strict=True)])
        writes = kept.get(layer.writes, torch.arange(width_of(layer.writes, source)))
        kernel = _by_input(module).cpu()[reads][:, writes]
        transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
        weights[f"{layer.name}.weight"] = kernel if transposed else kernel.transpose(0, 1).contiguous()
        weights[f"{layer.name}.bias"] = module.bias.detach().cpu()[writes]
    return weights


@contextmanager
def read_power(network: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Mean square of each channel that the named layers read, by layer, once `network` has run."""
    power: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            power[name] = given[0].float().pow(2).transpose(0, 1).flatten(1).mean(1).cpu()

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(listen(name)) for name in names]
    try:
        yield power
    finally:
        for handle in handles:
            handle.remove()


def _by_input(module: nn.Module) -> Tensor:
    """(channels read, channels given, ...) kernel of a convolution."""
    weight: Any = module.weight
    kernel: Tensor = weight.detach()
    return kernel if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d) else kernel.transpose(0, 1)
