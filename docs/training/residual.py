"""Train spread head, residual autoencoder and flow on top of a trained regression network.

usage: python docs/training/residual.py OUT --archives A.zip [B.zip ...] --unet WEIGHTS
           [--stages spread,autoencoder,flow]

Stages are run in this order; each reads what the ones before it left in OUT and goes on from its own checkpoint.
Scenes are kept in OUT, one file a ``--seed``; the flow learns from all that are there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medldm.models.blocks import dense_format
from medldm.models.precision import autocast
from medldm.models.residual import (
    Conditions,
    PrincipalBlocks,
    ResidualAutoencoder,
    ResidualFlow,
    SpreadHead,
    flow_loss,
)
from medldm.models.unet import Residual, build_unet
from medldm.settings import Architecture
from medldm.training.archive import read_archive
from medldm.training.corpus import Corpus
from medldm.training.data import balance
from medldm.training.device_trainer import DeviceTrainer
from medldm.training.examples import MARGIN
from medldm.training.losses import fine_detail as smooth_detail
from medldm.training.scenes import (
    Planes,
    Pool,
    Scenes,
    draw_scenes,
    load_scenes,
    principal_blocks,
    save_scenes,
    spread_of,
)
from medldm.training.state import load_part as load
from medldm.training.state import save_part as save

sys.path.insert(0, str(Path(__file__).parent))
from residual_validation import Case, table, validation_cases

log = logging.getLogger("residual")
CONTEXT = 9
PLANES = Architecture(context=CONTEXT, unet=(32, 64, 128, 256))
LATENT = Architecture(spatial_dims=3, context=1, latent_channels=16, vae=(48, 96), flow=(96, 96))
FLOW_BLOCKS = 1
KL_WEIGHT = 1e-4
STRENGTH = 0.05  # price of detail of the wrong strength, in the autoencoder
EDGE = 4  # voxels at the ends of a block, where the regression lacks what lies beyond
DROPPED = 0.1  # share of examples whose conditions are dropped


Kept = tuple[Scenes, list[tuple[Planes, Tensor]]]


def draw_pool(
    options: argparse.Namespace, corpus: Corpus, unet: Residual, device: torch.device, head: nn.Module | None
) -> list[Kept]:
    """Batches of scenes in half precision: with their spread, or with the features that its head will be trained on.

    The head looks at a few voxels around each, so smaller scenes serve it as well, and more of them fit.
    """
    count, size = (options.pool, options.size) if head else (options.pool_spread, options.size_spread)
    generator, made = torch.Generator(device).manual_seed(options.seed), []
    started = time.monotonic()
    with torch.no_grad(), autocast(device):
        for number in range(math.ceil(count / options.scenes)):
            scenes, kept = draw_scenes(corpus, unet, options.scenes, size, CONTEXT, generator)
            *fields, thickness = scenes.conditions
            half = Conditions._make([*(field.half() for field in fields), thickness])
            batch = (scenes._replace(residual=scenes.residual.half(), conditions=half), halved(kept))
            if head:
                log_s = spread_within(head, kept, batch[0])[:, None].half()
                batch = (batch[0]._replace(conditions=half._replace(log_s=log_s)), [])
            made.append(batch)
            if number % 20 == 19:
                log.info("%d scenes after %.0f s", (number + 1) * options.scenes, time.monotonic() - started)
    return made


def halved(kept: list[tuple[Planes, Tensor]]) -> list[tuple[Planes, Tensor]]:
    """Features in half precision."""
    return [(planes, features.bfloat16()) for planes, features in kept]


def spread_within(head: nn.Module, kept: list[tuple[Planes, Tensor]], scenes: Scenes) -> Tensor:
    """(B, H, W, D) log spread of scenes, without the margin that their features have."""
    full = torch.zeros(
        (len(scenes.residual), scenes.residual.shape[1] + 2 * MARGIN, *scenes.residual.shape[2:]),
        device=scenes.residual.device,
    )
    return spread_of(head, kept, full)[:, MARGIN:-MARGIN]


def train_spread(options: argparse.Namespace, made: list[Kept], device: torch.device) -> None:
    """Gaussian negative log-likelihood of the residual."""

    def draw(generator: torch.Generator) -> Kept:
        return made[int(torch.randint(len(made), (1,), generator=generator, device=generator.device))]

    def loss_of(head: nn.Module, batch: Kept) -> Tensor:
        scenes, kept = batch
        log_s, residual = spread_within(head, kept, scenes), scenes.residual.float()
        # Air says nothing: it would only teach the smallest spread.
        where = ((scenes.conditions.y[:, 0] > 0.02) | (residual.abs() > 0.02)).float()
        where[:, :, :EDGE] = where[:, :, -EDGE:] = where[..., :EDGE] = where[..., -EDGE:] = 0
        nll = log_s + 0.5 * (residual / log_s.exp()) ** 2
        return (nll * where).sum() / where.sum()

    head = SpreadHead(2, PLANES.unet[0]).to(device)
    trainer = DeviceTrainer(
        head,
        options.out / "spread",
        minutes=options.minutes_spread,
        learning_rate=2e-3,
        warm_up=50,
        decay=0.995,
        clip=5,
    )
    save(trainer.run(draw, loss_of, 11), options.out / "spread.safetensors", "spread")


def train_autoencoder(options: argparse.Namespace, pool: Pool, device: torch.device, cases: list[Case]) -> None:
    """Relative squared error of the residual, a price on detail of the wrong strength, a small KL."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Conditions]:
        return pool.draw(options.batch_autoencoder, generator)

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        u, c = batch
        mean, sigma = network.encode(u, c.log_s)  # type: ignore[operator]
        again = network.decode_raw(mean + sigma * torch.randn_like(sigma))  # type: ignore[operator]
        s = c.log_s.exp()
        axes = tuple(range(1, u.ndim))
        r, guess = s * u, s * again
        relative = ((guess - r) ** 2).mean(axes) / ((r**2).mean(axes) + 1e-6)
        unit = ((again - u) ** 2).mean(axes) / ((u**2).mean(axes) + 1e-2)
        strength: Any = 0
        for along in ((2,), (2, 3, 4)):
            have, want = ((smooth_detail(f, along) ** 2).mean(axes) + 1e-7 for f in (guess, r))
            strength = strength + (have / want).log().abs()
        kl = 0.5 * (mean**2 + sigma**2 - 2 * sigma.clamp_min(1e-6).log() - 1).mean()
        loss: Tensor = (relative + 0.3 * unit + STRENGTH * strength).mean() + KL_WEIGHT * kl
        return loss

    network: Any = ResidualAutoencoder(LATENT)
    network = network.to(device, memory_format=torch.channels_last_3d)
    generator = torch.Generator(device).manual_seed(1)
    principal = principal_blocks(pool, LATENT, generator)
    network.start_from(principal)

    def validate(network: nn.Module) -> dict[str, float]:
        rows = table(cases, network, None, principal=principal)  # type: ignore[arg-type]
        return {row: values["true latent"] - values["b"] for row, values in rows.items()}

    trainer = DeviceTrainer(
        network,
        options.out / "autoencoder",
        minutes=options.minutes_autoencoder,
        learning_rate=options.learning_rate_autoencoder,
        warm_up=200,
        clip=1.0,
        validate=validate,
        validate_s=75,
    )
    weights = trainer.run(draw, loss_of, 12)
    network.load_state_dict(weights)
    network.eval()
    with torch.no_grad(), autocast(device):
        means = [
            network.encode(u, c.log_s)[0].transpose(0, 1).flatten(1)
            for u, c in (pool.draw(16, generator) for _ in range(16))
        ]
    flat = torch.cat(means, 1).float().cpu()
    weights["mean"], weights["scale"] = flat.mean(1), flat.std(1).clamp_min(1e-3)
    log.info(
        "latent means %s scales %s",
        [round(v, 2) for v in weights["mean"].tolist()],
        [round(v, 2) for v in weights["scale"].tolist()],
    )
    save(weights, options.out / "autoencoder.safetensors", "autoencoder")
    save(principal.state_dict(), options.out / "principal.safetensors", "principal")


