"""A model set as TorchScript, so that it runs where medldm is not installed: networks, channels, scaling, bounds."""

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
    with_neighbours,
)
from medldm.inference.networks import Networks, build_networks
from medldm.modality import modality_of
from medldm.models.flow import TIME_GAIN, Flow
from medldm.models.monai_parts import get_timestep_embedding
from medldm.settings import Architecture
from medldm.zoo import Card


class OneStep(nn.Module):
    """The forward pass of a model with one flow step, as methods that a trace can follow to any device.

    A trace freezes the device of every tensor that is made on the way, so the embedding of time 1 becomes a buffer.

    Parameters
    ----------
    networks : of the model, changed in place
    """

    def __init__(self, networks: Networks) -> None:
        super().__init__()
        self.networks = networks
        if networks.flow is not None:
            _freeze_time(networks.flow)

    def estimate(self, inputs: Tensor) -> Tensor:
        """See `Networks.estimate`."""
        return self.networks.estimate(inputs)

    def refine(self, inputs: Tensor, regression_planes: Tensor, fidelity: Tensor) -> Tensor:
        """See `Networks.refine`; fidelity is (1,), grid axes are multiples of 16."""
        return self.networks.refine(inputs, regression_planes, fidelity=fidelity)


class Restorer(nn.Module):
    """The networks with everything around them that MONAI has no transform for; scripted, so it has no Python.

    Parameters
    ----------
    networks : traced `OneStep`
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

    def forward(self, inputs: Tensor, fidelity: float = 1.0) -> Tensor:
        """(B, C, ...) measured channels to (B, 1, ...) image on any grid, in one orientation, planes in their order."""
        regression = to_stack(self.estimate(inputs))
        return self.refine(inputs, with_neighbours(regression, self.dims, self.context), fidelity)

    @torch.jit.export
    def estimate(self, inputs: Tensor) -> Tensor:
        """(B, C, ...) measured channels to (B, 1, ...) regression mean."""
        return cropped(self.networks.estimate(padded(inputs, self.multiple)), list(inputs.shape[2:]))

    @torch.jit.export
    def refine(self, inputs: Tensor, regression_planes: Tensor, fidelity: float = 1.0) -> Tensor:
        """Measured channels and the regression mean of each plane and its neighbours, see `beside`, to (B, 1, ...)."""
        weight = inputs.flatten()[:1] * 0 + fidelity
        planes = padded(regression_planes, self.multiple)
        return cropped(self.networks.refine(padded(inputs, self.multiple), planes, weight), list(inputs.shape[2:]))

    @torch.jit.export
    def beside(self, regression: Tensor, order: list[int]) -> Tensor:
        """(X, Y, Z) mean regression of all orientations as planes with their neighbours, as `refine` takes it."""
        return with_neighbours(regression.permute(order), self.dims, self.context)

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


class _Fixed(nn.Module):
    """An answer that does not depend on the question."""

    answer: Tensor

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.register_buffer("answer", answer)

    def forward(self, asked: Tensor) -> Tensor:
        """The buffer."""
        return self.answer


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
        regression_planes = example[:, : config.context]  # any image will do: a trace follows shapes, not values
        stages = {"estimate": example, "refine": (example, regression_planes, torch.ones(1))}
        traced: Any = jit.trace_module(OneStep(networks), stages, check_trace=False)
        restorer = Restorer(traced, config, card.modality, card.used("denoise").orientations)
        module: torch.jit.ScriptModule = jit.script(restorer.eval())
    return module


def _freeze_time(flow: Flow) -> None:
    """One step is taken at time 1, so what the network makes of the time is a constant."""
    network: Any = flow.network
    with torch.no_grad():
        embedding = get_timestep_embedding(torch.full((1,), TIME_GAIN), network.block_out_channels[0])
        network.time_embed = _Fixed(network.time_embed(embedding))
