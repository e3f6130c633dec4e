"""The autoencoder: MONAI's AutoencoderKL behind a space-to-depth door, without normalisation."""

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
    shape : architecture; each latent voxel stands for `latent_factor` voxels along every axis
    """

    network: Any

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.entry = shape.vae_entry
        if shape.vae_entry * 2 ** (len(shape.vae) - 1) != shape.latent_factor:
            raise ValueError(
                f"vae_entry {shape.vae_entry} and {len(shape.vae)} levels do not give factor {shape.latent_factor}"
            )
        depth = shape.vae_entry**shape.spatial_dims
        network: Any = AutoencoderKL(
            spatial_dims=shape.spatial_dims,
            in_channels=depth,
            out_channels=depth,
            num_res_blocks=(1,) * len(shape.vae),
            channels=shape.vae,
            attention_levels=(False,) * len(shape.vae),
            latent_channels=shape.latent_channels,
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
        """A convolution that tells the number format of the weights."""
        return self.network.quant_conv_mu.conv

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, ...) image to mean and standard deviation of the latent, (B, latent_channels, .../factor)."""
        mean, sigma = self.network.encode(as_weights(space_to_depth(image, self.entry), self.first))
        return mean.float(), sigma.float()

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, .../factor) to (B, 1, ...) image."""
        image: Tensor = depth_to_space(self.network.decode(as_weights(latent, self.first)), self.entry)
        return image.float()

    def features(self, image: Tensor) -> list[Tensor]:
        """Activations of the encoder after each of its blocks: what our perceptual distance compares."""
        levels, x = [], as_weights(space_to_depth(image, self.entry), self.first)
        for block in self.network.encoder.blocks:
            x = block(x)
            levels.append(x)
        return levels


def build_vae(shape: Architecture) -> VAE:
    """The autoencoder of an architecture."""
    return VAE(shape)
