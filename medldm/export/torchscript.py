"""A model set as TorchScript, so that it runs where medldm is not installed: regression, channels, scaling, bounds."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from medldm.degradations.noise import BOUND, within_noise
from medldm.inference.conditioning import (
    MULTIPLE,
    NOISE_GAIN,
    channels,
    cropped,
    inverse,
    orders_of_planes,
    padded,
    to_stack,
)
from medldm.inference.networks import Networks, build_networks
from medldm.modality import modality_of
from medldm.settings import Architecture
from medldm.zoo import Card


class Regression(nn.Module):
    """The regression mean of a model, as a method that a trace can follow to any device.

    Parameters
    ----------
    networks : of the model
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, inputs: Tensor) -> Tensor:
        """See `Networks.estimate`; grid axes are multiples of 16."""
        return self.networks.estimate(inputs)


class Restorer(nn.Module):
    """The regression network with everything around it that MONAI has no transform for; scripted, so it has no Python.

    Parameters
    ----------
    networks : traced `Regression`
    config : architecture
    modality : name in `medldm.modality.MODALITIES`
    most_orientations : planes that are averaged, at most
    """

    def __init__(self, networks: nn.Module, config: Architecture, modality: str, most_orientations: int = 3) -> None:
        super().__init__()
        self.networks: Any = networks
        self.dims: int = config.spatial_dims
        self.context: int = config.context
        kind = modality_of(modality)
        window, self.rician = kind.window, kind.noise.family == "rician"
        self.fixed: bool = window is not None
        self.lowest, self.highest = window or (0.0, 1.0)
        self.multiple: int = MULTIPLE
        self.noise_gain: float = NOISE_GAIN
        self.bound_at: float = BOUND
        self.most_orientations: int = most_orientations

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, ...) measured channels to (B, 1, ...) regression mean on any grid, in one orientation."""
        answer: Tensor = self.networks(padded(inputs, self.multiple))
        return cropped(answer, list(inputs.shape[2:]))

    @torch.jit.export
    def limits(self, voxels: Tensor) -> list[float]:
        """Stored values that become 0 and 1: the HU window, or 0 and the 99.5th percentile of the foreground."""
        if self.fixed:
            return [self.lowest, self.highest]
        lit = voxels[voxels > 0].flatten()
        if lit.numel() == 0:
            return [0.0, 1.0]
        # Air that was not zeroed lies below a tenth of the bright voxels, and would pull the percentile down.
        bright = self.percentile(lit, 99.0)
        brightest = self.percentile(lit[lit > 0.1 * bright], 99.5)
        return [0.0, brightest]

    @torch.jit.export
    def percentile(self, values: Tensor, percent: float) -> float:
        """Percentile with linear interpolation, of any number of values."""
        at = (values.numel() - 1) * percent / 100
        low = math.floor(at)
        high = min(low + 1, values.numel() - 1)
        below = float(torch.kthvalue(values, low + 1)[0].item())
        above = float(torch.kthvalue(values, high + 1)[0].item())
        return below + (above - below) * (at - low)

    @torch.jit.export
    def pick_orientations(self, shape: list[int], spacing: list[float]) -> list[list[int]]:
        """Orders of axes whose planes are averaged: all three, of a thick-sliced scan its own planes only."""
        return [[0, 1, 2]] if self.dims == 3 else orders_of_planes(shape, spacing)[: self.most_orientations]

    @torch.jit.export
    def channels(self, y: Tensor, observed: Tensor, sigma: Tensor, thickness: float, order: list[int]) -> Tensor:
        """The input of the networks, see `medldm.inference.conditioning.measured_channels`.

        `y`, `observed` and `sigma` are (X, Y, Z), scaled; `thickness` is in voxels; `order` is one of
        `pick_orientations`. Planes: (D, C, H, W). Volumes: (1, C, H, W, D).
        """
        y, observed, sigma = y.permute(order), observed.permute(order), sigma.permute(order)
        return channels(y, observed, sigma, thickness, self.dims, self.context, False, self.noise_gain)

    @torch.jit.export
    def volume(self, guess: Tensor, order: list[int]) -> Tensor:
        """Restored planes, (D, 1, H, W), or a volume, (1, 1, H, W, D), back to (X, Y, Z)."""
        return to_stack(guess).permute(inverse(order))

    @torch.jit.export
    def bounded(self, restored: Tensor, measured: Tensor, sigma: Tensor) -> Tensor:
        """No voxel moves farther than the noise can have moved it, see `medldm.degradations.noise.within_noise`."""
        return within_noise(restored, measured, sigma, self.rician, self.bound_at)


def scripted(card: Card) -> torch.jit.ScriptModule:
    """A model as TorchScript, on the CPU; `torch.jit.load` with ``map_location`` brings it anywhere.

    Parameters
    ----------
    card : from `medldm.zoo`

    Raises
    ------
    ModelError
    """
    networks = build_networks(card)
    config = networks.config
    size = (2, config.measured_channels, *(2 * MULTIPLE,) * config.spatial_dims)
    example = torch.rand(size, generator=torch.Generator().manual_seed(0))
    jit: Any = torch.jit  # untyped
    with warnings.catch_warnings(), torch.no_grad():
        # Shapes are checked in Python along the way; that those checks are frozen is what is wanted.
        warnings.simplefilter("ignore")
        traced: Any = jit.trace(Regression(networks), example, check_trace=False)
        restorer = Restorer(traced, config, card.modality, card.used("denoise").orientations)
        module: torch.jit.ScriptModule = jit.script(restorer.eval())
    return module
