"""Degrade, restore with every method, score, write; a killed run resumes where it stopped."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medldm.benchmark.baselines import Method, methods
from medldm.benchmark.ledger import append_score, read_scores
from medldm.benchmark.memory import PeakMemory
from medldm.benchmark.noise_table import noise_errors, noise_markdown
from medldm.benchmark.optional_baselines import OPTIONAL
from medldm.benchmark.protocol import Trial, trials
from medldm.benchmark.rows import chosen_rows
from medldm.benchmark.scans import few, in_turn, scans
from medldm.benchmark.scoring import Backbone, encoder_backbone, scores_of
from medldm.benchmark.sets import extractors, keep, set_distances
from medldm.benchmark.tables import figure, markdown, set_table
from medldm.data.volume import Voxels
from medldm.degradations import Row
from medldm.errors import MedldmError, UsageError
from medldm.modality import CT, MODALITIES, MR
from medldm.settings import Progress

log = logging.getLogger(__name__)

Seen = Callable[[Trial, str, Voxels], None]
QUICK_SCANS = 2
# Objects that are drawn, in place of a scan of the modality.
DRAWN: dict[str, dict[str, str]] = {
    kind: {"path": "", "file": name, "subject": name, "modality": kind.upper(), "source": "drawn"}
    for kind, name in ((MR.name, "drawn-head"), (CT.name, "object"))
}


def run(
    data: str | Path,
    out: str | Path | None = None,
    *,
    quick: bool = False,
    tasks: Sequence[str] | None = None,
    methods_wanted: Sequence[str] | None = None,
    split: str = "test",
    at_most: int | None = None,
    progress: Progress | None = None,
    backbones: Sequence[str | Path] = (),
) -> Path:
    """Run the benchmark.

    Parameters
    ----------
    data : folder with a manifest (columns split, file, subject, modality, source), or a plain folder of MR scans
    out : scores.csv, table.md and figure.png; scores that are there are not computed again, unless weights changed
    quick : two scans and four rows
    tasks : these rows, or groups of rows (``all``, ``lesions``, ``ct``), instead of the core rows
    methods_wanted : only these methods; the path of a model card is one too
    split : of the manifest
    at_most : scans of each modality; sources take turns, and within each its subjects
    progress : called with (done, total, what); a log line for each score when not given
    backbones : TorchScript networks of the user's own, for distances of sets or of pairs; see `medldm.benchmark.sets`

    Returns
    -------
    path of the Markdown table

    Raises
    ------
    UsageError, InputError
    """
    rows = chosen_rows(tasks, quick)
    scans_of = {name: scans(Path(data), split, name) for name in MODALITIES}
    if quick:
        scans_of = {modality: few(some, QUICK_SCANS) for modality, some in scans_of.items()}
    if at_most is not None:
        if at_most < 1:
            raise UsageError(f"A benchmark needs a scan; --scans was {at_most}.")
        scans_of = {modality: in_turn(some)[:at_most] for modality, some in scans_of.items()}
    competing, absent = methods(tuple(methods_wanted) if methods_wanted else None)
    if quick and not methods_wanted:
        # Minutes a scan: a quick look does without them.
        slow = [name for name in OPTIONAL if competing.pop(name, None)]
        absent |= dict.fromkeys(slow, "too slow for --quick")
    out = Path("benchmark_result" if out is None else out)
    out.mkdir(parents=True, exist_ok=True)
    ledger, backbone = out / "scores.csv", encoder_backbone()
    makers, features = extractors(backbone, backbones), out / "features"
    names = [row.name for row in rows]
    files = list(dict.fromkeys(scan["file"] for row in rows for scan in scans_for(row, scans_of)))

    def publish(more: str = "") -> Path:
        """What is known so far, so that a run cut short leaves a table too."""
        scores = [
            score for score in current(ledger, competing, backbone) if score["row"] in names and score["file"] in files
        ]
        scores.sort(key=lambda score: (names.index(score["row"]), list(competing).index(score["method"])))
        text = markdown(scores, absent, command(data))
        for name in makers:
            text += set_table(name, {row: set_distances(features, name, row, list(competing), files) for row in names})
        table = out / "table.md"
        table.write_text(text + more, encoding="utf-8")
        try:
            if scores:
                figure(scores, out / "figure.png")
        except ImportError:
            log.warning("no figure: matplotlib is not installed (pip install medldm[benchmark])")
        except OSError as problem:  # matplotlib finds no folder of its own to write to
            log.warning("no figure: %s", problem)
        return table

    score_all(
        rows, scans_of, competing, backbone, ledger, progress or _log, publish,
        lambda trial, name, guess: keep(features, makers, trial, name, guess),
    )  # fmt: skip
    return publish("" if tasks else "\n" + noise_markdown(noise_errors(scans_of[MR.name])))


def scans_for(row: Row, scans_of: dict[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    """The scans that a row runs on."""
    return [DRAWN[row.modality]] if row.drawn else scans_of[row.modality]


def score_all(
    rows: Sequence[Row],
    scans_of: dict[str, list[dict[str, str]]],
    competing: dict[str, Method],
    backbone: Backbone,
    ledger: Path,
    progress: Progress,
    publish: Callable[[], Any],
    seen: Seen,
) -> None:
    """Score what the ledger does not know yet, one line at a time; after every scan there is a table.

    `seen` is shown each restoration.
    """
    done = {(score["row"], score["file"], score["method"]) for score in current(ledger, competing, backbone)}
    total, count = sum(len(scans_for(row, scans_of)) for row in rows), 0
    for scan in (*(scan for some in scans_of.values() for scan in in_turn(some)), *DRAWN.values()):
        mine = [row for row in rows if scan in scans_for(row, scans_of)]
        for row in mine:
            open_ = [name for name in competing if (row.name, scan["file"], name) not in done]
            for trial in trials(row, scan) if open_ else ():
                for name in open_:
                    score_one(trial, name, competing[name], backbone, ledger, seen)
            count += 1
            progress(count, total, f"{row.name} {scan['file']}")
        if mine:
            publish()


def score_one(trial: Trial, name: str, method: Method, backbone: Backbone, ledger: Path, seen: Seen) -> None:
    """One method on one trial; what it cannot do is left out, what it fails at is written down and tried again."""
    started = time.perf_counter()
    note, guess = "", None
    with PeakMemory() as peak:
        try:
            guess = method.restore(trial)
        except MedldmError as problem:
            note = str(problem)
    seconds = time.perf_counter() - started
    if guess is None and not note:
        return
    labels = {
        "row": trial.row.name,
        "subject": trial.subject,
        "file": trial.file,
        "contrast": trial.contrast,
        "source": trial.source,
        "method": name,
        "weights": method.weights,
        "backbone": backbone.name,
        "seconds": seconds,
        "peak_mb": peak.megabytes,
        "note": note,
    }
    scores = {} if guess is None else scores_of(trial, guess, backbone)
    if guess is not None:
        seen(trial, name, guess)
    append_score(ledger, labels | scores)
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


__all__ = ["Row", "run"]
