"""Tune the decoder against a critic, on scans and on what the flow draws, so that both look like scans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from medldm.models.generator import Autoencoder, GeneratorFlow
from medldm.models.monai_parts import PatchAdversarialLoss, PatchDiscriminator
from medldm.training.generation.scans import LEVELS, box
from medldm.training.generation.stages import (
    Stage,
    drawn,
    latent_statistics,
    reconstruction_loss,
    reconstruction_psnr,
)
from medldm.training.stages.stage import dense
from medldm.training.state import part

WEIGHT = 0.05  # of the critic's opinion beside the reconstruction loss
NOISE = 0.2  # largest standard deviation of noise on latents, since what a flow draws is never quite right
CRITIC = 24  # channels of its first layer
LEARNED = ("decoder.", "post_quant_conv.", "synthesis.")  # parts of the autoencoder; the encoder stays, and so the flow


class Judged(nn.Module):
    """A decoder and its critic, which learn in one step from one loss.

    Parameters
    ----------
    autoencoder : whose decoder learns
    """

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        for name, parameter in autoencoder.named_parameters():
            parameter.requires_grad_(name.startswith(LEARNED))
        self.critic = PatchDiscriminator(
            spatial_dims=3, num_layers_d=2, channels=CRITIC, in_channels=1, norm=("GROUP", {"num_groups": 8})
        )

    def opinion(self, images: Tensor) -> list[Tensor]:
        """Of the critic as it is now, which does not learn from it: logits of each layer."""
        weights = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        opinion: list[Tensor] = functional_call(self.critic, weights, (images,))
        return opinion


def train_decoder(stage: Stage) -> None:
    """Tune the decoder: it reconstructs scans, and a critic of patches cannot tell its images from scans.

    (Least squares: Mao et al., ICCV 2017; patches: Isola et al., CVPR 2017; a critic of an autoencoder: Esser et al.,
    CVPR 2021.) The critic also sees what the flow draws, so that the decoder learns what to make of such latents.
    """
    network = Autoencoder(stage.config)
    network.load_state_dict(stage.finished("autoencoder"))
    network = dense(network).to(stage.device).eval()
    volumes, val = (stage.corpus.volumes(train=train) for train in (True, False))
    with torch.no_grad():
        latents = torch.cat([network.normalised(v[None].to(stage.device)) for v in (*volumes, *volumes.flip(2))])
    flow = GeneratorFlow(stage.config)
    flow.load_state_dict(stage.finished("flow"))
    samples = drawn(stage, network, flow.to(stage.device).eval())
    voxels, factor = stage.corpus.voxels[stage.corpus.train, None], stage.config.factor
    half = max(1, stage.batch // 2)
    judge = PatchAdversarialLoss(criterion="least_squares")

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        def some(count: int, of: int) -> Tensor:
            return torch.randint(of, (count,), generator=generator, device=generator.device).cpu()

        def scans(numbers: Tensor, where: tuple[slice, ...]) -> Tensor:
            inside = (slice(None), *(slice(at.start * factor, at.stop * factor) for at in where))
            whole = [voxels[n % len(voxels)].flip(1) if n >= len(voxels) else voxels[n % len(voxels)] for n in numbers]
            return torch.stack([image[inside] for image in whole]).to(stage.device).float() / LEVELS

        where = box(latents.shape[2:], generator, 0.5 if stage.corpus.large else 1.0)
        chosen = some(half, len(latents))
        known = latents[chosen]
        spread = NOISE * torch.rand((half, 1, 1, 1, 1), generator=generator, device=known.device)
        known = known + spread * torch.randn(known.shape, generator=generator, device=known.device)
        of = (slice(None), slice(None), *where)
        codes = network.latent(torch.cat([known, samples[some(half, len(samples))]]))[of]
        # All from one place: the critic need not learn where a part was cut out.
        return codes, scans(chosen, where), scans(some(2 * half, len(latents)), where)

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        assert isinstance(network, Judged)
        codes, images, real = batch
        decoded = network.autoencoder.decode(codes).float()
        missed = reconstruction_loss(decoded[: len(images)], images)
        fooled = judge(network.opinion(decoded)[-1], target_is_real=True, for_discriminator=False)
        critics = judge(network.critic(real)[-1], target_is_real=True, for_discriminator=True) + judge(
            network.critic(decoded.detach())[-1], target_is_real=False, for_discriminator=True
        )
        loss: Tensor = missed + WEIGHT * fooled + critics
        return loss

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Judged)
        return {"reconstruction": reconstruction_psnr(network.autoencoder, val.to(stage.device))}

    stage = replace(stage, plan=replace(stage.plan, average=0.995, clip=1.0))
    trainer = stage.trainer(Judged(network), validate)
    weights = trainer.run(draw, loss_of, 2 * half)
    tuned = part(weights, "autoencoder.")
    finished = Autoencoder(stage.config)
    finished.load_state_dict(tuned)
    tuned |= latent_statistics(finished.to(stage.device), volumes.to(stage.device))
    stage.keep(tuned, trainer.state)


def same_encoder(autoencoder: dict[str, Tensor], tuned: dict[str, Tensor]) -> bool:
    """Whether the decoder in `tuned` belongs to the latents of `autoencoder`, by the weights that tuning leaves alone.

    Parameters
    ----------
    autoencoder, tuned : weights of the two stages
    """
    kept = [key for key in autoencoder if not key.startswith(LEARNED) and key not in ("mean", "scale")]
    return all(torch.equal(autoencoder[key], tuned[key]) for key in kept)
