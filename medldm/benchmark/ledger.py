"""One line for each score, written as soon as it is there: a killed run goes on where it stopped."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

# Bump it when rows or scores change meaning: older lines are then computed again.
PROTOCOL = 2
KEY = ("row", "file", "method")
TEXTS = ("row", "subject", "file", "contrast", "source", "method", "weights", "backbone", "protocol", "note")
NUMBERS = (
    *("psnr", "ssim", "detail_energy", "detail_correlation", "perceptual", "mae", "nmi"),
    *("bias_1", "bias_2", "bias_3", "bias_4", "bias_5", "consistency", "untouched", "seconds"),
    *("peak_mb", "ms_ssim", "mae_hu", "psnr_soft", "roughness_jump"),
    *("lesion_2", "lesion_3", "lesion_4", "lesion_6", "lesion_8", "lesions_lost", "lesion_hidden", "lesions_false"),
    *("nps_frequency", "edge_ratio", "noise_left", "water_bias"),
)
FIELDS = (*TEXTS[:-1], *NUMBERS, TEXTS[-1])


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Scores that earlier runs left; of equal keys the last one, failures and torn lines not at all.

    Parameters
    ----------
    path : CSV, need not exist

    Returns
    -------
    one dictionary for each (row, file, method); numbers as floats, NaN where a score does not apply
    """
    if not path.is_file():
        return []
    scores = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            score = _score(line)
            if score is not None and score["protocol"] == str(PROTOCOL):
                scores[tuple(score[name] for name in KEY)] = score
    return list(scores.values())


def append_score(path: Path, score: dict[str, Any]) -> None:
    """One more line; a line that a kill tore is cut off first.

    Parameters
    ----------
    path : CSV, begun when it does not exist
    score : fields of `FIELDS`; what is left out stays empty
    """
    new = _mend(path)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        fields = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in score.items()}
        writer.writerow({**fields, "protocol": PROTOCOL})


def _mend(path: Path) -> bool:
    """Whether the file has to be begun; cuts what lies behind the last whole line."""
    content = path.read_bytes() if path.is_file() else b""
    whole = content.rfind(b"\n") + 1
    header = content[:whole].split(b"\n", 1)[0].decode().strip()
    if whole and header != ",".join(FIELDS):
        if _earlier(header.split(",")):
            _with_all_columns(path)
            return False
        # Columns of another version: kept beside, since they may have taken hours.
        path.replace(path.with_suffix(".old.csv"))
        return True
    if whole < len(content):
        path.write_bytes(content[:whole])
    return whole == 0


def _earlier(columns: list[str]) -> bool:
    """Whether these are the columns of a version that had fewer scores, and all columns of text."""
    return set(TEXTS) <= set(columns) <= set(FIELDS)


def _with_all_columns(path: Path) -> None:
    """Rewrite a ledger with today's columns; scores that did not exist yet stay empty, nothing is computed again."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if None not in line and None not in line.values()]
    beside = path.with_suffix(".wider.csv")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(lines)
    beside.replace(path)


def _score(line: dict[str, Any]) -> dict[str, Any] | None:
    # A column that is not there is a score of a later version; a value that is not there is a torn line.
    if None in line or None in line.values() or not set(TEXTS) <= set(line) or line["note"]:
        return None
    try:
        numbers = {name: float(line[name]) if line.get(name) else math.nan for name in NUMBERS}
    except ValueError:
        return None
    return {**{name: line[name] for name in TEXTS}, **numbers}
