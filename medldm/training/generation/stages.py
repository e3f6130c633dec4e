"""The two networks that every generator has, one after the other: autoencoder and flow."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from medldm.diffusion import flow_loss, interpolate
from medldm.errors import ModelError
from medldm.inference.generation import Generator, draw_latent
from medldm.models.generator import Autoencoder, GeneratorConfig, GeneratorFlow
from medldm.models.precision import autocast
from medldm.training.distributed import Distributed
from medldm.training.generation.scans import Corpus, augmented, box
from medldm.training.stages.stage import WEIGHTS, dense
from medldm.training.state import read_metadata, save_atomically
from medldm.training.trainer import Plan, Trainer

log = logging.getLogger(__name__)

STAGES = ("autoencoder", "flow", "decoder", "captions")
SHARES = {"autoencoder": 0.25, "flow": 0.45, "decoder": 0.25, "captions": 0.05}
RATES = {"autoencoder": 3e-4, "flow": 5e-4, "decoder": 2e-4, "captions": 1e-3}
KL = 1e-5  # weight of the Kullback-Leibler term
GRADIENT = 1.0  # weight of the error of differences between neighbours, so that edges stay
DROPPED = 0.15  # share of examples of which nothing is told, and of single words that are not told
LOWEST = 0.05  # standard deviation of a latent at one place, over that of its channel
VARIANTS = 12  # of each training scan in the pool that the flow learns from
PLAIN = 3  # every so manieth variant is the scan itself or its mirror image, without interpolation
SAMPLES, STEPS = 96, 32  # that a finished flow draws, and its steps
UNUSED_SEEDS = 2**31  # from here on: no user and no benchmark draws what a decoder was tuned on
DRAWN_SHARE = 0.15  # of a stage's time, at most, for drawing them
TIMES = (0.15, 0.35, 0.55, 0.75, 0.9)  # of the flow's validation


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a network of a generator is trained on.

    Parameters
    ----------
    name : of the stage
    corpus : scans on one grid
    config : of the generator
    plan : how long to train
    out : folder of the run
    resume : go on from the checkpoint
    batch : examples a step
    device, distributed : where this process computes, and the other processes
    begun : reading of `time.monotonic` when the stage began
    init : weights to start from, by stage
    """

    name: str
    corpus: Corpus
    config: GeneratorConfig
    plan: Plan
    out: Path
    resume: bool = False
    batch: int = 4
    device: str = "cpu"
    distributed: Distributed = field(default_factory=Distributed)
    begun: float = field(default_factory=time.monotonic)
    init: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of checkpoint, curve and weights."""
        return self.out / self.name

    def finished(self, name: str) -> dict[str, Tensor]:
        """Weights of an earlier stage.

        Raises
        ------
        ModelError
            There are none.
        """
        path = self.out / name / WEIGHTS
        if path.is_file():
            return dict(load_file(path))
        if name in self.init:
            return self.init[name]
        raise ModelError(f"{path} is missing: train {name} first.")

    def trainer(self, network: nn.Module, validate: Any) -> Trainer:
        """The training loop."""
        return Trainer(
            dense(network), self.plan, self.folder, validate,
            resume=self.resume, device=self.device, distributed=self.distributed, begun=self.begun,
        )  # fmt: skip

    def keep(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write what the stage leaves."""
        if self.distributed.is_main:
            save_atomically(weights, self.folder / WEIGHTS, {"state": json.dumps(state)})
        self.distributed.barrier()


def read_state(folder: Path) -> dict[str, Any]:
    """Clock, steps and curve of a finished stage; empty where there is none."""
    path = folder / WEIGHTS
    return dict(json.loads(read_metadata(path)["state"])) if path.is_file() else {}


