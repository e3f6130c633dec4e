"""Histograms as SVG: small, without a script, in the colours of the page."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Sequence

WIDTH, HEIGHT = 340, 120
LEFT, RIGHT, BELOW = 30, 8, 20
MOST_BINS = 24


def histogram(values: Sequence[float], unit: str = "") -> str:
    """Distribution of some numbers, its median dashed.

    Parameters
    ----------
    values : finite numbers, at least one
    unit : behind the numbers of the axis
    """
    edges = bins(values)
    counts = [0] * (len(edges) - 1)
    for value in values:
        place = int((value - edges[0]) / (edges[1] - edges[0]))
        counts[min(max(place, 0), len(counts) - 1)] += 1
    most, wide, high = max(counts), WIDTH - LEFT - RIGHT, HEIGHT - BELOW - 8
    step = wide / len(counts)

    def x(value: float) -> float:
        return LEFT + wide * (value - edges[0]) / (edges[-1] - edges[0])

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="histogram of {len(values)} cases">']
    for number, count in enumerate(counts):
        if count:
            tall = high * count / most
            title = f"{short(edges[number])} to {short(edges[number + 1])}{unit}: {count} case{'s' * (count != 1)}"
            parts.append(
                f'<rect x="{LEFT + number * step + 0.75:.1f}" y="{8 + high - tall:.1f}" width="{step - 1.5:.1f}" '
                f'height="{tall:.1f}" rx="1.5"><title>{html.escape(title)}</title></rect>'
            )
    floor = 8 + high
    parts.append(f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}"/>')
    parts.append(f'<text x="{LEFT - 5}" y="16" text-anchor="end">{most}</text>')
    parts.append(f'<text x="{LEFT - 5}" y="{floor}" text-anchor="end">0</text>')
    for value, anchor in ((edges[0], "start"), ((edges[0] + edges[-1]) / 2, "middle"), (edges[-1], "end")):
        parts.append(f'<text x="{x(value):.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{short(value)}{unit}</text>')
    middle = x(statistics.median(values))
    parts.append(f'<line class="middle" x1="{middle:.1f}" y1="4" x2="{middle:.1f}" y2="{floor}"/></svg>')
    return "".join(parts)


def bins(values: Sequence[float]) -> list[float]:
    """Edges on round numbers that hold all values (about twice the square root of their count, 10 to 24 bins).

    Parameters
    ----------
    values : finite numbers, at least one
    """
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(high), 1e-9):
        low, high = low - max(abs(low), 1e-3) * 0.5, high + max(abs(high), 1e-3) * 0.5
    step = nice((high - low) / min(MOST_BINS, max(10, 2 * math.isqrt(len(values)))))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def nice(step: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def short(value: float) -> str:
    """Three digits at most."""
    return f"{value:.3g}" if value else "0"
