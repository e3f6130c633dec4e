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
from medldm.training.losses import detail_loss, feature_loss, root_mean_square
from medldm.training.patches import Packed
from medldm.training.session import Plan, Session, autocast
from medldm.training.team import Team
from medldm.training.train_unet import draw_batch
from medldm.training.validation import cubes, score

SHARP = 0.5  # share of a batch that is asked for sharpness (fidelity 0)
HELD = 0.3  # weight of their pixel error
PLACE, FELT = 0.15, 1.0  # weights of their fine detail, and of what the encoder sees; both then weigh about the same
SAMPLED = 0.35  # share of steps whose latents are drawn in several flow steps


def train_fusion(
    train: list[Packed],
    val: list[Packed],
    shape: Architecture,
    plan: Plan,
    folder: Path,
    latent: LatentSpace,
    flow: Flow,
    unet: Residual,
    *,
    resume: bool = False,
    init: dict[str, Tensor] | None = None,
    device: str = "cpu",
    team: Team | None = None,
) -> dict[str, Tensor]:
    """Train the fusion decoder; other parameters as in `train_unet`.

    Parameters
    ----------
    latent, flow : trained, frozen
    unet : trained rival, frozen; the decoder starts from its estimate, and from a copy of its weights

    Returns
    -------
    averaged weights
    """
    network = build_fusion(shape)
    if init is not None:
        network.load_state_dict(init)
    else:
        network.load_state_dict(grow_inputs(unet.state_dict(), network))
        nn.init.zeros_(network.head.weight)  # the rival's correction is in the estimate already
        nn.init.zeros_(network.head.bias)
    cases = cubes(val, shape)
    latent.vae.to(device).requires_grad_(False)
    flow.to(device).requires_grad_(False)
    unet.to(device).requires_grad_(False)

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Residual)
        chain = Chain(shape, network, latent, flow, unet)
        with autocast(session.device):
            rows = score(cases, lambda inputs: chain.restore(inputs.to(device)).cpu())
            sharp = score(cases, lambda inputs: chain.restore(inputs.to(device), fidelity=0).cpu())
        return rows | {f"sharp {name}": value for name, value in sharp.items()}

    session = Session(network, plan, folder, validate, resume=resume, device=device, team=team)
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
                chain = Chain(shape, network, latent, flow, unet)
                first, told = chain.begin(inputs)
                decoded = latent.decode(chain.propose(inputs, told, first, start, steps))
            guess = apply_fusion(network, inputs, told, first, decoded, (~sharp).float())
            # Sharp answers are held by their error, but not ruled by it.
            loss = (root_mean_square(guess, clean) * torch.where(sharp, HELD, 1.0).to(device)).mean()
        if sharp.any():
            some, true = guess[sharp], clean[sharp]
            texture = PLACE * detail_loss(some, true, unmeasured(inputs[sharp], shape))
            texture = texture + FELT * feature_loss(latent.vae.features, some, true)
            loss = loss + float(sharp.float().mean()) * texture
        session.step(loss)
    return session.finish()


def unmeasured(inputs: Tensor, shape: Architecture) -> Tensor:
    """(B, 1, ...) how little of each voxel was measured; ones for a patch that was measured everywhere."""
    at = shape.context + centre_channel(shape) if shape.spatial_dims == 2 else 1
    lost = 1 - inputs[:, at : at + 1]
    everywhere = lost.amax(tuple(range(1, lost.ndim)), keepdim=True) == 0
    return torch.where(everywhere, torch.ones_like(lost), lost)