def train_autoencoder(stage: Stage) -> None:
    """Train the autoencoder on volumes, large ones in parts; it begins as principal components of their blocks."""
    train, val = (stage.corpus.volumes(train=split).to(stage.device) for split in (True, False))
    network = Autoencoder(stage.config)
    if stage.name in stage.init:
        network.load_state_dict(stage.init[stage.name])
    else:
        network.start_from_blocks(train[:: max(1, len(train) // 64)].cpu())

    def draw(generator: torch.Generator) -> tuple[Tensor, torch.Generator]:
        chosen = torch.randint(len(train), (stage.batch,), generator=generator, device=generator.device)
        images = augmented(train[chosen], generator) if torch.rand((), generator=generator) < 0.5 else train[chosen]
        if stage.corpus.large:
            images = images[(slice(None), slice(None), *box(images.shape[2:], generator, 0.5))]
        gain = 0.85 + 0.3 * torch.rand((len(images), 1, 1, 1, 1), generator=generator, device=images.device)
        return images * gain, generator

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        assert isinstance(network, Autoencoder)
        images, generator = batch
        mu, sigma = network.encode(images)
        noise = torch.randn(mu.shape, generator=generator, device=mu.device)
        decoded = network.decode(mu + sigma * noise).float()
        return reconstruction_loss(decoded, images) + KL * divergence(mu.float(), sigma.float())

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Autoencoder)
        return {"reconstruction": reconstruction_psnr(network, val)}

    first = reconstruction_psnr(network.to(stage.device), val)
    log.info("principal components of blocks alone: %.2f dB", first)
    trainer = stage.trainer(network, validate)
    weights = trainer.run(draw, loss_of, stage.batch)
    finished = Autoencoder(stage.config)
    finished.load_state_dict(weights)
    weights |= latent_statistics(finished.to(stage.device), train)
    stage.keep(weights, {**trainer.state, "principal_components": first})


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Charbonnier loss of voxels and of differences between neighbours, a scalar."""
    loss = ((decoded - images) ** 2 + 1e-6).sqrt().mean()
    for axis in (2, 3, 4):
        loss = loss + GRADIENT / 3 * ((decoded.diff(dim=axis) - images.diff(dim=axis)) ** 2 + 1e-6).sqrt().mean()
    return loss


def divergence(mu: Tensor, sigma: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the standard normal, nats a latent."""
    value: Tensor = 0.5 * (mu**2 + sigma**2 - 1 - 2 * sigma.clamp_min(1e-8).log()).mean()
    return value


def reconstruction_psnr(network: Autoencoder, volumes: Tensor) -> float:
    """Mean PSNR in dB of what comes back from the mean latent, range 1."""
    with torch.no_grad(), autocast(volumes.device):
        errors = [((network.decode(network.encode(v[None])[0]).float() - v) ** 2).mean() for v in volumes]
    return float(np.mean([-10 * np.log10(max(float(error), 1e-12)) for error in errors]))


def latent_statistics(network: Autoencoder, volumes: Tensor) -> dict[str, Tensor]:
    """Mean and standard deviation of latents over training volumes, as weights of the autoencoder.

    Of each channel, or of each channel at each place: what `mean` of the network has room for.
    """
    by_place = network.mean.ndim > 1
    with torch.no_grad(), autocast(volumes.device):
        both = (*volumes, *volumes.flip(2)) if by_place else volumes  # as often mirrored as not
        latents = torch.cat([network.encode(v[None])[0].float() for v in both])
    mean, scale = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4)).clamp_min(1e-6)
    if by_place:
        lowest = LOWEST * scale.reshape(-1, 1, 1, 1)
        mean, variance = latents.mean(0), latents.var(0)
        # Neighbours together: tens of scans say little of the variance at one place.
        padded = F.pad(variance[None], (1,) * 6, mode="replicate")
        scale = torch.maximum(F.avg_pool3d(padded, 3, 1)[0].sqrt(), lowest)
    return {"mean": mean.cpu(), "scale": scale.cpu()}


