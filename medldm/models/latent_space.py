"""LatentSpace: the trained autoencoder with its stored scale, so that latents have unit variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.models.vae import VAE


class LatentSpace(nn.Module):
    """Encode to unit-variance latents, decode from them.

    Parameters
    ----------
    vae : trained autoencoder
    scale : (latent_channels,) standard deviation of each latent channel over the training data
    """

    scale: Tensor

    def __init__(self, vae: VAE, scale: Tensor) -> None:
        super().__init__()
        self.vae = vae
        self.register_buffer("scale", scale)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 1, ...) to (B, latent_channels, .../factor); the mean, not a sample."""
        mean, _ = self.vae.encode(image)
        return mean / self._shaped(mean)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, .../factor) to (B, 1, ...)."""
        return self.vae.decode(latent * self._shaped(latent))

    def _shaped(self, like: Tensor) -> Tensor:
        # Only where it must move: a trace for export would freeze the device.
        scale = self.scale if self.scale.device == like.device else self.scale.to(like.device)
        return scale.reshape([1, -1] + [1] * (like.ndim - 2))


def latent_scale(vae: VAE, images: Tensor) -> Tensor:
    """Standard deviation of each latent channel over a batch of images.

    Parameters
    ----------
    vae : trained autoencoder
    images : (B, 1, ...)

    Returns
    -------
    (latent_channels,)
    """
    with torch.inference_mode():
        mean, _ = vae.encode(images)
    return mean.transpose(0, 1).flatten(1).std(1).clamp_min(1e-3).clone()
