"""The fusion decoder: trained last, on latents that the flow really produces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medldm.degradations import Observation
from medldm.inference.conditioning import centre_channel, condition, to_batch
from medldm.inference.networks import Networks
from medldm.inference.tiling import SamplerConfig, estimate, restore
from medldm.models.blocks import grow_inputs
from medldm.models.flow import Flow
from medldm.models.latent_space import LatentSpace
from medldm.models.precision import autocast
from medldm.models.unet import Residual, build_fusion
from medldm.settings import Architecture
from medldm.training.examples import MARGIN, Scene, draw_scene
from medldm.training.losses import detail_loss, feature_loss, root_mean_square
from medldm.training.stages.stage import Stage
from medldm.training.validation import Cube, score_volumes

SHARP = 0.5  # share of a batch that is asked for sharpness (fidelity 0)
HELD = 0.3  # weight of their pixel error
PLACE, FELT = 0.15, 1.0  # weights of their fine detail, and of what the encoder sees; both then weigh about the same
SAMPLED = 0.35  # share of steps whose latents are drawn in several flow steps
POOL = 12  # blocks in memory; the regression mean of one, from all orientations, costs as much as a step
REUSED = 2  # steps for every new block
BLOCKS = 3  # of the pool that a step takes planes from


def train_fusion(stage: Stage, latent: LatentSpace, flow: Flow, unet: Residual) -> dict[str, Tensor]:
    """Train the fusion decoder.

    Parameters
    ----------
    stage : see `Stage`
    latent, flow : trained, frozen
    unet : trained baseline, frozen; the decoder starts from its estimate, and from a copy of its weights

    Returns
    -------
    averaged weights
    """
    config, plan, device = stage.config, stage.plan, stage.device
    network = build_fusion(config)
    if stage.init is not None:
        network.load_state_dict(stage.init)
    else:
        network.load_state_dict(grow_inputs(unet.state_dict(), network))
        nn.init.zeros_(network.head.weight)  # the baseline's correction is in the estimate already
        nn.init.zeros_(network.head.bias)
    latent.vae.to(device).requires_grad_(False)
    flow.to(device).requires_grad_(False)
    unet.to(device).requires_grad_(False)
    networks = Networks(config, unet, latent, flow, network)

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Residual)
        averaged = Networks(config, unet, latent, flow, network)

        def restored(case: Cube, fidelity: float) -> Tensor:
            seen = on(case.observation, device)
            return restore(
                averaged, seen, case.sigma.to(device), case.orientations, SamplerConfig.whole(device, fidelity)
            ).cpu()

        with autocast(trainer.device):
            rows = score_volumes(stage.cases, lambda case: restored(case, 1.0))
            sharp = score_volumes(stage.cases, lambda case: restored(case, 0.0))
        return rows | {f"sharp {name}": value for name, value in sharp.items()}

    flat = config.spatial_dims == 2
    size = min(plan.patch, 64) if flat else plan.patch
    at_once = (BLOCKS, max(1, plan.batch * plan.patch**2 // (BLOCKS * size**2))) if flat else (plan.batch, 1)
    pool: deque[list[Tensor]] = deque(maxlen=POOL)
    trainer = stage.trainer(network, validate)
    for scene in trainer.batches(lambda generator: draw_scene(stage.train, size, generator)):
        generator = trainer.step_generator()
        with torch.no_grad(), autocast(trainer.device):
            pool.append(one_orientation(networks, scene, generator, device))
        for _ in range(REUSED):
            inputs, regression_planes, clean = drawn(pool, *at_once, generator)
            trainer.step(loss_of(networks, inputs, regression_planes, clean, generator, trainer.device))
    return trainer.finish()


def one_orientation(networks: Networks, scene: Scene, generator: torch.Generator, device: str) -> list[Tensor]:
    """A scene in one orientation, with the regression mean over all of them.

    Parameters
    ----------
    networks : with a trained first network
    scene : damaged block

    Returns
    -------
    measured channels (D, C, H, W), regression means (D, context, H, W), clean planes (D, 1, H, W); of volumes, the same
    with one entry
    """
    observation, sigma = on(scene.observation, device), scene.sigma.to(device)
    regression = estimate(networks, observation, sigma, scene.orientations, SamplerConfig.whole(device))
    orientation = scene.orientations[int(torch.randint(len(scene.orientations), (1,), generator=generator))]
    clean = orientation.to_planes(scene.clean.to(device))
    flat = networks.config.spatial_dims == 2
    fields = [
        *condition(observation, sigma, orientation, networks.config, regression),
        to_batch(clean, networks.config.spatial_dims),
    ]
    # The first axis of the block has ends that no scan has.
    axis = {0: 2, 1: 3, 2: 0}[orientation.order.index(0)] if flat else 2 + orientation.order.index(0)
    return [field.narrow(axis, MARGIN, field.shape[axis] - 2 * MARGIN).float() for field in fields]


def drawn(pool: Sequence[list[Tensor]], blocks: int, planes: int, generator: torch.Generator) -> list[Tensor]:
    """A batch: some planes of some blocks of the pool."""
    parts = []
    for number in torch.randint(len(pool), (blocks,), generator=generator).tolist():
        fields = pool[number]
        some = torch.randperm(len(fields[0]), generator=generator)[:planes].to(fields[0].device)
        parts.append([field[some] for field in fields])
    return [torch.cat(fields) for fields in zip(*parts, strict=True)]


def loss_of(
    networks: Networks,
    inputs: Tensor,
    regression_planes: Tensor,
    clean: Tensor,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Pixel error of faithful answers; place, strength and features of sharp ones.

    Parameters
    ----------
    networks : with the decoder that learns
    inputs, regression_planes, clean : (B, C, ...), (B, context, ...), (B, 1, ...)
    """
    assert networks.latent is not None
    sharp = torch.rand(len(clean), generator=generator) < SHARP
    with autocast(device):
        noise, steps = None, 1
        if float(torch.rand((), generator=generator)) < SAMPLED:
            noise, steps = torch.randn(clean.shape, generator=generator).to(device), 4
        guess = networks.refine(inputs, regression_planes, noise, steps, (~sharp).float())
        # Sharp answers are held by their error, but not ruled by it.
        loss = (root_mean_square(guess, clean) * torch.where(sharp, HELD, 1.0).to(device)).mean()
    if sharp.any():
        some, true = guess[sharp], clean[sharp]
        texture = PLACE * detail_loss(some, true, unmeasured(inputs[sharp], networks.config))
        texture = texture + FELT * feature_loss(networks.latent.vae.features, some, true)
        loss = loss + float(sharp.float().mean()) * texture
    return loss


def on(observation: Observation, device: str) -> Observation:
    """An observation on a device."""
    return Observation(observation.y.to(device), observation.observed.to(device), observation.thickness)


def unmeasured(inputs: Tensor, config: Architecture) -> Tensor:
    """(B, 1, ...) how little of each voxel was measured; ones for a patch that was measured everywhere."""
    at = config.context + centre_channel(config) if config.spatial_dims == 2 else 1
    lost = 1 - inputs[:, at : at + 1]
    everywhere = lost.amax(tuple(range(1, lost.ndim)), keepdim=True) == 0
    return torch.where(everywhere, torch.ones_like(lost), lost)
