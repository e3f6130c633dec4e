"""`medldm train`: pack the data, train what was asked for, write a model that ``--model PATH`` takes."""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medldm.errors import InputError, ModelError, UsageError
from medldm.models.checkpoint import EARLIER, architecture, read_weights
from medldm.models.residual import ResidualFlow, SpreadHead
from medldm.models.unet import build_unet
from medldm.settings import Architecture
from medldm.training.archive import unpack
from medldm.training.corpus import Corpus
from medldm.training.data import balance, index_of, load_cache, pack
from medldm.training.distillation import smaller
from medldm.training.distributed import Distributed, launch
from medldm.training.publish import publish
from medldm.training.splits import check_split, modality_of_entries, modality_of_scans, rows_of
from medldm.training.stages.flow import train_flow
from medldm.training.stages.latent import train_latent
from medldm.training.stages.spread import train_spread
from medldm.training.stages.stage import STAGES, WEIGHTS, Sizes, Stage, Teacher
from medldm.training.stages.unet import train_unet
from medldm.training.state import CHECKPOINT, part
from medldm.training.trainer import Plan
from medldm.training.transfer import inflated_unet, widened_unet
from medldm.zoo import Card, card

log = logging.getLogger(__name__)

TRAINERS = dict(zip(STAGES, (train_unet, train_spread, train_latent, train_flow), strict=True))
# Where `all` spends its minutes: regression and flow have the most to learn.
SHARES = {"unet": 0.45, "spread": 0.06, "latent": 0.06, "flow": 0.43}
RATES = {"unet": 1e-3, "spread": 2e-3, "latent": 0.0, "flow": 3e-4}  # flow: 6e-4 ended in a collapse after 2,800 steps
LATENT = Architecture(spatial_dims=3, context=1, latent_channels=32, flow=(96, 96))
SHAPES = "shapes.txt"  # of a run: JSON, but not called so, since the JSON files of a run are its cards
FLOW_BLOCKS = 1  # residual blocks a level
OF_FLOW = ("flow_blocks", "tile")  # of a card's field `residual`, what is no architecture


def train(
    kind: str,
    data: str | Path,
    out: str | Path,
    *,
    minutes: float,
    resume: bool = False,
    init: str | None = None,
    distil: str | None = None,
    spatial_dims: int | None = None,
    modality: str | None = None,
    name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    config: Architecture | None = None,
    latent: Architecture | None = None,
    sizes: Sizes | None = None,
    validate_s: float = 240.0,
) -> Path:
    """Train one network or the whole set on scans.

    Parameters
    ----------
    kind : ``unet``, ``spread``, ``latent``, ``flow`` or ``all``; each stage reads what the ones before it left in
        `out`, or what `init` has of them
    data : folder of image files with a split table, see `medldm.training.splits.read_split`, or a file that
        `medldm.training.archive.pack_file` made of one
    out : checkpoints, curves, cache and the finished model
    minutes : of wall clock for `kind`, resumed runs counted in; ``all`` divides them over its stages by `SHARES`
    resume : go on from the checkpoints in `out`
    init : model to start from, a shipped name or a path; a network for volumes may start from one for planes, one of
        more channels and neighbouring slices (`config`) from one of fewer
    distil : model, a shipped name or a path, whose answers ``unet`` learns with a little less than half the operations
    spatial_dims : 2 (planes) or 3 (volumes); that of `init`, else 2, when not given
    modality : ``"MR"`` or ``"CT"``; that of `init`, else that of the scans, when not given. Scans of another one are
        left out, where the split table tells
    name : of the finished model; the folder's name when not given
    seed : of patches and damage
    device : ``auto``, ``cpu``, ``cuda``
    devices : processes that train together, one for each GPU (or sharing the CPU's cores), through Lightning Fabric
    config : architecture of the regression network; that of `init`, else `default_config`, when not given
    latent : architecture of latent and flow; that of `init`, else `LATENT`, when not given
    sizes : how much is computed at once; fitted to the device when not given
    validate_s : seconds between validations

    Returns
    -------
    path of the model card, or of the stage's folder while there is no set to write

    Raises
    ------
    UsageError, InputError, ModelError
    """
    if kind not in (*STAGES, "all"):
        raise UsageError(f"There is nothing called {kind!r} to train; choose {', '.join(STAGES)} or all.")
    if devices < 1:
        raise UsageError(f"--devices {devices} makes no sense: at least 1.")
    if minutes <= 0:
        raise UsageError(f"--minutes {minutes:g} leaves no time to train.")
    data, out = Path(data), Path(out)
    if not data.exists():
        raise UsageError(f"{data} is neither a folder of scans nor a file of packed ones.")
    if distil and (init or spatial_dims or kind != "unet"):
        raise UsageError("--distil goes with unet, and without --init and --spatial-dims: its model gives both.")
    larger, start = card(distil) if distil else None, card(init) if init else None
    if larger and modality and modality.lower() != larger.modality:
        raise UsageError(
            f"{larger.name} knows {larger.modality.upper()} and cannot teach {modality.upper()}. Choose another "
            "--distil, or leave --modality out."
        )
    if larger and not config:
        config = smaller(architecture(larger))
    config, latent = shapes_of(out, start, spatial_dims, config, latent)
    known = start or larger
    modality = fill_cache(data, out / "cache", modality or (known.modality if known else None))
    if not has_begun(out):
        (out / SHAPES).write_text(json.dumps({"architecture": asdict(config), "latent": asdict(latent)}, indent=1))
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    first = parts_of(start, config, latent) if start else {}
    stages = {stage: minutes * SHARES[stage] for stage in STAGES} if kind == "all" else {kind: minutes}
    launch(
        train_stages,
        devices,
        device,
        stages=stages,
        out=out,
        config=config,
        latent=latent,
        plan=Plan(minutes=minutes, seed=seed, validate_s=validate_s),
        sizes=sizes or Sizes.fitted(device, config.spatial_dims),
        resume=resume,
        init=first,
        teacher=teacher_of(larger) if larger else None,
    )
    hardware = f"{devices} x {device}" if devices > 1 else device
    return publish(
        out, name or out.resolve().name, config, latent, FLOW_BLOCKS, modality, hardware, start, first, larger
    )


