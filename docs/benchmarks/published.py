"""Write measured numbers into README and docs: `python docs/benchmarks/published.py`.

A page holds places such as ``<!-- table: summary -->`` and ``<!-- /table -->``; what stands between them is made of the
scores in this folder. Everything else on a page is written by hand and holds no measured numbers.
"""

from __future__ import annotations

import csv
import importlib.util
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medldm.benchmark.ledger import read_scores
from medldm.benchmark.rows import chosen_rows
from medldm.benchmark.tables import by_subject

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PLACE = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- /table -->)", re.S)

Score = dict[str, Any]


@cache
def script(name: str) -> Any:
    """Another script of this folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Scores


@cache
def scores(folder: str) -> list[Score]:
    """Of the weights that each method has now: a ledger keeps earlier ones.

    Of ``baselines`` only subjects on whom every method ran: the benchmark was stopped during the fifth scan.
    """
    path = HERE / folder / "scores.csv"
    known = newest(read_scores(path)) if path.is_file() else []
    return complete(known) if folder == "baselines" else known


def newest(known: list[Score]) -> list[Score]:
    """Without scores of weights that a method no longer has."""
    weights = {score["method"]: score["weights"] for score in known}
    return [score for score in known if score["weights"] == weights[score["method"]]]


def complete(known: list[Score]) -> list[Score]:
    """The scores of subjects that have all rows and methods."""
    wanted = {(score["row"], score["method"]) for score in known}
    had: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for score in known:
        had[score["subject"]].add((score["row"], score["method"]))
    return [score for score in known if had[score["subject"]] == wanted]


def rows(folder: str) -> list[str]:
    """Of a benchmark; none where it was not run."""
    return list(dict.fromkeys(score["row"] for score in scores(folder)))


def methods(folder: str, row: str) -> list[str]:
    """That have scores in a row."""
    return list(dict.fromkeys(score["method"] for score in scores(folder) if score["row"] == row))


def mean(row: str, method: str, field: str = "psnr", folder: str = "core") -> float:
    """Over subjects; NaN where the method has no score."""
    values = list(by_subject(scores(folder), row, method, field).values())
    return float(np.mean(values)) if values else float("nan")


def subjects(folder: str, row: str) -> int:
    """How many a row was scored on."""
    return len({score["subject"] for score in scores(folder) if score["row"] == row})


def best_baseline(folder: str, row: str) -> str:
    """The method with the highest PSNR of those that are not ours, or doing nothing."""
    others = [name for name in methods(folder, row) if not name.startswith("medldm") and name != "nothing"]
    return max((name for name in others if not np.isnan(mean(row, name, folder=folder))),
               key=lambda name: mean(row, name, folder=folder))  # fmt: skip


def coverage(column: str) -> dict[str, float]:
    """Share of voxels inside the 90 % interval by a column of its scores, %."""
    with (HERE / "coverage" / "scores.csv").open(newline="") as lines:
        blocks = list(csv.DictReader(lines))
    shares: dict[str, list[float]] = defaultdict(list)
    for block in blocks:
        shares[block[column]].append(float(block["coverage"]))
    return {name: float(np.mean(shares[name])) for name in sorted(shares)}


def speed(column: str, model: str, what: str = "denoise") -> float:
    """Of the largest volume that a model was timed on."""
    timed = [line for line in script("speed").read() if line["what"] == what and line["model"] == model]
    return float(timed[-1][column])


# Tables

NAMES = {"nlm": "non-local means", "tv": "total variation", "cubic": "cubic", "linear": "linear",
         "bm4d-unbiased": "BM4D", "smooth-fill": "smooth surface"}  # fmt: skip
SUMMARY = (
    ("core", "noise-3", "noise of 3 %", "medldm"),
    ("core", "noise-7", "noise of 7 %", "medldm"),
    ("core", "thick-4mm", "slices of 4 mm", "medldm"),
    ("core", "every-4th-kept", "one slice in four kept", "medldm"),
    ("core", "gap-of-3", "gaps of three slices", "medldm"),
    ("ct", "ct-dose-4", "CT, a quarter of the dose", "medldm-ct"),
)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def summary() -> str:
    """README's table."""
    lines = []
    for folder, row, damage, ours in SUMMARY:
        if ours in methods(folder, row):
            best = best_baseline(folder, row)
            damaged, other, fast, mine = (
                mean(row, name, folder=folder) for name in ("nothing", best, f"{ours}-fast", ours)
            )
            ready = "" if np.isnan(fast) else f"{fast:.1f}"
            cells = [f"{damaged:.1f}", f"{other:.1f} ({NAMES.get(best, best)})", ready, f"{mine:.1f}"]
            lines.append([damage, str(subjects(folder, row)), *cells])
    return markdown(["damage", "test subjects", "as damaged", "best without training", "medldm, fast", "medldm"], lines)


