"""The supervised baseline: y + R(y, m, sigma), no latent. The number to beat, and the start of the fusion decoder."""

from __future__ import annotations

from torch import Tensor, nn

from medldm.inference.conditioning import centre_plane
from medldm.models.precision import autocast
from medldm.models.unet import build_unet
from medldm.training.losses import root_mean_square
from medldm.training.stages.stage import Stage
from medldm.training.validation import score


def train_unet(stage: Stage) -> dict[str, Tensor]:
    """Train the baseline; averaged weights."""
    config, device = stage.config, stage.device
    network = build_unet(config)
    if stage.init is not None:
        network.load_state_dict(stage.init)

    def validate(network: nn.Module) -> dict[str, float]:
        with autocast(trainer.device):
            return score(stage.cases, lambda inputs: centre_plane(inputs, config) + network(inputs.to(device)).cpu())

    trainer = stage.trainer(network, validate)
    for inputs, clean in trainer.batches(stage.pairs):
        inputs, clean = inputs.to(device), clean.to(device)  # (B, C, ...), (B, 1, ...)
        with autocast(trainer.device):
            guess = centre_plane(inputs, config) + network(inputs)
        trainer.step(root_mean_square(guess, clean).mean())
    return trainer.finish()
