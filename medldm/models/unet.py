"""R, the network that writes voxels: a MONAI U-Net with a full-resolution first and last layer.

Without a latent it is the supervised baseline; with one it is the fusion decoder,
x = y + R(y, m, sigma, D(z), fidelity).
"""

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
    extra : channels beside the measurement (decoded latent, fidelity); 0 for the baseline
    """

    def __init__(self, config: Architecture, extra: int = 0) -> None:
        super().__init__()
        dims, self.patch = config.spatial_dims, config.unet_entry
        self.unet = UNet(
            spatial_dims=dims,
            in_channels=(config.measured_channels + extra) * self.patch**dims,
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
        """(B, channels, ...) measurement and extras to (B, 1, ...) correction.

        Every grid axis must be a multiple of the product of `unet_entry` and `unet_strides`.
        """
        features = self.unet(as_weights(space_to_depth(inputs, self.patch), self.head))
        correction: Tensor = depth_to_space(self.head(features), self.patch)
        return correction.float()


def build_unet(config: Architecture) -> Residual:
    """The supervised baseline: y + R(y, m, sigma)."""
    return Residual(config)


def build_fusion(config: Architecture) -> Residual:
    """The fusion decoder: the regression mean, the decoded latent and the fidelity weight join the measurement.

    Of the regression mean it sees the neighbouring planes too: in use that is the average over all orientations.
    """
    return Residual(config, extra=2 + (config.context if config.staged else 0))
