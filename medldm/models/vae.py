"""The autoencoder: MONAI's AutoencoderKL behind a patchifying first layer, without normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medldm.models.blocks import as_weights, depth_to_space, keep_variance, space_to_depth, without_norm
from medldm.models.monai_parts import AutoencoderKL
from medldm.settings import Architecture


class VAE(nn.Module):
    """Image to latent and back.

    Parameters
    ----------
    config : architecture; each latent voxel stands for `latent_factor` voxels along every axis
    """

    network: Any

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.patch = config.vae_entry
        if config.vae_entry * 2 ** (len(config.vae) - 1) != config.latent_factor:
            raise ValueError(
                f"vae_entry {config.vae_entry} and {len(config.vae)} levels do not give factor {config.latent_factor}"
            )
        depth = config.vae_entry**config.spatial_dims
        network: Any = AutoencoderKL(
            spatial_dims=config.spatial_dims,
            in_channels=depth,
            out_channels=depth,
            num_res_blocks=(1,) * len(config.vae),
            channels=config.vae,
            attention_levels=(False,) * len(config.vae),
            latent_channels=config.latent_channels,
            norm_num_groups=8,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        keep_variance(without_norm(network))
        # Latents start almost without noise: first learn to copy, then how much shaking that bears.
        log_sigma = network.quant_conv_log_sigma.conv
        nn.init.zeros_(log_sigma.weight)
        nn.init.constant_(log_sigma.bias, -6.0)
        self.network = network

    @property
    def first(self) -> Any:
        """A convolution, for the number format of the weights."""
        return self.network.quant_conv_mu.conv

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, ...) image to mean and standard deviation of the latent, (B, latent_channels, .../factor)."""
        mean, sigma = self.network.encode(as_weights(space_to_depth(image, self.patch), self.first))
        return mean.float(), sigma.float()

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, .../factor) to (B, 1, ...) image."""
        image: Tensor = depth_to_space(self.network.decode(as_weights(latent, self.first)), self.patch)
        return image.float()

    def features(self, image: Tensor) -> list[Tensor]:
        """Activations of the encoder after each of its blocks: what our perceptual distance compares."""
        activations, x = [], as_weights(space_to_depth(image, self.patch), self.first)
        for block in self.network.encoder.blocks:
            x = block(x)
            activations.append(x)
        return activations


def build_vae(config: Architecture) -> VAE:
    """The autoencoder of an architecture."""
    return VAE(config)
