"""Mean, samples, spread and truth side by side: `python docs/benchmarks/samples.py ../shared/data [--model NAME|PATH]`.

One test scan, of thick slices, of a gap and of a region: the regression mean, four samples of the flow, the standard
deviation that the spread head gives, and the truth. Writes `docs/images/samples.png`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import ndimage

from medldm.benchmark.baselines import nothing
from medldm.benchmark.protocol import Trial, trials
from medldm.benchmark.rows import all_rows
from medldm.benchmark.scans import is_thin, scans
from medldm.data.volume import Volume, Voxels
from medldm.io import read_nifti
from medldm.settings import make
from medldm.tasks import TASKS, run

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROWS = ("thick-4mm", "gap-of-3", "region-20mm")
SEEDS = (0, 1, 2, 3)
RESEARCH = str(Path(__file__).parents[1] / "training" / "flow" / "brain-mri-2d-flow.json")  # no set ships a flow
AROUND = 36  # voxels shown on either side of the middle


def restored(trial: Trial, model: str, **options: Any) -> Volume:
    """A trial restored with these settings."""
    facts = dict(trial.facts)
    mask = facts.pop("mask", None)
    if "missing" in facts:
        facts["missing"] = tuple(facts["missing"])
    settings = make(TASKS[trial.row.verb].settings, {**facts, "model": model, "modality": "mr", **options})
    return run(trial.row.verb, trial.measured, settings, mask=mask)


def middle(trial: Trial) -> tuple[int, ...]:
    """Where to look: the middle of what was scored; of several regions, that of the largest."""
    scored = np.asarray(trial.scored)
    if "mask" in trial.facts:
        parts, _ = ndimage.label(scored)
        scored = parts == np.bincount(parts[scored]).argmax()
    place = ndimage.center_of_mass(scored)
    return tuple(round(at) for at in place)


def plane(image: Voxels, at: tuple[int, ...], axis: int) -> Voxels:
    """(H, W) around a voxel, in a plane that shows the damage, the damaged axis upwards."""
    shown = next(a for a in (0, 1, 2) if a != axis)
    parts = [slice(max(0, middle - AROUND), middle + AROUND) for middle in at]
    flat = np.asarray(image)[tuple(at[shown] if a == shown else part for a, part in enumerate(parts))]
    rest = [a for a in (0, 1, 2) if a != shown]
    return flat if rest[0] == axis else flat.T


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=RESEARCH)
    parser.add_argument("--scan", default="", help="part of the name of the scan; the first thin one when not given")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "images" / "samples.png")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rows = {row.name: row for row in all_rows()}
    chosen = [scan for scan in scans(options.data, options.split) if options.scan in scan["file"]]
    scan = next(scan for scan in chosen if is_thin(read_nifti(Path(scan["path"])).spacing))
    titles = ["measured", "regression mean", *[f"sample {n + 1}" for n in range(len(SEEDS))], "spread", "truth"]
    figure, axes = plt.subplots(
        len(ROWS), len(titles), figsize=(2.1 * len(titles), 2.2 * len(ROWS)), layout="constrained"
    )
    for line, name in zip(axes, ROWS, strict=True):
        trial = next(iter(trials(rows[name], scan)))
        mean = restored(trial, options.model)
        assert mean.std is not None
        drawn = [restored(trial, options.model, fidelity=0.0, seed=seed).voxels for seed in SEEDS]
        at, axis = middle(trial), trial.facts["axis"]
        images = [nothing(trial), mean.voxels, *drawn, mean.std, trial.reference]
        for panel, image, title in zip(line, images, titles, strict=True):
            high, colours = (0.2, "inferno") if title == "spread" else (1.05, "gray")
            panel.imshow(plane(image, at, axis), origin="lower", cmap=colours, vmin=0, vmax=high)
            panel.set_axis_off()
            if name == ROWS[0]:
                panel.set_title(title, fontsize=10)
        line[0].text(-0.06, 0.5, name, transform=line[0].transAxes, rotation=90, va="center", ha="right", fontsize=10)
    figure.savefig(options.out, dpi=80)


if __name__ == "__main__":
    main()
