"""R, the network that writes voxels: a MONAI U-Net with a full-resolution first and last layer.

Without a latent it is the supervised rival; with one it is the fusion decoder, x = y + R(y, m, sigma, D(z), fidelity).
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
    shape : widths and dimensions
    extra : channels beside the measurement (decoded latent, fidelity); 0 for the rival
    """

    def __init__(self, shape: Architecture, extra: int = 0) -> None:
        super().__init__()
        dims, self.entry = shape.spatial_dims, shape.unet_entry
        self.unet = UNet(
            spatial_dims=dims,
            in_channels=(shape.measured_channels + extra) * self.entry**dims,
            out_channels=shape.unet[0],
            channels=shape.unet,
            strides=shape.unet_strides,
            num_res_units=shape.unet_units,
            act="relu",
            norm=None,
        )
        head: Any = conv(dims, shape.unet[0], self.entry**dims)
        self.head = head
        keep_variance(self)
        # The first guess is the measurement itself.
        nn.init.zeros_(head.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, ...) measurement and extras to (B, 1, ...) correction.

        Every grid axis must be a multiple of the product of `unet_entry` and `unet_strides`.
        """
        features = self.unet(as_weights(space_to_depth(inputs, self.entry), self.head))
        correction: Tensor = depth_to_space(self.head(features), self.entry)
        return correction.float()


def build_unet(shape: Architecture) -> Residual:
    """The supervised rival: y + R(y, m, sigma)."""
    return Residual(shape)


def build_fusion(shape: Architecture) -> Residual:
    """The fusion decoder: the first estimate, the decoded latent and the fidelity weight join the measurement.

    Of the first estimate it sees the neighbouring planes too: in use that is the average over all ways of looking at
    the volume, and knows of each plane what the others saw.
    """
    return Residual(shape, extra=2 + (shape.context if shape.staged else 0))
