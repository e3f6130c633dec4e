"""LatentSpace: the trained autoencoder with its stored scale, so that latents have unit variance."""

from __future__ import annotations

import torch
from torch import Tensor

from medldm.models.vae import VAE


class LatentSpace:
    """Encode to unit-variance latents, decode from them.

    Parameters
    ----------
    vae : trained autoencoder
    scale : (latent_channels,) standard deviation of each latent channel over the training data
    """

    def __init__(self, vae: VAE, scale: Tensor) -> None:
        self.vae, self.scale = vae, scale

    def encode(self, image: Tensor) -> Tensor:
        """(B, 1, ...) to (B, latent_channels, .../factor); the mean, not a sample."""
        mean, _ = self.vae.encode(image)
        return mean / self._shaped(mean)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, .../factor) to (B, 1, ...)."""
        return self.vae.decode(latent * self._shaped(latent))

    def _shaped(self, like: Tensor) -> Tensor:
        return self.scale.to(like.device).reshape([1, -1] + [1] * (like.ndim - 2))


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
