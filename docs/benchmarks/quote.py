"""Quote a benchmark in the README: `python docs/benchmarks/quote.py docs/benchmarks/core` rewrites its two tables.

The words around them are written by hand; only what stands between `<!-- scores -->` and `<!-- /scores -->` changes.
The numbers in those words are the business of `claims.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from medldm.benchmark.ledger import read_scores
from medldm.benchmark.rows import chosen_rows
from medldm.benchmark.tables import by_subject

README = Path(__file__).parents[2] / "README.md"
METHODS = ("nothing", "linear", "cubic", "nlm", "tv", "medldm", "medldm-sharp")
FINE = ("linear", "cubic", "medldm", "medldm-sharp")


def mean(scores: list[dict[str, object]], row: str, method: str, field: str) -> float:
    """Over subjects; NaN where the method has no score."""
    found = list(by_subject(scores, row, method, field).values())
    return float(np.mean(found)) if found else float("nan")


def table(
    scores: list[dict[str, object]], methods: tuple[str, ...], fields: dict[str, int], only: str = ""
) -> list[str]:
    """One line a row of the protocol, several scores in a cell; the best of the first score is bold."""
    lines = [f"| row | subjects | {' | '.join(methods)} |", "|---" * (len(methods) + 2) + "|"]
    for row in (each.name for each in chosen_rows(None, quick=False)):
        subjects = len({score["subject"] for score in scores if score["row"] == row})
        if not subjects or (only and not row.startswith(tuple(only.split()))):
            continue
        means = {name: [mean(scores, row, name, field) for field in fields] for name in methods}
        best = max((found[0], name) for name, found in means.items() if not np.isnan(found[0]))[1]
        cells = []
        for name, found in means.items():
            words = " / ".join(f"{value:.{digits}f}" for value, digits in zip(found, fields.values(), strict=True))
            words = "" if np.isnan(found[0]) else words
            cells.append(f"**{words}**" if name == best and len(fields) == 2 else words)
        lines.append(f"| {row} | {subjects} | {' | '.join(cells)} |")
    return lines


def newest(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without lines of weights that a method has no longer: a ledger keeps what was computed before."""
    weights = {score["method"]: score["weights"] for score in scores}
    return [score for score in scores if score["weights"] == weights[score["method"]]]


def tables(folder: Path) -> str:
    """Both tables, as Markdown."""
    scores = newest(read_scores(folder / "scores.csv"))
    lines = [
        "PSNR in dB / SSIM, mean over subjects:",
        "",
        *table(scores, METHODS, {"psnr": 2, "ssim": 3}),
        "",
        "Fine detail along the damaged axis: energy ratio (1 is right) / correlation with the reference's / perceptual "
        "distance (less is better):",
        "",
        *table(scores, FINE, {"detail_energy": 2, "detail_correlation": 3, "perceptual": 3}, "thick every gap"),
    ]
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Rewrite the README's tables."""
    text = README.read_text()
    before, rest = text.split("<!-- scores -->")
    after = rest.split("<!-- /scores -->")[1]
    README.write_text(f"{before}<!-- scores -->\n{tables(folder)}\n<!-- /scores -->{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
