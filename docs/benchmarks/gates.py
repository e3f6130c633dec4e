"""Measure the gates of a set with a flow: `python docs/benchmarks/gates.py ../shared/data [--model NAME|PATH]`.

Cubes of validation subjects are damaged as the rows of the table say and restored with the package's own functions;
every figure stands by row and scanner. Writes gates.csv and table.md, and prints them. Some 15 minutes on one core;
`--quick` takes one cube a row and scanner, and its realism means little.
"""

from __future__ import annotations

import argparse
import csv
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medldm.benchmark.gate_cases import FOREGROUND, LOSSY, ROWS, THIN, Case, case, cases
from medldm.benchmark.gates import GATES, SamplingOptions, answer, averaged, drawn, figures, judged, regress
from medldm.benchmark.gates_realism import Restored, classified, compared, details, noise_alone, spectra
from medldm.benchmark.lesions import lesion_scores
from medldm.benchmark.scans import is_thin, scans
from medldm.benchmark.tables import commit
from medldm.diffusion.samplers import DEFAULT, SAMPLERS
from medldm.inference.device import pick_device
from medldm.inference.networks import Networks, load_networks
from medldm.io import read_nifti
from medldm.modality import MODALITIES, MR
from medldm.models.precision import pick_precision
from medldm.training.data import Packed
from medldm.zoo import card

log = logging.getLogger("gates")
HERE = Path(__file__).parent / "gates"
RESEARCH = str(Path(__file__).parents[1] / "training" / "flow" / "brain-mri-2d-flow.json")  # no set ships a flow
LESION_SAMPLES = 4  # two pairs of opposite noise
TIMED = (128, 128, 64)  # voxels
CUBES_PER_SCANNER = 3
LEAST = 64  # scored voxels of a cube that says anything
MARKS = {"True": "passed", "False": "**missed**"}
# Figures that no gate judges, for the second table.
REPORTED = {
    "psnr b": "PSNR of b, dB",
    "crps over noise": "CRPS / that of latents that no flow has moved",
    "energy score over noise": "energy score / the same",
    "outside of samples": "truth outside of all samples; right is 2 / (samples + 1)",
    "s / error": "spread s / error of b",
    "in 90 % of s": "truth within 1.645 s of b",
    "detail b": "energy of fine detail, b",
    "detail sample": "energy of fine detail, sample",
    "correlation b": "correlation of fine detail, b",
    "correlation sample": "correlation of fine detail, sample",
    "classifier b": "accuracy of the classifier, b against real patches; it is good enough at 0.95",
    "power b": "rms gap of log power, b, dB",
    "power": "rms gap of log power, sample, dB",
    "sliced b": "sliced Wasserstein distance of fine detail, b",
    "sliced": "sliced Wasserstein distance of fine detail, sample",
    "sliced real": "sliced Wasserstein distance of real detail to real detail",
    "false lesions b": "false lesions a cube, b",
    "false lesions": "false lesions a cube, sample",
    "false lesions ratio": "false lesions of a sample / those of b",
    "false lesions mean": "false lesions a cube, mean of four samples",
    "contrast b": "contrast of lesions recovered in b",
    "seconds b": "seconds of b",
    "seconds steps": "seconds of the steps",
}
KEPT = ("row", "scanner", "figure", "value", "gate", "limit", "passed")  # columns of gates.csv
HEAD = ("command", "sha256", "commit")  # and of every line: what was measured


class Scan(NamedTuple):
    """A scan, where it comes from, and how many cubes of it are damaged."""

    scanner: str
    scan: Packed
    cubes: int


class Run(NamedTuple):
    """What is measured, and how."""

    networks: Networks
    samples: int
    options: SamplingOptions


