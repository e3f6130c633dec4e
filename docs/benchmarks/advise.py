"""What each verb is worth on validation scans: `python docs/benchmarks/advise.py ../shared/data [NAME|PATH]`.

Restores validation scans through the verbs themselves, projections included, and writes the mean PSNR of each verb on
the card (`use`), by which ``--model auto`` chooses. Prints the table.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from medldm.benchmark.baselines import model
from medldm.benchmark.calibration import amend
from medldm.benchmark.protocol import trials
from medldm.benchmark.rows import chosen_rows
from medldm.benchmark.scans import few, scans
from medldm.degradations import Row
from medldm.metrics import psnr
from medldm.modality import MR
from medldm.zoo import IN_PLANE, Card, card

ROWS = {
    "denoise": ("noise-3", "noise-7"),
    "super-resolve": ("thick-3mm", "thick-4mm", "thick-6mm", "thick-3.7mm"),
    IN_PLANE: ("plane-x2",),
    "fill-slices": ("every-4th-kept", "gap-of-3"),
    "inpaint": ("region-20mm",),
}
CT_ROWS = {
    "denoise": ("ct-dose-4", "ct-dose-10"),
    "super-resolve": ("ct-thick-4mm",),
    IN_PLANE: ("ct-plane-x2",),
    "fill-slices": ("ct-every-2nd-kept", "ct-gap-of-3"),
    "inpaint": ("ct-region-20mm",),
}


def score(chosen: Card, named: str, row: Row, some: list[dict[str, str]]) -> float:
    """Mean PSNR of a card on a row, dB; NaN where no scan is fit for it."""
    method = model(chosen, named)
    values = []
    for scan in some:
        for trial in trials(row, scan):
            guess = method.restore(trial)
            if guess is not None:
                values.append(float(psnr(guess, trial.reference, mask=trial.scored)))
    return sum(values) / len(values) if values else float("nan")


def main() -> None:
    """Score, and write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", nargs="?", default="brain-mri-2d")
    parser.add_argument("--scans", type=int, default=2)
    parser.add_argument("--verbs", default="", help="others stay as they are on the card")
    options = parser.parse_args()
    logging.getLogger("medldm").setLevel(logging.ERROR)
    chosen = card(options.model)
    rows = ROWS if chosen.modality == MR.name else CT_ROWS
    some = few(scans(options.data, "val", chosen.modality), options.scans)
    by_name = {row.name: row for row in chosen_rows(("all",), quick=False)}
    use: dict[str, dict[str, object]] = dict(chosen.use)
    print("| verb | row | PSNR, dB |\n|---|---|---|")
    for verb in options.verbs.split(",") if options.verbs else rows:
        values = [score(chosen, options.model, by_name[name], some) for name in rows[verb]]
        for name, value in zip(rows[verb], values, strict=True):
            print(f"| {verb} | {name} | {value:.2f} |", flush=True)
        if values and all(value == value for value in values):
            use[verb] = {**use.get(verb, {}), "psnr": round(sum(values) / len(values), 2)}
    amend(chosen, {"use": use})
    print(json.dumps(use, indent=1))


if __name__ == "__main__":
    main()
