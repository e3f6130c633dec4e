"""The flow: MONAI's DiffusionModelUNet predicts the clean latent from a noisy one and the measurement."""

from __future__ import annotations

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
    shape : architecture
    """

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.factor = shape.latent_factor
        folded = (shape.measured_channels + shape.staged) * shape.latent_factor**shape.spatial_dims
        # The folded measurement is wide (12 channels become 192); one 1x1 layer narrows it for the U-Net.
        kind = nn.Conv2d if shape.spatial_dims == 2 else nn.Conv3d
        self.door = kind(folded, shape.flow[0], 1)
        network = DiffusionModelUNet(
            spatial_dims=shape.spatial_dims,
            in_channels=2 * shape.latent_channels + shape.flow[0],
            out_channels=shape.latent_channels,
            num_res_blocks=(1,) * len(shape.flow),
            channels=shape.flow,
            attention_levels=(False,) * len(shape.flow),
            norm_num_groups=8,
            num_head_channels=8,
        )
        self.network = without_norm(network)

    def forward(self, noisy: Tensor, time: Tensor, encoded: Tensor, inputs: Tensor) -> Tensor:
        """The clean latent, as a correction of E(b).

        Parameters
        ----------
        noisy : (B, latent_channels, ...) z_t = (1 - t) z + t noise
        time : (B,) in [0, 1], 1 is pure noise
        encoded : (B, latent_channels, ...) of the first estimate b; without one, of y
        inputs : (B, C, ...) measured channels and b - y at full resolution
        """
        conditions_in = self.door(as_weights(space_to_depth(inputs, self.factor), self.door))
        stack = dense_format(
            torch.cat([as_weights(noisy, self.door), as_weights(encoded, self.door), conditions_in], 1)
        )
        correction: Tensor = self.network(stack, time * TIME_GAIN)
        return encoded + correction.float()


def build_flow(shape: Architecture) -> Flow:
    """The flow network of an architecture."""
    return Flow(shape)