def train_flow(options: argparse.Namespace, pool: Pool, device: torch.device, cases: list[Case]) -> None:
    """The flow on normalised latents."""
    if options.latent == "principal" and not (options.out / "principal.safetensors").is_file():
        principal = principal_blocks(pool, LATENT, torch.Generator(device).manual_seed(1))
        save(principal.state_dict(), options.out / "principal.safetensors", "principal")
    autoencoder = load_latent(options, device)

    def draw(generator: torch.Generator) -> tuple[Tensor, Conditions, Tensor, torch.Generator]:
        u, conditions = pool.draw(options.batch, generator)
        keep = torch.rand(options.batch, generator=generator, device=generator.device) >= DROPPED
        with autocast(device):
            return autoencoder.latent(dense_format(u), conditions.log_s), conditions, keep, generator

    def loss_of(network: nn.Module, batch: Any) -> Tensor:
        latent, conditions, keep, generator = batch
        projected = network.condition(conditions) * keep.reshape(-1, 1, 1, 1, 1)  # type: ignore[operator]
        return flow_loss(network, latent, projected, generator)

    def validate(network: nn.Module) -> dict[str, float]:
        rows = table(cases, autoencoder, network)  # type: ignore[arg-type]
        save(network.state_dict(), options.out / "flow.safetensors", "flow")
        return {f"mean - b {row}": values["mean"] - values["b"] for row, values in rows.items()}

    network: Any = ResidualFlow(LATENT, FLOW_BLOCKS)
    network = network.to(device, memory_format=torch.channels_last_3d)
    trainer = DeviceTrainer(
        network,
        options.out / "flow",
        minutes=options.minutes_flow,
        learning_rate=options.learning_rate,
        warm_up=300,
        decay=0.9995,
        clip=1.0,
        validate=validate,
        validate_s=options.validate_s,
        checkpoint_s=60,
    )
    save(trainer.run(draw, loss_of, 13), options.out / "flow.safetensors", "flow")


