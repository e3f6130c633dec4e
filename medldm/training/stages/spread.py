"""The spread head: the standard deviation of what the regression leaves open, from its features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from medldm.models.residual import SpreadHead
from medldm.training.batches import Measured
from medldm.training.corpus import Blocks
from medldm.training.residual_scores import spread_scores
from medldm.training.scenes import Scenes, draw_measured, make_scenes
from medldm.training.stages.stage import Stage

EDGE = 4  # voxels at the ends of a block, where the regression lacks what lies beyond
AIR = 0.02  # scaled intensity


def train_spread(stage: Stage) -> None:
    """Gaussian negative log-likelihood of the residual, the regression network frozen."""
    config, sizes, unet = stage.config, stage.sizes, stage.unet
    corpus = stage.thin_corpus

    def draw(generator: torch.Generator) -> tuple[Blocks, Measured]:
        return draw_measured(corpus, sizes.scenes, sizes.spread, generator)

    def loss_of(head: nn.Module, batch: Any) -> Tensor:
        blocks, measured = batch
        return likelihood(make_scenes(blocks, measured, unet, head, config))

    def validate(head: nn.Module) -> dict[str, float]:
        assert isinstance(head, SpreadHead)
        return spread_scores(stage.with_spread(head))

    plan = replace(stage.plan, warm_up=50, average=0.995, clip=5.0)
    stage = replace(stage, plan=plan)
    trainer = stage.trainer(stage.start(SpreadHead(config.spatial_dims, config.unet[0])), validate)
    stage.keep(trainer.run(draw, loss_of, sizes.scenes), trainer.state)


def likelihood(scenes: Scenes) -> Tensor:
    """Negative log-likelihood of the residual, mean over what is no air: that would only teach the smallest spread."""
    residual, log_s = scenes.residual, scenes.conditions.log_s[:, 0]
    where = ((scenes.conditions.y[:, 0] > AIR) | (residual.abs() > AIR)).float()
    where[:, :, :EDGE] = where[:, :, -EDGE:] = where[..., :EDGE] = where[..., -EDGE:] = 0
    loss: Tensor = ((log_s + 0.5 * (residual / log_s.exp()) ** 2) * where).sum() / where.sum().clamp_min(1)
    return loss
