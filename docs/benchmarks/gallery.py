"""The worst test cases, to look at: `python docs/benchmarks/gallery.py ../shared/data`.

For each row the test scan on which the scores beside this file are lowest against plain interpolation (or the
measurement), and, of scans with lesions put in, the lesion whose contrast was recovered least and the thickest blob
that nobody put there. Of lesions wholly inside a gap, which nobody can know of, the one that came back least, beside
the 90 % interval that marks it. One PNG a case: what was measured, what came out, the truth, the error. Writes gallery/
beside itself, cases.csv and cases.md in it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy import ndimage

from medldm.benchmark.baselines import methods, nothing
from medldm.benchmark.lesions import CONTRAST, LOST, Lesion, distance_mm, weight
from medldm.benchmark.protocol import Trial, trials
from medldm.benchmark.rows import all_rows
from medldm.benchmark.scans import few, scans
from medldm.data.volume import Voxels
from medldm.metrics import psnr
from medldm.tasks import fill_slices

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Ellipse

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

HERE = Path(__file__).parent
OUT = HERE / "gallery"
ROWS = {"noise-7": "nothing", "thick-4mm": "cubic", "every-4th-kept": "linear", "region-20mm": "nothing"}
LESIONS = ("lesions-thick-4mm", "lesions-gap-of-5")
GAPS = "lesions-gap-of-5"
AROUND_MM = 28  # shown on either side of a lesion
CASES = OUT / "cases.csv"


def worst_files() -> dict[str, tuple[str, float]]:
    """Row to the scan that gained least over plain interpolation, and that gain in dB, from core/scores.csv."""
    with (HERE / "core" / "scores.csv").open(newline="") as lines:
        scores = [row for row in csv.DictReader(lines) if row["row"] in ROWS and row["psnr"]]
    known = {(row["row"], row["file"], row["method"]): float(row["psnr"]) for row in scores}
    worst: dict[str, tuple[str, float]] = {}
    for (row, file, method), ours in known.items():
        if method != "medldm" or (row, file, ROWS[row]) not in known:
            continue
        gain = ours - known[row, file, ROWS[row]]
        if row not in worst or gain < worst[row][1]:
            worst[row] = (file, gain)
    return worst


def draw(
    trial: Trial,
    guess: Voxels,
    at: tuple[int, ...],
    case: Mapping[str, object],
    around_mm: float = 0,
    half_width: Voxels | None = None,
) -> None:
    """One picture through a voxel, in the plane that shows the damage.

    Parameters
    ----------
    trial : what was damaged
    guess : (X, Y, Z) what came out
    at : voxel to show
    case : with the picture's name and the text of its title
    around_mm : show so much around the voxel, and a ring about it; 0 shows the whole plane
    half_width : (X, Y, Z) of the interval, to show beside
    """
    axis = trial.facts["axis"]
    shown = next(a for a in (0, 1, 2) if a != axis) if trial.row.verb != "denoise" else axis
    rest = [a for a in range(3) if a != shown]
    images = [nothing(trial), guess, trial.reference]
    planes = [np.take(np.asarray(image), at[shown], axis=shown).T for image in images]
    planes.append(np.abs(planes[1] - planes[2]))
    titles = ["measured", "restored", "truth", "error"]
    if half_width is not None:
        planes.append(np.take(half_width, at[shown], axis=shown).T)
        titles.append("half width of the interval")
    mm = spacing(trial)
    wide = 13 / 4 * len(planes)
    figure, axes = plt.subplots(1, len(planes), figsize=(wide, 4.1 if around_mm else 3.7), layout="constrained")
    for panel, plane, title in zip(axes, planes, titles, strict=True):
        low, high, colours = (0, 1.05, "gray") if title in titles[:3] else (0, 0.3, "inferno")
        panel.imshow(plane, origin="lower", cmap=colours, vmin=low, vmax=high, aspect=mm[rest[1]] / mm[rest[0]])
        panel.set_title(title)
        panel.set_axis_off()
        if around_mm:
            x, y = at[rest[0]], at[rest[1]]
            ring = Ellipse((x, y), 14 / mm[rest[0]], 14 / mm[rest[1]], fill=False, edgecolor="orange", linewidth=1.5)
            panel.add_patch(ring)
            panel.set_xlim(x - around_mm / mm[rest[0]], x + around_mm / mm[rest[0]])
            panel.set_ylim(y - around_mm / mm[rest[1]], y + around_mm / mm[rest[1]])
    figure.suptitle(caption(case).split(": nobody can know")[0])
    figure.savefig(OUT / str(case["picture"]), dpi=72)
    plt.close(figure)


def spacing(trial: Trial) -> list[float]:
    """Of the reference, mm."""
    measured = trial.measured
    return [
        mm * had / has for mm, had, has in zip(measured.spacing, measured.shape, trial.reference.shape, strict=True)
    ]


def worst_cases(data: Path) -> Iterator[dict[str, Any]]:
    """Each row's worst scan; draws it."""
    test_scans, rows = scans(data, "test"), {row.name: row for row in all_rows()}
    method = methods(("medldm",))[0]["medldm"]
    for name, (file, gain) in worst_files().items():
        trial = next(iter(trials(rows[name], next(scan for scan in test_scans if scan["file"] == file))))
        guess = method.restore(trial)
        assert guess is not None
        error = ndimage.gaussian_filter(np.abs(guess - trial.reference) * trial.scored, 2)
        at = tuple(int(i) for i in np.unravel_index(error.argmax(), error.shape))
        case = {"picture": f"{name}.png", "row": name, "kind": "worst", "scan": file, "gain_db": round(gain, 3)}
        case |= {"psnr_db": round(psnr(guess, trial.reference, trial.scored), 3), "against": ROWS[name]}
        draw(trial, guess, at, case)
        yield case


