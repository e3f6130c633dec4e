"""Scores to tables: the subject is the unit, effects come with bootstrap intervals, misses stand beside hits."""

from __future__ import annotations

import math
import subprocess
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from medldm.benchmark.baselines import CLASSICS
from medldm.benchmark.optional_baselines import OPTIONAL
from medldm.benchmark.rows import all_rows

Scores = Sequence[dict[str, Any]]


class Column(NamedTuple):
    """How a score is shown.

    Parameters
    ----------
    title : heading of its table
    digits : after the point
    target : the best possible value; the nearest to it is printed bold, None for none
    """

    title: str
    digits: int
    target: float | None


SHOWN = {
    "psnr": Column("PSNR, dB (higher is better)", 2, math.inf),
    "ssim": Column("SSIM (higher is better)", 4, 1.0),
    "detail_energy": Column("Fine detail: energy over the reference's (1 is right)", 3, 1.0),
    "detail_correlation": Column("Fine detail: correlation with the reference's (higher is better)", 3, 1.0),
    "perceptual": Column("Perceptual distance, features of {backbone} (lower is better)", 4, 0.0),
    "consistency": Column("Measured again: relative residual (noise rows: near the noise; others: near 0)", 4, None),
    "untouched": Column("Share of scans whose measured voxels came out bit for bit", 2, None),
    "bias_1": Column("Bias of the darkest fifth of the range (0 is right; Rician noise lifts it)", 4, 0.0),
    "ms_ssim": Column("MS-SSIM, three scales (higher is better)", 4, 1.0),
    "nmi": Column("Normalised mutual information (higher is better)", 4, math.inf),
    "mae_hu": Column("CT: mean absolute error, HU", 2, 0.0),
    "psnr_soft": Column("CT: PSNR in the soft-tissue window (-160 to 240 HU), dB", 2, math.inf),
    "noise_left": Column("CT object: noise left in water, share of the measured", 3, None),
    "nps_frequency": Column(
        "CT object: mean frequency of the noise left over the measured noise's (1 keeps its texture)", 3, 1.0
    ),
    "edge_ratio": Column("CT object: width of a rod's edge over the truth's (1 blurs nothing)", 3, 1.0),
    "water_bias": Column("CT object: bias in water, HU", 2, 0.0),
    "roughness_jump": Column("Filled slices: roughness over their measured neighbours' (1 is right)", 3, 1.0),
    **{
        f"lesion_{mm}": Column(f"Lesions of {mm} mm: contrast recovered (1 is right)", 3, 1.0) for mm in (2, 3, 4, 6, 8)
    },
    "lesions_lost": Column("Lesions with less than half their contrast, share of those not hidden in a gap", 3, 0.0),
    "lesion_hidden": Column("Lesions wholly inside a gap: contrast recovered (they cannot be known)", 3, None),
    "lesions_false": Column("False lesions a slab", 2, 0.0),
    "seconds": Column("Seconds a slab (48 slices; loading included)", 1, None),
    "peak_mb": Column("Memory at the peak above what was in use, MB", 0, None),
}
FAITHFUL, SHARP = "medldm", "medldm-sample"
COMPARED = {FAITHFUL: ("psnr", "ssim"), SHARP: ("perceptual", "detail_energy", "detail_correlation")}


def markdown(scores: Scores, absent: dict[str, str], command: str) -> str:
    """All tables as Markdown.

    Parameters
    ----------
    scores : as `medldm.benchmark.ledger.read_scores` gives them
    absent : methods that did not run, with the reason
    command : that made the scores
    """
    weights = sorted({score["weights"] for score in scores} - {""})
    backbone = next((score["backbone"] for score in scores if score["backbone"]), "")
    lines = [f"Command: `{command}`  ", f"Commit: {commit()}  ", f"{textwrap.fill(sources(scores), 98)}  "]
    lines += [f"Weights: {', '.join(weights)}  "] if weights else []
    lines += [f"- `{name}`: not run ({reason})" for name, reason in absent.items()] + [""]
    for field, column in SHOWN.items():
        lines += table(scores, field, column._replace(title=column.title.format(backbone=backbone)))
    for ours, fields in COMPARED.items():
        for field in fields:
            lines += against(scores, ours, field)
    return "\n".join(lines) + "\n"


