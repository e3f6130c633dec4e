"""The validation table of a set: `python docs/benchmarks/validation.py ../shared/data [MODEL]`.

On the fixed cubes that the training curves show (validation subjects): PSNR in dB of the regression mean, in one
orientation and in all, as the cards and docs/decisions quote it. A minute on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from medldm.inference.conditioning import centre_plane
from medldm.inference.networks import load_networks
from medldm.inference.tiling import Tiling, estimate
from medldm.models.precision import pick_precision
from medldm.training.data import load_cache, pack
from medldm.training.validation import cubes, cubes_by_scanner, score, score_volumes
from medldm.zoo import best, card


def main(data: Path, model: str | None = None) -> None:
    """Print the table of the shipped set, or of another: of the thinnest scans, and of every scanner."""
    chosen = card(model) if model else best("mr")
    networks = load_networks(chosen, precision=pick_precision("auto", "cpu"))
    with tempfile.TemporaryDirectory() as cache:
        pack(data, Path(cache), chosen.modality.upper())
        val = load_cache(Path(cache), "val")
        parts = {"thinnest scans": cubes(val, networks.config), "by scanner": cubes_by_scanner(val, networks.config)}
    print(f"{chosen.name} {chosen.sha256[:8]}")
    for title, cases in parts.items():
        with torch.inference_mode():
            table = {
                "input": score(cases, lambda inputs: centre_plane(inputs, networks.config)),
                "one orientation": score(cases, networks.estimate),
                "all orientations": score_volumes(
                    cases,
                    lambda case: estimate(networks, case.observation, case.sigma, case.orientations, Tiling.whole()),
                ),
            }
        print(f"\n{title}\n\n| row | {' | '.join(table)} |\n{'|---' * (len(table) + 1)}|")
        for row in table["input"]:
            print(f"| {row} | {' | '.join(f'{scores[row]:.2f}' for scores in table.values())} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
