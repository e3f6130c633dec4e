"""How each verb uses a model's networks: `python docs/benchmarks/advise.py ../shared/data [NAME|PATH]`.

Restores validation scans through the verbs themselves, projections included, with the decoder at different fidelities
and with the regression mean alone, and writes on the card (`use`) what came closest to the truth in PSNR. The
regression mean alone is taken where refining it earns less than 0.05 dB: it takes a third of the time. Prints the
table.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from medldm.benchmark.baselines import methods
from medldm.benchmark.calibration import amend
from medldm.benchmark.protocol import Trial, trials
from medldm.benchmark.rows import chosen_rows
from medldm.benchmark.scans import few, scans
from medldm.degradations import Row
from medldm.metrics import psnr
from medldm.models.checkpoint import read_weights
from medldm.zoo import IN_PLANE, Card, card

FAITHFUL = (1.0, 0.4, 0.2)
WORTH_DB = 0.05  # what the protocol calls equal
ROWS = {
    "denoise": ("noise-3", "noise-7"),
    "super-resolve": ("thick-3mm", "thick-4mm", "thick-6mm", "thick-3.7mm"),
    IN_PLANE: ("plane-x2",),
    "fill-slices": ("every-4th-kept", "gap-of-3"),
    "inpaint": ("region-20mm",),
}


def score(model: Path, row: Row, some: list[dict[str, str]]) -> float:
    """Mean PSNR of a card on a row, dB."""
    method = methods((str(model),))[0][model.stem]
    values = []
    for scan in some:
        for trial in trials(row, scan):
            guess = method.restore(trial)
            if guess is not None:
                values.append(of(trial, guess))
    return sum(values) / len(values)


def of(trial: Trial, guess: object) -> float:
    """PSNR where the trial is scored."""
    return float(psnr(guess, trial.reference, mask=trial.scored))  # type: ignore[arg-type]


def variant(chosen: Card, folder: Path, verb: str, refines: bool, faithful: float) -> Path:
    """A copy of a card that uses its networks in another way."""
    name = f"{verb}-{refines}-{faithful}"
    weights = folder / chosen.weights
    if not weights.exists():
        weights.symlink_to(chosen.path.resolve())
    use = {verb: {"refines": refines, "faithful": faithful, "looks": chosen.used(verb).orientations}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(replace(chosen, name=name, use=use).asdict()))
    return path


def main() -> None:
    """Try, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", nargs="?", default="brain-mri-2d")
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument("--verbs", default=",".join(ROWS), help="others stay as they are on the card")
    options = parser.parse_args()
    logging.getLogger("medldm").setLevel(logging.ERROR)
    chosen, some = card(options.model), few(scans(options.data, "val"), options.scans)
    by_name = {row.name: row for row in chosen_rows(None, quick=False)}
    refines = any(key.startswith("flow.") for key in read_weights(chosen))
    variants = [(False, 1.0), *((True, weight) for weight in FAITHFUL if refines)]
    use: dict[str, dict[str, object]] = dict(chosen.use)
    print(
        "| verb | row |", " | ".join(str(weight) if refined else "regression mean" for refined, weight in variants), "|"
    )
    print("|---|---|" + "---|" * len(variants))
    with tempfile.TemporaryDirectory() as folder:
        for verb in options.verbs.split(","):
            names = ROWS[verb]
            values: dict[tuple[bool, float], list[float]] = defaultdict(list)
            for name in names:
                line = []
                for pair in variants:
                    values[pair].append(score(variant(chosen, Path(folder), verb, *pair), by_name[name], some))
                    line.append(values[pair][-1])
                print(f"| {verb} | {name} |", " | ".join(f"{value:.2f}" for value in line), "|", flush=True)
            mean = {pair: sum(scored) / len(scored) for pair, scored in values.items()}
            best = max(variants, key=lambda pair: mean[pair])
            if mean[best] - mean[(False, 1.0)] < WORTH_DB:
                best = (False, 1.0)
            use[verb] = {"refines": best[0], "faithful": best[1], "psnr": round(mean[best], 2)}
            if chosen.used(verb).orientations < 3:
                use[verb]["looks"] = chosen.used(verb).orientations
    amend(chosen, {"use": use})
    print(json.dumps(use, indent=1))


if __name__ == "__main__":
    main()
