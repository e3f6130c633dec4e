"""Degrade, restore with everyone, score, write; a killed run goes on where it stopped."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm import metrics
from medldm.benchmark.noise_table import noise_errors, noise_markdown
from medldm.benchmark.protocol import CORE, QUICK, Row, Trial, scans, trials
from medldm.benchmark.rivals import Method, methods
from medldm.benchmark.tables import append_score, figure, markdown, read_scores
from medldm.errors import MedldmError, UsageError
from medldm.volume import Voxels

log = logging.getLogger(__name__)


def run(
    data: Path,
    out: Path,
    *,
    quick: bool = False,
    tasks: Sequence[str] | None = None,
    methods_wanted: Sequence[str] | None = None,
    split: str = "test",
) -> Path:
    """Run the benchmark.

    Parameters
    ----------
    data : folder with a manifest (columns split, file, subject, modality, source), or a plain folder of MR scans
    out : scores.csv, table.md and figure.png; scores that are there are not computed again
    quick : three scans and five rows
    tasks : only these rows
    methods_wanted : only these methods
    split : of the manifest

    Returns
    -------
    path of the Markdown table

    Raises
    ------
    UsageError, InputError
    """
    known = {row.name: row for row in CORE}
    for name in tasks or ():
        if name not in known:
            raise UsageError(f"There is no row {name!r}; there are {', '.join(known)}.")
    rows = [known[name] for name in tasks] if tasks else [row for row in CORE if not quick or row.name in QUICK]
    found = scans(Path(data), split)
    if quick:
        found = found[:: max(1, len(found) // 3)][:3]
    competing, absent = methods(tuple(methods_wanted) if methods_wanted else None)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "scores.csv"
    done = {(score["row"], score["file"], score["method"]) for score in read_scores(path)}
    features = encoder_features()
    for row in rows:
        for scan in found:
            if all((row.name, scan["file"], name) in done for name in competing):
                continue
            for trial in trials(row, scan):
                score_trial(trial, competing, done, path, features)
    scores = [
        score
        for score in read_scores(path)
        if score["row"] in {row.name for row in rows} and score["method"] in competing
    ]
    command = "medldm " + " ".join(sys.argv[1:]) if sys.argv[0].endswith("medldm") else f"medldm benchmark {data}"
    table = out / "table.md"
    table.write_text(markdown(scores, absent, command) + "\n" + noise_markdown(noise_errors(found)))
    try:
        figure(scores, out / "figure.png")
    except ImportError:
        log.warning("no figure: matplotlib is not installed (pip install medldm[benchmark])")
    return table


def score_trial(
    trial: Trial, competing: dict[str, Method], done: set[tuple[str, str, str]], path: Path, features: Features | None
) -> None:
    """All methods on one trial; what a method cannot do is left out, what it fails at is written down."""
    for name, method in competing.items():
        if (trial.row.name, trial.file, name) in done:
            continue
        started = time.perf_counter()
        note = ""
        try:
            guess = method(trial)
        except MedldmError as problem:
            guess, note = None, str(problem)
        seconds = time.perf_counter() - started
        if guess is None and not note:
            continue
        told = {"row": trial.row.name, "subject": trial.subject, "file": trial.file, "contrast": trial.contrast,
                "source": trial.source, "method": name, "seconds": seconds, "note": note}  # fmt: skip
        append_score(path, told | (scores_of(trial, guess, features) if guess is not None else {}))
        log.warning("%-18s %-44s %-13s %5.1f s", trial.row.name, trial.file, name, seconds)


def scores_of(trial: Trial, guess: Voxels, features: Features | None) -> dict[str, Any]:
    """Every score of one restoration."""
    reference, mask = trial.reference, trial.scored
    consistency = ""
    if trial.degradation is not None:
        again = trial.degradation.degrade(torch.from_numpy(np.ascontiguousarray(guess, dtype=np.float32)))
        before = torch.from_numpy(np.array(trial.measured.voxels))
        consistency = float((again - before).pow(2).mean().sqrt() / before.pow(2).mean().sqrt())  # type: ignore[assignment]
    error = (guess - reference)[mask]
    return {
        "psnr": metrics.psnr(guess, reference, mask),
        "ssim": metrics.ssim(guess, reference, mask),
        "detail_energy": metrics.detail_energy_ratio(guess, reference, mask),
        "detail_correlation": metrics.detail_correlation(guess, reference, mask),
        "perceptual": metrics.feature_distance(features, guess, reference) if features else "",
        "bias": float(error.mean()),
        "consistency": consistency,
    }


Features = Callable[[Voxels], list[Voxels]]


def encoder_features() -> Features | None:
    """Features of the shipped autoencoder's encoder over the planes that lie across the second axis."""
    from medldm.chain import load_chain
    from medldm.errors import ModelError
    from medldm.zoo import best

    try:
        latent = load_chain(best("mr")).latent
    except ModelError:
        return None
    assert latent is not None
    vae = latent.vae

    def features(image: Voxels) -> list[Voxels]:
        middle = np.linspace(0.3, 0.7, 5) * image.shape[1]
        planes = np.stack([image[:, int(at), :] for at in middle]).astype(np.float32)
        cut = planes[:, : planes.shape[1] // 8 * 8, : planes.shape[2] // 8 * 8]
        with torch.inference_mode():
            found = vae.features(torch.from_numpy(cut)[:, None])
        return [each.transpose(0, 1).float().numpy() for each in found]

    return features


__all__ = ["Row", "run"]