def lesions(data: Path) -> Iterator[dict[str, Any]]:
    """A lesion that was lost, and one that was invented, of each row; draws them."""
    rows = {row.name: row for row in all_rows()}
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
                    if wholly_lost(trial, lesion):
                        continue  # has a picture of its own
                    came = float((guess - trial.healthy)[lesion.centre]) / lesion.contrast
                    lost.append((came, lesion.centre, lesion.diameter_mm, trial, guess))
                thickness, sign, centre = thickest_blob(trial, guess)
                invented.append((thickness, sign, centre, trial, guess))
        if lost:
            share, centre, size, trial, guess = min(lost, key=lambda lesion: abs(lesion[0]))
            case = {"picture": f"{name}-lost.png", "row": name, "kind": "lost", "size_mm": size}
            case |= {"scan": trial.measured.name, "share": round(share, 4)}
            draw(trial, guess, centre, case, AROUND_MM)
            yield case
        if invented:
            thickness, sign, centre, trial, guess = max(invented, key=lambda lesion: lesion[0])
            case = {"picture": f"{name}-false.png", "row": name, "kind": "false", "size_mm": round(thickness, 2)}
            case |= {"scan": trial.measured.name, "share": sign}
            draw(trial, guess, centre, case, AROUND_MM)
            yield case


def hidden(data: Path) -> Iterator[dict[str, Any]]:
    """Lesions wholly inside a gap: whether the interval marks them; draws the one that came back least."""
    row = next(row for row in all_rows() if row.name == GAPS)
    lesions = []
    for scan in few(scans(data, "test"), 8):
        for trial in trials(row, scan):
            missing, axis = tuple(trial.facts["missing"]), trial.facts["axis"]
            done = fill_slices(trial.stored(), missing, axis=axis, model="brain-mri-2d")
            assert done.half_width is not None
            assert trial.healthy is not None
            guess, half = np.asarray(done.voxels, np.float32), np.asarray(done.half_width)
            for lesion in trial.lesions:
                if not wholly_lost(trial, lesion):
                    continue
                inside = weight(lesion, guess.shape, spacing(trial)) > LOST
                came = float((guess - trial.healthy)[inside].mean()) / lesion.contrast
                held = float((np.abs(guess - trial.reference) <= half)[inside].mean())
                lesions.append((came, held, float(half[inside].mean()), lesion, trial, guess, half))
    if not lesions:
        return
    came, _, _, lesion, trial, guess, half = min(lesions, key=lambda lesion: abs(lesion[0]))
    case = {"picture": f"{GAPS}-hidden.png", "row": GAPS, "kind": "hidden", "size_mm": lesion.diameter_mm}
    case |= {"scan": trial.measured.name, "share": round(came, 4), "count": len(lesions)}
    case |= {"held": round(float(np.mean([lesion[1] for lesion in lesions])), 4)}
    case |= {"half_width": round(float(np.mean([lesion[2] for lesion in lesions])), 4)}
    draw(trial, guess, lesion.centre, case, AROUND_MM, half)
    yield case


