"""Measure the gates of a set with a residual flow: `python docs/benchmarks/gates.py ../shared/data [--model NAME|PATH]`.

Cubes of validation subjects are damaged as the rows of the table say and restored with the package's own functions;
every figure stands by row and scanner. Writes gates.csv and gates.md, and prints them. Some 15 minutes on one core;
`--quick` takes one cube a row and scanner.
"""

from __future__ import annotations

import argparse
import csv
import logging
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from medldm.benchmark.gates import (
    DAMAGED,
    FOREGROUND,
    GATES,
    LOSSY,
    ROWS,
    THIN,
    Answer,
    Case,
    answer,
    averaged,
    blocks,
    case,
    cases,
    drawn,
    figures,
    judged,
    regress,
)
from medldm.benchmark.lesions import lesion_scores
from medldm.benchmark.scans import is_thin, scans
from medldm.inference.device import pick_device
from medldm.inference.networks import Networks, load_networks
from medldm.io import read_nifti
from medldm.metrics import fine_detail, kernel_distance
from medldm.metrics.realism import (
    PATCH,
    accuracy,
    patch_places,
    patches,
    power_gap_db,
    sliced_wasserstein,
    two_sample_classifier,
)
from medldm.modality import MODALITIES
from medldm.models.precision import pick_precision
from medldm.training.data import Packed
from medldm.zoo import Card, best, card

log = logging.getLogger("gates")
HERE = Path(__file__).parent / "gates"
PATCHES = 1500  # of each cube and set, for the classifier
SMALL = 8  # voxels along the edge of a patch whose pixels are compared as numbers
COMPARED = 2000  # of these, per scanner
SEEDS = 3  # of the classifier
TRAINED_SHARE = 0.6  # of a cube's third axis; the classifier is judged beyond it
APART = 4  # voxels between the two
LESION_SAMPLES = 4
TIMED = (128, 128, 64)  # voxels
CUBES_PER_SCANNER = 4


class Restored(NamedTuple):
    """A case and what the networks say of it."""

    case: Case
    answer: Answer


def packed(row: dict[str, str], modality: str) -> Packed:
    """A scan of the manifest as training takes them, cropped to its content."""
    volume = read_nifti(Path(row["path"]))
    kind = MODALITIES[modality]
    scaled = kind.scaling(volume.voxels).apply(volume.voxels).astype(np.float32)
    at = np.argwhere(scaled > FOREGROUND)
    box = tuple(slice(max(0, low - 4), high + 5) for low, high in zip(at.min(0), at.max(0), strict=True))
    return Packed(
        voxels=scaled[box],
        scale=1.0,
        spacing=volume.spacing,
        slice_axis=int(np.argmax(volume.spacing)),
        isotropic=is_thin(volume.spacing),
        weight=1.0,
        file=row["file"],
        subject=row["subject"],
    )


