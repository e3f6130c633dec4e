"""The flow: MONAI's DiffusionModelUNet predicts the clean latent from a noisy one and the measurement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medldm.models.blocks import as_weights, dense_format, space_to_depth, without_norm
from medldm.models.monai_parts import DiffusionModelUNet
from medldm.settings import Architecture

TIME_GAIN = 1000.0  # MONAI's time embedding was made for step numbers up to 1000


class Flow(nn.Module):
    """Clean latent from (noisy latent, E(b), the raw measurement and b - y folded into depth, time).

    Parameters
    ----------
    config : architecture
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.factor = config.latent_factor
        folded = (config.measured_channels + config.staged) * config.latent_factor**config.spatial_dims
        # The folded measurement is wide (12 channels become 192); one 1x1 layer narrows it for the U-Net.
        kind = nn.Conv2d if config.spatial_dims == 2 else nn.Conv3d
        self.add_module("door", kind(folded, config.flow[0], 1))  # its name in the weights of trained models
        network = DiffusionModelUNet(
            spatial_dims=config.spatial_dims,
            in_channels=2 * config.latent_channels + config.flow[0],
            out_channels=config.latent_channels,
            num_res_blocks=(1,) * len(config.flow),
            channels=config.flow,
            attention_levels=(False,) * len(config.flow),
            norm_num_groups=8,
            num_head_channels=8,
        )
        self.network = without_norm(network)

    @property
    def input_projection(self) -> Any:
        """The convolution that narrows the folded measurement."""
        return self.door

    def forward(self, noisy: Tensor, time: Tensor, encoded: Tensor, inputs: Tensor) -> Tensor:
        """The clean latent, as a correction of E(b).

        Parameters
        ----------
        noisy : (B, latent_channels, ...) z_t = (1 - t) z + t noise
        time : (B,) in [0, 1], 1 is pure noise
        encoded : (B, latent_channels, ...) of the regression mean b; without one, of y
        inputs : (B, C, ...) measured channels and b - y at full resolution
        """
        first = self.input_projection
        projected = first(as_weights(space_to_depth(inputs, self.factor), first))
        stack = dense_format(torch.cat([as_weights(noisy, first), as_weights(encoded, first), projected], 1))
        correction: Tensor = self.network(stack, time * TIME_GAIN)
        return encoded + correction.float()


def build_flow(config: Architecture) -> Flow:
    """The flow network of an architecture."""
    return Flow(config)
