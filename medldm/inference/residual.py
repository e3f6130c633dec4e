"""Draw what the regression leaves open: x = b + (1 - fidelity) s D(z), in 3D, from one noise field a sample.

The flow works on latents of the whole volume. At every step it runs in tiles of the size that it was trained on, and
the velocities of overlapping tiles are averaged, so that all tiles follow one path and no seam is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.degradations import Observation
from medldm.diffusion.samplers import DEFAULT, SAMPLERS
from medldm.inference.conditioning import Orientation
from medldm.inference.networks import Networks
from medldm.inference.tiling import content_box
from medldm.models.monai_parts import SlidingWindowInferer
from medldm.models.residual import Conditions


class Regression(NamedTuple):
    """What one pass of the regression network says of a volume.

    Parameters
    ----------
    mean : (X, Y, Z) regression mean b, scaled intensity
    log_s : (X, Y, Z) logarithm of the standard deviation of what b leaves open
    """

    mean: Tensor
    log_s: Tensor


def latent_noise(seed: int, channels: int, shape: Sequence[int]) -> Tensor:
    """(1, channels, ...) standard normal noise of a sample; samples 2n and 2n + 1 have opposite noise.

    The mean of such a pair is nearer to the mean of many samples than that of two independent ones (antithetic
    variates: Hammersley and Morton, Proc Camb Phil Soc 52, 1956).

    Parameters
    ----------
    seed : of the run times 1000, plus the number of the sample
    channels : of the latent
    shape : of the latent grid
    """
    noise = torch.randn((1, channels, *shape), generator=torch.Generator().manual_seed(seed // 2))
    return -noise if seed % 2 else noise


def draw(
    networks: Networks,
    observation: Observation,
    sigma: Tensor,
    regression: Regression,
    orientation: Orientation,
    *,
    seed: int,
    steps: int,
    sampler: str = DEFAULT,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """One sample of the restored volume, before it is projected onto the measurement.

    Parameters
    ----------
    networks : of a set with a residual flow
    observation : (X, Y, Z) on the output grid
    sigma : noise level, scaled intensity, (X, Y, Z) or broadcastable
    regression : of the observation
    orientation : whose first axis is the damaged one, as the flow was trained
    seed : see `latent_noise`
    steps : of the flow
    sampler : name in `medldm.diffusion.SAMPLERS`
    device : torch device
    progress : called with (tiles done, tiles in all)

    Returns
    -------
    (X, Y, Z) scaled intensity; the regression mean where there is air
    """
    latent, flow = networks.latent_blocks, networks.residual_flow
    assert latent is not None
    assert flow is not None
    box = content_box(observation.y)
    at = tuple(box[axis] for axis in orientation.order)
    fields = (regression.mean, observation.y, observation.observed, sigma, regression.log_s)
    stack = [orientation.to_planes(field.expand_as(observation.y))[at] for field in fields]
    grid = stack[0].shape
    b, y, observed, sigma, log_s = (_padded(field, flow.factor).to(device) for field in stack)
    thickness = torch.tensor([float(observation.thickness)], device=device)
    conditions = Conditions(b, y, observed, sigma, log_s, thickness)
    with torch.no_grad():
        projected = flow.condition(conditions)
        noise = latent_noise(seed, latent.channels, projected.shape[2:]).to(device)
        tiles = Tiles(flow, projected, steps, flow.tile, progress)
        residual = log_s.exp() * latent.decode(SAMPLERS[sampler](tiles, noise, steps))
    drawn = regression.mean.clone()
    part = orientation.to_planes(drawn)[at]
    part += residual[0, 0, : grid[0], : grid[1], : grid[2]].float().to(part.device)
    return drawn


class Tiles:
    """A flow that runs in overlapping tiles, of which a third overlaps.

    Normalisation and attention look at a whole tile, so it must be as large as in training: in tiles of 16 latents a
    flow that was trained on 12 drew half of what it should.

    Parameters
    ----------
    flow : (z, time, projected) to velocity
    projected : (1, C, ...) conditions on the latent grid
    steps : calls that will come
    tile : latents along its edge
    progress : called with (tiles done, tiles in all)
    """

    def __init__(
        self,
        flow: Callable[[Tensor, Tensor, Tensor], Tensor],
        projected: Tensor,
        steps: int,
        tile: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.flow, self.projected, self.progress, self.done = flow, projected, progress, 0
        shape = projected.shape[2:]
        self.tile, self.stride = tile, max(1, 2 * tile // 3)
        self.edges = [min(tile, size) for size in shape]
        self.total = steps * math.prod(1 + math.ceil(max(0, size - tile) / self.stride) for size in shape)

    def __call__(self, z: Tensor, time: Tensor) -> Tensor:
        """(1, channels, ...) velocity of the whole latent grid."""
        channels = z.shape[1]

        def predict(tile: Tensor) -> Tensor:
            velocity = self.flow(tile[:, :channels], time.expand(len(tile)), tile[:, channels:])
            self.done += len(tile)
            self.progress(min(self.done, self.total), self.total)
            return velocity

        share = 1 - (self.stride + 0.5) / self.tile
        overlap = [share if edge == self.tile else 0.0 for edge in self.edges]
        inferer = SlidingWindowInferer(self.edges, sw_batch_size=1, overlap=overlap, mode="gaussian")
        velocity = inferer(torch.cat([z, self.projected.float()], 1), predict)
        assert isinstance(velocity, Tensor)
        return velocity


def _padded(field: Tensor, factor: int) -> Tensor:
    """(H, W, D) as (1, 1, H', W', D') with axes that are multiples of twice the latent factor, the ends repeated."""
    pads: list[int] = []
    for size in field.shape:
        pads = [0, (-size) % (2 * factor)] + pads
    return F.pad(field[None, None], pads, mode="replicate")
