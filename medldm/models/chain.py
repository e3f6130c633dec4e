"""The whole chain for one batch: encode the measurement, let the flow propose, let the fusion decoder write."""

from __future__ import annotations

import torch
from torch import Tensor

from medldm.diffusion import sample_flow
from medldm.models.blocks import space_to_depth
from medldm.models.flow import Flow
from medldm.models.fusion import Residual, apply_fusion
from medldm.models.inputs import centre_channel, centre_plane
from medldm.models.latent import LatentSpace
from medldm.settings import Architecture


class Chain:
    """VAE, flow and fusion decoder together; or the rival U-Net alone.

    Parameters
    ----------
    shape : architecture
    fusion : fusion decoder, or the rival when there is no flow
    latent : trained latent space, None for the rival
    flow : trained flow, None for the rival
    """

    def __init__(
        self, shape: Architecture, fusion: Residual, latent: LatentSpace | None = None, flow: Flow | None = None
    ) -> None:
        self.shape, self.fusion, self.latent, self.flow = shape, fusion, latent, flow

    def propose(self, inputs: Tensor, noise: Tensor, steps: int) -> Tensor:
        """The flow's latent.

        Parameters
        ----------
        inputs : (B, C, ...) measured channels
        noise : (B, latent_channels, .../factor) where the walk starts; zeros give the conditional mean in one step
        steps : flow steps
        """
        assert self.latent is not None
        assert self.flow is not None
        flow = self.flow
        encoded = self.latent.encode(centre_plane(inputs, self.shape))
        return sample_flow(lambda z, t: flow(z, t, encoded, inputs), noise, steps)

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
        noise = latent_noise(inputs if white is None else white, self.shape)
        proposed = self.propose(inputs, torch.zeros_like(noise) if white is None else noise, steps)
        decoded = self.latent.decode(proposed)
        return apply_fusion(self.fusion, inputs, decoded, fidelity, centre_channel(self.shape))

    def networks(self) -> list[torch.nn.Module]:
        """All networks, to move or count them."""
        parts = [self.fusion, self.flow, self.latent.vae if self.latent else None]
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
