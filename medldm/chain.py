"""The whole chain: encode the measurement, let the flow propose, let the fusion decoder write.

Networks and the mathematics of the flow are strangers to each other; this is where they meet.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medldm.diffusion import sample_flow
from medldm.errors import ModelError
from medldm.models.blocks import space_to_depth
from medldm.models.checkpoint import architecture
from medldm.models.flow import Flow, build_flow
from medldm.models.fusion import Residual, apply_fusion, build_fusion, build_unet
from medldm.models.inputs import centre_plane
from medldm.models.latent import LatentSpace
from medldm.models.vae import build_vae
from medldm.settings import Architecture
from medldm.zoo import Card, check_weights


class Chain:
    """VAE, flow and fusion decoder together; or the rival U-Net alone.

    Parameters
    ----------
    shape : architecture
    fusion : fusion decoder, or the rival when there is no flow
    latent : trained latent space, None for the rival
    flow : trained flow, None for the rival
    unet : supervised U-Net of the first estimate, where the architecture is staged
    """

    def __init__(
        self,
        shape: Architecture,
        fusion: Residual,
        latent: LatentSpace | None = None,
        flow: Flow | None = None,
        unet: Residual | None = None,
    ) -> None:
        self.shape, self.fusion, self.latent, self.flow, self.unet = shape, fusion, latent, flow, unet

    def begin(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The first estimate, from which flow and decoder start.

        Parameters
        ----------
        inputs : (B, C, ...) measured channels

        Returns
        -------
        b = y + R(y, m, sigma), (B, 1, ...), or y itself; and b - y, with no channel where b is y
        """
        y = centre_plane(inputs, self.shape)
        if self.unet is None:
            return y, y[:, :0]
        correction = self.unet(inputs)
        return y + correction, correction

    def propose(self, inputs: Tensor, told: Tensor, first: Tensor, noise: Tensor, steps: int) -> Tensor:
        """The flow's latent.

        Parameters
        ----------
        inputs : (B, C, ...) measured channels
        told, first : from `begin`, b - y and b
        noise : (B, latent_channels, .../factor) where the walk starts; zeros give the conditional mean in one step
        steps : flow steps
        """
        assert self.latent is not None
        assert self.flow is not None
        flow, conditions = self.flow, torch.cat([inputs, told], 1)
        encoded = self.latent.encode(first)
        return sample_flow(lambda z, t: flow(z, t, encoded, conditions), noise, steps)

    def restore(self, inputs: Tensor, white: Tensor | None = None, steps: int = 1, fidelity: float = 1.0) -> Tensor:
        """(B, C, ...) measured channels to (B, 1, ...) image.

        Parameters
        ----------
        inputs : grid axes are multiples of 16
        white : (B, 1, ...) white noise on the full grid; None starts from zeros
        steps : flow steps
        fidelity : 1 is closest to the measurement, 0 is sharpest
        """
        if self.flow is None or self.latent is None:
            corrected: Tensor = centre_plane(inputs, self.shape) + self.fusion(inputs)
            return corrected
        first, told = self.begin(inputs)
        noise = latent_noise(inputs if white is None else white, self.shape)
        proposed = self.propose(inputs, told, first, torch.zeros_like(noise) if white is None else noise, steps)
        return apply_fusion(self.fusion, inputs, told, first, self.latent.decode(proposed), fidelity)

    def networks(self) -> list[torch.nn.Module]:
        """All networks, to move or count them."""
        parts = [self.unet, self.fusion, self.flow, self.latent.vae if self.latent else None]
        return [part for part in parts if part is not None]


def latent_noise(white: Tensor, shape: Architecture) -> Tensor:
    """White noise on the image grid folded into latent noise, so that overlapping tiles agree on what they sample.

    Parameters
    ----------
    white : (B, 1 or more, ...) standard normal on the full grid; only the first channel is used

    Returns
    -------
    (B, latent_channels, .../factor), standard normal
    """
    return space_to_depth(white[:, :1], shape.latent_factor)[:, : shape.latent_channels].float()


_loaded: dict[tuple[str, str, str, torch.dtype], Chain] = {}


def load_chain(card: Card, device: str = "cpu", precision: torch.dtype = torch.float32) -> Chain:
    """The networks of a card on a device, checked against the card's SHA-256; the last one loaded is kept.

    Parameters
    ----------
    card : from `medldm.zoo`
    device : torch device
    precision : number format of the weights, in which the networks compute

    Raises
    ------
    ModelError
    """
    key = (str(card.path), card.sha256, device, precision)
    if key not in _loaded:
        check_weights(card)
        unload()
        chain = _build(card, device)
        for network in chain.networks():
            network.to(precision)
        _loaded[key] = chain
    return _loaded[key]


def unload() -> None:
    """Forget the loaded model, so that its memory is free."""
    _loaded.clear()


def _build(card: Card, device: str) -> Chain:
    shape = architecture(card)
    try:
        tensors = load_file(card.path)
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"The weights of {card.name} cannot be read: {problem}") from problem
    try:
        if card.role == "rival":
            return Chain(shape, _filled(build_unet(shape), _part(tensors, "unet"), device))
        vae_weights = _part(tensors, "vae")
        scale = vae_weights.pop("scale")
        latent = LatentSpace(_filled(build_vae(shape), vae_weights, device), scale.to(device))
        flow = _filled(build_flow(shape), _part(tensors, "flow"), device)
        fusion = _filled(build_fusion(shape), _part(tensors, "fusion"), device)
        unet = _filled(build_unet(shape), _part(tensors, "unet"), device) if shape.staged else None
    except (RuntimeError, KeyError) as problem:
        raise ModelError(f"The weights of {card.name} do not fit its card: {str(problem).splitlines()[0]}") from problem
    return Chain(shape, fusion, latent, flow, unet)


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value.float() for key, value in tensors.items() if key.startswith(f"{name}.")}


def _filled(network: Any, weights: dict[str, Tensor], device: str) -> Any:
    network.load_state_dict(weights)
    network.to(device).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network
