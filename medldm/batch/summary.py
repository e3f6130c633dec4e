"""The outcome of every case: as a table, as JSON, as an exit code."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from medldm.io.atomic import whole_file

STATUSES = ("done", "unchanged", "skipped", "failed", "refused")
TO_DO = "to do"  # in a dry run only, on the screen only


@dataclass(frozen=True)
class Row:
    """One case.

    Parameters
    ----------
    case : its place below OUT
    status : one of `STATUSES`, in a dry run also `TO_DO`
    seconds : wall clock; of what is to do the forecast, NaN where there is none
    message : a sentence
    result : path of the result, empty without one
    """

    case: str
    status: str
    seconds: float = 0.0
    message: str = ""
    result: str = ""


def exit_code(rows: list[Row]) -> int:
    """0 when nothing failed and nothing was refused, else 8."""
    return 8 if any(row.status in ("failed", "refused") for row in rows) else 0


def tally(rows: list[Row]) -> str:
    """``3 done, 1 skipped``; in a dry run ``2 to do, 1 done; about 90 s of computing``."""
    counts = Counter(row.status for row in rows)
    counted = ", ".join(f"{counts[status]} {status}" for status in (TO_DO, *STATUSES) if counts[status])
    known = [row.seconds for row in rows if row.status == TO_DO and math.isfinite(row.seconds)]
    if not known:
        return counted
    some = f" for {len(known)} of them" if len(known) < counts[TO_DO] else ""
    return f"{counted}; {spent(sum(known))} of computing{some}"


def spent(seconds: float) -> str:
    """``about 90 s``, ``about 12 min``, ``about 5.5 h``."""
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


def write_summary(rows: list[Row], folder: Path, shard: tuple[int, int] = (1, 1)) -> list[Row]:
    """``summary.csv`` and ``summary.json`` in a folder.

    Shards write a table each, ``summary-2-of-5.json``, and what is there of all of them as the summary.

    Parameters
    ----------
    rows : cases of this run
    folder : of the results
    shard : (part, parts)

    Returns
    -------
    rows of the summary: with shards those of all that have a table
    """
    part, parts = shard
    if parts > 1:
        _write(rows, folder / f"summary-{part}-of-{parts}")
        rows = rows_of_shards(folder, parts)
    _write(rows, folder / "summary")
    return rows


def rows_of_shards(folder: Path, parts: int) -> list[Row]:
    """Rows of all shards that have a table.

    Parameters
    ----------
    folder : of the results
    parts : number of shards
    """
    others = [_read(path) for path in sorted(folder.glob(f"summary-*-of-{parts}.json"))]
    return sorted((row for other in others for row in other), key=lambda row: row.case)


def _write(rows: list[Row], stem: Path) -> None:
    with (
        whole_file(stem.with_name(stem.name + ".csv")) as temporary,
        temporary.open(
            "w",
            newline="",
            encoding="utf-8",
            errors="backslashreplace",  # names of files may hold bytes that are no text
        ) as file,
    ):
        writer = csv.DictWriter(file, [column.name for column in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    with whole_file(stem.with_name(stem.name + ".json")) as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def _read(path: Path) -> list[Row]:
    try:
        return [Row(**row) for row in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return []  # another shard is being written by an older medldm, or by hand
