"""Calibrate a model and write it on its card: `python docs/benchmarks/calibrate.py ../shared/data [NAME|PATH]`.

Fits the intervals (training subjects for their floor, validation subjects for their scale), the residuals that
validation blocks leave, and what the training scans look like. The weights file does not change. `--ood-only` leaves
the intervals alone and takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from medldm.benchmark.calibration import amend, calibrate, fit_ood
from medldm.benchmark.scans import scans
from medldm.zoo import card


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", nargs="?", default="brain-mri-2d")
    parser.add_argument("--ood-only", action="store_true")
    parser.add_argument("--blocks", type=int, default=4, help="training scans that the floor is fitted on")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("medldm.tasks").setLevel(logging.ERROR)
    chosen = card(options.model)
    if options.ood_only:
        limits = fit_ood(scans(options.data, "train"), scans(options.data, "val"), chosen.modality)
        amend(chosen, {"ood": {**limits, **{key: chosen.ood[key] for key in ("residual",) if key in chosen.ood}}})
    else:
        fitted = calibrate(options.model, options.data, blocks=options.blocks)
        print(json.dumps(fitted["calibration"], indent=1))
        print(json.dumps(fitted["ood"]["residual"], indent=1))


if __name__ == "__main__":
    main()
