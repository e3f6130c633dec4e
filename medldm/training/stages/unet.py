"""The regression network: y + R(y, m, sigma). What the other stages start from, and the number to beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medldm.inference.conditioning import centre_plane
from medldm.models.blocks import dense_format
from medldm.models.precision import full_precision
from medldm.models.unet import build_unet
from medldm.training.batches import MARGIN, batch_channels, measure
from medldm.training.corpus import augmented
from medldm.training.distillation import pruned_unet
from medldm.training.losses import root_mean_square
from medldm.training.stages.stage import Stage
from medldm.training.validation import score

THIN_SHARE = 1 / 3  # of blocks from isotropic scans, at least


def train_unet(stage: Stage) -> None:
    """Train the regression network: on the truth, and where there is a teacher as much on its answers.

    Of what cannot be known the truth says something else each time, the teacher its mean.
    """
    config, sizes, device = stage.config, stage.sizes, torch.device(stage.device)
    flat = config.spatial_dims == 2
    depth = config.context if flat else sizes.patch
    kept = slice(depth // 2, depth // 2 + 1) if flat else slice(None)
    inner = slice(MARGIN, MARGIN + sizes.patch)
    corpus = stage.corpus.with_thin_share(THIN_SHARE)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with full_precision(device):
            size = (sizes.patch + 2 * MARGIN, sizes.patch, depth)
            blocks = augmented(corpus.draw(sizes.batch, size, generator), generator)
            inputs = batch_channels(measure(blocks, generator), config)
            clean = blocks.clean[:, inner, :, kept]
            return dense_format(inputs[:, :, inner]), clean[..., 0][:, None] if flat else clean[:, None]

    teacher = stage.larger

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        inputs, clean = batch  # (B, C, ...), (B, 1, ...)
        correction = network(inputs)
        missed = root_mean_square(centre_plane(inputs, config) + correction, clean).mean()
        if teacher is None:
            return missed
        with torch.no_grad():
            taught = teacher(inputs)
        return (missed + root_mean_square(correction, taught).mean()) / 2

    def validate(network: nn.Module) -> dict[str, float]:
        return score(
            stage.cases, lambda inputs: centre_plane(inputs, config) + network(inputs.to(device)).float().cpu()
        )

    network = build_unet(config)
    if teacher is not None and stage.teacher is not None:
        seen, _ = draw(torch.Generator(device).manual_seed(stage.plan.seed))
        network.load_state_dict(pruned_unet(teacher, stage.teacher.config, config, seen))
    trainer = stage.trainer(stage.start(network), validate)
    stage.keep(trainer.run(draw, loss_of, sizes.batch), trainer.state)
