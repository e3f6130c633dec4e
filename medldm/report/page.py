"""One HTML page for a batch, readable offline."""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medldm.io.atomic import whole_file

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:70rem;color:#1c2024}
table{border-collapse:collapse;width:100%}td,th{padding:.4rem .7rem;border-bottom:1px solid #dde;text-align:left;
vertical-align:top}
.failed,.refused{color:#b3261e}.skipped{color:#777}img{max-width:22rem;border-radius:4px}"""


def write_page(rows: Sequence[Any], folder: Path) -> Path:
    """``report.html`` with a row for each case, pictures inside.

    Parameters
    ----------
    rows : of the batch, each with case, status, seconds, message and result
    folder : of the results
    """
    body = "".join(_row(row) for row in rows)
    counts = ", ".join(f"{count} {status}" for status, count in Counter(row.status for row in rows).items())
    total = f"{len(rows)} case{'s' * (len(rows) != 1)}"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>medldm: {total}</title>"
        f"<style>{STYLE}</style>"
        f"<h1>{total}: {html.escape(counts)}</h1><p>Restored voxels are estimates. Research use only.</p>"
        f"<table><tr><th>case<th>status<th>seconds<th>message<th>before and after</tr>{body}</table></html>"
    )
    target = folder / "report.html"
    with whole_file(target) as temporary:
        temporary.write_text(page)
    return target


def _row(row: Any) -> str:
    stem = row.result.removesuffix(".gz").removesuffix(".nii")
    picture = Path(f"{stem}_preview.png") if row.result else None
    shown = ""
    if picture is not None and picture.is_file():
        shown = (
            "<img alt='before and after' "
            f"src='data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}'>"
        )
    cells = (html.escape(row.case), row.status, f"{row.seconds:.1f}", html.escape(row.message), shown)
    return f"<tr class={row.status}>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"
