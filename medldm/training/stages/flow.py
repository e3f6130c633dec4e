"""The flow: draws the latent of what the regression leaves open, given what was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from medldm.diffusion import flow_loss
from medldm.models.blocks import dense_format
from medldm.models.precision import autocast
from medldm.models.residual import Conditions, ResidualFlow
from medldm.training.residual_scores import flow_scores
from medldm.training.stages.latent import scenes_of
from medldm.training.stages.stage import Stage

DROPPED = 0.1  # share of examples whose conditions are dropped
PREPARED = 0.15  # share of the minutes that making scenes may take where the run has none


def train_flow(stage: Stage) -> None:
    """Train the flow on normalised latents of the scenes of the run."""
    sizes, blocks = stage.sizes, stage.blocks
    pool = scenes_of(stage, 0 if stage.has_scenes else 60 * PREPARED * stage.plan.minutes)

    def draw(generator: torch.Generator) -> tuple[Tensor, Conditions, Tensor, torch.Generator]:
        u, conditions = pool.draw(sizes.flow, generator)
        keep = torch.rand(sizes.flow, generator=generator, device=generator.device) >= DROPPED
        with autocast(generator.device):
            return blocks.latent(dense_format(u), conditions.log_s), conditions, keep, generator

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        latent, conditions, keep, generator = batch
        projected = network.condition(conditions) * keep.reshape(-1, 1, 1, 1, 1)  # type: ignore[operator]
        return flow_loss(lambda z, time: network(z, time, projected), latent, generator)

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, ResidualFlow)
        return flow_scores(stage.residual_cases, blocks, network, samples=8 if pool.on_gpu else 2)

    tile = sizes.scene // stage.latent.latent_factor
    network = stage.start(ResidualFlow(stage.latent, stage.flow_blocks, tile))
    stage = replace(stage, plan=replace(stage.plan, average=0.9995, clip=1.0))
    trainer = stage.trainer(network, validate)
    stage.keep(trainer.run(draw, loss_of, sizes.flow), {**trainer.state, "tile": tile})
