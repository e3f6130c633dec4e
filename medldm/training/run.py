"""`medldm train`: pack the data, train what was asked for, write a model that ``--model PATH`` takes."""

from __future__ import annotations

import json
import logging
import platform
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medldm.degradations import DEGRADATIONS
from medldm.errors import ModelError, UsageError
from medldm.models.checkpoint import architecture, read_weights, save_model
from medldm.models.flow import build_flow
from medldm.models.latent_space import LatentSpace
from medldm.models.unet import build_fusion, build_unet
from medldm.models.vae import build_vae
from medldm.qc.ood_features import extended, fit
from medldm.settings import Architecture
from medldm.system import cores
from medldm.training.data import balance, index_of, load_cache, pack, scan_descriptions
from medldm.training.distributed import Distributed, launch
from medldm.training.splits import check_split, modality_of_scans, rows_of
from medldm.training.stages.decoder import train_fusion
from medldm.training.stages.flow import train_flow
from medldm.training.stages.stage import Stage
from medldm.training.stages.unet import train_unet
from medldm.training.stages.vae import train_vae
from medldm.training.state import CHECKPOINT, part, read_metadata, save_atomically
from medldm.training.trainer import Plan
from medldm.training.transfer import inflated_unet, widened_flow, widened_unet
from medldm.zoo import Card, card

log = logging.getLogger(__name__)

ORDER = ("unet", "vae", "flow", "fusion")
# Where `all` spends its minutes: the baseline starts the fusion decoder, the flow has the most to learn.
SHARES = {"unet": 0.35, "vae": 0.17, "flow": 0.26, "fusion": 0.22}
RATES = {"unet": 1.5e-3, "vae": 1e-3, "flow": 8e-4, "fusion": 8e-4}
FEWEST = 5  # scans; fewer do not show how much scans differ
PATCH = {2: (8, 96), 3: (2, 48)}  # batch and patch edge by spatial_dims
N = TypeVar("N", bound=nn.Module)


def train(
    kind: str,
    data: str | Path,
    out: str | Path,
    *,
    minutes: float,
    resume: bool = False,
    init: str | None = None,
    spatial_dims: int | None = None,
    modality: str | None = None,
    name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    config: Architecture | None = None,
    validate_s: float = 240.0,
) -> Path:
    """Train one network or the whole pipeline on a folder of scans.

    Parameters
    ----------
    kind : ``unet``, ``vae``, ``flow``, ``fusion`` or ``all``; each stage reads what the ones before it left in `out`
    data : folder of image files with a split table, see `medldm.training.splits.read_split`
    out : checkpoints, curves, cache and the finished model
    minutes : of wall clock for `kind`, resumed runs counted in; ``all`` divides them over its stages
    resume : go on from the checkpoints in `out`
    init : model to start from, a shipped name or a path; a U-Net for volumes may start from one for planes, one of more
        channels and neighbouring slices (`config`) from one of fewer
    spatial_dims : 2 (planes) or 3 (volumes); that of `init`, else 2, when not given
    modality : ``"MR"`` or ``"CT"``; that of `init`, else that of the scans, when not given. Scans of another one are
        left out, where the split table tells
    name : of the finished model; the folder's name when not given
    seed : of patches and damage
    device : ``auto``, ``cpu``, ``cuda``
    devices : processes that train together, one for each GPU (or sharing the CPU's cores), through Lightning Fabric
    config : architecture; the default one for `spatial_dims` when not given
    validate_s : seconds between validations

    Returns
    -------
    path of the model card, or of the stage's folder while the pipeline is not complete

    Raises
    ------
    UsageError, InputError, ModelError
    """
    if kind not in (*ORDER, "all"):
        raise UsageError(f"There is nothing called {kind!r} to train; choose {', '.join(ORDER)} or all.")
    if devices < 1:
        raise UsageError(f"--devices {devices} makes no sense: at least 1.")
    if minutes <= 0:
        raise UsageError(f"--minutes {minutes:g} leaves no time to train.")
    data, out = Path(data), Path(out)
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder of scans.")
    started = card(init) if init else None
    config = config or (grown(architecture(started), spatial_dims) if started else default_config(spatial_dims or 2))
    modality = (modality or (started.modality if started else modality_of_scans(data))).upper()
    check_split(rows_of(data, modality), data, modality)
    pack(data, out / "cache", modality)
    check_split(index_of(out / "cache"), data, modality)  # without those that cannot be read
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    stages = {stage: minutes * SHARES[stage] for stage in ORDER} if kind == "all" else {kind: minutes}
    batch, patch = PATCH[config.spatial_dims]
    plan = Plan(minutes=minutes, batch=batch, patch=patch, seed=seed, validate_s=validate_s)
    launch(
        train_stages, devices, device, stages=stages, out=out, config=config, plan=plan, resume=resume, start=started
    )
    hardware = f"{devices} x {device}" if devices > 1 else device
    return publish(out, name or out.resolve().name, config, modality, hardware, started)