def by_scanner(listed: Sequence[dict[str, str]], quick: bool) -> Iterator[tuple[str, dict[str, str], int]]:
    """Scanner, scan and how many cubes of it: about as many cubes of every scanner, thin slices apart from thick."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in listed:
        groups.setdefault(row["file"].split("_")[0], []).append(row)
    for scanner, rows in groups.items():
        chosen = rows[:1] if quick else rows[:CUBES_PER_SCANNER]
        for row in chosen:
            yield scanner, row, 1 if quick else max(1, CUBES_PER_SCANNER // len(chosen))


def lesions(networks: Networks, sick: Case, steps: int, device: str) -> dict[str, float]:
    """False lesions and contrast of lesions in b and in samples."""
    regression = regress(networks, sick, device)
    b = sick.project(regression.mean)
    samples = [drawn(networks, sick, regression, 2 * seed, steps, device) for seed in range(LESION_SAMPLES)]

    def scored(guess: torch.Tensor) -> tuple[float, float]:
        assert sick.healthy is not None
        images = (guess.numpy(), sick.clean.numpy(), sick.healthy.numpy())
        scores = lesion_scores(*images, sick.lesions, sick.spacing, sick.inside, sick.lost)
        contrasts = [value for key, value in scores.items() if key[len("lesion_") :].isdigit() and value == value]
        return scores["lesions_false"], float(np.mean(contrasts)) if contrasts else np.nan

    of_b, of_samples = scored(b), np.array([scored(sample) for sample in samples]).mean(0)
    return {
        "false lesions": float(of_samples[0]),
        "false lesions b": of_b[0],
        "contrast b": of_b[1],
        "contrast gain": float(of_samples[1]) - of_b[1],
    }


class Details(NamedTuple):
    """Patches of fine detail of one scanner: of one kind of image each, at the same places.

    Parameters
    ----------
    trained, held : kind (clean, b, sample) to (N, size, size), on both sides of a cut through every cube
    """

    trained: dict[str, np.ndarray[Any, Any]]
    held: dict[str, np.ndarray[Any, Any]]


def details(restored: Sequence[Restored]) -> Details:
    """Patches of the cubes of a scanner."""
    sides: list[dict[str, list[np.ndarray[Any, Any]]]] = [{}, {}]
    for number, (damaged, given) in enumerate(restored):
        generator = np.random.default_rng(number)
        images = {"clean": damaged.clean, "b": given.b, "sample": given.samples[0], "other": given.samples[-1]}
        fine = {kind: fine_detail(image.numpy(), damaged.detail_axes) for kind, image in images.items()}
        cut = round(TRAINED_SHARE * damaged.clean.shape[2])
        for side, held in zip(sides, (slice(0, cut), slice(cut + APART, None)), strict=True):
            where = np.zeros(damaged.scored.shape, dtype=bool)
            where[..., held] = damaged.scored[..., held]
            places = patch_places(where, PATCHES, generator)
            half = len(places) // 2  # a second sample for half of the patches
            for kind in ("clean", "b"):
                side.setdefault(kind, []).append(patches(fine[kind], places))
            of_samples = [patches(fine[kind], at) for kind, at in (("sample", places[:half]), ("other", places[half:]))]
            side.setdefault("sample", []).append(np.concatenate(of_samples))
    trained, held = ({kind: np.concatenate(parts) for kind, parts in side.items()} for side in sides)
    return Details(trained, held)


def classified(by_name: dict[str, Details]) -> dict[str, dict[str, float]]:
    """Accuracy of classifiers trained on all scanners, on held-out patches of each."""
    result: dict[str, dict[str, float]] = {scanner: {} for scanner in by_name}
    for kind, key in (("sample", "classifier"), ("b", "classifier b")):
        ours, real = (np.concatenate([part.trained[name] for part in by_name.values()]) for name in (kind, "clean"))
        trained = [two_sample_classifier(ours, real, seed) for seed in range(SEEDS)]
        for scanner, part in by_name.items():
            shares = [accuracy(classifier, part.held[kind], part.held["clean"]) for classifier in trained]
            result[scanner][key] = float(np.mean(shares))
    return result


def compared(part: Details) -> dict[str, float]:
    """Kernel distance and sliced Wasserstein distance of fine detail to real detail elsewhere."""
    generator = np.random.default_rng(0)
    middle = slice((PATCH - SMALL) // 2, (PATCH + SMALL) // 2)
    scale = float(part.trained["clean"].std())

    def small(kind: str, order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        whole = np.concatenate([part.trained[kind], part.held[kind]])[order]
        return (whole[:, middle, middle] / scale).reshape(len(order), -1)

    count = len(part.trained["clean"]) + len(part.held["clean"])
    order = generator.permutation(count)[: 2 * min(COMPARED, count // 2)]
    real, places = np.split(order, 2)  # both estimators want sets that do not share places
    out = {}
    for kind, suffix in (("sample", ""), ("b", " b"), ("clean", " real")):
        ours, true = small(kind, places), small("clean", real)
        out[f"kernel{suffix}"] = kernel_distance(ours, true)
        out[f"sliced{suffix}"] = sliced_wasserstein(ours, true, np.random.default_rng(0))
    return out


def spectra(damaged: Case, given: Answer) -> dict[str, float]:
    """Gap of log power along the damaged axis, dB."""
    clean, where = damaged.clean.numpy(), damaged.inside
    inner = (slice(4, -4),) * 3
    gaps = [
        power_gap_db(guess.numpy()[inner], clean[inner], 0, where[inner]) for guess in (given.samples[0], given.b)
    ]
    return {"power": gaps[0], "power b": gaps[1]}


def cost(networks: Networks, scan: Packed, row: str, steps: int, device: str) -> dict[str, float]:
    """Seconds of b and of the steps of one sample, on a slab that takes several tiles; the better of two runs."""
    starts = [max(0, (size - want) // 2) for size, want in zip(scan.voxels.shape, TIMED, strict=True)]
    where = tuple(slice(start, start + want // 16 * 16) for start, want in zip(starts, TIMED, strict=True))
    block = scan.scaled(where, None)
    block = block[tuple(slice(0, size // 16 * 16) for size in block.shape)].contiguous()
    damaged = case(row, "", block, scan.spacing)
    seconds: dict[str, list[float]] = {"b": [], "steps": []}
    for number in range(2):
        started = time.monotonic()
        regression = regress(networks, damaged, device)
        seconds["b"].append(time.monotonic() - started)
        started = time.monotonic()
        drawn(networks, damaged, regression, number, steps, device)
        seconds["steps"].append(time.monotonic() - started)
    of_b, of_steps = min(seconds["b"]), min(seconds["steps"])
    return {"seconds b": of_b, "seconds steps": of_steps, "time ratio": of_steps / of_b}


def measured(
    networks: Networks, data: Path, chosen: Card, options: argparse.Namespace, device: str
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Row, scanner, figures."""
    listed = [row for row in scans(data, options.split, chosen.modality) if float(row.get("weight") or 1) > 0]
    ready = [
        (scanner, packed(row, chosen.modality), count) for scanner, row, count in by_scanner(listed, options.quick)
    ]
    for row in ROWS:
        started = time.monotonic()
        cells: dict[str, list[Restored]] = {}
        values: dict[str, list[dict[str, float]]] = {}
        for scanner, scan, count in ready:
            for damaged in cases(scan, scanner, [row], count):
                if damaged.scored.sum() < 64:
                    continue
                given = answer(networks, damaged, options.samples, options.steps, device)
                found_here = figures(networks, damaged, given)
                if row in THIN:
                    found_here |= spectra(damaged, given)
                values.setdefault(scanner, []).append(found_here)
                cells.setdefault(scanner, []).append(Restored(damaged, given))
        realism: dict[str, dict[str, float]] = {scanner: {} for scanner in cells}
        if row in LOSSY:
            parts = {scanner: details(cell) for scanner, cell in cells.items()}
            realism = classified(parts)
            for scanner, part in parts.items():
                realism[scanner] |= compared(part)
        harms: dict[str, list[dict[str, float]]] = {}
        for scanner, scan, count in ready if row != "region" else []:
            for sick in cases(scan, scanner, [row], count, lesions=True):
                if sick.lesions:
                    harms.setdefault(scanner, []).append(lesions(networks, sick, options.steps, device))
        for scanner, cell in values.items():
            every = averaged([one | realism[scanner] for one in cell])
            if scanner in harms:
                every |= averaged(harms[scanner])
            yield row, scanner, every | {"cubes": float(len(cell))}
        log.info("%s after %.0f s", row, time.monotonic() - started)
        thin = [scan for _, scan, _ in ready if scan.isotropic]
        if row in ("thick4", "noise7") and thin:
            yield row, "all", cost(networks, thin[0], row, options.steps, device)


if __name__ == "__main__":
    pass
