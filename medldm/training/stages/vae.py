"""The autoencoder: the latent that the flow draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medldm.inference.conditioning import centre_plane
from medldm.models.latent_space import latent_scale
from medldm.models.precision import autocast
from medldm.models.vae import VAE, build_vae
from medldm.settings import Architecture
from medldm.training.losses import charbonnier, gradient_loss
from medldm.training.stages.stage import Stage
from medldm.training.validation import psnr

KL_WEIGHT = 1e-5  # tiny: keeps latents bounded, not normal


def train_vae(stage: Stage) -> dict[str, Tensor]:
    """Train the autoencoder on clean and on damaged patches.

    Returns
    -------
    averaged weights, and ``scale``, the standard deviation of each latent channel
    """
    config, device = stage.config, stage.device
    network = build_vae(config)
    if stage.init is not None:
        network.load_state_dict({name: value for name, value in stage.init.items() if name != "scale"})
    cases = {id(case.clean): case for case in stage.cases}.values()  # each clean cube once

    def draw(generator: torch.Generator) -> Tensor:
        examples = stage.examples(generator)
        half = len(examples) // 2
        damaged = [centre_plane(example.inputs[None], config)[0] for example in examples[:half]]
        return torch.stack(damaged + [example.clean for example in examples[half:]])

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, VAE)
        with autocast(trainer.device):
            return {
                "clean": mean(psnr(reconstruct(network, case.clean, config), case.clean) for case in cases),
                "measured": mean(
                    psnr(reconstruct(network, case.observation.y, config), case.observation.y) for case in cases
                ),
            }

    trainer = stage.trainer(network, validate)
    for images in trainer.batches(draw):
        images = images.to(device)  # (B, 1, ...), half clean, half measured
        generator = trainer.step_generator()
        with autocast(trainer.device):
            mu, sigma = network.encode(images)
            # Decoding a slightly shaken latent makes the decoder smooth; the flow is never exact.
            guess = network.decode(mu + sigma * torch.randn(sigma.shape, generator=generator).to(device))
        kl = 0.5 * (mu**2 + sigma**2 - 2 * sigma.clamp_min(1e-6).log() - 1).mean()
        trainer.step(charbonnier(guess, images) + 0.5 * gradient_loss(guess, images) + KL_WEIGHT * kl)
    weights = trainer.finish()
    network.load_state_dict(weights)
    sample = torch.cat([draw(torch.Generator().manual_seed(number)) for number in range(8)])
    return {**weights, "scale": latent_scale(network.eval(), sample.to(device)).cpu()}


def reconstruct(network: VAE, image: Tensor, config: Architecture) -> Tensor:
    """(H, W, D) through the autoencoder, plane by plane or whole."""
    batch = image.permute(2, 0, 1)[:, None] if config.spatial_dims == 2 else image[None, None]
    again = network.decode(network.encode(batch)[0])
    return again[:, 0].permute(1, 2, 0) if config.spatial_dims == 2 else again[0, 0]


def mean(values: object) -> float:
    """Mean of an iterable of numbers."""
    numbers = list(values)  # type: ignore[call-overload]
    return float(sum(numbers) / len(numbers))