def train_stages(
    stages: dict[str, float],
    out: Path,
    config: Architecture,
    plan: Plan,
    *,
    resume: bool,
    start: Card | None,
    distributed: Distributed,
    device: str,
) -> None:
    """One stage after another, in one process of a run.

    Parameters
    ----------
    stages : name to minutes
    out : folder of the run, its cache packed
    config, plan : architecture; batch, patch and seed
    resume : go on from the checkpoints in `out`
    start : card of the model to start from
    distributed, device : the other processes, and where this one computes
    """
    scans, val = balance(load_cache(out / "cache", "train")), load_cache(out / "cache", "val")
    weights = read_weights(start) if start else {}
    common = Stage(
        train=scans,
        val=val,
        config=config,
        plan=plan,
        out=out,
        resume=resume,
        device=device,
        distributed=distributed,
    )
    if distributed.is_main:
        log.info("%d scans for training, %d for validation", len(scans), len(val))
    for stage, minutes in stages.items():
        first = {key: value.float() for key, value in part(weights, f"{stage}.").items()} or None
        if start and first and start.spatial_dims != config.spatial_dims:
            first = inflated_unet(first, architecture(start), config) if stage == "unet" else None
        elif start and first and architecture(start) != config:
            first = _widened(stage, first, architecture(start), config)
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(plan.seed)  # all processes start from the same network
            planned = replace(plan, minutes=minutes, learning_rate=RATES[stage])
            finished = train_stage(replace(common, name=stage, plan=planned, init=first))
        if distributed.is_main:
            metadata = {"architecture": json.dumps(asdict(config))}
            save_atomically({k: v.cpu() for k, v in finished.items()}, out / stage / "weights.safetensors", metadata)
        distributed.barrier()


def _widened(stage: str, weights: dict[str, Tensor], source: Architecture, config: Architecture) -> dict[str, Tensor]:
    if stage == "vae":
        return weights  # it sees one plane at a time
    if stage == "flow":
        return widened_flow(weights, source, config)
    return widened_unet(weights, build_unet(config) if stage == "unet" else build_fusion(config), source, config)


def grown(config: Architecture, spatial_dims: int | None) -> Architecture:
    """The architecture of the model to start from, in volumes where these are asked for.

    Raises
    ------
    UsageError
        Planes from volumes.
    """
    if spatial_dims in (None, config.spatial_dims):
        return config
    if spatial_dims == 2:
        raise UsageError("A network for planes cannot start from one for volumes. Leave --spatial-dims out.")
    return replace(config, spatial_dims=3, context=1)


def default_config(spatial_dims: int) -> Architecture:
    """The architecture that each dimensionality begins with."""
    if spatial_dims == 2:
        return Architecture()
    return replace(Architecture(), spatial_dims=3, context=1, unet=(16, 32, 64, 128))


def train_stage(stage: Stage) -> dict[str, Tensor]:
    """Train one stage; the frozen ones before it are read from its run."""
    log.info("training %s for %.3g minutes", stage.name, stage.plan.minutes)
    if stage.name == "unet":
        return train_unet(stage)
    if stage.name == "vae":
        return train_vae(stage)
    latent = frozen_latent(stage.out, stage.config)
    unet = frozen(build_unet(stage.config), finished_weights(stage.out, "unet"))
    if stage.name == "flow":
        return train_flow(stage, latent, unet)
    flow = frozen(build_flow(stage.config), finished_weights(stage.out, "flow"))
    return train_fusion(stage, latent, flow, unet)


def frozen(network: N, weights: dict[str, Tensor]) -> N:
    """A network with trained weights, to be used."""
    network.load_state_dict(weights)
    return network.eval()


