"""Residual latent diffusion: what regression cannot know, at unit scale, in a latent that a flow can draw.

With b the regression mean and s the spread around it, the residual u = (x - b) / s is encoded to a latent z, and a flow
draws z from noise given what was measured: x = b + s D(z). See Mardani et al., "Residual corrective diffusion modeling"
(2024) for the idea of a regression mean with a diffusion model of its residual.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.models.blocks import as_weights, conv, dense_format, depth_to_space, space_to_depth
from medldm.models.monai_parts import DiffusionModelUNet
from medldm.models.unet import Residual
from medldm.settings import Architecture

SPREAD = (0.002, 0.5)  # smallest and largest spread, scaled intensity
TIME_GAIN = 1000.0  # MONAI's time embedding was made for step numbers up to 1000


class SpreadHead(nn.Module):
    """The logarithm of the standard deviation of what the regression leaves open, from the regression's features.

    Parameters
    ----------
    spatial_dims : of the features
    channels : of the features
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.hidden = conv(spatial_dims, channels, channels)
        self.deeper = conv(spatial_dims, channels, channels)
        last: Any = conv(spatial_dims, channels, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, math.log(0.03))
        self.last = last

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, ...) features to (B, 1, ...) log s, s in scaled intensity."""
        hidden = F.relu(self.hidden(as_weights(features, self.last)))
        log_s: Tensor = self.last(F.relu(self.deeper(hidden)))
        return log_s.float().clamp(math.log(SPREAD[0]), math.log(SPREAD[1]))


def features_and_correction(network: Residual, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The regression network's last features, (B, channels, ...), and its correction, (B, 1, ...)."""
    features = network.unet(as_weights(space_to_depth(inputs, network.patch), network.head))
    return features, network.head(features).float()


class PrincipalBlocks(nn.Module):
    """The latent of the residual: principal components of its blocks, decoded with the blocks beside each.

    Parameters
    ----------
    basis : (block voxels, channels) orthonormal, of residual blocks u as `space_to_depth` lays them out
    scale : (channels,) standard deviation of each component
    factor : edge of a block, voxels
    decoder : (block voxels, channels, 3, ...) convolution from latents to blocks, see `overlapping_decoder`; None
        decodes each block by itself, which leaves edges between blocks
    """

    basis: Tensor
    scale: Tensor
    decoder: Tensor | None

    def __init__(self, basis: Tensor, scale: Tensor, factor: int, decoder: Tensor | None = None) -> None:
        super().__init__()
        self.factor, self.channels = factor, len(scale)
        self.register_buffer("basis", basis)
        self.register_buffer("scale", scale)
        self.register_buffer("decoder", decoder)

    def latent(self, u: Tensor, log_s: Tensor) -> Tensor:
        """(B, 1, ...) residual to (B, channels, ...) components at unit scale; log s is not needed."""
        rows = space_to_depth(u, self.factor).movedim(1, -1) @ self.basis
        return (rows / self.scale).movedim(-1, 1)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, channels, ...) to (B, 1, ...) residual."""
        if self.decoder is None:
            rows = (latent.movedim(1, -1) * self.scale) @ self.basis.T
            return depth_to_space(rows.movedim(-1, 1).contiguous(), self.factor)
        convolve = F.conv2d if latent.ndim == 4 else F.conv3d
        return depth_to_space(convolve(latent, self.decoder.to(latent), padding=1).float(), self.factor)


class Conditions(NamedTuple):
    """Conditions of the flow, all (B, 1, ...) on the voxel grid.

    Parameters
    ----------
    b : regression mean, scaled intensity
    y : measurement, interpolated
    observed : in [0, 1]
    sigma : noise level, scaled intensity
    log_s : logarithm of the spread
    thickness : (B,) slice thickness, voxels
    """

    b: Tensor
    y: Tensor
    observed: Tensor
    sigma: Tensor
    log_s: Tensor
    thickness: Tensor


class ResidualFlow(nn.Module):
    """Velocity of a latent on the path of `medldm.diffusion.objective`, given the conditions.

    Parameters
    ----------
    config : architecture; `flow` channels, normalised, with attention at the coarsest level
    blocks : residual blocks a level
    tile : latents along the edge of what it is trained on, and runs on
    """

    def __init__(self, config: Architecture, blocks: int = 2, tile: int = 12) -> None:
        super().__init__()
        self.tile = tile
        dims, self.factor = config.spatial_dims, config.latent_factor
        cells = self.factor**dims
        kind = nn.Conv2d if dims == 2 else nn.Conv3d
        self.project = kind(4 * cells + 2, config.flow[0], 1)
        self.network = DiffusionModelUNet(
            spatial_dims=dims,
            in_channels=config.latent_channels + config.flow[0],
            out_channels=config.latent_channels,
            num_res_blocks=(blocks,) * len(config.flow),
            channels=config.flow,
            attention_levels=(False,) * (len(config.flow) - 1) + (True,),
            norm_num_groups=16,
            num_head_channels=16,
        )

    def condition(self, conditions: Conditions) -> Tensor:
        """The conditions on the latent grid, (B, flow[0], ...); they are the same at every step."""
        c = conditions

        def fold(field: Tensor) -> Tensor:
            return space_to_depth(field, self.factor)

        sigma = fold(c.sigma).mean(1, keepdim=True) * 10.0
        thick = (c.thickness.clamp_min(1).log2() / 3).reshape([-1] + [1] * (c.b.ndim - 1)).expand_as(sigma)
        stack = torch.cat(
            [fold(c.b), fold(c.y - c.b) * 5.0, fold(c.observed), (fold(c.log_s) + 4.0) / 2, sigma, thick], 1
        )
        projected: Tensor = self.project(as_weights(stack, self.project))
        return projected

    def forward(self, noisy: Tensor, time: Tensor, projected: Tensor) -> Tensor:
        """(B, latent_channels, ...) velocity.

        Parameters
        ----------
        noisy : (B, latent_channels, ...) z, between noise (time 0) and latent (time 1)
        time : (B,) in [0, 1]
        projected : from `condition`, or zeros of its shape where conditions are dropped
        """
        stack = dense_format(torch.cat([as_weights(noisy, self.project), as_weights(projected, self.project)], 1))
        velocity: Tensor = self.network(stack, time * TIME_GAIN)
        return velocity.float()
