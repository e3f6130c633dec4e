"""The networks of a model and their forward pass: regress, sample a latent, decode it, fuse it with the measurement.

The networks know nothing of the mathematics of the flow, and the samplers nothing of networks; they meet here.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from medldm.diffusion.samplers import DEFAULT, SAMPLERS
from medldm.errors import ModelError
from medldm.inference.conditioning import centre_plane, own_planes, to_stack, with_neighbours
from medldm.models.blocks import dense_format, space_to_depth
from medldm.models.checkpoint import architecture, read_weights
from medldm.models.flow import Flow, build_flow
from medldm.models.latent_space import LatentSpace
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
    """

    def __init__(
        self,
        config: Architecture,
        unet: Residual | None = None,
        latent: LatentSpace | None = None,
        flow: Flow | None = None,
        fusion: Residual | None = None,
    ) -> None:
        super().__init__()
        self.config, self.unet, self.latent, self.flow, self.fusion = config, unet, latent, flow, fusion

    @property
    def refines(self) -> bool:
        """Whether flow and fusion decoder come after the regression."""
        return self.flow is not None

    @property
    def parts(self) -> list[nn.Module]:
        """All networks, to move or count them."""
        networks = [self.unet, self.fusion, self.flow, self.latent.vae if self.latent else None]
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
        regression = to_stack(self.estimate(inputs))
        planes = with_neighbours(regression, self.config.spatial_dims, self.config.context)
        return self.refine(inputs, planes, noise, steps, fidelity)


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

    weights: dict[str, dict[str, Tensor]] = {"unet": {}, "vae": {}, "flow": {}, "fusion": {}}
    for key, value in tensors.items():
        name, _, rest = key.partition(".")
        weights.setdefault(name, {})[rest] = value.float()
    try:
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
