"""What each part of the pipeline brings: the same observation, one part taken away after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medldm.benchmark.protocol import Trial
from medldm.data.volume import Voxels
from medldm.degradations import Degradation, Rician
from medldm.diffusion.samplers import DEFAULT, SAMPLERS
from medldm.inference.conditioning import centre_plane, pick_orientations
from medldm.inference.device import fitted_tile, pick_device
from medldm.inference.networks import Networks, load_networks
from medldm.inference.tiling import SamplerConfig, estimate, refine
from medldm.inference.uncertainty import mean_and_spread
from medldm.models.precision import pick_precision
from medldm.zoo import Card


class Part(NamedTuple):
    """The networks with something left out.

    Parameters
    ----------
    keeps : ``"encoder"`` decodes the encoded reference, ``"estimate"`` the encoded regression mean E(b), ``"flow"`` the
        flow's latent; ``"all"`` is all of them
    steps, samples : of the flow
    projected : whether the result is made to agree with the measurement
    sampler : name in `SAMPLERS`
    """

    keeps: str = "all"
    steps: int = 1
    samples: int = 1
    projected: bool = True
    sampler: str = DEFAULT


ABLATED = {
    "vae-of-the-truth": Part("encoder", projected=False),
    "decode-estimate": Part("estimate", projected=False),
    "decode-flow": Part("flow", projected=False),
    "chain-unprojected": Part(projected=False),
    "chain-1-step": Part(),
    "chain-8-steps": Part(steps=8),
    **{f"chain-8-steps-{name}": Part(steps=8, sampler=name) for name in SAMPLERS if name != DEFAULT},
    "chain-mean-of-8": Part(steps=4, samples=8),
}


class Ablated(Networks):
    """Networks whose latent is decoded as it is.

    Parameters
    ----------
    networks : of the whole model
    keeps : see `Part`
    """

    def __init__(self, networks: Networks, keeps: str) -> None:
        super().__init__(networks.config, networks.unet, networks.latent, networks.flow, networks.fusion)
        self.keeps = keeps

    def estimate(self, inputs: Tensor) -> Tensor:
        """As `Networks.estimate`; the reference itself needs no regression."""
        return centre_plane(inputs, self.config) if self.keeps == "encoder" else super().estimate(inputs)

    def sample(
        self, inputs: Tensor, regression: Tensor, noise: Tensor | None = None, steps: int = 1, sampler: str = DEFAULT
    ) -> Tensor:
        """As `Networks.sample`, or the encoded regression mean."""
        assert self.latent is not None
        if self.keeps == "flow":
            return super().sample(inputs, regression, noise, steps, sampler)
        return self.latent.encode(regression)

    def fuse(self, inputs: Tensor, regression_planes: Tensor, decoded: Tensor, fidelity: float | Tensor = 1) -> Tensor:
        """The decoded latent, without the fusion decoder."""
        return decoded


def restore_part(which: Card, wanted: Part, trial: Trial) -> Voxels | None:
    """A trial restored by a part of the networks.

    Parameters
    ----------
    which : card of the model
    wanted : part
    trial : of the protocol

    Returns
    -------
    (X, Y, Z) scaled intensity; None where the model is not made for the trial
    """
    if trial.row.modality != which.modality:
        return None
    device = pick_device("auto")
    networks = load_networks(which, device, pick_precision("auto", device))
    shape, axis = trial.reference.shape, trial.facts["axis"]
    measured = torch.from_numpy(np.array(trial.measured.voxels))
    degradation: Degradation = trial.degradation or Rician(0)
    observation = degradation.observe(measured)
    if wanted.keeps == "encoder":
        observation = Rician(0).observe(torch.from_numpy(np.array(trial.reference)))
    sigma = torch.full((1, 1, 1), float(trial.facts.get("noise") or 0.0))
    used = networks if wanted.keeps == "all" else Ablated(networks, wanted.keeps)
    damaged = (axis,) if trial.row.needs_thin else ()
    planes = tuple(a for a in range(3) if a != axis) if trial.row.degradation.in_planes else ()
    spacing = [mm * old / new for mm, old, new in zip(trial.measured.spacing, measured.shape, shape, strict=True)]
    orientations = pick_orientations(damaged, planes, shape, spacing)

    tile = fitted_tile(device, networks.config.spatial_dims)
    regression = estimate(used, observation, sigma, orientations, SamplerConfig(tile=tile, device=device))

    def draw(number: int) -> Tensor:
        seed = number if wanted.steps > 1 else None
        sampling = SamplerConfig(wanted.steps, 1.0, seed, tile, device, sampler=wanted.sampler)
        return refine(used, observation, sigma, orientations, sampling, regression) if used.refines else regression

    restored, _ = mean_and_spread(draw, wanted.samples)
    if wanted.projected and trial.degradation is not None:
        restored = trial.degradation.reconcile(restored, measured)
    elif wanted.projected and trial.row.level:
        restored = Rician(float(sigma)).reconcile(restored, measured) if float(sigma) else restored
    image: Voxels = restored.float().numpy()
    return image


def part(wanted: Part) -> Callable[[Card], Callable[[Trial], Voxels | None]]:
    """A maker of methods for a part, once its card is known."""
    return lambda which: partial(restore_part, which, wanted)


PARTS = {name: part(wanted) for name, wanted in ABLATED.items()}
