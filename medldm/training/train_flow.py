"""The flow: what the latent of the clean image may be, given the measurement."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from medldm.diffusion import draw_times, flow_loss, sample_flow
from medldm.models.flow import Flow, build_flow
from medldm.models.inputs import centre_plane
from medldm.models.latent import LatentSpace
from medldm.settings import Architecture
from medldm.training.patches import Packed
from medldm.training.session import Plan, Session, autocast
from medldm.training.train_unet import draw_batch
from medldm.training.validation import cubes, score


def train_flow(
    train: list[Packed],
    val: list[Packed],
    shape: Architecture,
    plan: Plan,
    folder: Path,
    latent: LatentSpace,
    *,
    resume: bool = False,
    init: dict[str, Tensor] | None = None,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Train the flow on latents of a trained autoencoder; other parameters as in `train_unet`.

    Parameters
    ----------
    latent : trained latent space, frozen

    Returns
    -------
    averaged weights
    """
    network = build_flow(shape)
    if init is not None:
        network.load_state_dict(init)
    cases = cubes(val, shape)
    latent.vae.to(device).requires_grad_(False)

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Flow)

        def one_step(inputs: Tensor) -> Tensor:
            encoded = latent.encode(centre_plane(inputs.to(device), shape))
            z = sample_flow(lambda z, t: network(z, t, encoded, inputs.to(device)), torch.zeros_like(encoded), 1)
            return latent.decode(z).cpu()

        def plain(inputs: Tensor) -> Tensor:
            return latent.decode(latent.encode(centre_plane(inputs.to(device), shape))).cpu()

        with autocast(session.device):
            rows = score(cases, one_step)
            return rows | {f"E(y) {name}": value for name, value in score(cases, plain).items()}  # the gate

    session = Session(network, plan, folder, validate, resume=resume, device=device)
    for inputs, clean in session.batches(draw_batch(train, shape, plan)):
        inputs, clean = inputs.to(device), clean.to(device)  # (B, C, ...), (B, 1, ...)
        generator = torch.Generator().manual_seed(plan.seed + 7919 * session.step_number)
        with autocast(session.device):
            with torch.no_grad():
                wanted = latent.encode(clean)  # (B, latent_channels, .../factor)
                encoded = latent.encode(centre_plane(inputs, shape))
            times = draw_times(len(clean), generator)
            noise = torch.randn(wanted.shape, generator=generator)
            # Half of the one-step cases start from zeros: that is how the conditional mean is asked for in use.
            silent = (times == 1) & (torch.rand(len(times), generator=generator) < 0.5)
            noise[silent] = 0
            denoise = partial(clean_latent, network, encoded, inputs)
            loss = flow_loss(denoise, wanted, noise.to(device), times.to(device))
        session.step(loss)
    return session.finish()


def clean_latent(network: nn.Module, encoded: Tensor, inputs: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
    """The flow as a function of the noisy latent and time alone, its conditions bound."""
    guess: Tensor = network(noisy, time, encoded, inputs)
    return guess
