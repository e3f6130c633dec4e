"""Degrade, restore with everyone, score, write; a killed run goes on where it stopped."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medldm.benchmark.ledger import append_score, read_scores
from medldm.benchmark.noise_table import noise_errors, noise_markdown
from medldm.benchmark.protocol import CORE, QUICK, Row, Trial, trials
from medldm.benchmark.rivals import Method, methods
from medldm.benchmark.scans import few, in_turn, scans
from medldm.benchmark.scoring import Backbone, encoder_backbone, scores_of
from medldm.benchmark.tables import figure, markdown
from medldm.errors import MedldmError, UsageError

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
QUICK_SCANS = 2


def run(
    data: str | Path,
    out: str | Path | None = None,
    *,
    quick: bool = False,
    tasks: Sequence[str] | None = None,
    methods_wanted: Sequence[str] | None = None,
    split: str = "test",
    progress: Progress | None = None,
) -> Path:
    """Run the benchmark.

    Parameters
    ----------
    data : folder with a manifest (columns split, file, subject, modality, source), or a plain folder of MR scans
    out : scores.csv, table.md and figure.png; scores that are there are not computed again, unless weights changed
    quick : two scans and four rows
    tasks : only these rows
    methods_wanted : only these methods; the path of a model card is one too
    split : of the manifest
    progress : called with (done, total, what); a log line for each score when not given

    Returns
    -------
    path of the Markdown table

    Raises
    ------
    UsageError, InputError
    """
    rows = chosen_rows(tasks, quick)
    found = scans(Path(data), split)
    if quick:
        found = few(found, QUICK_SCANS)
    competing, absent = methods(tuple(methods_wanted) if methods_wanted else None)
    out = Path("benchmark_result" if out is None else out)
    out.mkdir(parents=True, exist_ok=True)
    ledger, backbone = out / "scores.csv", encoder_backbone()
    names, files = [row.name for row in rows], {scan["file"] for scan in found}

    def publish(more: str = "") -> Path:
        """What is known so far, so that a run cut short leaves a table too."""
        scores = [
            each for each in current(ledger, competing, backbone) if each["row"] in names and each["file"] in files
        ]
        scores.sort(key=lambda each: (names.index(each["row"]), list(competing).index(each["method"])))
        table = out / "table.md"
        table.write_text(markdown(scores, absent, command(data)) + more)
        try:
            if scores:
                figure(scores, out / "figure.png")
        except ImportError:
            log.warning("no figure: matplotlib is not installed (pip install medldm[benchmark])")
        return table

    score_all(rows, found, competing, backbone, ledger, progress or _log, publish)
    return publish("" if tasks else "\n" + noise_markdown(noise_errors(found)))


def chosen_rows(tasks: Sequence[str] | None, quick: bool) -> list[Row]:
    """The rows that are asked for.

    Raises
    ------
    UsageError
    """
    known = {row.name: row for row in CORE}
    for name in tasks or ():
        if name not in known:
            raise UsageError(f"There is no row {name!r}; there are {', '.join(known)}.")
    return [known[name] for name in tasks] if tasks else [row for row in CORE if not quick or row.name in QUICK]


def score_all(
    rows: Sequence[Row],
    found: Sequence[dict[str, str]],
    competing: dict[str, Method],
    backbone: Backbone,
    ledger: Path,
    progress: Progress,
    publish: Callable[[], Any],
) -> None:
    """Score what the ledger does not know yet, one line at a time; after every scan there is a table."""
    done = {(score["row"], score["file"], score["method"]) for score in current(ledger, competing, backbone)}
    total, count = len(rows) * len(found), 0
    for scan in in_turn(found):
        for row in rows:
            open_ = [name for name in competing if (row.name, scan["file"], name) not in done]
            for trial in trials(row, scan) if open_ else ():
                for name in open_:
                    score_one(trial, name, competing[name], backbone, ledger)
            count += 1
            progress(count, total, f"{row.name} {scan['file']}")
        publish()


def score_one(trial: Trial, name: str, method: Method, backbone: Backbone, ledger: Path) -> None:
    """One method on one trial; what it cannot do is left out, what it fails at is written down and tried again."""
    started = time.perf_counter()
    note, guess = "", None
    try:
        guess = method.restore(trial)
    except MedldmError as problem:
        note = str(problem)
    seconds = time.perf_counter() - started
    if guess is None and not note:
        return
    told = {
        "row": trial.row.name,
        "subject": trial.subject,
        "file": trial.file,
        "contrast": trial.contrast,
        "source": trial.source,
        "method": name,
        "weights": method.weights,
        "backbone": backbone.name,
        "seconds": seconds,
        "note": note,
    }
    scores = {} if guess is None else scores_of(trial, guess, backbone)
    append_score(ledger, told | scores)
    log.info("%s %s %s %.1f s %s", trial.row.name, trial.file, name, seconds, note)


def current(ledger: Path, competing: dict[str, Method], backbone: Backbone) -> list[dict[str, Any]]:
    """Scores of the methods as they are now: with these weights, and this network behind the perceptual distance."""
    return [
        score
        for score in read_scores(ledger)
        if score["method"] in competing
        and score["weights"] == competing[score["method"]].weights
        and score["backbone"] == backbone.name
    ]


def command(data: str | Path) -> str:
    """The command line that made the table."""
    if Path(sys.argv[0]).name == "medldm":
        return "medldm " + " ".join(sys.argv[1:])
    return f"medldm benchmark {data}"


def _log(done: int, total: int, what: str) -> None:
    log.warning("%d of %d: %s", done, total, what)


__all__ = ["Progress", "Row", "run"]