def fill_cache(data: Path, cache: Path, modality: str | None) -> str:
    """Bring folder or file into the cache of a run.

    Returns
    -------
    title of the modality that is learned

    Raises
    ------
    InputError
        Nothing to learn from; scans of another modality.
    """
    fresh = [folder for folder in (cache, cache.parent) if not folder.exists()]
    try:
        if data.is_dir():
            modality = (modality or modality_of_scans(data)).upper()
            check_split(rows_of(data, modality), data, modality)
            pack(data, cache, modality)
        else:
            unpack(data, cache)
            packed = modality_of_entries(index_of(cache), data)
            if modality and modality.upper() != packed:
                raise InputError(f"{data} holds {packed} scans, and {modality.upper()} was to be learned. Pack others.")
            modality = packed
        check_split(index_of(cache), data, modality)  # without those that cannot be read
    except InputError:
        # Nothing is learned from these scans: a folder that was made for them goes again.
        for folder in fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return modality


def train_stages(
    stages: dict[str, float],
    out: Path,
    config: Architecture,
    latent: Architecture,
    plan: Plan,
    sizes: Sizes,
    *,
    resume: bool,
    init: dict[str, dict[str, Tensor]],
    teacher: Teacher | None = None,
    distributed: Distributed,
    device: str,
) -> None:
    """One stage after another, in one process of a run.

    Parameters
    ----------
    stages : name to minutes
    out : folder of the run, its cache filled
    config, latent, plan, sizes, resume, init, teacher : see `Stage`
    distributed, device : the other processes, and where this one computes
    """
    begun = time.monotonic()
    if torch.device(device).type == "cuda":
        torch.backends.cudnn.benchmark = True
    scans, val = balance(load_cache(out / "cache", "train")), load_cache(out / "cache", "val")
    corpus = Corpus(scans, device)
    if distributed.is_main:
        log.info("%d scans for training, %d for validation, on %s", len(scans), len(val), device)
    for name, minutes in stages.items():
        if distributed.is_main:
            log.info("training %s for %.3g minutes", name, minutes)
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(plan.seed)  # all processes start from the same network
            stage = Stage(
                name=name,
                corpus=corpus,
                val=val,
                config=config,
                latent=latent,
                flow_blocks=FLOW_BLOCKS,
                plan=replace(plan, minutes=minutes, learning_rate=RATES[name]),
                sizes=sizes,
                out=out,
                resume=resume,
                init=init,
                teacher=teacher,
                device=device,
                distributed=distributed,
                begun=begun,
            )
            TRAINERS[name](stage)
        begun = time.monotonic()