def table(scores: Scores, field: str, column: Column) -> list[str]:
    """One score, rows by methods, mean over subjects; nothing when nobody has it."""
    names = _in_order(score["method"] for score in scores if not math.isnan(score.get(field, math.nan)))
    if not names:
        return []
    lines = [f"### {column.title}", "", f"| row | subjects | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for row in _in_order(score["row"] for score in scores):
        values = {name: by_subject(scores, row, name, field) for name in names}
        means = {name: float(np.mean(list(scores_of.values()))) for name, scores_of in values.items() if scores_of}
        if not means:
            continue
        target = column.target
        best = None if target is None else min(means, key=lambda name: -_merit(field, means[name]))
        cells = [f"{means[name]:.{column.digits}f}" if name in means else "" for name in names]
        cells = [f"**{cell}**" if name == best else cell for name, cell in zip(names, cells, strict=True)]
        lines.append(f"| {row} | {max(map(len, values.values()))} | {' | '.join(cells)} |")
    return [*lines, ""]


def set_table(backbone: str, distances: dict[str, dict[str, dict[str, float]]]) -> str:
    """Distances of sets of planes from the truth's; indicative, for tens of scans at most.

    Parameters
    ----------
    backbone : whose features
    distances : row to method to ``kid``, ``fid``, ``inception``; or to ``distance``
    """
    names = _in_order(method for row in distances.values() for method in row)
    if not names:
        return ""
    compares = any("distance" in numbers for row in distances.values() for numbers in row.values())
    what = "kernel distance x 1000 / Frechet distance (indicative)"
    title = (
        f"Planes compared in pairs by {backbone} (lower is better)" if compares else f"features of {backbone}: {what}"
    )
    lines = [f"### {title if compares else f'Sets of planes, {title}'}", ""]
    lines += [f"| row | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row, methods in distances.items():
        cells = []
        for name in names:
            score = methods.get(name)
            cell = "" if score is None or compares else f"{1000 * score['kid']:.3f} / {score['fid']:.3f}"
            cell = f"{score['distance']:.4f}" if score and compares else cell
            cells.append(cell + (f" / IS {score['inception']:.2f}" if score and "inception" in score else ""))
        if methods:
            lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n"


def by_subject(scores: Scores, row: str, method: str, field: str) -> dict[str, float]:
    """Mean of a score over the scans of each subject."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if score["row"] == row and score["method"] == method and not math.isnan(score.get(field, math.nan)):
            values.setdefault(score["subject"], []).append(score[field])
    return {subject: float(np.mean(of_subject)) for subject, of_subject in values.items()}


def against(scores: Scores, ours: str, field: str) -> list[str]:
    """One of our settings against the best baseline of each row, positive where we are better.

    Parameters
    ----------
    scores : all
    ours : method
    field : score

    Returns
    -------
    lines of a table: difference of the merit with its bootstrap 95 % interval, then Wilcoxon's signed-rank test,
    Holm-corrected over the rows
    """
    compared = []
    for row in _in_order(score["row"] for score in scores):
        mine = _merits(by_subject(scores, row, ours, field), field)
        names = _in_order(score["method"] for score in scores if not score["method"].startswith(FAITHFUL))
        baselines = {name: _merits(by_subject(scores, row, name, field), field) for name in names}
        # Only over the subjects that both restored: a baseline is not better for having skipped a hard one.
        baselines = {name: merits for name, merits in baselines.items() if merits.keys() >= mine.keys()}
        if mine and baselines:
            best = max(baselines, key=lambda name: float(np.mean([baselines[name][subject] for subject in mine])))
            compared.append(
                (row, best, len(mine), difference(mine, baselines[best]), signed_rank(mine, baselines[best]))
            )
    if not compared:
        return []
    unit = "energy's distance from 1" if field == "detail_energy" else SHOWN[field].title.split(" (")[0]
    unit = unit.split(", features")[0]
    lines = [
        f"### {ours} against the best baseline: {unit}, positive is better",
        "",
        "| row | best baseline | subjects | difference [95 %] | p (Holm) |",
        "|---|---|---|---|---|",
    ]
    digits = SHOWN[field].digits
    for (row, best, count, (mean, low, high), _), p in zip(compared, holm([line[4] for line in compared]), strict=True):
        interval = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        lines.append(f"| {row} | {best} | {count} | {interval} | {p:.2g} |")
    return [*lines, ""]


def difference(ours: dict[str, float], theirs: dict[str, float], draws: int = 5000) -> tuple[float, float, float]:
    """Mean difference over common subjects and its bootstrap 95 % interval.

    Parameters
    ----------
    ours, theirs : subject to score
    draws : bootstrap samples
    """
    pairs = _pairs(ours, theirs)
    if len(pairs) == 0:
        return math.nan, math.nan, math.nan
    draw = np.random.default_rng(0).choice(pairs, (draws, len(pairs)))
    low, high = np.percentile(draw.mean(1), [2.5, 97.5])
    return float(pairs.mean()), float(low), float(high)


def signed_rank(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test over common subjects; 1 where there is no difference at all."""
    pairs = _pairs(ours, theirs)
    return float(wilcoxon(pairs).pvalue) if np.any(pairs) else 1.0


def holm(pvalues: Sequence[float]) -> list[float]:
    """P values corrected for as many tests (Holm, Scand J Stat 6, 1979), in the same order."""
    corrected = [1.0] * len(pvalues)
    highest = 0.0
    for rank, index in enumerate(np.argsort(pvalues)):
        highest = max(highest, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        corrected[index] = highest
    return corrected


def sources(scores: Scores) -> str:
    """Subjects per contrast and source, as a sentence."""
    groups: dict[str, set[str]] = {}
    for score in scores:
        groups.setdefault(f"{score['contrast']} of {score['source'] or 'own data'}", set()).add(score["subject"])
    count = len({score["subject"] for score in scores})
    return f"Subjects: {count}; " + ", ".join(f"{len(subjects)} {name}" for name, subjects in sorted(groups.items()))


def commit() -> str:
    """Short hash of the checkout, where there is one, and whether it was changed since."""
    answers = []
    for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", *arguments], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
            )
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        answers.append(done.stdout.strip())
    return answers[0] + (" with uncommitted changes" if answers[1] else "")


def figure(scores: Scores, path: Path) -> None:
    """PSNR gained over doing nothing, a group of bars for each row, with bootstrap intervals over subjects."""
    from matplotlib.figure import Figure

    rows = _in_order(score["row"] for score in scores)
    names = [name for name in _in_order(score["method"] for score in scores) if name != "nothing"]
    picture = Figure(figsize=(max(8, 1.1 * len(rows)), 4.5), layout="constrained")
    axes = picture.subplots()
    width = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        gains = []
        for row in rows:
            gained = by_subject(scores, row, name, "psnr")
            gains.append(difference(gained, by_subject(scores, row, "nothing", "psnr")))
        mean, low, high = np.array(gains).T
        at = [index + place * width for index in range(len(rows))]
        axes.bar(at, mean, width, yerr=[mean - low, high - mean], label=name, error_kw={"elinewidth": 0.7})
    axes.set_xticks([index + 0.4 for index in range(len(rows))], rows, rotation=35, ha="right")
    axes.set_ylabel("PSNR gained over doing nothing, dB")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(fontsize="small", ncols=3)
    picture.savefig(path, dpi=130)


def _merit(field: str, value: float) -> float:
    """A score as a number that is higher for the better."""
    target = SHOWN[field].target
    if target is None:
        return math.nan
    return value if math.isinf(target) else -abs(value - target)


def _merits(values: dict[str, float], field: str) -> dict[str, float]:
    return {subject: _merit(field, value) for subject, value in values.items()}


def _pairs(ours: dict[str, float], theirs: dict[str, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([ours[subject] - theirs[subject] for subject in ours if subject in theirs], dtype=np.float64)


def _in_order(names: Iterable[str]) -> list[str]:
    """Each name once: rows and baselines in the order of the protocol, others as they came."""
    ranks = {name: rank for rank, name in enumerate([*(row.name for row in all_rows()), *CLASSICS, *OPTIONAL])}
    return sorted(dict.fromkeys(names), key=lambda name: ranks.get(name, len(ranks)))
