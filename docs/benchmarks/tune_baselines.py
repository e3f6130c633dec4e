"""Knobs of NLM and TV on validation scans: `python docs/benchmarks/tune_baselines.py ../shared/data mr|ct`.

Mean PSNR in dB for every strength, in noise standard deviations; what `medldm.benchmark.baselines` uses is the best.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from medldm.benchmark import baselines
from medldm.benchmark.protocol import trials
from medldm.benchmark.rows import all_rows
from medldm.benchmark.scans import few, scans
from medldm.metrics import psnr
from medldm.modality import MODALITIES

ROWS = {"mr": ("noise-3", "noise-7"), "ct": ("ct-dose-4",)}
NLM = (0.5, 0.7, 1.0, 1.4)
TV = (0.2, 0.4, 0.7, 1.2)


def main(data: Path, modality: str) -> None:
    """Print the table."""
    rows = [row for row in all_rows() if row.name in ROWS[modality]]
    known = [trial for row in rows for scan in few(scans(data, "val", modality), 2) for trial in trials(row, scan)]
    print("| method | " + " | ".join(map(str, NLM)) + " |\n|---|" + "---|" * len(NLM), flush=True)
    for name, knob, tried in (("nlm", baselines.NLM_STRENGTH, NLM), ("tv", baselines.TV_WEIGHT, TV)):
        if tried != NLM:
            print("| method | " + " | ".join(map(str, tried)) + " |")
        means = []
        for value in tried:
            knob[MODALITIES[modality].noise.family] = value
            method = {"nlm": baselines.nlm, "tv": baselines.tv}[name]
            means.append(np.mean([psnr(np.asarray(method(trial)), trial.reference, trial.scored) for trial in known]))
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in means) + " |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
