"""A line of the table of a generator's scores, and the table: for a newcomer, with a plain line on what it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medldm.metrics.resampling import Estimate


@dataclass(frozen=True, kw_only=True)
class Score:
    """A line of the table.

    Parameters
    ----------
    name : in the JSON file
    title : what is measured
    samples, real : of the samples; of real scans, for comparison
    meaning : one plain line
    numbers : for the JSON file
    passed : whether the goal is reached; None where there is none
    """

    name: str
    title: str
    samples: str = ""
    real: str = ""
    meaning: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    passed: bool | None = None


def markdown(scores: Sequence[Score], facts: dict[str, Any]) -> str:
    """The table.

    Parameters
    ----------
    scores : lines
    facts : of the run, as they stand in the JSON file
    """
    reached = {True: "reached", False: "**missed**", None: ""}
    first = facts["first_seed"]
    counts = facts["scans"]
    lines = [
        f"# Scores of {facts['model']}",
        "",
        f"{counts['samples']} samples (seeds {first} to {first + counts['samples'] - 1}, {facts['steps']} steps, "
        f"guidance {facts['guidance']:g}), with the descriptions of held-out people in turn. Real scans: "
        f"{counts['training']} that it learned from ({facts['people']['training']} people) and {counts['held_out']} of "
        f"{facts['people']['held_out']} held-out people, whom it never saw.",
        "",
        "Indicative: with so few people most numbers are uncertain. Brackets are 90 % intervals: bootstrap over scans, "
        f"of the Frechet distance over random halves. Features: `{facts['features']}`.",
        "",
        "| score | samples | real against real | what it means | goal |",
        "| --- | --- | --- | --- | --- |",
        *(
            "| " + " | ".join((s.title, s.samples or "-", s.real or "-", s.meaning, reached[s.passed])).rstrip() + " |"
            for s in scores
        ),
        "",
        "Each score is explained in `docs/concepts/scores-of-generation.md`. `samples.png` shows samples, "
        "`neighbours.png` those that are nearest to a training scan, beside it.",
        "",
        f"Made by `{facts['command']}` with medldm {facts['medldm']}, weights `{facts['sha256'][:16]}`.",
        "",
    ]
    return "\n".join(lines)


def numbers_of(estimate: Estimate) -> dict[str, float]:
    """As it stands in the JSON file."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def with_interval(estimate: Estimate, digits: int) -> str:
    """As it stands in the table, with a number of digits after the point."""
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def percent(estimate: Estimate) -> str:
    """A share, in percent."""
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def rounded(value: float) -> str:
    """A ratio without digits that mean nothing."""
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
