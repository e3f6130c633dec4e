"""The fusion decoder: trained last, on latents that the flow really produces."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from medldm.chain import Chain, latent_noise
from medldm.models.blocks import grow_inputs
from medldm.models.flow import Flow
from medldm.models.fusion import Residual, apply_fusion, build_fusion
from medldm.models.inputs import centre_channel
from medldm.models.latent import LatentSpace
from medldm.settings import Architecture
from medldm.training.losses import charbonnier, detail_energy_loss, feature_loss
from medldm.training.patches import Packed
from medldm.training.session import Plan, Session, autocast
from medldm.training.train_unet import draw_batch
from medldm.training.validation import cubes, score

SHARP = 0.4  # share of a batch that is asked for sharpness (fidelity 0)
SAMPLED = 0.35  # share of steps whose latents are drawn in several flow steps


def train_fusion(
    train: list[Packed],
    val: list[Packed],
    shape: Architecture,
    plan: Plan,
    folder: Path,
    latent: LatentSpace,
    flow: Flow,
    *,
    rival: dict[str, Tensor] | None = None,
    resume: bool = False,
    init: dict[str, Tensor] | None = None,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Train the fusion decoder; other parameters as in `train_unet`.

    Parameters
    ----------
    latent, flow : trained, frozen
    rival : weights of the supervised U-Net, from which the decoder starts

    Returns
    -------
    averaged weights
    """
    network = build_fusion(shape)
    if init is not None:
        network.load_state_dict(init)
    elif rival is not None:
        network.load_state_dict(grow_inputs(rival, network))
    cases = cubes(val, shape)
    latent.vae.to(device).requires_grad_(False)
    flow.to(device).requires_grad_(False)

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Residual)
        chain = Chain(shape, network, latent, flow)
        with autocast(session.device):
            rows = score(cases, lambda inputs: chain.restore(inputs.to(device)).cpu())
            sharp = score(cases, lambda inputs: chain.restore(inputs.to(device), fidelity=0).cpu())
        return rows | {f"sharp {name}": value for name, value in sharp.items()}

    session = Session(network, plan, folder, validate, resume=resume, device=device)
    for inputs, clean in session.batches(draw_batch(train, shape, plan)):
        inputs, clean = inputs.to(device), clean.to(device)  # (B, C, ...), (B, 1, ...)
        generator = torch.Generator().manual_seed(plan.seed + 7919 * session.step_number)
        sharp = torch.rand(len(clean), generator=generator) < SHARP
        with autocast(session.device):
            with torch.no_grad():
                noise = torch.randn((len(clean), 1, *clean.shape[2:]), generator=generator).to(device)
                start, steps = latent_noise(noise, shape), 4
                if float(torch.rand((), generator=generator)) > SAMPLED:
                    start, steps = torch.zeros_like(start), 1
                proposed = Chain(shape, network, latent, flow).propose(inputs, start, steps)
                decoded = latent.decode(proposed)
            guess = apply_fusion(network, inputs, decoded, (~sharp).float(), centre_channel(shape))
            loss = charbonnier(guess, clean)
            if sharp.any():
                some, true = guess[sharp], clean[sharp]
                texture = detail_energy_loss(some, true) + 0.02 * feature_loss(latent.vae.features, some, true)
                loss = loss + float(sharp.float().mean()) * texture
        session.step(loss)
    return session.finish()