def wholly_lost(trial: Trial, lesion: Lesion) -> bool:
    """Whether no voxel of a lesion was measured."""
    return trial.lost is not None and bool(trial.lost[weight(lesion, trial.reference.shape, spacing(trial)) > 0].all())


def thickest_blob(trial: Trial, guess: Voxels) -> tuple[float, int, tuple[int, ...]]:
    """Of what is wrong by more than half a lesion's contrast where no lesion is: how thick, which sign, where.

    A blob as large in all directions looks like a lesion; the long thin ones are edges that lie a little beside.
    """
    mm = spacing(trial)
    free = trial.inside.copy()
    for lesion in trial.lesions:
        free &= distance_mm(lesion, guess.shape, mm) > lesion.diameter_mm / 2 + 2.5
    lesions = []
    for sign in (1, -1):
        odd = (sign * (guess - trial.reference) > CONTRAST / 2) & free
        depth = ndimage.distance_transform_edt(odd, sampling=mm)
        at = tuple(int(i) for i in np.unravel_index(depth.argmax(), depth.shape))
        lesions.append((2 * float(depth.max()), sign, at))
    return max(lesions, key=lambda lesion: lesion[0])


def caption(case: Mapping[str, object]) -> str:
    """A case as a sentence."""
    scan = str(case["scan"]).split(".")[0]
    if case["kind"] == "worst":
        return (
            f"{case['row']}: {scan}, {float(str(case['psnr_db'])):.1f} dB, {float(str(case['gain_db'])):+.1f} dB over "
            f"{case['against']}; where the error is largest"
        )
    if case["kind"] == "lost":
        share = 100 * float(str(case["share"]))
        return f"{case['row']}: a lesion of {float(str(case['size_mm'])):g} mm, {share:.0f} % of its contrast recovered"
    if case["kind"] == "hidden":
        share, held = (100 * float(str(case[name])) for name in ("share", "held"))
        size, half = (float(str(case[name])) for name in ("size_mm", "half_width"))
        return (
            f"{case['row']}: a lesion of {size:g} mm entirely inside a gap, {share:.0f} % of its contrast recovered. "
            f"It cannot be known from the measurement. In {case['count']} such lesions (contrast {CONTRAST:g}) the "
            f"half width of the 90 % interval is {half:.2f}, and the interval holds {held:.0f} % of the voxels. It "
            "shows where voxels were not measured, not that a lesion is there"
        )
    kind = "brighter" if int(str(case["share"])) > 0 else "darker"
    return (
        f"{case['row']}: an invented lesion; the thickest spot ({float(str(case['size_mm'])):.1f} mm) that is {kind} "
        "than the truth by more than half the contrast of a lesion"
    )


def read() -> list[dict[str, str]]:
    """The cases that were drawn last."""
    with CASES.open(newline="") as lines:
        return list(csv.DictReader(lines))


def page(cases: list[dict[str, str]]) -> str:
    """The pictures with their sentences, as Markdown."""
    return "".join(
        wrapped(f"![{case['row']}](../benchmarks/gallery/{case['picture']})\n\n*{caption(case)}*\n\n") for case in cases
    )


def main(data: Path) -> None:
    """Pictures, and the page that shows them."""
    OUT.mkdir(exist_ok=True)
    columns = (
        "picture",
        "row",
        "kind",
        "scan",
        "psnr_db",
        "gain_db",
        "against",
        "size_mm",
        "share",
        "held",
        "half_width",
        "count",
    )
    with CASES.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for case in chain(worst_cases(data), lesions(data), hidden(data)):
            writer.writerow(case)
            print(caption(case), flush=True)
    (OUT / "cases.md").write_text(page(read()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
