"""Speed and quality in one picture: `python docs/benchmarks/pareto.py`; writes docs/images/pareto.png.

Seconds a slab of 48 slices and PSNR of every method, from the scores beside this script (core, and baselines for the
filters of other packages). A method is worth its time where none is both faster and better: those are joined by a line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from published import mean, methods, rows, subjects

PICTURE = Path(__file__).parents[1] / "images" / "pareto.png"
# Row, title, and the ledger whose methods all ran on the same subjects.
PANELS = (
    ("noise-7", "noise of 7 %", "baselines"),
    ("thick-4mm", "slices of 4 mm", "core"),
    ("gap-of-3", "gaps of three slices", "core"),
)
LEFT_OUT = ("nothing",)
COLOUR, OTHERS = "teal", "grey"


def points(row: str, folder: str) -> dict[str, tuple[float, float]]:
    """Method to (seconds a slab, PSNR in dB)."""
    known = {
        name: (mean(row, name, "seconds", folder), mean(row, name, "psnr", folder)) for name in methods(folder, row)
    }
    return {
        name: (max(seconds, 1e-2), psnr)
        for name, (seconds, psnr) in known.items()
        if name not in LEFT_OUT and not np.isnan(seconds + psnr)
    }


def front(known: dict[str, tuple[float, float]]) -> list[str]:
    """Methods than which none is both faster and better, fastest first."""
    best: list[str] = []
    for name, (_, psnr) in sorted(known.items(), key=lambda item: (item[1][0], -item[1][1])):
        if not best or psnr > known[best[-1]][1]:
            best.append(name)
    return best


def draw(axes: Any, row: str, title: str, folder: str) -> None:
    """One panel."""
    known = points(row, folder)
    line = front(known)
    axes.plot(*zip(*(known[name] for name in line), strict=True), color=COLOUR, linewidth=1, alpha=0.5)
    for name, (seconds, psnr) in known.items():
        colour = COLOUR if name.startswith("medldm") else OTHERS
        axes.scatter(seconds, psnr, color=colour, s=28, zorder=3)
        axes.annotate(name, (seconds, psnr), textcoords="offset points", xytext=(5, 4), fontsize=8, color=colour)
    axes.set_xscale("log")
    axes.set(
        title=f"{title}, {subjects(folder, row)} subjects", xlabel="seconds a slab of 48 slices", ylabel="PSNR, dB"
    )
    axes.margins(x=0.25, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    panels = [panel for panel in PANELS if panel[0] in rows(panel[2])]
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, *panel)
    figure.savefig(PICTURE, dpi=110)
    print(PICTURE)


if __name__ == "__main__":
    main()
