"""How each verb uses a model's networks: `python docs/benchmarks/advise.py ../shared/data [NAME|PATH]`.

Restores validation scans through the verbs themselves, projections included, with the decoder told different fidelities
and with the first estimate alone, and writes on the card (`use`) what came closest to the truth in PSNR. The first
estimate alone is taken where refining it earns less than 0.05 dB: it takes a third of the time. Prints the table.
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
    found = []
    for scan in some:
        for trial in trials(row, scan):
            guess = method.restore(trial)
            if guess is not None:
                found.append(of(trial, guess))
    return sum(found) / len(found)


def of(trial: Trial, guess: object) -> float:
    """PSNR where the trial is scored."""
    return float(psnr(guess, trial.reference, mask=trial.scored))  # type: ignore[arg-type]


def variant(found: Card, folder: Path, verb: str, refines: bool, faithful: float) -> Path:
    """A copy of a card that uses its networks in another way."""
    name = f"{verb}-{refines}-{faithful}"
    weights = folder / found.weights
    if not weights.exists():
        weights.symlink_to(found.path.resolve())
    use = {verb: {"refines": refines, "faithful": faithful, "looks": found.used(verb).orientations}}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(replace(found, name=name, use=use).asdict()))
    return path


def main() -> None:
    """Read the words, try, write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", nargs="?", default="brain-mri-2d")
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument("--verbs", default=",".join(ROWS), help="others stay as they are on the card")
    words = parser.parse_args()
    logging.getLogger("medldm").setLevel(logging.ERROR)
    found, some = card(words.model), few(scans(words.data, "val"), words.scans)
    by_name = {row.name: row for row in chosen_rows(None, quick=False)}
    refines = any(key.startswith("flow.") for key in read_weights(found))
    ways = [(False, 1.0), *((True, weight) for weight in FAITHFUL if refines)]
    use: dict[str, dict[str, object]] = dict(found.use)
    print("| verb | row |", " | ".join(str(weight) if refined else "first estimate" for refined, weight in ways), "|")
    print("|---|---|" + "---|" * len(ways))
    with tempfile.TemporaryDirectory() as folder:
        for verb in words.verbs.split(","):
            names = ROWS[verb]
            told: dict[tuple[bool, float], list[float]] = defaultdict(list)
            for name in names:
                line = []
                for way in ways:
                    told[way].append(score(variant(found, Path(folder), verb, *way), by_name[name], some))
                    line.append(told[way][-1])
                print(f"| {verb} | {name} |", " | ".join(f"{each:.2f}" for each in line), "|", flush=True)
            mean = {way: sum(each) / len(each) for way, each in told.items()}
            best = max(ways, key=lambda way: mean[way])
            if mean[best] - mean[(False, 1.0)] < WORTH_DB:
                best = (False, 1.0)
            use[verb] = {"refines": best[0], "faithful": best[1], "psnr": round(mean[best], 2)}
            if found.used(verb).orientations < 3:
                use[verb]["looks"] = found.used(verb).orientations
    amend(found, {"use": use})
    print(json.dumps(use, indent=1))


if __name__ == "__main__":
    main()
