"""Scores to tables: the subject is the unit, effects come with bootstrap intervals, misses stand beside hits."""

from __future__ import annotations

import csv
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FIELDS = (
    *("row", "subject", "file", "contrast", "source", "method"),
    *("psnr", "ssim", "detail_energy", "detail_correlation", "perceptual", "bias", "consistency", "seconds"),
    "note",
)
SHOWN = {"psnr": "PSNR, dB", "ssim": "SSIM", "detail_energy": "detail energy (1 is right)",
         "detail_correlation": "detail correlation", "perceptual": (
             "perceptual distance (features of our own "
             "encoder)"
         )}  # fmt: skip


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Scores that an earlier run left; numbers as floats."""
    if not path.is_file():
        return []
    numbers = set(FIELDS[6:14])
    with path.open(newline="") as file:
        return [
            {k: (float(v) if v else math.nan) if k in numbers else v for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def append_score(path: Path, score: dict[str, Any]) -> None:
    """One more line; the file is whole after each, so that a killed run resumes."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in score.items()})


def by_subject(scores: Sequence[dict[str, Any]], row: str, method: str, field: str) -> dict[str, float]:
    """Mean of a score over the scans of each subject."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if score["row"] == row and score["method"] == method and not math.isnan(score[field]):
            values.setdefault(score["subject"], []).append(score[field])
    return {subject: float(np.mean(each)) for subject, each in values.items()}


def difference(ours: dict[str, float], theirs: dict[str, float], draws: int = 2000) -> tuple[float, float, float]:
    """Mean difference over common subjects and its bootstrap 95 % interval.

    Parameters
    ----------
    ours, theirs : subject to score
    draws : bootstrap samples
    """
    pairs = np.array([ours[subject] - theirs[subject] for subject in ours if subject in theirs])
    if len(pairs) == 0:
        return math.nan, math.nan, math.nan
    draw = np.random.default_rng(0).choice(pairs, (draws, len(pairs)))
    low, high = np.percentile(draw.mean(1), [2.5, 97.5])
    return float(pairs.mean()), float(low), float(high)


def markdown(scores: Sequence[dict[str, Any]], absent: dict[str, str], command: str) -> str:
    """All tables as Markdown."""
    rows = list(dict.fromkeys(score["row"] for score in scores))
    names = list(dict.fromkeys(score["method"] for score in scores))
    subjects = {score["subject"] for score in scores}
    lines = [f"Command: `{command}`  ", f"Commit: {commit()}  ", f"Subjects: {len(subjects)}; {sources(scores)}", ""]
    for field, title in SHOWN.items():
        lines += [f"### {title}", "", f"| row | n | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
        for row in rows:
            cells = []
            count = 0
            for name in names:
                found = by_subject(scores, row, name, field)
                count = max(count, len(found))
                cells.append(f"{np.mean(list(found.values())):.{2 if field == 'psnr' else 3}f}" if found else "")
            lines.append(f"| {row} | {count} | {' | '.join(cells)} |")
        lines.append("")
    lines += against(scores, rows, names)
    for name, reason in absent.items():
        lines.append(f"- `{name}`: not run ({reason})")
    return "\n".join(lines) + "\n"


def against(scores: Sequence[dict[str, Any]], rows: list[str], names: list[str]) -> list[str]:
    """Our PSNR against the best other method of each row, with its interval."""
    if "medldm" not in names:
        return []
    lines = [
        "### medldm against the best other method of each row, PSNR, dB",
        "",
        "| row | best other | difference [95 %] |",
        "|---|---|---|",
    ]
    for row in rows:
        ours = by_subject(scores, row, "medldm", "psnr")
        others = {name: by_subject(scores, row, name, "psnr") for name in names if not name.startswith("medldm")}
        others = {name: found for name, found in others.items() if found}
        if not ours or not others:
            continue
        rival = max(others, key=lambda name: float(np.mean(list(others[name].values()))))
        mean, low, high = difference(ours, others[rival])
        lines.append(f"| {row} | {rival} | {mean:+.2f} [{low:+.2f}, {high:+.2f}] |")
    return [*lines, ""]


def sources(scores: Sequence[dict[str, Any]]) -> str:
    """Subjects per contrast and source, in words."""
    groups: dict[str, set[str]] = {}
    for score in scores:
        groups.setdefault(f"{score['contrast']} of {score['source'] or 'own data'}", set()).add(score["subject"])
    return ", ".join(f"{len(found)} {name}" for name, found in sorted(groups.items()))


def commit() -> str:
    """Short hash of the checkout, where there is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def figure(scores: Sequence[dict[str, Any]], path: Path) -> None:
    """PSNR gained over linear interpolation (or over doing nothing), a group of bars for each row."""
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(score["row"] for score in scores))
    names = [name for name in dict.fromkeys(score["method"] for score in scores) if name != "nothing"]
    picture = Figure(figsize=(max(8, 1.1 * len(rows)), 4.5), layout="constrained")
    axes = picture.subplots()
    width = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        heights = []
        for row in rows:
            start = by_subject(scores, row, "nothing", "psnr")
            found = by_subject(scores, row, name, "psnr")
            heights.append(difference(found, start)[0] if found else math.nan)
        axes.bar([index + place * width for index in range(len(rows))], heights, width, label=name)
    axes.set_xticks([index + 0.4 for index in range(len(rows))], rows, rotation=35, ha="right")
    axes.set_ylabel("PSNR gained over doing nothing, dB")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(fontsize="small", ncols=3)
    picture.savefig(path, dpi=130)
