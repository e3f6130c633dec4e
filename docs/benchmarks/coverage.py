"""Coverage of the calibrated intervals on test subjects: `python docs/benchmarks/coverage.py ../shared/data [NAME]`.

Writes `docs/benchmarks/coverage/table.md` and `scores.csv`: per task, contrast and subject the share of foreground
voxels inside the interval (copied voxels left out), its mean width, and those of two constant widths that hold just as
many voxels: one for all blocks of a task, and one chosen for each block, which knows the answer; the interval does not.
"""

from __future__ import annotations

import csv
import logging
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medldm.benchmark.calibration import ROWS, Errors, measure
from medldm.benchmark.scans import scans
from medldm.inference.uncertainty import interval_for
from medldm.zoo import Card, card

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

OUT = Path(__file__).parent / "coverage"


def scored(model: Card, block: Errors) -> dict[str, object]:
    """One block: coverage, width, and the constant width that holds as many."""
    interval = interval_for(model, block.verb)
    if interval is None:
        raise SystemExit(f"{model.name} is not calibrated for {block.verb}: see calibrate.py.")
    size, half = np.abs(block.error), block.half_width(interval)
    coverage = float((size <= half).mean())
    skill = float(np.corrcoef(size, half)[0, 1])
    return {
        "card": model.name,
        "weights": model.sha256[:8],
        "calibrated_on": len(model.calibration["subjects"]),
        "task": block.verb,
        "row": block.row,
        "contrast": block.contrast.removeprefix("MR "),
        "subject": block.subject,
        "coverage": round(100 * coverage, 1),
        "half_width": round(float(half.mean()), 5),
        "constant": round(float(np.quantile(size, coverage)), 5),
        "task_constant": 0.0,
        "skill": round(skill, 3),
    }


def constant(blocks: Sequence[Errors], coverage: float) -> float:
    """One half width for many blocks, each of which counts the same, that holds a share of their voxels."""
    sizes = np.concatenate([np.abs(block.error) for block in blocks])
    weights = np.concatenate([np.full(len(block.error), 1 / len(block.error)) for block in blocks])
    order = np.argsort(sizes)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(sizes[order][min(int(np.searchsorted(share, coverage)), len(sizes) - 1)])


def table(rows: Sequence[Mapping[str, object]], kind: str) -> list[str]:
    """Means by one column, as Markdown."""
    groups: dict[str, list[Mapping[str, object]]] = defaultdict(list)
    for row in rows:
        groups[str(row[kind])].append(row)
    lines = [f"| {kind} | blocks | coverage, % | half width | one constant for the task | one for each block | skill |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, members in sorted(groups.items()):
        coverage, half, one, each_own, skill = (
            float(np.mean([float(str(block[key])) for block in members]))
            for key in ("coverage", "half_width", "task_constant", "constant", "skill")
        )
        lines.append(
            f"| {name} | {len(members)} | {coverage:.1f} | {half:.4f} | {one:.4f} ({half / one:.2f}) "
            f"| {each_own:.4f} ({half / each_own:.2f}) | {skill:.2f} |"
        )
    return lines


def main(data: Path, name: str) -> None:
    """Measure and write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("medldm.tasks").setLevel(logging.ERROR)
    model = card(name)
    errors = measure(model, scans(data, "test"), ROWS)
    rows = [scored(model, block) for block in errors]
    for task in {row["task"] for row in rows}:
        mine = [number for number, row in enumerate(rows) if row["task"] == task]
        covered = float(np.mean([float(str(rows[number]["coverage"])) for number in mine])) / 100
        width = constant([errors[number] for number in mine], covered)
        for number in mine:
            rows[number]["task_constant"] = round(width, 5)
    OUT.mkdir(exist_ok=True)
    with (OUT / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (OUT / "table.md").write_text(page(read()))
    print(page(read()))


def read() -> list[dict[str, str]]:
    """What was measured last: a block of voxels a line."""
    with (OUT / "scores.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def page(rows: Sequence[Mapping[str, object]]) -> str:
    """All tables of the scores."""
    lines = [
        "# Coverage of the 90 % interval on test subjects",
        "",
        f"Command: `python docs/benchmarks/coverage.py ../shared/data {rows[0]['card']}`  ",
        f"Weights: {rows[0]['card']}@{rows[0]['weights']}; calibrated on {rows[0]['calibrated_on']} validation "
        "subjects.  ",
        "Half widths are in scaled intensity (1 is the 99.5th percentile of the foreground). *Constant*: the constant "
        "half width that covers as many voxels, for all blocks of a task or chosen for each block with knowledge of "
        "the errors; in brackets the half width of the interval divided by it (below 1: the interval is narrower). "
        "*Skill*: correlation of the half width with the size of the error, within a block. Coverage is empirical, not "
        "guaranteed.",
    ]
    for kind in ("task", "row", "contrast", "subject"):
        lines += ["", *table(rows, kind)]
    return wrapped("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "brain-mri-2d")
