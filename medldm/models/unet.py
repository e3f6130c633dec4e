"""R, the regression network: a MONAI U-Net with a full-resolution first and last layer, b = y + R(y, m, sigma)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medldm.models.blocks import as_weights, conv, depth_to_space, keep_variance, space_to_depth
from medldm.models.monai_parts import UNet
from medldm.settings import Architecture


class Residual(nn.Module):
    """Correction of a measurement at full resolution.

    Parameters
    ----------
    config : widths and dimensions
    """

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        dims, self.patch = config.spatial_dims, config.unet_entry
        self.unet = UNet(
            spatial_dims=dims,
            in_channels=config.measured_channels * self.patch**dims,
            out_channels=config.unet[0],
            channels=config.unet,
            strides=config.unet_strides,
            num_res_units=config.unet_units,
            act="relu",
            norm=None,
        )
        head: Any = conv(dims, config.unet[0], self.patch**dims)
        self.head = head
        keep_variance(self)
        # The first guess is the measurement itself.
        nn.init.zeros_(head.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, ...) measurement to (B, 1, ...) correction.

        Every grid axis must be a multiple of the product of `unet_entry` and `unet_strides`.
        """
        features = self.unet(as_weights(space_to_depth(inputs, self.patch), self.head))
        correction: Tensor = depth_to_space(self.head(features), self.patch)
        return correction.float()


def encoder_features(network: Residual, inputs: Tensor) -> list[Tensor]:
    """Activations of the down path, finest level first: what our perceptual distance compares.

    Parameters
    ----------
    network : trained
    inputs : (B, channels, ...) measurement
    """
    block: Any = network.unet.model
    features, activations = as_weights(space_to_depth(inputs, network.patch), network.head), []
    while hasattr(block, "__getitem__"):
        features = block[0](features)
        activations.append(features)
        block = block[1].submodule
    return [*activations, block(features)]


def build_unet(config: Architecture) -> Residual:
    """The regression network of an architecture."""
    return Residual(config)
