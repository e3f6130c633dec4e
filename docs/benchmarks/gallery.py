"""The worst test cases, to look at: `python docs/benchmarks/gallery.py ../shared/data`.

For each row the test scan on which the scores beside this file are lowest against plain interpolation (or the
measurement), and, of scans with lesions put in, the lesion whose contrast was recovered least and the largest blob that
was invented. One PNG a case: what was measured, what came out, the truth, the error. Writes gallery/ beside
itself, cases.md in it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from scipy import ndimage

from medldm.benchmark.lesions import CONTRAST
from medldm.benchmark.protocol import Trial, trials
from medldm.benchmark.rivals import methods, nothing
from medldm.benchmark.rows import FULL
from medldm.benchmark.scans import few, scans
from medldm.metrics import psnr
from medldm.volume import Voxels

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
OUT = HERE / "gallery"
ROWS = {"noise-7": "nothing", "thick-4mm": "cubic", "every-4th-kept": "linear", "region-20mm": "nothing"}
LESIONS = ("lesions-thick-4mm", "lesions-gap-of-5")


def worst_files() -> dict[str, tuple[str, float]]:
    """Row to the scan that gained least over plain interpolation, and that gain in dB, from core/scores.csv."""
    with (HERE / "core" / "scores.csv").open(newline="") as lines:
        scores = [row for row in csv.DictReader(lines) if row["row"] in ROWS and row["psnr"]]
    known = {(row["row"], row["file"], row["method"]): float(row["psnr"]) for row in scores}
    found: dict[str, tuple[str, float]] = {}
    for (row, file, method), ours in known.items():
        if method != "medldm" or (row, file, ROWS[row]) not in known:
            continue
        gain = ours - known[row, file, ROWS[row]]
        if row not in found or gain < found[row][1]:
            found[row] = (file, gain)
    return found


def draw(trial: Trial, guess: Voxels, at: tuple[int, ...], name: str, title: str) -> str:
    """One picture through a voxel, in the plane that shows the damage; the file's name."""
    axis = trial.facts["axis"]
    shown = next(a for a in (0, 1, 2) if a != axis) if trial.row.verb != "denoise" else axis
    images = [nothing(trial), guess, trial.reference]
    planes = [np.rot90(np.take(np.asarray(image), at[shown], axis=shown)) for image in images]
    planes.append(np.abs(planes[1] - planes[2]))
    rest = [a for a in range(3) if a != shown]
    spacing = [trial.measured.spacing[a] * trial.measured.shape[a] / trial.reference.shape[a] for a in rest]
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
    for each, plane, word in zip(axes, planes, ("measured", "restored", "truth", "error"), strict=True):
        low, high, colours = (0, 0.3, "inferno") if word == "error" else (0, 1.05, "gray")
        each.imshow(plane, cmap=colours, vmin=low, vmax=high, aspect=spacing[1] / spacing[0])
        each.set_title(word)
        each.set_axis_off()
        if trial.lesions:
            x, y = at[rest[0]], trial.reference.shape[rest[1]] - 1 - at[rest[1]]
            each.plot(x, y, "o", markersize=22, markerfacecolor="none", markeredgecolor="orange")
    figure.suptitle(title)
    figure.savefig(OUT / f"{name}.png", dpi=80)
    plt.close(figure)
    return f"{name}.png"


def worst_cases(data: Path) -> Iterator[tuple[str, str]]:
    """Title and picture of each row's worst case."""
    found, rows = scans(data, "test"), {row.name: row for row in FULL}
    method = methods(("medldm",))[0]["medldm"]
    for name, (file, gain) in worst_files().items():
        trial = next(iter(trials(rows[name], next(scan for scan in found if scan["file"] == file))))
        guess = method.restore(trial)
        assert guess is not None
        error = ndimage.gaussian_filter(np.abs(guess - trial.reference) * trial.scored, 2)
        at = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
        score = psnr(guess, trial.reference, trial.scored)
        title = f"{name}: {file.split('.')[0]}, {score:.1f} dB ({gain:+.1f} over {ROWS[name]}), where it is most wrong"
        yield title, draw(trial, guess, at, name, title)


def lesions(data: Path) -> Iterator[tuple[str, str]]:
    """A lesion that was lost, and one that was invented, of each row."""
    rows = {row.name: row for row in FULL}
    method = methods(("medldm",))[0]["medldm"]
    thin = few([scan for scan in scans(data, "test") if "ds002748" in scan["file"] or "OAS" in scan["file"]], 2)
    for name in LESIONS:
        lost, invented = [], []
        for scan in thin:
            for trial in trials(rows[name], scan):
                guess = method.restore(trial)
                assert guess is not None
                assert trial.healthy is not None
                for lesion in trial.lesions:
                    grown = float((guess - trial.healthy)[lesion.centre]) / lesion.contrast
                    lost.append((grown, lesion.centre, lesion.diameter_mm, trial, guess))
                error = np.abs(guess - trial.reference)
                labels, count = ndimage.label((error > CONTRAST / 2) & trial.inside)
                if count:
                    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
                    centre = tuple(int(i) for i in ndimage.center_of_mass(labels == largest))
                    invented.append((int((labels == largest).sum()), centre, trial, guess))
        if lost:
            share, centre, size, trial, guess = min(lost, key=lambda each: abs(each[0]))
            title = f"{name}: a lesion of {size:g} mm of which {100 * share:.0f} % of the contrast came back"
            yield title, draw(trial, guess, centre, f"{name}-lost", title)
        if invented:
            voxels, centre, trial, guess = max(invented, key=lambda each: each[0])
            title = f"{name}: the largest blob wrong by more than half a lesion's contrast, {voxels} voxels"
            yield title, draw(trial, guess, centre, f"{name}-false", title)


def main(data: Path) -> None:
    """Pictures, and the page that shows them."""
    OUT.mkdir(exist_ok=True)
    lines = []
    for title, picture in (*worst_cases(data), *lesions(data)):
        lines += [f"![{title}](../benchmarks/gallery/{picture})", ""]
        print(title, flush=True)
    (OUT / "cases.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
