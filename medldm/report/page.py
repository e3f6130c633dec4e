"""One HTML page for a batch: everything inside it, nothing fetched, nothing run but its own script."""

from __future__ import annotations

import base64
import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medldm.errors import shown
from medldm.io.atomic import whole_file
from medldm.modality import MODALITIES
from medldm.report.chart import histogram, short
from medldm.report.facts import CaseFacts, facts_of

ORDER = ("done", "unchanged", "skipped", "failed", "refused")
MANY = 60  # cases; beyond, pictures are smaller, so that a thousand of them still open in a browser
LARGE, SMALL = 900, 420  # width of pictures, pixels


def write_page(rows: Sequence[Any], folder: Path) -> Path:
    """``report.html``: counts, distributions, and a row with a picture for every case.

    Whatever comes from outside (file names, messages) is escaped, and the page forbids the browser every script but
    its own and every address.

    Parameters
    ----------
    rows : of the batch, with case, status, seconds, message and result
    folder : of the results
    """
    cases = facts_of(rows, folder, width=LARGE if len(rows) <= MANY else SMALL)
    target = folder / "report.html"
    with whole_file(target) as temporary:
        temporary.write_text(page_of(cases), encoding="utf-8")
    return target


def page_of(cases: Sequence[CaseFacts]) -> str:
    """The page as text.

    Parameters
    ----------
    cases : in the order of the table
    """
    files = resources.files("medldm.report")
    names = ("page.html", "page.css", "page.js")
    template, style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, finalize=_printable, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["short"] = lambda value: "" if value is None else short(value)
    return environment.from_string(template).render(
        cases=cases,
        total=f"{len(cases)} case{'s' * (len(cases) != 1)}",
        tasks=Counter(case.task for case in cases if case.task).most_common(),
        spent=_duration(sum(case.seconds for case in cases)),
        order=ORDER,
        counts=Counter(case.status for case in cases),
        charts=list(_charts(cases)),
        style=Markup(style),
        script=Markup(script),
        # Whatever a file name or a message might smuggle in, the browser runs this one script and loads nothing.
        policy=Markup(f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"),
    )


def _printable(value: object) -> object:
    """Names of files may hold line ends and bytes that are no text."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _charts(cases: Sequence[CaseFacts]) -> Iterator[dict[str, Any]]:
    """Distributions that are worth a picture: those of two finite numbers or more."""
    numbers: list[tuple[str, str, list[float | None]]] = []
    for unit in dict.fromkeys(modality.noise.shown_unit for modality in MODALITIES.values()):
        titles = [modality.title for modality in MODALITIES.values() if modality.noise.shown_unit == unit]
        levels = [case.noise for case in cases if case.noise_unit == unit]
        numbers.append((f"Noise, {' and '.join(titles)}", f" {unit}", levels))
    for task in dict.fromkeys(case.task for case in cases if case.task):
        residuals = [case.residual for case in cases if case.task == task]
        # A verb that keeps every measured voxel has a residual of zero by construction; that needs no picture.
        numbers.append((f"Residual, {task}", "", residuals if any(residuals) else []))
    numbers.append(("Seconds per case", " s", [case.seconds for case in cases if case.status == "done"]))
    for title, unit, values in numbers:
        finite = [value for value in values if value is not None and math.isfinite(value)]
        if len(finite) >= 2:
            svg = Markup(histogram(finite, unit))
            yield {"title": title, "unit": unit, "count": len(finite), "median": statistics.median(finite), "svg": svg}
