"""The whole chain: encode the measurement, let the flow propose, let the fusion decoder write.

Networks and the mathematics of the flow are strangers to each other; this is where they meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medldm.degradations import Observation
from medldm.diffusion import sample_flow
from medldm.errors import ModelError
from medldm.inference.conditioning import (
    centre_channel,
    centre_plane,
    measured_channels,
    own_planes,
    stacked_neighbours,
)
from medldm.inference.orientations import Orientation
from medldm.models.blocks import dense_format, space_to_depth
from medldm.models.checkpoint import architecture, read_weights
from medldm.models.flow import Flow, build_flow
from medldm.models.latent_space import LatentSpace
from medldm.models.unet import Residual, apply_fusion, build_fusion, build_unet
from medldm.models.vae import build_vae
from medldm.settings import Architecture
from medldm.zoo import Card, check_weights


class Networks:
    """VAE, flow and fusion decoder together; or the rival U-Net alone.

    Parameters
    ----------
    shape : architecture
    fusion : fusion decoder, or the rival when there is no flow
    latent : trained latent space, None for the rival
    flow : trained flow, None for the rival
    unet : supervised U-Net of the regression mean, where the architecture is staged
    """

    def __init__(
        self,
        shape: Architecture,
        fusion: Residual,
        latent: LatentSpace | None = None,
        flow: Flow | None = None,
        unet: Residual | None = None,
    ) -> None:
        self.config, self.fusion, self.latent, self.flow, self.unet = shape, fusion, latent, flow, unet

    @property
    def refines(self) -> bool:
        """Whether flow and fusion decoder come after the regression mean."""
        return self.flow is not None

    def estimate(self, inputs: Tensor) -> Tensor:
        """The regression mean b = y + R(y, m, sigma), (B, 1, ...), from which flow and decoder start.

        Parameters
        ----------
        inputs : (B, C, ...) measured channels; grid axes are multiples of 16
        """
        y = centre_plane(inputs, self.config)
        network = self.unet if self.refines else self.fusion
        if network is None:
            return y
        estimated: Tensor = y + network(inputs)
        return estimated

    def propose(self, inputs: Tensor, regression: Tensor, noise: Tensor, steps: int = 1) -> Tensor:
        """The flow's latent.

        Parameters
        ----------
        inputs : (B, C, ...) measured channels
        regression : (B, 1, ...) regression mean b
        noise : (B, latent_channels, .../factor) where the walk starts; zeros give the conditional mean in one step
        steps : flow steps
        """
        assert self.latent is not None
        assert self.flow is not None
        told = [regression - centre_plane(inputs, self.config)] if self.config.staged else []
        flow, conditions = self.flow, torch.cat([inputs, *told], 1)
        encoded = self.latent.encode(regression)
        return sample_flow(lambda z, t: flow(z, t, encoded, conditions), noise, steps)

    def refine(
        self,
        inputs: Tensor,
        regression_planes: Tensor,
        noise: Tensor | None = None,
        steps: int = 1,
        fidelity: float | Tensor = 1,
    ) -> Tensor:
        """What flow and fusion decoder make of the regression mean, (B, 1, ...).

        Parameters
        ----------
        inputs : (B, C, ...) measured channels; grid axes are multiples of 16
        regression_planes : (B, context, ...) regression mean of each plane and its neighbours; (B, 1, ...) of a volume
        noise : (B, 1, ...) white noise on the full grid; None starts from zeros
        steps : flow steps
        fidelity : 1 is closest to the measurement, 0 is sharpest; one number or (B,)
        """
        assert self.latent is not None
        middle = centre_channel(self.config)
        regression = regression_planes[:, middle : middle + 1]
        start = latent_noise(inputs if noise is None else noise, self.config)
        proposed = self.propose(inputs, regression, torch.zeros_like(start) if noise is None else start, steps)
        told = regression_planes - own_planes(inputs, self.config) if self.config.staged else regression_planes[:, :0]
        return apply_fusion(self.fusion, inputs, told, regression, self.latent.decode(proposed), fidelity)

    def restore(self, inputs: Tensor, noise: Tensor | None = None, steps: int = 1, fidelity: float = 1.0) -> Tensor:
        """A stack of planes, or a volume, looked at in one way, (B, 1, ...).

        Parameters
        ----------
        inputs : (B, C, ...) measured channels of planes that follow each other; grid axes are multiples of 16
        noise, steps, fidelity : see `refine`
        """
        regression = self.estimate(inputs)
        return (
            self.refine(inputs, stacked_neighbours(regression, self.config), noise, steps, fidelity)
            if self.refines
            else regression
        )

    def condition(
        self, observation: Observation, sigma: Tensor, orientation: Orientation, regression: Tensor | None = None
    ) -> list[Tensor]:
        """Measured channels of one orientation, and the regression mean with its neighbours where there is one.

        Parameters
        ----------
        observation : (X, Y, Z)
        sigma : (X, Y, Z) or broadcastable
        orientation : look
        regression : (X, Y, Z)

        Returns
        -------
        (D, C, H, W), and (D, context, H, W); or (1, C, H, W, D), and (1, 1, H, W, D)
        """
        y = observation.y
        y, observed, sigma = (orientation.to_planes(field.expand_as(y)) for field in (y, observation.observed, sigma))
        parts = [measured_channels(y, observed, sigma, observation.thickness, self.config)]
        if regression is not None:
            own = orientation.to_planes(regression)
            own = own.permute(2, 0, 1)[:, None] if self.config.spatial_dims == 2 else own[None, None]
            parts.append(stacked_neighbours(own, self.config))
        return parts

    def estimate_volume(self, observation: Observation, sigma: Tensor, orientations: Sequence[Orientation]) -> Tensor:
        """The regression mean of a volume without tiles, mean of all orientations, (X, Y, Z); axes multiples of 16."""
        return self._mean_of(
            orientations, lambda orientation: self.estimate(*self.condition(observation, sigma, orientation))
        )

    def restore_volume(
        self, observation: Observation, sigma: Tensor, orientations: Sequence[Orientation], fidelity: float = 1.0
    ) -> Tensor:
        """A volume without tiles, axes multiples of 16: regressed, and refined from the average of all orientations."""
        regression = self.estimate_volume(observation, sigma, orientations)
        if not self.refines:
            return regression

        def refined(orientation: Orientation) -> Tensor:
            inputs, regression_planes = self.condition(observation, sigma, orientation, regression)
            return self.refine(inputs, regression_planes, fidelity=fidelity)

        return self._mean_of(orientations, refined)

    def _mean_of(self, orientations: Sequence[Orientation], restore: Callable[[Orientation], Tensor]) -> Tensor:
        flat = self.config.spatial_dims == 2
        images = []
        for orientation in orientations if flat else orientations[:1]:
            image = restore(orientation)
            images.append(orientation.from_planes(image[:, 0].permute(1, 2, 0) if flat else image[0, 0]))
        return torch.stack(images).mean(0)

    def modules(self) -> list[torch.nn.Module]:
        """All networks, to move or count them."""
        parts = [self.unet, self.fusion, self.flow, self.latent.vae if self.latent else None]
        return [part for part in parts if part is not None]


def latent_noise(noise: Tensor, shape: Architecture) -> Tensor:
    """White noise on the image grid folded into latent noise, so that overlapping tiles agree on what they sample.

    Parameters
    ----------
    noise : (B, 1 or more, ...) standard normal on the full grid; only the first channel is used

    Returns
    -------
    (B, latent_channels, .../factor), standard normal
    """
    return space_to_depth(noise[:, :1], shape.latent_factor)[:, : shape.latent_channels].float()


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
        networks = _build(card, device)
        for network in networks.modules():
            network.to(precision)
            if os.environ.get("MEDLDM_COMPILE") == "1":
                network.compile()
        _loaded[key] = networks
    return _loaded[key]


def unload() -> None:
    """Forget the loaded model, so that its memory is free."""
    _loaded.clear()


def _build(card: Card, device: str) -> Networks:
    shape = architecture(card)
    tensors = read_weights(card)
    try:
        if not any(key.startswith("flow.") for key in tensors):
            return Networks(shape, _filled(build_unet(shape), _part(tensors, "unet"), device))
        vae_weights = _part(tensors, "vae")
        scale = vae_weights.pop("scale")
        latent = LatentSpace(_filled(build_vae(shape), vae_weights, device), scale.to(device))
        flow = _filled(build_flow(shape), _part(tensors, "flow"), device)
        fusion = _filled(build_fusion(shape), _part(tensors, "fusion"), device)
        unet = _filled(build_unet(shape), _part(tensors, "unet"), device) if shape.staged else None
    except (RuntimeError, KeyError) as problem:
        raise ModelError(
            f"The weights of {card.name} do not fit its card: its networks have other parts or sizes. Install medldm "
            "again, or train the model anew."
        ) from problem
    return Networks(shape, fusion, latent, flow, unet)


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value.float() for key, value in tensors.items() if key.startswith(f"{name}.")}


def _filled(network: Any, weights: dict[str, Tensor], device: str) -> Any:
    network.load_state_dict(weights)
    network.to(device).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.data = dense_format(module.weight.data)
    return network
