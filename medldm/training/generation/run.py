"""`medldm train generator`: scans to one grid, autoencoder and flow, a model that `medldm generate` takes."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.data.description import REGIONS
from medldm.errors import ModelError, UsageError
from medldm.models.checkpoint import read_weights, save_model
from medldm.models.generator import GeneratorConfig
from medldm.system import cores
from medldm.training.generation import scans
from medldm.training.generation.captions import train_captions
from medldm.training.generation.decoder import same_encoder, train_decoder
from medldm.training.generation.stages import (
    RATES,
    SHARES,
    STAGES,
    Stage,
    read_state,
    train_autoencoder,
    train_flow,
)
from medldm.training.state import part
from medldm.training.trainer import Plan
from medldm.zoo import Card, card

log = logging.getLogger(__name__)

TRAINERS = dict(zip(STAGES, (train_autoencoder, train_flow, train_decoder, train_captions), strict=True))
BATCH = {"autoencoder": 4, "flow": 8, "decoder": 4, "captions": 32}  # of small grids on a CPU
FINEST = 1.0  # mm, to which heads are refined by default
LIMITS = (
    "research use only: what it draws is nobody's anatomy, and no evidence of anything",
    "samples are not anonymised patients: with so few people some may resemble one that it learned from; see the "
    "figures of memorisation",
)


def train_generator(
    data: str | Path,
    out: str | Path,
    *,
    minutes: float,
    region: str = "brain",
    stage: str = "all",
    resume: bool = False,
    init: str | None = None,
    name: str | None = None,
    seed: int = 0,
    device: str = "auto",
    config: GeneratorConfig | None = None,
    licence: str = "as you choose",
    validate_s: float = 120.0,
) -> Path:
    """Train a generator of MR scans.

    Parameters
    ----------
    data : folder of image files with a split table, see `medldm.training.splits.read_split`; ``modality``, ``age`` and
        ``sex`` of the table become conditions
    out : checkpoints, curves, cache and the finished model
    minutes : of wall clock, resumed runs counted in, divided over the stages by `SHARES`; of one stage, its own
    region : what the scans show, a name in `medldm.data.description.REGIONS`
    stage : ``autoencoder``, ``flow``, ``decoder``, ``captions`` or ``all``
    resume : go on from the checkpoints in `out`
    init : generator to start from, a shipped name or a path
    name : of the finished model; the folder's name when not given
    seed : of everything random
    device : ``auto``, ``cpu``, ``cuda``
    config : shape of the networks; `default_config` when not given
    licence : of the weights, for the card
    validate_s : seconds between validations

    Returns
    -------
    path of the model card, or of the run while one of the stages is missing

    Raises
    ------
    UsageError, InputError, ModelError
    """
    data, out = Path(data), Path(out)
    if region not in REGIONS:
        raise UsageError(f"--region is one of {', '.join(REGIONS)}, not {region!r}.")
    if minutes <= 0:
        raise UsageError(f"--minutes {minutes:g} leaves no time to train.")
    if not data.is_dir():
        raise UsageError(f"{data} is no folder of scans.")
    corpus = scans.load(data, out / "cache", region)
    start = card(init) if init else None
    if start and not start.generator:
        raise ModelError(f"{start.name} is no generator to start from.")
    config = config or (widths(start) if start else default_config(corpus))
    if config.shape != corpus.shape:
        raise UsageError(f"The scans lie on a grid of {corpus.shape}, the model to start from draws {config.shape}.")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    first = weights_of(start) if start else {}
    log.info(
        "%d scans to learn from, %d to judge by, on %s", int(corpus.train.sum()), int((~corpus.train).sum()), device
    )
    for kind in STAGES if stage == "all" else (stage,):
        share = minutes * SHARES[kind] if stage == "all" else minutes
        log.info("training %s for %.3g minutes", kind, share)
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(seed)
            TRAINERS[kind](
                Stage(
                    name=kind,
                    corpus=corpus,
                    config=config,
                    plan=Plan(minutes=share, learning_rate=RATES[kind], seed=seed, validate_s=validate_s, warm_up=100),
                    out=out,
                    resume=resume,
                    batch=BATCH[kind] // 2 if corpus.large and kind == "flow" else BATCH[kind],
                    device=device,
                    begun=time.monotonic(),
                    init=first,
                )
            )
    return publish(out, name or out.resolve().name, corpus, config, device, licence, start)


def default_config(corpus: scans.Corpus) -> GeneratorConfig:
    """The shape that suits a grid: of large ones more voxels become a latent."""
    described = [d for d, train in zip(corpus.descriptions, corpus.train.tolist(), strict=True) if train]
    small = GeneratorConfig(
        shape=corpus.shape,
        spacing=corpus.spacing,
        contrasts=tuple(sorted({d.contrast for d in described if d.contrast})) or ("T1w",),
        regions=tuple(sorted({d.region for d in described})),
    )
    if not corpus.large:
        return small
    return replace(small, patch=4, autoencoder=(48, 64), latent_channels=24, by_place=True, flow=(64, 96))


def widths(start: Card) -> GeneratorConfig:
    """Shape of a card's generator."""
    from medldm.inference.generation import config_of

    return config_of(start)


