"""What a second stage over all orientations could gain: `python docs/benchmarks/joined_looks.py ../shared/data`.

The supervised estimate of a volume is the average of what its planes were restored to in three directions. Here linear
filters of 3 x 3 x 3 voxels, of the measurement and of every orientation, each less that average, are fitted to what is
still wrong with it, on the scans of one kind, and tried on others: validation scans without one of them, training scans
of the same scanner, training scans of other scanners. A gain that stays with the scanner is the scanner's own, noise
and reconstruction filter of the reference included; one that travels would be worth a network. Prints the table of
docs/decisions/0030. Five minutes on one core.
"""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from medldm.inference.networks import Networks, load_networks
from medldm.inference.tiling import Tiling, estimate
from medldm.training.data import Packed, load_cache, pack
from medldm.training.validation import EDGE, Cube, cubes
from medldm.zoo import card

SCANNER = "ds002748"  # most of the training and all of the sharp validation scans
SCANS = 6  # of each kind
TASKS = ("noise3", "noise7", "thick4")
RIDGE = 1e-4


class Sample(NamedTuple):
    """One cube: filter inputs (81, voxels), and what is wrong with the average (voxels,)."""

    inputs: Tensor
    wrong: Tensor


def main(data: Path) -> None:
    """Print the table."""
    networks = load_networks(card("brain-mri-2d"), precision=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        pack(data, Path(folder))
        val, train = (
            [scan for scan in load_cache(Path(folder), split) if scan.isotropic] for split in ("val", "train")
        )
    kinds = {
        "validation": val[:SCANS],
        "training, same scanner": [scan for scan in train if SCANNER in scan.file][:SCANS],
        "training, others": [scan for scan in train if SCANNER not in scan.file][:SCANS],
    }
    seen = {kind: [samples(networks, scan) for scan in scans] for kind, scans in kinds.items()}
    print("| fitted on | tried on |", " | ".join(TASKS), "|\n|---|---|" + "---|" * len(TASKS))
    for fitted, tried in itertools.product(seen, seen):
        cells = []
        for task in TASKS:
            a, b = ([case[task] for case in seen[kind]] for kind in (fitted, tried))
            # Among their own kind nobody is tried with filters that knew him.
            gains = [gain(fit([case for case in a if case is not one]), one) for one in b]
            cells.append(f"{min(gains):+.2f} to {max(gains):+.2f}")
        print(f"| {fitted} | {tried} |", " | ".join(cells), "|", flush=True)


def samples(networks: Networks, scan: Packed) -> dict[str, Sample]:
    """The fixed cubes of a scan, see `medldm.training.validation`."""
    with torch.inference_mode():
        return {case.task: sample(networks, case) for case in cubes([scan], networks.config) if case.task in TASKS}


def sample(networks: Networks, case: Cube) -> Sample:
    """What the filters see of a cube."""
    orientations = [
        estimate(networks, case.observation, case.sigma, [orientation], Tiling.whole())
        for orientation in case.orientations
    ]
    mean = torch.stack(orientations).mean(0)
    difference = [
        case.observation.y - mean,
        *(orientation - mean for orientation in orientations[:-1]),
    ]  # the last look says nothing new
    steps = list(itertools.product((-1, 0, 1), repeat=3))
    inner = (slice(EDGE, -EDGE),) * 3
    lit = mean[inner] > 0.05
    shifted = [field.roll(step, (0, 1, 2))[inner][lit] for field in difference for step in steps]
    return Sample(torch.stack(shifted).double(), (case.clean - mean)[inner][lit].double())


def fit(known: list[Sample]) -> Tensor:
    """Filter weights, by least squares with a little ridge."""
    square = sum((case.inputs @ case.inputs.T for case in known), torch.zeros(()))
    right = sum((case.inputs @ case.wrong for case in known), torch.zeros(()))
    weights: Tensor = torch.linalg.solve(square + RIDGE * square.diagonal().mean() * torch.eye(len(square)), right)
    return weights


def gain(weights: Tensor, one: Sample) -> float:
    """PSNR that the filters add, dB."""
    left = one.wrong - weights @ one.inputs
    return 10 * math.log10(float(one.wrong.square().mean() / left.square().mean()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