def frozen_latent(out: Path, config: Architecture) -> LatentSpace:
    """The trained autoencoder of a run."""
    weights = finished_weights(out, "vae")
    scale = weights.pop("scale")
    return LatentSpace(frozen(build_vae(config), weights), scale)


def finished_weights(out: Path, stage: str) -> dict[str, Tensor]:
    """Weights that a finished stage left.

    Raises
    ------
    ModelError
    """
    path = out / stage / "weights.safetensors"
    if not path.is_file():
        raise ModelError(f"{path} is missing: train {stage} first, or `medldm train all`.")
    weights: dict[str, Tensor] = load_file(path)
    return weights


def publish(
    out: Path, name: str, config: Architecture, modality: str, device: str, started: Card | None = None
) -> Path:
    """Write the finished sets of a run as models with cards: the pipeline, and the baseline for benchmarks."""
    done = [stage for stage in ORDER if (out / stage / "weights.safetensors").is_file()]
    written = out / done[-1]
    common = {
        "modality": modality.lower(),
        "spatial_dims": config.spatial_dims,
        "architecture": asdict(config),
        "licence": "as you choose",
        "verbs": verbs(),
        "ood": covered(out, started),
    }
    if "unet" in done:
        fields = common | {
            "name": f"{name}-unet",
            "title": f"Supervised U-Net ({config.spatial_dims}D), the baseline of {name}",
            "role": "baseline",
            "training": training_facts(out, ("unet",), device),
            "validation": curve_end(out / "unet"),
        }
        written = save_model({"unet": finished_weights(out, "unet")}, fields, out)
    if set(done) == set(ORDER):
        fields = common | {
            "name": name,
            "title": f"Latent diffusion with a measurement-aware decoder ({config.spatial_dims}D)",
            "role": "restorer",
            "training": training_facts(out, tuple(done), device),
            "validation": {stage: curve_end(out / stage) for stage in done},
        }
        parts = {stage: finished_weights(out, stage) for stage in ORDER}
        written = save_model(parts, fields, out)
    log.info("wrote %s", written)
    return written


def verbs() -> list[str]:
    """Tasks that a trained model serves: those that undo a degradation, and `restore`, which chooses among them."""
    rows = [row for kind in DEGRADATIONS.values() for row in kind.rows()]
    return [*dict.fromkeys(row.verb for row in rows), "restore"]


def covered(out: Path, started: Card | None) -> dict[str, Any]:
    """What the card says of its training scans, so that `medldm.qc.ood` warns of others; empty of too few.

    Parameters
    ----------
    out : folder of the run, its cache packed
    started : card of the model that training started from; what that covers, the new one covers too
    """
    train = scan_descriptions(out / "cache", "train")
    if started and started.ood:
        return extended(started.ood, train)
    return fit(train, scan_descriptions(out / "cache", "val")) if len(train) >= FEWEST else {}


def training_facts(out: Path, stages: tuple[str, ...], device: str) -> dict[str, Any]:
    """Subjects per contrast and source, licences, minutes, steps and hardware of a run."""
    scans = load_cache(out / "cache", "train")
    subjects: dict[str, set[str]] = {}
    for scan in scans:
        subjects.setdefault(f"{scan.modality} | {scan.source.split('@')[0] or 'own data'}", set()).add(scan.subject)
    states = {stage: json.loads(read_metadata(out / stage / CHECKPOINT)["state"]) for stage in stages}
    return {
        "subjects": {key: len(names) for key, names in sorted(subjects.items())},
        "licences": dict(sorted(Counter(scan.licence for scan in scans if scan.licence).items())),
        "minutes": {stage: round(state["seconds"] / 60, 1) for stage, state in states.items()},
        "steps": {stage: state["step"] for stage, state in states.items()},
        "skipped_steps": {stage: state["skipped"] for stage, state in states.items()},
        "hardware": f"{device}, {cores()} cores, {platform.machine()}, torch {torch.__version__}",
    }


def curve_end(folder: Path) -> dict[str, float]:
    """Last row of a validation curve, dB."""
    rows = json.loads(read_metadata(folder / CHECKPOINT)["state"])["rows"]
    not_scores = ("minutes", "step", "loss", "skipped")
    return {key: round(value, 2) for key, value in rows[-1].items() if key not in not_scores} if rows else {}
