"""What each verb does once its words are understood."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medldm.cli.flags import settings_from
from medldm.errors import InputError, ModelError, UsageError
from medldm.settings import VERBS


def run(arguments: argparse.Namespace) -> int:
    """The verb of a parsed command line; its exit code."""
    others: dict[str, Callable[[argparse.Namespace], int]] = {
        "inspect": inspect,
        "models": models,
        "train": train,
        "benchmark": benchmark,
        "demo": demo,
        "rerun": rerun,
    }
    return others.get(arguments.verb, restore)(arguments)


def restore(arguments: argparse.Namespace) -> int:
    """All restoring verbs."""
    settings = settings_from(arguments, VERBS[arguments.verb])
    if arguments.workers != 1 or arguments.scheduler:
        raise UsageError(
            "Several workers come with a later version; use --shard I/N on several machines or shells until then."
        )
    if arguments.uncertainty and settings.samples < 2:
        raise UsageError("--uncertainty needs several restorations to compare: say --samples 4, for instance.")
    from medldm.batch import Options, run_batch
    from medldm.cli.progress import watching

    options = Options(
        include=tuple(arguments.include),
        exclude=tuple(arguments.exclude),
        format=arguments.format,
        volume=arguments.volume,
        uncertainty=arguments.uncertainty,
        preview=arguments.preview,
        report=arguments.report,
        overwrite=arguments.overwrite,
        fail_fast=arguments.fail_fast,
        dry_run=arguments.dry_run,
        fix=arguments.fix,
        shard=shard(arguments.shard),
    )
    with watching(arguments) as watch:
        return run_batch(arguments.verb, Path(arguments.source), Path(arguments.out), settings, options, watch)


def shard(words: str | None) -> tuple[int, int]:
    """``2/5`` as (2, 5).

    Raises
    ------
    UsageError
    """
    if words is None:
        return 1, 1
    try:
        part, parts = (int(word) for word in words.split("/"))
    except ValueError as problem:
        raise UsageError(f"--shard is I/N like 2/5, not {words!r}.") from problem
    if not 1 <= part <= parts:
        raise UsageError(f"--shard {words}: the part lies between 1 and {parts}.")
    return part, parts


def inspect(arguments: argparse.Namespace) -> int:
    """Print what is there."""
    from medldm.batch.runner import opened
    from medldm.inspection import inspect as look

    with opened(Path(arguments.source)) as root:
        findings = look(root)
    if arguments.json:
        print(json.dumps([finding.asdict() for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.name}: {finding.status}")
            facts = finding.facts
            if "shape" in facts:
                shape, spacing = (
                    " x ".join(map(str, facts["shape"])),
                    " x ".join(f"{mm:g}" for mm in facts["spacing_mm"]),
                )
                print(
                    f"  {facts.get('modality', '').upper()} {shape} voxels of {spacing} mm, "
                    f"{facts['orientation']}, {facts['voxel_type']}"
                )
            if "noise" in facts:
                print(f"  noise {facts['noise']['words']}")
            print(f"  {'plan: ' if finding.status == 'restorable' else ''}{finding.reason}")
    alone = len(findings) == 1 and findings[0].status != "restorable"
    if alone:
        raise InputError(f"{arguments.source}: {findings[0].reason}")
    return 0


def models(arguments: argparse.Namespace) -> int:
    """Print the model cards."""
    from medldm.zoo import card, cards

    found = [card(arguments.name)] if arguments.name else cards()
    if arguments.json:
        print(json.dumps([each.asdict() for each in found], indent=1))
    elif arguments.name:
        print(describe(found[0]))
    else:
        for each in found:
            print(f"{each.name:20s} {each.modality.upper()}  {each.spatial_dims}D  {each.title}")
        print("\n`medldm models NAME` shows a card. Code: Apache-2.0. Weights: CC BY 4.0. Research use only.")
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
    ):
        lines += [f"{label}:", *(f"  {count:4d}  {name}" for name, count in values.items())]
    lines.append(f"minutes: {training.get('minutes')}, steps: {training.get('steps')}, on {training.get('hardware')}")
    for stage, rows in card.validation.items():
        told = ", ".join(f"{row} {value}" for row, value in rows.items()) if isinstance(rows, dict) else rows
        lines.append(f"validation {stage} (PSNR, dB): {told}")
    lines += [f"limit: {limit}" for limit in card.limits]
    return "\n".join(lines)


def train(arguments: argparse.Namespace) -> int:
    """Train."""
    if arguments.devices != 1:
        raise UsageError("Training on several devices comes with a later version; --devices 1 for now.")
    from medldm.training import train as begin

    written = begin(
        arguments.kind,
        arguments.data,
        arguments.out,
        minutes=arguments.minutes,
        resume=arguments.resume,
        init=arguments.init,
        spatial_dims=arguments.spatial_dims,
        device=arguments.device,
        seed=arguments.seed,
    )
    print(written)
    return 0


def benchmark(arguments: argparse.Namespace) -> int:
    """Score us and the rivals."""
    from medldm.benchmark import run as score

    written = score(
        Path(arguments.data),
        Path(arguments.out),
        quick=arguments.quick,
        tasks=_listed(arguments.tasks),
        methods_wanted=_listed(arguments.methods),
        split=arguments.split,
    )
    print(written)
    return 0


def _listed(words: str | None) -> tuple[str, ...] | None:
    return tuple(words.split(",")) if words else None


def demo(arguments: argparse.Namespace) -> int:
    """The main job on the shipped sample."""
    from medldm.cli.demo import demonstrate
    from medldm.cli.progress import watching

    with watching(arguments) as watch:
        return demonstrate(Path(arguments.out), overwrite=arguments.overwrite, watch=watch)


def rerun(arguments: argparse.Namespace) -> int:
    """Repeat a run from its record."""
    from medldm.batch import Options
    from medldm.batch.record import hash_files
    from medldm.batch.runner import one_case
    from medldm.cli.progress import watching
    from medldm.io.scans import find_cases
    from medldm.settings import make
    from medldm.zoo import card

    path = Path(arguments.sidecar)
    try:
        told = json.loads(path.read_text())
        verb, options, source = told["task"], told["settings"], told["input"]
        image = path.parent / told["result"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InputError(f"{path} is not the record of a medldm run ({problem}).") from problem
    settings = make(VERBS[verb], options)
    if told.get("model") and card(told["model"] if settings.model == "auto" else settings.model).sha256 != told.get(
        "sha256"
    ):
        raise ModelError(
            f"{path} was made with weights {str(told.get('sha256'))[:16]} of {told['model']}; this installation "
            "has others."
        )
    origin = Path(source["root"])
    cases = [case for case in find_cases(origin) if str(case.files[0]) == source["files"][0]]
    if not cases:
        raise InputError(f"{source['files'][0]}, the input of this run, is not there any more.")
    mask = [Path(source["mask"])] if source.get("mask") else []
    if hash_files([*cases[0].files, *mask]) != source["sha256"]:
        raise InputError(
            f"{source['files'][0]} has changed since this run; repeating it would not give the same image."
        )
    out = Path(arguments.out) if arguments.out else image
    if out.exists() and out.is_dir() and arguments.out:
        out = out / image.name
    if out == image and not arguments.overwrite:
        raise UsageError(f"{image} would be replaced: say --overwrite, or name another OUT.")
    files = Options(overwrite=arguments.overwrite, volume=source.get("volume"), format=source.get("format"))
    with watching(arguments) as watch:
        row = one_case(verb, cases[0], out, settings, files, watch)
    print(row.result, file=sys.stdout)
    return 0
