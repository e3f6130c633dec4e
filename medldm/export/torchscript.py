"""A model set as TorchScript, so that it runs where medldm is not installed: networks, channels, scaling, bounds."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.errors import ModelError
from medldm.inference.conditioning import NOISE_GAIN, centre_channel, centre_plane, own_planes
from medldm.modality import modality_of
from medldm.models.checkpoint import architecture, read_weights
from medldm.models.flow import TIME_GAIN, Flow, build_flow
from medldm.models.monai_parts import get_timestep_embedding
from medldm.models.unet import build_fusion, build_unet
from medldm.models.vae import build_vae
from medldm.settings import Architecture
from medldm.zoo import Card

MULTIPLE = 16  # grid axes are padded to it, as in `medldm.tasks`
BOUND = 4.0  # a denoised voxel moves at most this many standard deviations


class OneStep(nn.Module):
    """Both stages of a pipeline's networks, the flow in one step, as methods that a trace can follow to any device.

    A trace freezes where tensors were made. So nothing is made here: zeros are a latent times nought, the scale of
    the latents and the embedding of time 1 are buffers, which move with the weights.

    Parameters
    ----------
    card : of the model
    """

    scale: Tensor

    def __init__(self, card: Card) -> None:
        super().__init__()
        shape = self.shape = architecture(card)
        tensors = read_weights(card)
        self.rival = not any(key.startswith("flow.") for key in tensors)
        try:
            if self.rival or shape.staged:
                self.unet = build_unet(shape)
                self.unet.load_state_dict(_part(tensors, "unet"))
            if not self.rival:
                vae = _part(tensors, "vae")
                self.register_buffer("scale", vae.pop("scale").reshape([1, -1] + [1] * shape.spatial_dims))
                self.vae, self.flow, self.fusion = build_vae(shape), build_flow(shape), build_fusion(shape)
                self.vae.load_state_dict(vae)
                self.flow.load_state_dict(_part(tensors, "flow"))
                self.fusion.load_state_dict(_part(tensors, "fusion"))
                _freeze_time(self.flow)
        except (RuntimeError, KeyError) as problem:
            raise ModelError(
                f"The weights of {card.name} do not fit its card: its networks have other parts or sizes. Install "
                "medldm again, or train the model anew."
            ) from problem
        self.eval().requires_grad_(False)

    def estimate(self, inputs: Tensor) -> Tensor:
        """See `Networks.estimate`."""
        regression = centre_plane(inputs, self.shape)
        if not (self.rival or self.shape.staged):
            return regression
        estimated: Tensor = regression + self.unet(inputs)
        return estimated

    def refine(self, inputs: Tensor, regression_planes: Tensor, fidelity: Tensor) -> Tensor:
        """See `Networks.refine`; fidelity is (1,), grid axes are multiples of 16."""
        if self.rival:
            return regression_planes[:, centre_channel(self.shape)][:, None]
        regression = regression_planes[:, centre_channel(self.shape)][:, None]
        told = regression_planes - own_planes(inputs, self.shape) if self.shape.staged else regression_planes[:, :0]
        encoded = self.vae.encode(regression)[0] / self.scale
        conditions = (
            torch.cat([inputs, regression - centre_plane(inputs, self.shape)], 1) if self.shape.staged else inputs
        )
        # The time is frozen, see `_freeze_time`.
        proposed = self.flow(encoded * 0, torch.ones(1), encoded, conditions)
        decoded = self.vae.decode(proposed * self.scale)
        weight = fidelity.reshape([-1] + [1] * (inputs.ndim - 1)).expand_as(decoded)
        corrected: Tensor = regression + self.fusion(torch.cat([inputs, told, decoded - regression, weight], 1))
        return corrected


class Restorer(nn.Module):
    """The networks with everything around them that MONAI has no transform for; scripted, so it has no Python.

    Parameters
    ----------
    networks : traced `Networks`
    shape : architecture
    modality : name in `medldm.modality.MODALITIES`
    most_orientations : planes that are averaged, at most
    """

    def __init__(self, networks: nn.Module, shape: Architecture, modality: str, most_orientations: int = 3) -> None:
        super().__init__()
        self.networks: Any = networks
        self.dims: int = shape.spatial_dims
        self.context_half: int = shape.context // 2
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
        return self.refine(inputs, self.stacked(self.estimate(inputs)), fidelity)

    @torch.jit.export
    def estimate(self, inputs: Tensor) -> Tensor:
        """(B, C, ...) measured channels to (B, 1, ...) regression mean."""
        return self.cropped(self.networks.estimate(self.padded(inputs)), inputs)

    @torch.jit.export
    def refine(self, inputs: Tensor, regression_planes: Tensor, fidelity: float = 1.0) -> Tensor:
        """Measured channels and the regression mean of each plane and its neighbours, see `beside`, to (B, 1, ...)."""
        weight = inputs.flatten()[:1] * 0 + fidelity
        return self.cropped(self.networks.refine(self.padded(inputs), self.padded(regression_planes), weight), inputs)

    @torch.jit.export
    def beside(self, regression: Tensor, order: list[int]) -> Tensor:
        """(X, Y, Z) mean regression of all orientations as planes with their neighbours, as `refine` takes it."""
        turned = regression.permute(order)
        return turned[None, None] if self.dims == 3 else self.neighbours(turned)

    def stacked(self, regression: Tensor) -> Tensor:
        """(D, 1, H, W) to (D, context, H, W)."""
        return regression if self.dims == 3 else self.neighbours(regression[:, 0].permute([1, 2, 0]))

    def padded(self, image: Tensor) -> Tensor:
        """Grid axes brought to multiples of 16, the ends repeated."""
        grid = image.shape[2:]
        pads: list[int] = []
        for axis in range(len(grid)):
            pads = [0, (-grid[axis]) % self.multiple] + pads
        return F.pad(image, pads, mode="replicate")

    def cropped(self, image: Tensor, like: Tensor) -> Tensor:
        """The part that `padded` did not add."""
        for axis in range(2, like.dim()):
            image = image.narrow(axis, 0, like.size(axis))
        return image

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
        white = self.percentile(lit[lit > 0.1 * bright], 99.5)
        return [0.0, white]

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
        coarse, thin = 0, 0
        finest = spacing[0]
        for axis in range(3):
            if spacing[axis] > spacing[coarse]:
                coarse = axis
            if shape[axis] < shape[thin]:
                thin = axis
            finest = min(finest, spacing[axis])
        if self.dims == 3:
            return [[0, 1, 2]]
        if shape[thin] < 8:
            coarse = thin
        elif spacing[coarse] <= 1.6 * finest:
            return [[0, 1, 2], [1, 2, 0], [2, 0, 1]][: self.most_orientations]
        rest: list[int] = []
        for axis in range(3):
            if axis != coarse:
                rest.append(axis)
        return [[rest[0], rest[1], coarse]]

    @torch.jit.export
    def channels(self, y: Tensor, observed: Tensor, sigma: Tensor, thickness: float, order: list[int]) -> Tensor:
        """What the networks are told, see `medldm.inference.conditioning.measured_channels`.

        `y`, `observed` and `sigma` are (X, Y, Z), scaled; `thickness` is in voxels; `order` is one of `looks`.
        Planes: (D, C, H, W). Volumes: (1, C, H, W, D).
        """
        y, observed = y.permute(order), observed.permute(order)
        noise = sigma.permute(order) * self.noise_gain
        thick = torch.full_like(y, math.log(max(thickness, 1.0)) / math.log(8.0))
        if self.dims == 3:
            return torch.stack([y, observed, noise, thick])[None]
        own = torch.stack([noise, thick]).permute([3, 0, 1, 2])
        return torch.cat([self.neighbours(y), self.neighbours(observed), own], 1)

    def neighbours(self, stack: Tensor) -> Tensor:
        """(H, W, D) to (D, context, H, W), the outermost planes repeated at the ends."""
        depth = stack.shape[2]
        at = torch.arange(depth, device=stack.device)
        found: list[Tensor] = []
        for step in range(-self.context_half, self.context_half + 1):
            found.append(stack.index_select(2, (at + step).clamp(0, depth - 1)))
        return torch.stack(found).permute([3, 0, 1, 2])

    @torch.jit.export
    def volume(self, guess: Tensor, order: list[int]) -> Tensor:
        """Restored planes, (D, 1, H, W), or a volume, (1, 1, H, W, D), back to (X, Y, Z)."""
        stack = guess[0, 0] if self.dims == 3 else guess[:, 0].permute([1, 2, 0])
        back = [0, 0, 0]
        for place in range(3):
            back[order[place]] = place
        return stack.permute(back)

    @torch.jit.export
    def bounded(self, restored: Tensor, measured: Tensor, sigma: Tensor) -> Tensor:
        """No voxel moves farther than four standard deviations; MRI counts from the bias-corrected magnitude."""
        lowest = measured
        if self.rician:
            unbiased = (measured * measured - 2 * sigma * sigma).clamp_min(0).sqrt()
            lowest = torch.minimum(unbiased, measured)
        reach = self.bound_at * sigma
        return torch.minimum(torch.maximum(restored, lowest - reach), measured + reach)


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
    networks = OneStep(card)
    shape = networks.shape
    size = (2, shape.measured_channels, *(2 * MULTIPLE,) * shape.spatial_dims)
    example = torch.rand(size, generator=torch.Generator().manual_seed(0))
    jit: Any = torch.jit  # untyped
    with warnings.catch_warnings(), torch.no_grad():
        # Shapes are checked in Python along the way; that those checks are frozen is what is wanted.
        warnings.simplefilter("ignore")
        regression_planes = example[:, : shape.context]  # any image will do: a trace follows shapes, not values
        stages = {"estimate": example, "refine": (example, regression_planes, torch.ones(1))}
        traced: Any = jit.trace_module(networks, stages, check_trace=False)
        restorer = Restorer(traced, shape, card.modality, card.used("denoise").orientations)
        module: torch.jit.ScriptModule = jit.script(restorer.eval())
    return module


def _freeze_time(flow: Flow) -> None:
    """One step is taken at time 1, so what the network makes of the time is a constant."""
    network: Any = flow.network
    with torch.no_grad():
        embedding = get_timestep_embedding(torch.full((1,), TIME_GAIN), network.block_out_channels[0])
        network.time_embed = _Fixed(network.time_embed(embedding))


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value.float() for key, value in tensors.items() if key.startswith(f"{name}.")}
