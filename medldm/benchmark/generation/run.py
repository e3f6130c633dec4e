"""Score a generator in one command: how real, how varied, how true to words its samples are, and whether it copies."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm.benchmark.generation import attributes, copies, realism
from medldm.benchmark.generation.pictures import write_neighbours, write_samples
from medldm.benchmark.generation.sets import (
    FIRST_SEED,
    Array,
    ScanSet,
    Sets,
    decoded,
    drawn_samples,
    features_of,
    matched,
    real_scans,
    scaled,
    split_of,
)
from medldm.benchmark.generation.table import Score, markdown
from medldm.benchmark.scoring import Backbone, encoder_backbone
from medldm.data.description import Description
from medldm.errors import UsageError
from medldm.inference.device import pick_device
from medldm.inference.generation import generator_for, load_generator
from medldm.io.atomic import whole_file
from medldm.provenance.record import package_version
from medldm.settings import Progress
from medldm.tasks.generate import Generate
from medldm.zoo import Card

log = logging.getLogger(__name__)

COUNT = 64  # samples
FEWEST = 4  # samples of which a set can be compared with another


def run_generation(
    data: str | Path,
    out: str | Path | None = None,
    *,
    model: str = "auto",
    count: int = COUNT,
    steps: int | None = None,
    guidance: float | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    backbone: Backbone | None = None,
) -> Path:
    """Score a generator on real scans.

    Parameters
    ----------
    data : folder of MR scans with a split table, as the generator was trained on: it is judged by the people of ``val``
    out : generation.json, generation.md, samples.png and neighbours.png; scans on the generator's grid and what was
        drawn are kept there, so that a second run is fast
    model : name or path of a generator; ``"auto"`` takes a shipped one
    count : samples, with seeds from `FIRST_SEED` on
    steps, guidance : as for `medldm generate`, whose defaults they have
    device : ``auto``, ``cpu``, ``cuda``
    progress : called with (done, total, what); a log line for each tenth when not given
    backbone : encoder behind the features; that of the shipped MR restorer when not given

    Returns
    -------
    path of the Markdown table

    Raises
    ------
    UsageError, InputError, ModelError
    """
    if count < FEWEST:
        raise UsageError(f"--count {count}: sets of samples are compared, so there must be at least {FEWEST}.")
    data, out = Path(data), Path("benchmark_result" if out is None else out)
    if not data.is_dir():
        raise UsageError(f"{data} is no folder of scans.")
    defaults = Generate()
    steps = defaults.steps if steps is None else steps
    guidance = defaults.guidance if guidance is None else guidance
    card = generator_for(Description(), model)
    backbone, progress = backbone or encoder_backbone(), progress or _log
    out.mkdir(parents=True, exist_ok=True)
    device = pick_device(device)
    sets = gather(data, out, card, backbone, device, progress, count=count, steps=steps, guidance=guidance)
    scores = all_scores(sets, lambda some: cosines(card, some, device), backbone.name)
    facts: dict[str, Any] = {
        "medldm": package_version("medldm"),
        "command": command(data, card),
        "model": card.name,
        "sha256": card.sha256,
        "features": f"{backbone.name}: mean and standard deviation of each channel of the encoder, planes of three "
        "orientations, levels at equal variance on the training scans",
        "first_seed": FIRST_SEED,
        "steps": steps,
        "guidance": guidance,
        "scans": {
            "samples": len(sets.samples),
            "training": len(sets.training),
            "held_out": len(sets.held_out),
        },
        "people": {"training": len(set(sets.training.subjects)), "held_out": len(set(sets.held_out.subjects))},
    }
    table = {score.name: asdict(score) for score in scores}
    write_samples(sets.samples, out / "samples.png")
    write_neighbours(sets, table["copies"]["numbers"]["nearest"], out / "neighbours.png")
    for name, text in (
        ("generation.json", json.dumps({**facts, "scores": table}, indent=1) + "\n"),
        ("generation.md", markdown(scores, facts)),
    ):
        with whole_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "generation.md"


def all_scores(sets: Sets, captions: Callable[[ScanSet], Array | None], backbone: str) -> list[Score]:
    """Every score that the data allow; those that they do not allow say why.

    Parameters
    ----------
    sets : scans
    captions : cosines of scans and descriptions; None of a model that has no text encoder
    backbone : name of the encoder behind the features
    """
    random = np.random.default_rng(0)
    numbers = matched(sets.training.joined(sets.held_out), sets.samples, random)
    real = sets.training.joined(sets.held_out).subset(numbers)
    real_decoded = sets.training_decoded.joined(sets.held_out_decoded).subset(numbers)
    return [
        *realism.distances(sets, real, real_decoded, random, backbone),
        realism.diversity(sets, real, real_decoded, random),
        *copies.memorised(sets, random),
        realism.reconstruction(sets, random),
        attributes.inception(sets, random),
        attributes.caption_score(sets, captions, random),
        attributes.ages(sets, random),
        attributes.sexes(sets, random),
        *attributes.tissues(sets, real, real_decoded, random),
    ]


def gather(
    data: Path,
    out: Path,
    card: Card,
    backbone: Backbone,
    device: str,
    progress: Progress,
    *,
    count: int,
    steps: int,
    guidance: float,
) -> Sets:
    """Real scans, decoded scans and samples, with their features; parameters as of `run_generation`."""
    corpus = real_scans(data, out / "cache", card)
    generator = load_generator(card, device)
    training, held_out = (split_of(corpus, train=train) for train in (True, False))
    folder = out / "drawn" / f"{card.sha256[:12]}-steps{steps}-guidance{guidance:g}"
    samples, latents = drawn_samples(
        generator, held_out.descriptions, folder, count=count, steps=steps, guidance=guidance, progress=progress
    )
    training_decoded, of_training, _, _ = decoded(generator, training, progress, mirrored=True)
    held_out_decoded, of_held_out, psnr, mae = decoded(generator, held_out, progress)
    named = {
        "training": training,
        "held_out": held_out,
        "training_decoded": training_decoded,
        "held_out_decoded": held_out_decoded,
        "samples": samples,
    }
    return Sets(
        **with_features(named, backbone),
        latents={
            "training": of_training["plain"],
            "mirrored": of_training["mirrored"],
            "held_out": of_held_out["plain"],
            "samples": latents,
        },
        psnr=psnr,
        mae=mae,
        card=card,
        spacing=corpus.spacing,
        small=corpus.small,
    )


def with_features(named: dict[str, ScanSet], backbone: Backbone) -> dict[str, Any]:
    """The same sets with features, scaled by those of the set ``training``."""
    raw = {name: features_of(some, backbone) for name, some in named.items()}
    reference, groups = raw["training"]
    return {name: replace(some, features=scaled(raw[name][0], groups, reference)) for name, some in named.items()}


def cosines(card: Card, some: ScanSet, device: str) -> Array | None:
    """(N,) cosine of each scan and its description; None of a model without text encoder."""
    from medldm.inference.captions import caption_scores

    volumes = torch.from_numpy(np.stack([some.volume(number) for number in range(len(some))]))[:, None]
    scores = caption_scores(card, volumes, some.descriptions, device)
    return None if scores is None else scores.double().numpy()


def command(data: Path, card: Card) -> str:
    """The command line that made the scores."""
    if Path(sys.argv[0]).name == "medldm":
        return "medldm " + " ".join(sys.argv[1:])
    return f"medldm benchmark {data} --generation --model {card.name}"


def _log(done: int, total: int, what: str) -> None:
    if done % max(1, total // 10) == 0 or done == total:
        log.warning("%d of %d: %s", done, total, what)