def weights_of(start: Card) -> dict[str, dict[str, Tensor]]:
    """Weights of a generator by stage."""
    tensors = {key: value.float() for key, value in read_weights(start).items()}
    weights = {stage: part(tensors, f"{stage}.") for stage in STAGES}
    return {stage: own for stage, own in weights.items() if own}


def publish(
    out: Path, name: str, corpus: scans.Corpus, config: GeneratorConfig, device: str, licence: str, start: Card | None
) -> Path:
    """Write the model of a run whose stages are finished; the run's folder while one is missing."""
    stage = Stage(
        name="flow", corpus=corpus, config=config, plan=Plan(), out=out, init=weights_of(start) if start else {}
    )
    parts = {}
    for kind in STAGES:
        try:
            parts[kind] = stage.finished(kind)
        except ModelError:
            if kind in ("autoencoder", "flow"):  # a generator draws without the others
                log.info("no model yet: %s is missing", kind)
                return out
    if "decoder" in parts and not same_encoder(parts["autoencoder"], parts["decoder"]):
        log.warning("the decoder was tuned for another autoencoder and is left out: train the stage decoder again")
        del parts["decoder"]
    trained = tuple(parts)
    parts["autoencoder"] = parts.pop("decoder", parts["autoencoder"])
    described = corpus.descriptions_of(train=True)
    ages = sorted(d.age for d in described if d.age is not None)
    mean = corpus.volumes(train=True).mean(0)[0]
    parts["template"] = {"mean": mean[::2, ::2, ::2].contiguous()}
    regions = ", ".join(config.regions)
    fields: dict[str, Any] = {
        "name": name,
        "title": f"Draws MR scans ({regions}) in 3D, {config.spacing:g} mm: autoencoder and flow",
        "modality": "mr",
        "spatial_dims": 3,
        "role": "generator",
        "verbs": ["generate"],
        "architecture": {},
        "licence": licence,
        "spacing_mm": [config.spacing, config.spacing],
        "limits": list(LIMITS),
        "generator": asdict(config)
        | {
            "centred": corpus.small,
            "ages": [ages[0], ages[-1]] if ages else [],
            "sexes": sorted({d.sex for d in described if d.sex}),
            "finest": config.spacing if corpus.small else FINEST,
        },
        "training": facts(out, corpus, device),
        "validation": {kind: curve_end(out, kind) for kind in trained},
    }
    written = save_model(parts, fields, out)
    log.info("wrote %s", written)
    return written


def facts(out: Path, corpus: scans.Corpus, device: str) -> dict[str, Any]:
    """Who was in the training, and how long it took."""
    index = json.loads((out / "cache" / "generation.json").read_text())["scans"]
    train = [scan for scan in index if scan["train"]]
    described = corpus.descriptions_of(train=True)
    decades = Counter(f"{int(d.age // 10) * 10} to {int(d.age // 10) * 10 + 9}" for d in described if d.age is not None)
    subjects: dict[str, set[str]] = {}
    for scan, d in zip(train, described, strict=True):
        source = str(scan["source"]).split("@")[0] or "own data"
        subjects.setdefault(f"MR {d.contrast or 'of unknown contrast'} | {source}", set()).add(scan["subject"])
    states = {kind: read_state(out / kind) for kind in STAGES if read_state(out / kind)}
    return {
        "scans": len(train),
        "subjects": {key: len(names) for key, names in sorted(subjects.items())},
        "ages": dict(sorted(decades.items())) | {"unknown": sum(d.age is None for d in described)},
        "sexes": dict(sorted(Counter(d.sex or "unknown" for d in described).items())),
        "licences": dict(sorted(Counter(scan["licence"] for scan in train if scan["licence"]).items())),
        "minutes": {kind: round(state["seconds"] / 60, 1) for kind, state in states.items()},
        "steps": {kind: state["step"] for kind, state in states.items()},
        "hardware": f"{device}, {cores()} cores, {platform.machine()}, torch {torch.__version__}",
    }


def curve_end(out: Path, kind: str) -> dict[str, float]:
    """Last row of a stage's validation curve."""
    rows = read_state(out / kind).get("rows", [])
    not_scores = ("minutes", "step", "loss", "skipped")
    return {key: round(value, 2) for key, value in rows[-1].items() if key not in not_scores} if rows else {}
