"""The networks of a model, and the forward pass of the regression; samples are drawn in `medldm.inference.residual`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medldm.errors import ModelError
from medldm.inference.conditioning import centre_plane
from medldm.models.blocks import dense_format
from medldm.models.checkpoint import architecture, read_weights
from medldm.models.residual import PrincipalBlocks, ResidualFlow, SpreadHead, features_and_correction
from medldm.models.unet import Residual, build_unet
from medldm.settings import Architecture
from medldm.zoo import Card, check_weights


class Networks(nn.Module):
    """The networks of a model, for tasks, training, benchmarks and export.

    Parameters
    ----------
    config : architecture of the regression network
    unet : regression network
    spread : spread head; None where the set has none
    latent_blocks, residual_flow : latent of the residual and the flow that draws it; None where the set has none
    """

    def __init__(
        self,
        config: Architecture,
        unet: Residual,
        spread: SpreadHead | None = None,
        latent_blocks: PrincipalBlocks | None = None,
        residual_flow: ResidualFlow | None = None,
    ) -> None:
        super().__init__()
        self.config, self.unet, self.spread = config, unet, spread
        self.latent_blocks, self.residual_flow = latent_blocks, residual_flow

    @property
    def parts(self) -> list[nn.Module]:
        """All networks, to move or count them."""
        return [network for network in (self.unet, self.spread, self.residual_flow) if network is not None]

    def estimate(self, inputs: Tensor) -> Tensor:
        """The regression mean b = y + R(y, m, sigma), (B, 1, ...).

        Parameters
        ----------
        inputs : (B, C, ...) measured channels; grid axes are multiples of 16
        """
        estimated: Tensor = centre_plane(inputs, self.config) + self.unet(inputs)
        return estimated

    def estimate_with_spread(self, inputs: Tensor) -> Tensor:
        """The regression mean and log s from the same features, (B, 2, ...); parameters as in `estimate`."""
        assert self.spread is not None
        features, correction = features_and_correction(self.unet, inputs)
        return torch.cat([centre_plane(inputs, self.config) + correction, self.spread(features)], 1)


_loaded: dict[tuple[str, str, str, torch.dtype], Networks] = {}


def load_networks(card: Card, device: str = "cpu", precision: torch.dtype = torch.float32) -> Networks:
    """The networks of a card on a device, checked against the card's SHA-256; the last one loaded is kept.

    With ``MEDLDM_COMPILE=1`` in the environment they are compiled (`torch.compile`, which needs a C++ compiler): that
    takes longer than a scan, and pays over a cohort (`docs/decisions/0028-compiled-on-request.md`).

    Parameters
    ----------
    card : from `medldm.zoo`
    device : torch device
    precision : number format of the weights, in which the networks compute

    Raises
    ------
    ModelError
    """
    key = (f"{card.path}+{'+'.join(card.parts)}", card.sha256, device, precision)
    if key not in _loaded:
        check_weights(card)
        unload()
        networks = build_networks(card, device)
        for network in networks.parts:
            network.to(precision)
            if os.environ.get("MEDLDM_COMPILE") == "1":
                network.compile()
        _loaded[key] = networks
    return _loaded[key]


def unload() -> None:
    """Forget the loaded model, so that its memory is free."""
    _loaded.clear()


def build_networks(card: Card, device: str = "cpu") -> Networks:
    """The networks of a card with its weights, a copy of the caller's own.

    Parameters
    ----------
    card : from `medldm.zoo`
    device : torch device

    Raises
    ------
    ModelError
        Weights that do not fit the card.
    """
    config, tensors = architecture(card), read_weights(card)

    def filled(name: str, network: Any) -> Any:
        network.load_state_dict(weights[name])
        network.to(device).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                module.weight.data = dense_format(module.weight.data)
        return network

    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        weights.setdefault(name, {})[rest] = value.float()
    try:
        own = not card.parts or "spread" in card.parts
        more = residual_parts(card, config, weights, filled) if card.spread and own else {}
        return Networks(config, filled("unet", build_unet(config)), **more)
    except (RuntimeError, KeyError, TypeError, ValueError) as problem:
        raise ModelError(
            f"The weights of {card.name} do not fit its card: its networks have other parts or sizes. Install medldm "
            "again, or train the model anew."
        ) from problem


def residual_parts(
    card: Card, config: Architecture, weights: dict[str, dict[str, Tensor]], filled: Callable[[str, nn.Module], Any]
) -> dict[str, Any]:
    """Spread head of a card and, where it has them, latent and flow of the residual; arguments for `Networks`.

    Parameters
    ----------
    card : from `medldm.zoo`
    config : of the regression network
    weights : by network
    filled : (name, network) to the network with its weights, on the device
    """
    parts: dict[str, Any] = {"spread": filled("spread", SpreadHead(config.spatial_dims, config.unet[0]))}
    if card.residual and (not card.parts or "flow" in card.parts):
        latent, own = weights["latent"], dict(card.residual)
        blocks, tile = own.pop("flow_blocks"), own.pop("tile")
        widths: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in own.items()}
        shape = Architecture(**widths)
        flow = filled("flow", ResidualFlow(shape, blocks, tile))
        device = flow.project.weight.device
        latent_blocks = PrincipalBlocks(latent["basis"], latent["scale"], shape.latent_factor, latent["decoder"])
        parts |= {"latent_blocks": latent_blocks.to(device), "residual_flow": flow}
    return parts
