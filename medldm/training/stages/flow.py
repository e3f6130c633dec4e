"""The flow: what the latent of the clean image may be, given the measurement."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medldm.diffusion import draw_times, flow_loss
from medldm.inference.conditioning import centre_plane
from medldm.inference.networks import Networks
from medldm.models.blocks import grow_inputs
from medldm.models.flow import Flow, build_flow
from medldm.models.latent_space import LatentSpace
from medldm.models.precision import autocast
from medldm.models.unet import Residual
from medldm.training.stages.stage import Stage
from medldm.training.validation import score


def train_flow(stage: Stage, latent: LatentSpace, unet: Residual) -> dict[str, Tensor]:
    """Train the flow on latents of a trained autoencoder.

    Parameters
    ----------
    stage : see `Stage`
    latent : trained latent space, frozen
    unet : trained baseline, frozen; the flow starts from its estimate

    Returns
    -------
    averaged weights
    """
    config, device, init = stage.config, stage.device, stage.init
    network = build_flow(config)
    if init is not None:
        network.load_state_dict(grow_inputs(init, network))
    if init is None or init["door.weight"].shape != network.input_projection.weight.shape:
        start_from_estimate(network)
    latent.vae.to(device).requires_grad_(False)
    networks = Networks(config, unet.to(device).requires_grad_(False), latent, network)

    gates: dict[str, float] = {}

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Flow)
        averaged = Networks(config, unet, latent, network)

        def one_step(inputs: Tensor) -> Tensor:
            inputs = inputs.to(device)
            return latent.decode(averaged.sample(inputs, averaged.estimate(inputs))).cpu()

        def plain(inputs: Tensor) -> Tensor:
            return latent.decode(latent.encode(centre_plane(inputs.to(device), config))).cpu()

        def estimate(inputs: Tensor) -> Tensor:
            return latent.decode(latent.encode(averaged.estimate(inputs.to(device)))).cpu()

        with autocast(trainer.device):
            rows = score(stage.cases, one_step)
            if not gates:
                # The gates, which stay the same: decoding what was measured, and what the baseline makes of it.
                gates.update({f"E(y) {name}": value for name, value in score(stage.cases, plain).items()})
                gates.update({f"E(b) {name}": value for name, value in score(stage.cases, estimate).items()})
            return rows | gates

    trainer = stage.trainer(network, validate)
    for inputs, clean in trainer.batches(stage.pairs):
        inputs, clean = inputs.to(device), clean.to(device)  # (B, C, ...), (B, 1, ...)
        generator = trainer.step_generator()
        with autocast(trainer.device):
            with torch.no_grad():
                wanted = latent.encode(clean)  # (B, latent_channels, .../factor)
                regression = networks.estimate(inputs)
                encoded = latent.encode(regression)
                conditions = torch.cat([inputs, regression - centre_plane(inputs, config)], 1)
            times = draw_times(len(clean), generator)
            noise = torch.randn(wanted.shape, generator=generator)
            # Half of the one-step cases start from zeros: that is how the conditional mean is asked for in use.
            silent = (times == 1) & (torch.rand(len(times), generator=generator) < 0.5)
            noise[silent] = 0
            denoise = partial(clean_latent, network, encoded, conditions)
            loss = flow_loss(denoise, wanted, noise.to(device), times.to(device))
        trainer.step(loss)
    return trainer.finish()


def start_from_estimate(network: Flow) -> None:
    """The flow's first answer is the latent of the regression mean itself, in place."""
    network_out: Any = network.network.out
    nn.init.zeros_(network_out[-1].conv.weight)
    nn.init.zeros_(network_out[-1].conv.bias)


def clean_latent(network: nn.Module, encoded: Tensor, inputs: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
    """The flow as a function of the noisy latent and time alone, its conditions bound."""
    guess: Tensor = network(noisy, time, encoded, inputs)
    return guess