Figures = dict[str, float]


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
    """Scanner, scan and how many cubes of it: about as many cubes of every scanner."""
    groups: dict[str, list[dict[str, str]]] = {}
    for row in listed:
        groups.setdefault(row["file"].split("_")[0], []).append(row)
    for scanner, rows in groups.items():
        chosen = rows[:1] if quick else rows[:CUBES_PER_SCANNER]
        for row in chosen:
            yield scanner, row, 1 if quick else max(1, CUBES_PER_SCANNER // len(chosen))


def lesions(run: Run, sick: Case) -> Figures:
    """False lesions and contrast of lesions in b and in samples."""
    regression = regress(run.networks, sick, run.options.device)
    b = sick.project(regression.mean)
    # Pairs of opposite noise: what a pair does to the contrast of a lesion is not luck.
    samples = [drawn(run.networks, sick, regression, seed, run.options) for seed in range(LESION_SAMPLES)]

    def scored(guess: Any) -> tuple[float, float]:
        assert sick.healthy is not None
        images = (guess.numpy(), sick.clean.numpy(), sick.healthy.numpy())
        scores = lesion_scores(*images, sick.lesions, sick.spacing, sick.inside, sick.lost)
        contrasts = [value for key, value in scores.items() if key[len("lesion_") :].isdigit() and value == value]
        return scores["lesions_false"], float(np.mean(contrasts)) if contrasts else np.nan

    of_b, of_samples = scored(b), np.array([scored(sample) for sample in samples]).mean(0)
    of_mean = scored(sum(samples) / len(samples))
    return {
        "false lesions": float(of_samples[0]),
        "false lesions b": of_b[0],
        "false lesions mean": of_mean[0],
        "contrast b": of_b[1],
        "contrast gain": float(of_samples[1]) - of_b[1],
    }


def cost(run: Run, scan: Packed, row: str) -> Figures:
    """Seconds of b and of the steps of one sample, on a slab that takes several tiles; the better of two runs."""
    starts = [max(0, (size - want) // 2) for size, want in zip(scan.voxels.shape, TIMED, strict=True)]
    where = tuple(slice(start, start + want // 16 * 16) for start, want in zip(starts, TIMED, strict=True))
    block = scan.scaled(where, None)
    block = block[tuple(slice(0, size // 16 * 16) for size in block.shape)].contiguous()
    damaged = case(row, "", block, scan.spacing)
    seconds: dict[str, list[float]] = {"b": [], "steps": []}
    for number in range(2):
        started = time.monotonic()
        regression = regress(run.networks, damaged, run.options.device)
        seconds["b"].append(time.monotonic() - started)
        started = time.monotonic()
        drawn(run.networks, damaged, regression, number, run.options)
        seconds["steps"].append(time.monotonic() - started)
    of_b, of_steps = min(seconds["b"]), min(seconds["steps"])
    return {"seconds b": of_b, "seconds steps": of_steps, "time ratio": of_steps / of_b}


def figures_of_row(run: Run, row: str, listed: Sequence[Scan]) -> dict[str, Figures]:
    """Scanner to figures of all gates but cost."""
    restored: dict[str, list[Restored]] = {}
    values: dict[str, list[Figures]] = {}
    for scanner, scan, cubes in listed:
        for damaged in cases(scan, scanner, [row], cubes):
            if damaged.scored.sum() < LEAST:
                continue
            given = answer(run.networks, damaged, run.samples, run.options)
            one = figures(run.networks, damaged, given) | noise_alone(run.networks, damaged, given)
            if row in THIN:
                one |= spectra(damaged, given)
            values.setdefault(scanner, []).append(one)
            restored.setdefault(scanner, []).append(Restored(damaged, given))
    realism: dict[str, Figures] = {scanner: {} for scanner in restored}
    if row in LOSSY:
        parts = {scanner: details(members) for scanner, members in restored.items()}
        realism = {scanner: one | compared(parts[scanner]) for scanner, one in classified(parts).items()}
    means = {scanner: averaged([one | realism[scanner] for one in members]) for scanner, members in values.items()}
    for scanner, one in means.items():
        one |= {f"{key} over noise": one[key] / one[f"{key} noise"] for key in ("crps", "energy score")}
        one["cubes"] = float(len(values[scanner]))
    return means


def harm(run: Run, row: str, listed: Sequence[Scan]) -> dict[str, Figures]:
    """Scanner to what became of lesions."""
    values: dict[str, list[Figures]] = {}
    for scanner, scan, cubes in listed:
        for sick in cases(scan, scanner, [row], cubes, lesions=True):
            one = lesions(run, sick)
            if np.isfinite(one["contrast b"]):
                values.setdefault(scanner, []).append(one)
    return {scanner: averaged(members) for scanner, members in values.items()}


def measured(run: Run, listed: Sequence[Scan], rows: Sequence[str]) -> Iterator[tuple[str, str, Figures]]:
    """Row, scanner and figures."""
    for row in rows:
        started = time.monotonic()
        by_name = figures_of_row(run, row, listed)
        if any(gate.name == "harm" and row in gate.rows for gate in GATES):
            for scanner, more in harm(run, row, listed).items():
                by_name.setdefault(scanner, {}).update(more)
        thin = [one.scan for one in listed if one.scan.isotropic]
        if thin and any(gate.name == "cost" and row in gate.rows for gate in GATES):
            by_name["all"] = cost(run, thin[0], row)
        log.info("%s after %.0f s", row, time.monotonic() - started)
        yield from ((row, scanner, values) for scanner, values in by_name.items())


def lines(row: str, scanner: str, values: Figures) -> Iterator[dict[str, str]]:
    """Lines of gates.csv: every figure, with the gate that judges it."""
    judges = {gate.key: gate for gate, _ in judged(row, values)}
    for key, value in values.items():
        line = {"row": row, "scanner": scanner, "figure": key, "value": f"{value:.5g}"}
        gate = judges.get(key)
        judgement = (gate.name, gate.limit, str(gate.passed(value))) if gate else ("", "", "")
        yield line | dict(zip(KEPT[-3:], judgement, strict=True))


def number(line: dict[str, str]) -> str:
    """The value of a line, to three digits behind the point where it is small."""
    value = float(line["value"])
    return f"{round(value, 3) + 0:.3f}" if abs(value) < 10 else f"{value:.1f}"  # + 0: no minus before a zero


def page(known: Sequence[dict[str, str]]) -> str:
    """The table of gates.

    Parameters
    ----------
    known : lines of gates.csv
    """
    scanners = sorted(dict.fromkeys(line["scanner"] for line in known), key=lambda name: name == "all")
    cells = {(line["row"], line["scanner"], line["figure"]): line for line in known}
    head = known[0]
    counts = {(line["row"], line["scanner"]): float(line["value"]) for line in known if line["figure"] == "cubes"}
    cubes = "; ".join(
        f"{ROWS[row]}: " + ", ".join(f"{scanner} {count:.0f}" for (at, scanner), count in counts.items() if at == row)
        for row in ROWS
        if any(at == row for at, _ in counts)
    )
    text = [
        "# Gates of the residual flow",
        "",
        f"Command: `{head['command']}`  ",
        f"Commit: {head['commit']}  ",
        f"Weights: {head['sha256'][:8]}  ",
        f"Cubes of 64 voxels: {cubes}",
        "",
        f"| gate | figure | limit | row | {' | '.join(scanners)} |",
        f"|---|---|---|---|{'---:|' * len(scanners)}",
    ]
    failed: dict[str, list[str]] = {}
    for gate in GATES:
        for row in gate.rows:
            there = [cells.get((row, scanner, gate.key)) for scanner in scanners]
            if not any(there):
                continue
            marks = [f"{number(line)} {MARKS[line['passed']]}" if line else "" for line in there]
            text.append(f"| {gate.name} | {gate.figure} | {gate.limit} | {ROWS[row]} | {' | '.join(marks)} |")
            missed = [line["scanner"] for line in there if line and line["passed"] != "True"]
            failed.setdefault(gate.name, []).extend(f"{ROWS[row]} ({name})" for name in missed)
    text += [""]
    text += [
        f"- {name}: {'not passed: ' + '; '.join(dict.fromkeys(at)) if at else 'passed'}" for name, at in failed.items()
    ]
    text += ["", "## Figures that no gate judges", "", f"| figure | row | {' | '.join(scanners)} |"]
    text += [f"|---|---|{'---:|' * len(scanners)}"]
    for key, figure in REPORTED.items():
        for row in ROWS:
            there = [cells.get((row, scanner, key)) for scanner in scanners]
            if any(there):
                values = [number(line) if line else "" for line in there]
                text.append(f"| {figure} | {ROWS[row]} | {' | '.join(values)} |")
    return "\n".join(text) + "\n"


def read(folder: Path = HERE) -> list[dict[str, str]]:
    """Lines of gates.csv."""
    with (folder / "gates.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=RESEARCH, help="name, or path of a trained set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--sampler", default=DEFAULT, choices=sorted(SAMPLERS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("medldm").setLevel(logging.ERROR)
    chosen = card(options.model)
    if not chosen.residual:
        raise SystemExit(f"{chosen.name} has no residual flow: there is nothing that the gates judge.")
    if options.samples < 2:
        raise SystemExit("--samples is at least 2: one sample has no spread.")
    device = pick_device(options.device)
    run = Run(
        load_networks(chosen, device, pick_precision("auto", device)),
        options.samples,
        SamplingOptions(options.steps, options.sampler, device),
    )
    rows = [row for row in scans(options.data, options.split, chosen.modality) if float(row.get("weight") or 1) > 0]
    listed = [
        Scan(scanner, packed(row, chosen.modality), cubes) for scanner, row, cubes in by_scanner(rows, options.quick)
    ]
    suited = [row for row in ROWS if row != "noise7" or chosen.modality == MR.name]  # CT has no Rician noise
    command = f"python docs/benchmarks/gates.py {shlex.join(sys.argv[1:])}"
    head = dict(zip(HEAD, (command, chosen.sha256, commit()), strict=True))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "gates.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*KEPT, *HEAD])
        table.writeheader()
        for row, scanner, values in measured(run, listed, suited):
            table.writerows(line | head for line in lines(row, scanner, values))
            file.flush()
    text = page(read(options.out))
    (options.out / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
