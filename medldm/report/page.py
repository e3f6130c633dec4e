"""One HTML page for a batch: everything inside it, nothing fetched, nothing run but its own script."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from medldm.errors import shown
from medldm.io.atomic import whole_file
from medldm.report.chart import histogram, short
from medldm.report.facts import CaseFacts, facts_of

ORDER = ("done", "unchanged", "skipped", "failed", "refused")
MANY = 60  # cases; beyond, pictures are smaller, so that a thousand of them still open in a browser
LARGE, SMALL = 900, 420  # width of pictures, pixels
COLUMNS = (
    ("picture", ""), ("case", ""), ("status", ""), ("look at", ""), ("noise", "number"), ("residual", "number"),
    ("slices estimated", "number"), ("seconds", "number"), ("message", ""),
)  # fmt: skip


def write_page(rows: Sequence[Any], folder: Path) -> Path:
    """``report.html``: counts, distributions, and a row with a picture for each case.

    Whatever comes from outside (file names, messages) is escaped, and the page forbids the browser every script but
    its own and every address.

    Parameters
    ----------
    rows : of the batch, each with case, status, seconds, message and result
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
    style, script = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Whatever a file name or a message might smuggle in, the browser runs this one script and loads nothing.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    total = f"{len(cases)} case{'s' * (len(cases) != 1)}"
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>medldm: {total}</title><style>{style}</style></head><body><main>",
            f"<header><div><h1>medldm report: {total}</h1><p>{_sum(cases)}</p></div>",
            '<button class="look" type="button">Dark</button></header>',
            '<p class="estimates">Restored voxels are estimates. Research use only.</p>',
            f'<div class="tiles">{_tiles(cases)}</div>',
            _charts(cases),
            '<div class="find"><input type="search" placeholder="Find a case or a message" aria-label="Find">',
            '<label><input type="checkbox" id="flagged"> only cases to look at</label><output></output></div>',
            f'<div class="wide"><table><thead><tr>{_head()}</tr></thead><tbody>',
            *(_row(case) for case in cases),
            "</tbody></table></div><footer>Noise: MRI in percent of the 99.5th percentile of the foreground, CT in HU. "
            "Residual: what the result, measured again, differs from the scan; compare within one task only. "
            "Slices estimated: those with voxels that nobody measured. Look at: cases that failed or were refused, "
            "clipping, scans outside what the model covers, and noise or residual more than five robust standard "
            "deviations above the median of the batch.</footer>",
            f'<dialog><img alt="before and after"><p></p></dialog></main><script>{script}</script></body></html>\n',
        ]
    )


def _text(words: str) -> str:
    return html.escape(shown(words))


def _sum(cases: Sequence[CaseFacts]) -> str:
    tasks = Counter(case.task for case in cases if case.task)
    seconds = sum(case.seconds for case in cases)
    spent = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else ""
    words = [f"{_text(task)} {count}" for task, count in tasks.most_common()]
    return " &middot; ".join([*words, f"{spent or f'{seconds / 3600:.1f} h'} of computing"])


def _tiles(cases: Sequence[CaseFacts]) -> str:
    counts = Counter(case.status for case in cases)
    tiles = [
        f'<button class="tile" type="button" aria-pressed="false" data-status="{status}"><b>{counts[status]}</b>'
        f'<span class="status {status}">{status}</span></button>'
        for status in ORDER
        if counts[status]
    ]
    flagged = sum(case.to_look_at for case in cases)
    return "".join(tiles) + f'<div class="tile"><b>{flagged}</b><span>to look at</span></div>'


def _charts(cases: Sequence[CaseFacts]) -> str:
    drawn = []
    for unit in ("%", "HU"):
        values = [case.noise for case in cases if case.noise is not None and case.noise_unit == unit]
        title = "Noise, MRI" if unit == "%" else "Noise, CT"
        drawn.append(_chart(title, values, " %" if unit == "%" else " HU"))
    for task in dict.fromkeys(case.task for case in cases if case.task):
        residuals = [case.residual for case in cases if case.task == task and case.residual is not None]
        # A verb that keeps every measured voxel has a residual of zero by construction; that needs no picture.
        drawn.append(_chart(f"Residual, {task}", residuals if any(residuals) else [], ""))
    drawn.append(_chart("Seconds per case", [case.seconds for case in cases if case.status == "done"], " s"))
    shown_ones = "".join(drawn)
    return f'<div class="charts">{shown_ones}</div>' if shown_ones else ""


def _chart(title: str, values: Sequence[float], unit: str) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    return (
        f"<figure><figcaption><h2>{_text(title)}</h2><small>{len(finite)} cases, median "
        f"{short(statistics.median(finite))}{unit}</small></figcaption>{histogram(finite, unit)}</figure>"
    )


def _head() -> str:
    cells = []
    for name, kind in COLUMNS:
        inside = name if name == "picture" else f'<button type="button">{name}</button>'
        cells.append(f'<th scope="col" class="{kind}">{inside}</th>')
    return "".join(cells)


def _row(case: CaseFacts) -> str:
    name = _text(case.case)
    picture = ""
    if case.picture:
        picture = (
            f'<button type="button" aria-label="enlarge {name}">'
            f'<img loading="lazy" alt="before and after: {name}" src="{case.picture}"></button>'
        )
    words = case.flags or (("see message",) if case.to_look_at else ())
    flags = "".join(f'<span class="flag">{_text(flag)}</span>' for flag in words)
    noise = "" if case.noise is None else f"{short(case.noise)} {case.noise_unit}"
    task = f"<small>{_text(case.task)}</small>" if case.task else ""
    cells = [
        f'<td class="picture">{picture}</td>',
        f'<td class="case" data-value="{name}">{name}{task}</td>',
        f'<td><span class="status {_text(case.status)}">{_text(case.status)}</span></td>',
        f"<td>{flags}</td>",
        _number(case.noise, noise),
        _number(case.residual, "" if case.residual is None else short(case.residual)),
        _number(case.invented, "" if case.invented is None else str(case.invented)),
        _number(case.seconds, f"{case.seconds:.1f}"),
        f'<td class="said" data-value="{_text(case.message)}">{_text(case.message)}{_notes(case.notes)}</td>',
    ]
    return f'<tr data-status="{_text(case.status)}" data-flags="{len(words)}">' + "".join(cells) + "</tr>"


def _notes(notes: Sequence[str]) -> str:
    """What the run said, folded up: most scans have a note, few of them matter."""
    if not notes:
        return ""
    told = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f"<details><summary>{len(notes)} note{'s' * (len(notes) != 1)}</summary><ul>{told}</ul></details>"


def _number(value: float | None, words: str) -> str:
    return f'<td class="number" data-value="{"" if value is None else f"{value:g}"}">{words}</td>'