def parts_of(start: Card, config: Architecture, latent: Architecture) -> dict[str, dict[str, Tensor]]:
    """What a model has of each stage, as a run of an architecture can start from it.

    Parameters
    ----------
    start : card of the model
    config, latent : architecture of the run

    Raises
    ------
    ModelError
        It has no regression network, or weights that do not fit its card.
    UsageError
        It does not grow into the architecture.
    """
    tensors, source = read_weights(start), architecture(start)
    weights = {name: {k: v.float() for k, v in part(tensors, f"{name}.").items()} for name in STAGES}
    if not weights["unet"]:
        raise ModelError(f"{start.name} has no regression network to start from. Choose another model.")
    _check(start, build_unet(source), weights["unet"])
    first = {"unet": weights["unet"]}
    if source.spatial_dims != config.spatial_dims:
        return {"unet": inflated_unet(first["unet"], source, config)}
    if _regression(source) != _regression(config):
        return {"unet": widened_unet(first["unet"], build_unet(config), source, config)}
    if start.spread:
        _check(start, SpreadHead(source.spatial_dims, source.unet[0]), weights["spread"])
        first["spread"] = weights["spread"]
    if "spread" in first and start.residual.get("flow_blocks") == FLOW_BLOCKS and latent == latent_of(start):
        _check(start, ResidualFlow(latent, FLOW_BLOCKS), weights["flow"])
        first |= {"latent": weights["latent"], "flow": weights["flow"]}
    return first


def teacher_of(larger: Card) -> Teacher:
    """The regression network of a model, to be learned from.

    Raises
    ------
    ModelError
        It has none, or weights that do not fit its card.
    """
    config = architecture(larger)
    return Teacher(config, parts_of(larger, config, LATENT)["unet"])


def _check(start: Card, network: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as problem:
        raise ModelError(
            f"The weights of {start.name} do not fit its card: its networks have other parts or sizes. Choose another "
            "--init."
        ) from problem


def _regression(config: Architecture) -> tuple[Any, ...]:
    """What of an architecture shapes the regression network."""
    return config.context, config.unet, config.unet_strides, config.unet_units, config.unet_entry


def latent_of(start: Card) -> Architecture:
    """The architecture of latent and flow that a card states."""
    return _widths({key: value for key, value in start.residual.items() if key not in OF_FLOW})


def shapes_of(
    out: Path,
    start: Card | None,
    spatial_dims: int | None,
    config: Architecture | None = None,
    latent: Architecture | None = None,
) -> tuple[Architecture, Architecture]:
    """Architecture of the regression network, and of latent and flow.

    Parameters
    ----------
    out : folder of the run; what it began with it goes on with
    start : card of the model to start from
    spatial_dims, config, latent : as asked for

    Raises
    ------
    UsageError
        The run goes on with another number of dimensions.
    """
    if has_begun(out) and (out / SHAPES).is_file():
        own = json.loads((out / SHAPES).read_text())
        config, latent = config or _widths(own["architecture"]), latent or _widths(own["latent"])
        if spatial_dims not in (None, config.spatial_dims):
            raise UsageError(
                f"{out} holds a run with --spatial-dims {config.spatial_dims}, not {spatial_dims}. Choose another "
                "folder."
            )
    config = config or (grown(architecture(start), spatial_dims) if start else default_config(spatial_dims or 2))
    return config, latent or (latent_of(start) if start and start.residual else LATENT)


def has_begun(out: Path) -> bool:
    """Whether a stage has left anything in the folder of a run."""
    return any((out / stage / file).is_file() for stage in STAGES for file in (CHECKPOINT, WEIGHTS))


def _widths(fields: dict[str, Any]) -> Architecture:
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in fields.items() if key not in EARLIER
    }
    return Architecture(**values)


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
        return Architecture(context=9, unet=(32, 64, 128, 256))
    return Architecture(spatial_dims=3, context=1, unet=(16, 32, 64, 128))
