"""The supervised baseline: y + R(y, m, sigma), no latent. The number to beat, and the start of the fusion decoder."""

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
from medldm.training.distributed import Distributed
from medldm.training.examples import draw_example
from medldm.training.losses import root_mean_square
from medldm.training.trainer import Plan, Trainer
from medldm.training.validation import cubes, score


def draw_batch(
    scans: list[Packed], config: Architecture, plan: Plan
) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """A function that draws (inputs, clean), (B, C, ...) and (B, 1, ...)."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        examples = [draw_example(scans, config, plan.patch, generator) for _ in range(plan.batch)]
        return torch.stack([example.inputs for example in examples]), torch.stack(
            [example.clean for example in examples]
        )

    return draw


def train_unet(
    train: list[Packed],
    val: list[Packed],
    config: Architecture,
    plan: Plan,
    folder: Path,
    *,
    resume: bool = False,
    init: dict[str, Tensor] | None = None,
    device: str = "cpu",
    distributed: Distributed | None = None,
) -> dict[str, Tensor]:
    """Train the baseline.

    Parameters
    ----------
    train, val : packed scans
    config, plan : architecture, and how long to train it
    folder : checkpoint and curve
    resume : go on from the checkpoint
    init : weights to start from
    device, distributed : where this process computes, and the other processes

    Returns
    -------
    averaged weights
    """
    network = build_unet(config)
    if init is not None:
        network.load_state_dict(init)
    cases = cubes(val, config)

    def validate(network: nn.Module) -> dict[str, float]:
        with autocast(trainer.device):
            return score(cases, lambda inputs: centre_plane(inputs, config) + network(inputs.to(device)).cpu())

    trainer = Trainer(network, plan, folder, validate, resume=resume, device=device, distributed=distributed)
    for inputs, clean in trainer.batches(draw_batch(train, config, plan)):
        inputs, clean = inputs.to(device), clean.to(device)  # (B, C, ...), (B, 1, ...)
        with autocast(trainer.device):
            guess = centre_plane(inputs, config) + network(inputs)
        trainer.step(root_mean_square(guess, clean).mean())
    return trainer.finish()
