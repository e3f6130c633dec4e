"""What each part of the chain brings: the same observation, one part taken away after the other."""

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
from medldm.inference.conditioning import centre_channel, centre_plane
from medldm.inference.device import fitted_tile, pick_device
from medldm.inference.networks import Chain, latent_noise, load_chain
from medldm.inference.orientations import looks
from medldm.inference.pipeline import silent
from medldm.inference.tiling import Drawing, estimate, refine
from medldm.inference.uncertainty import mean_and_spread
from medldm.models.precision import pick_precision
from medldm.zoo import Card


class Part(NamedTuple):
    """A chain with something left out.

    Parameters
    ----------
    keeps : ``"encoder"`` decodes the encoded reference, ``"estimate"`` the encoded first estimate E(b), ``"flow"`` the
        flow's latent; ``"all"`` is the whole chain
    steps, samples : of the flow
    projected : whether the result is made to agree with the measurement
    """

    keeps: str = "all"
    steps: int = 1
    samples: int = 1
    projected: bool = True


ABLATED = {
    "vae-of-the-truth": Part("encoder", projected=False),
    "decode-estimate": Part("estimate", projected=False),
    "decode-flow": Part("flow", projected=False),
    "chain-unprojected": Part(projected=False),
    "chain-1-step": Part(),
    "chain-8-steps": Part(steps=8),
    "chain-mean-of-8": Part(steps=4, samples=8),
}


class Plain(Chain):
    """A chain whose latent is decoded as it is.

    Parameters
    ----------
    chain : the whole one
    keeps : see `Part`
    """

    def __init__(self, chain: Chain, keeps: str) -> None:
        super().__init__(chain.shape, chain.fusion, chain.latent, chain.flow, chain.unet)
        self.keeps = keeps

    def estimate(self, inputs: Tensor) -> Tensor:
        """As `Chain.estimate`; of the truth itself nothing is to be estimated."""
        return centre_plane(inputs, self.shape) if self.keeps == "encoder" else super().estimate(inputs)

    def refine(
        self, inputs: Tensor, firsts: Tensor, white: Tensor | None = None, steps: int = 1, fidelity: float | Tensor = 1
    ) -> Tensor:
        """As `Chain.refine`, without the fusion decoder."""
        assert self.latent is not None
        middle = centre_channel(self.shape)
        first = firsts[:, middle : middle + 1]
        if self.keeps != "flow":
            return self.latent.decode(self.latent.encode(first))
        noise = latent_noise(inputs if white is None else white, self.shape)
        start = torch.zeros_like(noise) if white is None else noise
        return self.latent.decode(self.propose(inputs, first, start, steps))


def restore_part(which: Card, wanted: Part, trial: Trial) -> Voxels | None:
    """A trial restored by a part of a chain.

    Parameters
    ----------
    which : card of the chain
    wanted : part
    trial : of the protocol

    Returns
    -------
    (X, Y, Z) scaled intensity; None where the model is not made for the trial
    """
    if trial.row.modality != which.modality:
        return None
    device = pick_device("auto")
    chain = load_chain(which, device, pick_precision("auto", device))
    shape, axis = trial.reference.shape, trial.facts["axis"]
    measured = torch.from_numpy(np.array(trial.measured.voxels))
    degradation: Degradation = trial.degradation or Rician(0)
    observation = degradation.observe(measured)
    if wanted.keeps == "encoder":
        observation = Rician(0).observe(torch.from_numpy(np.array(trial.reference)))
    sigma = torch.full((1, 1, 1), float(trial.facts.get("noise") or 0.0))
    used = chain if wanted.keeps == "all" else Plain(chain, wanted.keeps)
    damaged = (axis,) if trial.row.needs_thin else ()
    planes = tuple(a for a in range(3) if a != axis) if trial.row.in_plane > 1 else ()
    spacing = [mm * old / new for mm, old, new in zip(trial.measured.spacing, measured.shape, shape, strict=True)]
    ways = looks(damaged, planes, shape, spacing)

    tile = fitted_tile(device, chain.shape.spatial_dims)
    first = estimate(used, observation, sigma, ways, Drawing(tile=tile, device=device), silent)

    def draw(number: int) -> Tensor:
        drawing = Drawing(wanted.steps, 1.0, number if wanted.steps > 1 else None, tile, device)
        return refine(used, observation, sigma, ways, drawing, first, silent) if used.refines else first

    restored, _ = mean_and_spread(draw, wanted.samples)
    if wanted.projected and trial.degradation is not None:
        restored = trial.degradation.reconcile(restored, measured)
    elif wanted.projected and trial.row.level:
        restored = Rician(float(sigma)).reconcile(restored, measured) if float(sigma) else restored
    found: Voxels = restored.float().numpy()
    return found


def part(wanted: Part) -> Callable[[Card], Callable[[Trial], Voxels | None]]:
    """A maker of methods for a part, once its card is known."""
    return lambda which: partial(restore_part, which, wanted)


PARTS = {name: part(wanted) for name, wanted in ABLATED.items()}
