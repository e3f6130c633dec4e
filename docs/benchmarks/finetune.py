"""Does fine-tuning on two subjects of a new scanner help? `python docs/benchmarks/finetune.py ../shared/data RUNS`.

A U-Net is trained without any scan of one source (``--held-out``, multi-contrast scans of patients with multiple
sclerosis). It then goes on for a few minutes twice from the same weights: with two subjects of that source, and, as
control, without them. All three restore other subjects of that source. Everything is `medldm train`, `--init` and the
benchmark's rows; RUNS keeps the models. Writes finetune.csv and finetune.md beside itself.
"""

from __future__ import annotations

import argparse
import csv
import logging
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from medldm.benchmark.baselines import methods
from medldm.benchmark.protocol import trials
from medldm.benchmark.rows import all_rows
from medldm.metrics import psnr
from medldm.training import train

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

SCORES = Path(__file__).with_suffix(".csv")
ROWS = ("noise-3", "noise-7")


def main() -> None:
    """Train three times, score, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--held-out", default="muschellij2/open_ms_data")
    parser.add_argument("--minutes", type=float, default=12, help="of the base")
    parser.add_argument("--more", type=float, default=5, help="of fine-tuning, and of the control")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with (given.data / "manifest.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["modality"].startswith("MR")]
    base = [row for row in rows if not row["source"].startswith(given.held_out)]
    theirs = [row for row in rows if row["source"].startswith(given.held_out)]
    subjects = sorted({row["subject"] for row in theirs if row["split"] == "train"})[:2]
    tuned = [row for row in theirs if row["subject"] in subjects] + [row for row in base if row["split"] == "val"]
    others = [row for row in theirs if row["split"] == "test"]
    options = {"spatial_dims": 2, "validate_s": 300.0, "resume": True}
    first = train("unet", folder(given, "base", base), given.runs / "base", minutes=given.minutes, **options)
    options |= {"init": str(first)}
    second = train("unet", folder(given, "tuned", tuned), given.runs / "tuned", minutes=given.more, **options)
    control = train("unet", folder(given, "control", base), given.runs / "control", minutes=given.more, **options)
    psnr_of = {name: scores(path, others, given.data) for name, path in zip(
        ("without the scanner", "fine-tuned on two subjects", "control: as long without them"),
        (first, second, control), strict=True,
    )}  # fmt: skip
    keep(psnr_of, given, subjects, sorted({row["subject"] for row in others}))
    Path(__file__).with_suffix(".md").write_text(table(read()))


def folder(given: argparse.Namespace, name: str, rows: list[dict[str, str]]) -> Path:
    """A folder of links to scans, with the table that `medldm train` reads."""
    place: Path = given.runs / f"{name}-scans"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    kept = [row for row in rows if row["split"] in ("train", "val")]
    for row in kept:
        (place / row["file"]).unlink(missing_ok=True)
        (place / row["file"]).symlink_to((given.data / row["split"] / row["file"]).resolve())
    with (place / "split.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return place


def scores(model: Path, rows: list[dict[str, str]], data: Path) -> dict[tuple[str, str], list[float]]:
    """PSNR in dB by row of the protocol and contrast."""
    method = next(iter(methods((str(model),))[0].values()))
    psnr_of: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in (row for row in all_rows() if row.name in ROWS):
        for scan in rows:
            for trial in trials(row, {**scan, "path": str(data / "test" / scan["file"])}):
                guess = method.restore(trial)
                assert guess is not None
                psnr_of[row.name, scan["modality"].removeprefix("MR ")].append(
                    psnr(guess, trial.reference, mask=trial.scored)
                )
    return psnr_of


def keep(
    psnr_of: dict[str, dict[tuple[str, str], list[float]]], given: argparse.Namespace, two: list[str], others: list[str]
) -> None:
    """Scores to finetune.csv: scans of each contrast averaged."""
    run = {
        "command": f"python docs/benchmarks/finetune.py ../shared/data RUNS --minutes {given.minutes:g} "
        f"--more {given.more:g}",
        "held_out": given.held_out,
        "tuned_on": ", ".join(two),
        "scored_on": ", ".join(others),
    }
    with SCORES.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*run, "model", "row", "contrast", "psnr"], lineterminator="\n")
        writer.writeheader()
        for name, by_kind in psnr_of.items():
            for (row, contrast), values in sorted(by_kind.items()):
                score = {"model": name, "row": row, "contrast": contrast, "psnr": round(float(np.mean(values)), 4)}
                writer.writerow(run | score)


def read() -> list[dict[str, str]]:
    """What was measured last."""
    with SCORES.open(newline="") as lines:
        return list(csv.DictReader(lines))


def means(rows: list[dict[str, str]]) -> dict[str, float]:
    """Model to its PSNR, dB, mean over rows and contrasts."""
    names = dict.fromkeys(row["model"] for row in rows)
    return {name: float(np.mean([float(row["psnr"]) for row in rows if row["model"] == name])) for name in names}


def table(rows: list[dict[str, str]]) -> str:
    """The scores as Markdown."""
    kinds = list(dict.fromkeys((row["row"], row["contrast"]) for row in rows))
    run = rows[0]
    lines = [
        "# Fine-tuning on two subjects of a new scanner",
        "",
        f"`{run['command']}`; held out: {run['held_out']}. Tuned on {run['tuned_on']}; scored on "
        f"{run['scored_on']}; no model saw them. "
        "Supervised U-Net in planes, PSNR in dB, foreground, scans of each contrast averaged.",
        "",
        f"| | {' | '.join(f'{row}, {contrast}' for row, contrast in kinds)} | mean |",
        f"|---|{'---|' * (len(kinds) + 1)}",
    ]
    for name, mean in means(rows).items():
        mine = [f"{float(row['psnr']):.2f}" for row in rows if row["model"] == name]
        lines.append(f"| {name} | {' | '.join(mine)} | {mean:.2f} |")
    return wrapped("\n".join(lines))


if __name__ == "__main__":
    main()
