"""The supervised rival: y + R(y, m, sigma), no latent. The number to beat, and the start of the fusion decoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from medldm.inference.conditioning import centre_plane
from medldm.models.precision import autocast
from medldm.models.unet import build_unet
from medldm.settings import Architecture
from medldm.training.data import Packed
from medldm.training.distributed import Team
from medldm.training.examples import draw_example
from medldm.training.losses import root_mean_square
from medldm.training.trainer import Plan, Session
from medldm.training.validation import cubes, score


def draw_batch(
    scans: list[Packed], shape: Architecture, plan: Plan
) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """A function that draws (inputs, clean), (B, C, ...) and (B, 1, ...)."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        examples = [draw_example(scans, shape, plan.patch, generator) for _ in range(plan.batch)]
        return torch.stack([each.inputs for each in examples]), torch.stack([each.clean for each in examples])

    return draw


def train_unet(
    train: list[Packed],
    val: list[Packed],
    shape: Architecture,
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    init: dict[str, Tensor] | None = None,
    device: str = "cpu",
    team: Team | None = None,
) -> dict[str, Tensor]:
    """Train the rival.

    Parameters
    ----------
    train, val : packed scans
    shape, plan : architecture, and how long to train it
    folder : checkpoint and curve
    resume : go on from the checkpoint
    init : weights to start from
    device, team : where this process computes, and those it trains with

    Returns
    -------
    averaged weights
    """
    network = build_unet(shape)
    if init is not None:
        network.load_state_dict(init)
    cases = cubes(val, shape)

    def validate(network: nn.Module) -> dict[str, float]:
        with autocast(session.device):
            return score(cases, lambda inputs: centre_plane(inputs, shape) + network(inputs.to(device)).cpu())

    session = Session(network, plan, folder, validate, resume=resume, device=device, team=team)
    for inputs, clean in session.batches(draw_batch(train, shape, plan)):
        inputs, clean = inputs.to(device), clean.to(device)  # (B, C, ...), (B, 1, ...)
        with autocast(session.device):
            guess = centre_plane(inputs, shape) + network(inputs)
        session.step(root_mean_square(guess, clean).mean())
    return session.finish()
