"""What each verb does once its arguments are parsed."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medldm.cli.flags import settings_from
from medldm.cli.settings_file import settings_in
from medldm.errors import InputError, UsageError, shown
from medldm.tasks import TASKS, Generate
from medldm.tasks.base import Need
from medldm.zoo import card, cards

UNITS = {  # of validation scores, by stage
    "spread": "truth in the 90 % interval, %",
    "flow": "error of the velocity, times 100",
    "captions": "descriptions found, %",
}
SOME_REFUSED = 8  # exit code, as of a batch in which some cases were refused


def run(arguments: argparse.Namespace) -> int:
    """The verb of a parsed command line; its exit code."""
    others: dict[str, Callable[[argparse.Namespace], int]] = {
        "inspect": inspect,
        "generate": generate,
        "models": models,
        "export-model": export_model,
        "train": train,
        "benchmark": benchmark,
        "demo": demo,
        "bids": lambda given: importlib.import_module("medldm.cli.bids").bids(given),
        "rerun": lambda given: importlib.import_module("medldm.cli.rerun").rerun(given),
    }
    if arguments.verb in others:
        return others[arguments.verb](arguments)
    return restore(arguments) if Need.SCAN in TASKS[arguments.verb].needs else create(arguments)


def create(arguments: argparse.Namespace) -> int:
    """Tasks that need no scan: one image, and its record beside it.

    Raises
    ------
    OutputError
        Something lies there.
    """
    settings = settings_from(arguments, TASKS[arguments.verb].settings)
    from medldm.batch.generation import run_creation
    from medldm.cli.progress import watching

    with watching(arguments) as watch:
        return run_creation(arguments.verb, settings, Path(arguments.out), watch, overwrite=arguments.overwrite)


def generate(arguments: argparse.Namespace) -> int:
    """Synthetic scans."""
    settings = settings_from(arguments, Generate)
    from medldm.batch.generation import run_generation
    from medldm.cli.progress import watching

    if settings.like:
        settings = replace(settings, like=str(Path(settings.like).absolute()))
    with watching(arguments) as watch:
        if settings.prompt.strip():
            watch.say(understood(settings.prompt))
        return run_generation(
            settings,
            Path(arguments.out),
            watch,
            count=arguments.count,
            shard=shard(arguments.shard),
            form=arguments.format,
            overwrite=arguments.overwrite,
        )


def understood(prompt: str) -> str:
    """What a prompt was understood to say, shown back."""
    from medldm.data.description import parse

    return f"understood: {parse(prompt)}"


def restore(arguments: argparse.Namespace) -> int:
    """Tasks that need a scan."""
    base, files = settings_in(Path(arguments.settings), arguments.verb) if arguments.settings else ({}, {})
    settings = settings_from(arguments, TASKS[arguments.verb].settings, base)
    if arguments.workers < 1:
        raise UsageError(f"--workers {arguments.workers}: at least one is needed.")
    if arguments.workers > 1 and arguments.scheduler:
        raise UsageError("--workers starts a cluster, --scheduler joins one that runs already; say one of them.")
    if arguments.uncertainty and not gives_spread(settings.model):
        raise UsageError(
            f"--uncertainty: {settings.model} has no spread head, so it cannot say how sure it is. Choose a model that "
            "has one (`medldm models`)."
        )
    from medldm.batch import Options, run_batch
    from medldm.cli.progress import watching

    options = Options(
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        format=arguments.format or files.get("format"),
        volume=files.get("volume") if arguments.volume is None else arguments.volume,
        uncertainty=arguments.uncertainty,
        preview=arguments.preview or arguments.report,  # a report shows pictures
        report=arguments.report,
        overwrite=arguments.overwrite,
        fail_fast=arguments.fail_fast,
        dry_run=arguments.dry_run,
        fix=arguments.fix or files.get("fix", False),
        shard=shard(arguments.shard),
        workers=arguments.workers,
        scheduler=arguments.scheduler,
    )
    with watching(arguments) as watch:
        return run_batch(arguments.verb, sources(arguments), Path(arguments.out), settings, options, watch)


def gives_spread(model: str) -> bool:
    """Whether one answer of a model, or of one that ``auto`` may choose, comes with its spread."""
    return any(known.spread for known in (cards() if model == "auto" else [card(model)]))


def sources(arguments: argparse.Namespace) -> tuple[Path, ...]:
    """IN, one path or several."""
    return tuple(map(Path, [arguments.source] if isinstance(arguments.source, str) else arguments.source))


def shard(text: str | None) -> tuple[int, int]:
    """``2/5`` as (2, 5).

    Raises
    ------
    UsageError
    """
    if text is None:
        return 1, 1
    try:
        part, parts = (int(word) for word in text.split("/"))
    except ValueError as problem:
        raise UsageError(f"--shard is I/N like 2/5, not {text!r}.") from problem
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {text}: the part lies between 1 and {parts}.")
    return part, parts


def inspect(arguments: argparse.Namespace) -> int:
    """Print what is there."""
    from medldm.qc.inspection import inspect as look

    named = sources(arguments)
    findings = look(named, include=arguments.include, exclude=arguments.exclude)
    if arguments.json:
        print(json.dumps([finding.asdict() for finding in findings], indent=1))
    else:
        print("\n".join(shown(line) for finding in findings for line in finding.lines()))
    if len(named) == len(findings) == 1 and findings[0].status != "restorable":
        known = findings[0].reason.startswith(str(named[0]))
        raise InputError(findings[0].reason if known else f"{named[0]}: {findings[0].reason}")
    return SOME_REFUSED if any(finding.status in ("refused", "failed") for finding in findings) else 0


def models(arguments: argparse.Namespace) -> int:
    """Print the model cards."""
    from medldm.zoo import card, cards

    chosen = [card(arguments.name)] if arguments.name else cards()
    if arguments.json:
        print(json.dumps([model.asdict() for model in chosen], indent=1))
    elif arguments.name:
        print(describe(chosen[0]))
    else:
        for model in chosen:
            print(f"{model.name:20s} {model.modality.upper()}  {model.spatial_dims}D  {model.title}")
        print(
            "\n`medldm models NAME` shows a card. Code: Apache-2.0. Weights: CC BY 4.0, where a card says no other "
            "licence. Research use only."
        )
    return 0


def describe(card: Any) -> str:
    """A model card as text."""
    lines = [
        f"{card.name}: {card.title}",
        f"verbs: {', '.join(card.verbs)}",
        f"weights: {card.licence}, SHA-256 {card.sha256[:16]}",
    ]
    training = card.training
    for label, values in (
        ("trained on (subjects)", training.get("subjects", {})),
        ("licences of the data (scans)", training.get("licences", {})),
        ("ages of the people, years (scans)", training.get("ages", {})),
        ("sexes of the people (scans)", training.get("sexes", {})),
    ):
        if values:
            lines += [f"{label}:"]
        lines += [*(f"  {count:4d}  {name}" for name, count in values.items())]
    lines.append(f"minutes: {training.get('minutes')}, steps: {training.get('steps')}, on {training.get('hardware')}")
    for stage, rows in card.validation.items():
        scores = "; ".join(f"{row} {value}" for row, value in rows.items()) if isinstance(rows, dict) else rows
        unit = UNITS.get(stage, "PSNR, dB")
        lines.append(f"validation {stage} ({unit}): {scores}")
    lines += [f"limit: {limit}" for limit in card.limits]
    return "\n".join(lines)


def export_model(arguments: argparse.Namespace) -> int:
    """A model as a MONAI bundle."""
    from medldm.zoo import card, check_weights

    model = card(arguments.name)
    check_weights(model)
    from medldm.export import monai_bundle

    print(monai_bundle.export(model, Path(arguments.out)))
    return 0


def train(arguments: argparse.Namespace) -> int:
    """Train, or pack scans to train elsewhere."""
    if arguments.kind == "pack":
        from medldm.training.archive import pack_file

        packed = Path(arguments.data), Path(arguments.out)
        print(pack_file(*packed, modality=arguments.modality, megabytes=arguments.megabytes))
        return 0
    if arguments.minutes is None:
        raise UsageError("--minutes is missing. It says how long to train, resumed runs counted in.")
    if arguments.kind == "generator":
        return train_a_generator(arguments)
    from medldm.training import train as begin

    written = begin(
        arguments.kind,
        arguments.data,
        arguments.out,
        minutes=arguments.minutes,
        resume=arguments.resume,
        init=arguments.init,
        distil=arguments.distil,
        spatial_dims=arguments.spatial_dims,
        modality=arguments.modality,
        device=arguments.device,
        devices=arguments.devices,
        seed=arguments.seed,
    )
    print(written)
    return 0


def train_a_generator(arguments: argparse.Namespace) -> int:
    """The networks of `medldm generate`.

    Raises
    ------
    UsageError
        Options of other networks.
    """
    for option in ("distil", "spatial_dims", "modality"):
        if getattr(arguments, option):
            raise UsageError(f"--{option.replace('_', '-')} does not go with generator.")
    if arguments.devices > 1:
        raise UsageError("A generator is trained on one device. Leave --devices out.")
    from medldm.training.generation.run import train_generator

    written = train_generator(
        arguments.data,
        arguments.out,
        minutes=arguments.minutes,
        region=arguments.region,
        stage=arguments.stage,
        resume=arguments.resume,
        init=arguments.init,
        seed=arguments.seed,
        device=arguments.device,
    )
    print(written)
    return 0


def benchmark(arguments: argparse.Namespace) -> int:
    """Score medldm and the baselines, or a generator.

    Raises
    ------
    UsageError
        Options of the one for the other.
    """
    if arguments.generation:
        return benchmark_generation(arguments)
    for name in ("model", "count"):
        if getattr(arguments, name) is not None:
            raise UsageError(f"--{name} is for --generation, which scores a generator. Add it, or leave --{name} out.")
    from medldm.benchmark import run as score

    written = score(
        Path(arguments.data),
        Path(arguments.out),
        quick=arguments.quick,
        tasks=_listed(arguments.tasks),
        methods_wanted=_listed(arguments.methods),
        split=arguments.split,
        at_most=arguments.scans,
        backbones=_listed(arguments.backbones) or (),
    )
    print(written)
    return 0


def benchmark_generation(arguments: argparse.Namespace) -> int:
    """Score a generator.

    Raises
    ------
    UsageError
        Options of the benchmark of restorations.
    """
    others = ("quick", "tasks", "methods", "backbones", "scans")
    given = [f"--{name}" for name in others if getattr(arguments, name) not in (None, False)]
    given += ["--split"] if arguments.split != "test" else []
    if given:
        raise UsageError(
            f"{' and '.join(given)} belong to the benchmark of restorations; --generation draws samples and compares "
            "them with the scans of DATA, of the splits train and val. Leave them out."
        )
    from medldm.benchmark.generation import COUNT, run_generation
    from medldm.cli.progress import watching

    with watching(arguments) as watch:
        written = run_generation(
            arguments.data,
            arguments.out,
            model=arguments.model or "auto",
            count=COUNT if arguments.count is None else arguments.count,
            progress=watch.progress,
        )
    print(written)
    return 0


def _listed(text: str | None) -> tuple[str, ...] | None:
    return tuple(text.split(",")) if text else None


def demo(arguments: argparse.Namespace) -> int:
    """The main job on the shipped sample."""
    from medldm.cli.demo import demonstrate
    from medldm.cli.progress import watching

    with watching(arguments) as watch:
        return demonstrate(Path(arguments.out), overwrite=arguments.overwrite, watch=watch)