def train_flow(stage: Stage) -> None:
    """Train the flow on cached latents (means, never samples) of scans and variants of them."""
    network = Autoencoder(stage.config)
    network.load_state_dict(stage.finished("autoencoder"))
    network = dense(network).to(stage.device).eval().requires_grad_(False)
    pool, scan = latent_pool(network, stage.corpus, stage.plan.seed)
    flow = GeneratorFlow(stage.config)
    flow.gaussian.fit(pool.cpu())
    if stage.name in stage.init:
        flow.load_state_dict(stage.init[stage.name])
    indices_train = flow.conditions.indices(stage.corpus.descriptions_of(train=True)).to(stage.device)
    volumes, others = (stage.corpus.volumes(train=split).to(stage.device) for split in (True, False))
    indices_val = flow.conditions.indices(stage.corpus.descriptions_of(train=False)).to(stage.device)
    with torch.no_grad():
        held_out = torch.cat([network.normalised(v[None]) for v in others])
        seen = torch.cat([network.normalised(v[None]) for v in volumes[: len(others)]])

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, torch.Generator]:
        chosen = torch.randint(len(pool), (stage.batch,), generator=generator, device=generator.device)
        return pool[chosen].float(), forgotten(indices_train[scan[chosen]], generator), generator

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        latent, indices, generator = batch
        return flow_loss(lambda z, time: network(z, time, indices), latent, generator)

    def validate(network: nn.Module) -> dict[str, float]:
        # Loss on people it never saw against that on those it learned from: where both part, it learns by heart.
        return {
            "held out x 100": 100 * velocity_error(network, held_out, indices_val),
            "learned x 100": 100 * velocity_error(network, seen, indices_train[: len(seen)]),
        }

    stage = replace(stage, plan=replace(stage.plan, average=0.9995, clip=1.0))
    trainer = stage.trainer(flow, validate)
    weights = trainer.run(draw, loss_of, stage.batch)
    finished = GeneratorFlow(stage.config).to(stage.device).eval()
    finished.load_state_dict(weights)
    finished.gaussian.gain.fill_(1.0)
    finished.gaussian.match(drawn(stage, network, finished))
    stage.keep(weights | {"gaussian.gain": finished.gaussian.gain.cpu()}, trainer.state)


def drawn(stage: Stage, network: Autoencoder, flow: GeneratorFlow) -> Tensor:
    """(N, C, ...) normalised latents that a flow draws, of people described as those that it learned from."""
    generator = Generator(stage.config, network, flow.requires_grad_(False), torch.empty(0))
    descriptions = stage.corpus.descriptions_of(train=True)
    until = time.monotonic() + DRAWN_SHARE * 60 * stage.plan.minutes
    latents: list[Tensor] = []
    while len(latents) < SAMPLES and (len(latents) < stage.batch or time.monotonic() < until):
        number = len(latents)
        description = descriptions[number % len(descriptions)]
        latents.append(draw_latent(generator, description, seed=UNUSED_SEEDS + stage.plan.seed + number, steps=STEPS))
    return torch.cat(latents)


def latent_pool(network: Autoencoder, corpus: Corpus, seed: int) -> tuple[Tensor, Tensor]:
    """Normalised latents of the training scans and variants of them, and which scan each is of.

    Returns
    -------
    (N, C, ...) float16, (N,) index among the training scans
    """
    generator = torch.Generator(network.mean.device).manual_seed(seed)
    latents, scans = [], []
    volumes = corpus.volumes(train=True)
    for number, volume in enumerate(volumes):
        plain = volume[None].to(network.mean.device)
        with torch.no_grad(), autocast(plain.device):
            for variant in range(VARIANTS if len(volumes) * VARIANTS <= 4096 else 8):
                image = augmented(plain, generator) if variant % PLAIN else plain.flip(2) if variant % 2 else plain
                latents.append(network.normalised(image).half())
                scans.append(number)
    return torch.cat(latents), torch.tensor(scans, device=network.mean.device)


def forgotten(indices: Tensor, generator: torch.Generator) -> Tensor:
    """Conditions of which some are not told: all of an example, or one word of it.

    Parameters
    ----------
    indices : (B, 4) of `medldm.models.generator.Conditions.indices`
    """
    count, device = len(indices), indices.device
    empty = torch.tensor([0.0, 0.0, 0.0, -1.0], device=device).expand_as(indices)
    whole = torch.rand((count, 1), generator=generator, device=device) < DROPPED
    single = torch.rand(indices.shape, generator=generator, device=device) < DROPPED
    return torch.where(whole | single, empty, indices)


def velocity_error(network: nn.Module, latents: Tensor, indices: Tensor) -> float:
    """Mean squared error of the velocity at fixed times and with fixed noise."""
    generator = torch.Generator().manual_seed(0)
    errors = []
    for time_ in TIMES:
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        times = torch.full((len(latents),), time_, device=latents.device)
        z, velocity = interpolate(latents, noise, times)
        for part in range(0, len(latents), 8):
            of = slice(part, part + 8)
            errors.append(((network(z[of], times[of], indices[of]) - velocity[of]) ** 2).mean((1, 2, 3, 4)))
    return float(torch.cat(errors).mean())