def core(names: Sequence[str], fields: dict[str, int], only: tuple[str, ...] = ("",), *, bold: bool = False) -> str:
    """Several scores of the core rows in a cell.

    Parameters
    ----------
    names : methods
    fields : scores, and their digits
    only : beginnings of the rows
    bold : mark the best of the first score
    """
    lines = []
    for row in (
        row.name for row in chosen_rows(None, quick=False) if row.name in rows("core") and row.name.startswith(only)
    ):
        means = {name: [mean(row, name, field) for field in fields] for name in names}
        best = max((values[0], name) for name, values in means.items() if not np.isnan(values[0]))[1]
        cells = []
        for name, values in means.items():
            text = " / ".join(f"{value:.{digits}f}" for value, digits in zip(values, fields.values(), strict=True))
            cells.append("" if np.isnan(values[0]) else f"**{text}**" if bold and name == best else text)
        lines.append([row, str(subjects("core", row)), *cells])
    return markdown(["row", "subjects", *names], lines)


def others(folder: str) -> str:
    """PSNR of all methods of a small benchmark."""
    names = list(dict.fromkeys(score["method"] for score in scores(folder)))
    lines = []
    for row in rows(folder):
        means = [mean(row, name, folder=folder) for name in names]
        lines.append([row, str(subjects(folder, row)), *("" if np.isnan(v) else f"{v:.2f}" for v in means)])
    return markdown(["row", "subjects", *names], lines)


def sources() -> str:
    """PSNR on test subjects by contrast and source: before, after."""
    before = {"noise-7": "nothing", "thick-4mm": "cubic", "gap-of-3": "cubic"}
    values: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    people = defaultdict(set)
    for score in scores("core"):
        if score["row"] in before and not np.isnan(float(score["psnr"] or "nan")):
            kind = (score["contrast"].removeprefix("MR "), score["source"])
            values[kind][score["row"], score["method"]].append(float(score["psnr"]))
            people[kind].add(score["subject"])
    lines = []
    for kind, known in sorted(values.items()):
        cells = []
        for row, baseline in before.items():
            old, new = (np.mean(known.get((row, name), np.nan)) for name in (baseline, "medldm"))
            cells.append("" if np.isnan(new - old) else f"{old:.1f}, {new:.1f} ({new - old:+.1f})")
        lines.append([", ".join(kind), str(len(people[kind])), *cells])
    titles = [f"{row}: {baseline}, medldm" for row, baseline in before.items()]
    return markdown(["contrast, source", "test subjects", *titles], lines)


def regions() -> str:
    """PSNR of the CT rows by part of the body: as damaged, best without training, medldm."""
    kinds = sorted({score["contrast"] for score in scores("ct")} - {"CT drawn"})
    lines = []
    for row in rows("ct"):
        best = best_baseline("ct", row)
        cells = []
        for kind in kinds:
            of_kind = [score for score in scores("ct") if score["contrast"] == kind]
            known = [by_subject(of_kind, row, name, "psnr") for name in ("nothing", best, "medldm-ct")]
            before, other, ours = (float(np.mean(list(one.values()))) if one else float("nan") for one in known)
            cells.append("" if np.isnan(ours) else f"{before:.1f}, {other:.1f}, {ours:.1f} ({len(known[2])})")
        if any(cells):
            lines.append([row, NAMES.get(best, best), *cells])
    return markdown(["row", "best without training", *kinds], lines)


TABLES: dict[str, Callable[[], str]] = {
    "summary": summary,
    "core": lambda: core(("nothing", "linear", "cubic", "nlm", "tv", "medldm"), {"psnr": 2, "ssim": 3}, bold=True),
    "detail": lambda: core(
        ("linear", "cubic", "medldm"),
        {"detail_energy": 2, "detail_correlation": 3, "perceptual": 3},
        ("thick", "every", "gap"),
    ),
    "bm4d": lambda: others("baselines"),
    "ct": lambda: others("ct"),
    "ct-regions": regions,
    "sources": sources,
}


def pages() -> list[Path]:
    """README and every page of the documentation that has a place for a table."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in every if PLACE.search(path.read_text(encoding="utf-8"))]


def filled(text: str) -> str:
    """A page with its tables made again.

    Raises
    ------
    KeyError
        It asks for a table that nobody makes.
    """
    return PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}\n{place[3]}", text)


def main() -> None:
    """Write all pages."""
    for path in pages():
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
