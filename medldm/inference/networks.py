"""The networks of a model and their forward pass: regress, sample a latent, decode it, fuse it with the measurement.

The networks know nothing of the mathematics of the flow, and the samplers nothing of networks; they meet here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medldm.diffusion.samplers import DEFAULT, SAMPLERS
from medldm.errors import ModelError
from medldm.inference.conditioning import centre_plane, neighbours, own_planes, to_stack
from medldm.models.blocks import dense_format, space_to_depth
from medldm.models.checkpoint import architecture, read_weights
from medldm.models.flow import Flow, build_flow
from medldm.models.latent_space import LatentSpace
from medldm.models.residual import PrincipalBlocks, ResidualFlow, SpreadHead, features_and_correction
from medldm.models.unet import Residual, build_fusion, build_unet
from medldm.models.vae import build_vae
from medldm.settings import Architecture
from medldm.zoo import Card, check_weights


class Networks(nn.Module):
    """The forward pass of a model, for tasks, training, the ablation and export.

    Parameters
    ----------
    config : architecture
    unet : supervised U-Net, which gives the regression mean; None where the architecture is not staged
    latent : trained latent space; None for a U-Net alone
    flow : trained flow; None for a U-Net alone
    fusion : fusion decoder; None for a U-Net alone
    spread : spread head; None where the set has none
    latent_blocks, residual_flow : latent of the residual and the flow that draws it; None where the set has none
    """

    def __init__(
        self,
        config: Architecture,
        unet: Residual | None = None,
        latent: LatentSpace | None = None,
        flow: Flow | None = None,
        fusion: Residual | None = None,
        spread: SpreadHead | None = None,
        latent_blocks: PrincipalBlocks | None = None,
        residual_flow: ResidualFlow | None = None,
    ) -> None:
        super().__init__()
        self.config, self.unet, self.latent, self.flow, self.fusion = config, unet, latent, flow, fusion
        self.spread, self.latent_blocks, self.residual_flow = spread, latent_blocks, residual_flow

    @property
    def refines(self) -> bool:
        """Whether flow and fusion decoder come after the regression."""
        return self.flow is not None

    @property
    def parts(self) -> list[nn.Module]:
        """All networks, to move or count them."""
        vae = self.latent.vae if self.latent else None
        networks: list[nn.Module | None] = [self.unet, self.fusion, self.flow, vae, self.spread, self.residual_flow]
        return [network for network in networks if network is not None]

    def estimate(self, inputs: Tensor) -> Tensor:
        """The regression mean b = y + R(y, m, sigma), (B, 1, ...), from which flow and decoder start.

        Parameters
        ----------
        inputs : (B, C, ...) measured channels; grid axes are multiples of 16
        """
        y = centre_plane(inputs, self.config)
        if self.unet is None:
            return y
        estimated: Tensor = y + self.unet(inputs)
        return estimated

    def estimate_with_spread(self, inputs: Tensor) -> Tensor:
        """The regression mean and log s from the same features, (B, 2, ...); parameters as in `estimate`."""
        assert self.unet is not None
        assert self.spread is not None
        features, correction = features_and_correction(self.unet, inputs)
        return torch.cat([centre_plane(inputs, self.config) + correction, self.spread(features)], 1)

    def sample(
        self, inputs: Tensor, regression: Tensor, noise: Tensor | None = None, steps: int = 1, sampler: str = DEFAULT
    ) -> Tensor:
        """A clean latent, (B, latent_channels, .../factor).

        Parameters
        ----------
        inputs : (B, C, ...) measured channels
        regression : (B, 1, ...) regression mean b
        noise : (B, 1, ...) white noise on the full grid; None starts from zeros, whose one step is the conditional mean
        steps : flow steps
        sampler : name in `medldm.diffusion.SAMPLERS`
        """
        assert self.latent is not None
        flow: Any = self.flow
        residual = [regression - centre_plane(inputs, self.config)] if self.config.staged else []
        conditions = torch.cat([inputs, *residual], 1)
        encoded = self.latent.encode(regression)
        # Not zeros_like: a trace for export would freeze the device on which those are made.
        start = encoded * 0 if noise is None else latent_noise(noise, self.config)
        return SAMPLERS[sampler](lambda z, t: flow(z, t, encoded, conditions), start, steps)

    def fuse(self, inputs: Tensor, regression_planes: Tensor, decoded: Tensor, fidelity: float | Tensor = 1) -> Tensor:
        """The fusion decoder: x = b + R(y, m, sigma, b, D(z), fidelity), (B, 1, ...).

        Parameters
        ----------
        inputs, regression_planes, fidelity : as in `refine`
        decoded : (B, 1, ...) decoded latent D(z)
        """
        assert self.fusion is not None
        regression = centre_plane(regression_planes, self.config)
        residual = regression_planes - own_planes(inputs, self.config) if self.config.staged else inputs[:, :0]
        if not isinstance(fidelity, Tensor):
            fidelity = torch.tensor(fidelity)
        weight = fidelity.to(inputs).reshape([-1] + [1] * (inputs.ndim - 1)).expand_as(decoded)
        fused: Tensor = regression + self.fusion(torch.cat([inputs, residual, decoded - regression, weight], 1))
        return fused

    def refine(
        self,
        inputs: Tensor,
        regression_planes: Tensor,
        noise: Tensor | None = None,
        steps: int = 1,
        fidelity: float | Tensor = 1,
        sampler: str = DEFAULT,
    ) -> Tensor:
        """What flow and fusion decoder make of the regression mean, (B, 1, ...); that itself of a U-Net alone.

        Parameters
        ----------
        inputs : (B, C, ...) measured channels; grid axes are multiples of 16
        regression_planes : (B, context, ...) regression mean of each plane and its neighbours; (B, 1, ...) of a volume
        noise, steps, sampler : as in `sample`
        fidelity : 1 is closest to the measurement, 0 is sharpest; one number or (B,)
        """
        regression = centre_plane(regression_planes, self.config)
        if not self.refines:
            return regression
        assert self.latent is not None
        decoded = self.latent.decode(self.sample(inputs, regression, noise, steps, sampler))
        return self.fuse(inputs, regression_planes, decoded, fidelity)

    def restore(self, inputs: Tensor, noise: Tensor | None = None, steps: int = 1, fidelity: float = 1.0) -> Tensor:
        """A stack of planes, or a volume, in one orientation, (B, 1, ...).

        Parameters
        ----------
        inputs : (B, C, ...) measured channels of planes that follow each other; grid axes are multiples of 16
        noise, steps, fidelity : see `refine`
        """
        regression = self.estimate(inputs)
        if self.config.spatial_dims == 2:
            regression = neighbours(to_stack(regression), self.config.context)
        return self.refine(inputs, regression, noise, steps, fidelity)


def latent_noise(noise: Tensor, config: Architecture) -> Tensor:
    """White noise on the image grid folded into latent noise, so that overlapping tiles agree on what they sample.

    Parameters
    ----------
    noise : (B, 1, ...) standard normal on the full grid

    Returns
    -------
    (B, latent_channels, .../factor), standard normal
    """
    return space_to_depth(noise, config.latent_factor)[:, : config.latent_channels].float()


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

    weights: dict[str, dict[str, Tensor]] = {"unet": {}, "vae": {}, "flow": {}, "fusion": {}, "spread": {}}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        weights.setdefault(name, {})[rest] = value.float()
    try:
        if weights["spread"]:
            return Networks(config, filled("unet", build_unet(config)), **residual_parts(card, config, weights, filled))
        if not weights["flow"]:
            return Networks(config, filled("unet", build_unet(config)))
        scale = weights["vae"].pop("scale").to(device)
        return Networks(
            config,
            filled("unet", build_unet(config)) if config.staged else None,
            LatentSpace(filled("vae", build_vae(config)), scale),
            filled("flow", build_flow(config)),
            filled("fusion", build_fusion(config)),
        )
    except (RuntimeError, KeyError) as problem:
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
    if weights["flow"]:
        latent, own = weights["latent"], dict(card.residual)
        blocks = own.pop("flow_blocks")
        widths: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in own.items()}
        shape = Architecture(**widths)
        flow = filled("flow", ResidualFlow(shape, blocks))
        device = flow.project.weight.device
        latent_blocks = PrincipalBlocks(latent["basis"], latent["scale"], shape.latent_factor, latent["decoder"])
        parts |= {"latent_blocks": latent_blocks.to(device), "residual_flow": flow}
    return parts