def load_latent(options: argparse.Namespace, device: torch.device) -> ResidualAutoencoder | PrincipalBlocks:
    """The trained autoencoder of a run, or the principal components beside it, frozen."""
    if options.latent == "principal":
        parts = load_file(options.out / "principal.safetensors")
        basis, scale, decoder = (parts[f"principal.{name}"].float() for name in ("basis", "scale", "decoder"))
        return PrincipalBlocks(basis, scale, LATENT.latent_factor, decoder).to(device)
    network: Any = load(ResidualAutoencoder(LATENT), options.out / "autoencoder.safetensors", "autoencoder.")
    frozen: ResidualAutoencoder = network.to(device, memory_format=torch.channels_last_3d).eval()
    return frozen.requires_grad_(False)


def main() -> None:
    """Train the stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--archives", type=Path, nargs="+", required=True)
    parser.add_argument("--unet", type=Path, required=True)
    parser.add_argument("--stages", default="spread,autoencoder,flow")
    parser.add_argument("--minutes-spread", type=float, default=1.2)
    parser.add_argument("--minutes-autoencoder", type=float, default=3)
    parser.add_argument("--minutes-flow", type=float, default=9)
    parser.add_argument("--deadline-s", type=float, default=0, help="seconds after the start that the flow may take")
    parser.add_argument("--pool", type=int, default=8192, help="scenes of one file")
    parser.add_argument("--pool-spread", type=int, default=4096, help="scenes that the spread head learns from")
    parser.add_argument("--size-spread", type=int, default=32)
    parser.add_argument("--seed", type=int, default=99, help="of the scenes")
    parser.add_argument("--learning-rate-autoencoder", type=float, default=2e-4, help="1e-3 diverged in bf16")
    parser.add_argument("--learning-rate", type=float, default=8e-4, help="of the flow, at its peak")
    parser.add_argument("--scenes", type=int, default=32, help="scenes a batch while they are made")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batch-autoencoder", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--validate-s", type=float, default=150)
    parser.add_argument("--thin", type=float, default=3.0, help="how much oftener isotropic scans are drawn")
    parser.add_argument("--latent", choices=("autoencoder", "principal"), default="autoencoder")
    parser.add_argument("--rows", default="thick4,gap4,region,noise7")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    started = time.monotonic()
    scans = read_archive(*options.archives)
    corpus = Corpus(balance(scans["train"]), device)
    corpus.weight = corpus.weight * torch.where(corpus.isotropic, options.thin, 1.0)
    unet: Any = load(build_unet(PLANES), options.unet, "unet.")
    unet = unet.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    log.info("%d scans on %s after %.1f s", len(scans["train"]), device, time.monotonic() - started)
    stages = options.stages.split(",")
    pool_file = options.out / f"pool{options.seed}.safetensors"
    made: list[Kept] = []
    if "spread" in stages:
        made = draw_pool(options, corpus, unet, device, None)
        train_spread(options, made, device)
    spread: Any = load(SpreadHead(2, PLANES.unet[0]), options.out / "spread.safetensors", "spread.").to(device).eval()
    spread.requires_grad_(False)
    cases = validation_cases(scans["val"], PLANES, unet, spread, device, tuple(options.rows.split(",")))
    log.info("%d validation cases after %.1f s", len(cases), time.monotonic() - started)
    made.clear()
    if not pool_file.is_file():
        save_scenes([one for one, _ in draw_pool(options, corpus, unet, device, spread)], pool_file)
    pool = Pool([load_scenes(file, device) for file in sorted(options.out.glob("pool*.safetensors"))])
    log.info("%d scenes after %.1f s", len(pool.thickness), time.monotonic() - started)
    if "autoencoder" in stages:
        train_autoencoder(options, pool, device, cases)
    if "flow" in stages:
        if options.deadline_s:
            options.minutes_flow = min(options.minutes_flow, (options.deadline_s - time.monotonic() + started) / 60)
        train_flow(options, pool, device, cases)
    (options.out / "architecture.json").write_text(json.dumps({"planes": asdict(PLANES), "latent": asdict(LATENT)}))
    log.info("done after %.1f s", time.monotonic() - started)


if __name__ == "__main__":
    main()
