"""What a card gets after training: how wide its intervals must be, and what its training scans look like.

Small blocks of validation scans are damaged, restored, and compared with what they were.
The floor of the interval (`medldm.inference.uncertainty.Interval`) is fitted on training subjects, of all their
contrasts, by the interval score (Gneiting and Raftery, J Am Stat Assoc 102, 2007), which asks for the right width place
by place. The scale q is then set on validation subjects alone by split conformal prediction; voxels of one head are not
independent, so subjects are pooled by their distributions, each with the same weight (CDF pooling: Dunn, Wasserman
and Ramdas, J Am Stat Assoc 118, 2023). With nine subjects of two scanners that is calibration, not a guarantee.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage, optimize

from medldm.benchmark.protocol import Trial, damage, trials
from medldm.benchmark.rows import chosen_rows
from medldm.benchmark.scans import is_thin, scans, spacing_of
from medldm.data.intensity import foreground_mask, mri_scaling
from medldm.data.volume import Stored, Volume, Voxels
from medldm.degradations import MissingSlices, Regions, Rician, Row, ThickSlices
from medldm.errors import UsageError
from medldm.inference.uncertainty import Interval, local_contrast, remoteness
from medldm.io.atomic import whole_file
from medldm.io.images import read_image
from medldm.modality import MR
from medldm.qc import ood
from medldm.settings import make
from medldm.tasks import TASKS, run
from medldm.zoo import FIELDS, Card, card

log = logging.getLogger(__name__)

COVERAGE = 0.9
BLOCK = (64, 64, 24)  # voxels along the slice axis and the two others
VOXELS = 4000  # of each block that take part; neighbours tell the same
ROWS = (
    Row("noise-3", "denoise", Rician, level=0.03),
    Row("noise-7", "denoise", Rician, level=0.07),
    Row("thick-4mm", "super-resolve", ThickSlices, {"spacing": 4.0}),
    Row("thick-3mm-noise-3", "super-resolve", ThickSlices, {"spacing": 3.0}, level=0.03),
    Row("every-4th-kept", "fill-slices", MissingSlices, {"missing": "every 4 kept"}),
    Row("gap-of-3", "fill-slices", MissingSlices, {"missing": "gap of 3"}),
    Row("region-20mm", "inpaint", Regions, {"diameter": 20.0}),
)
CT_ROWS = tuple(
    chosen_rows(
        ("ct-dose-4", "ct-dose-10", "ct-thick-4mm", "ct-every-2nd-kept", "ct-gap-of-3", "ct-region-20mm"), quick=False
    )
)


@dataclass(frozen=True)
class Errors:
    """What one restored block was wrong by, at some voxels of its foreground that were not copied.

    Parameters
    ----------
    row, verb, subject, contrast : of the block
    error, std, busy : (N,) scaled intensity; signed, spread s, local contrast of the result
    remoteness : (N,) voxels, see `medldm.inference.uncertainty.remoteness`
    sigma : noise level the network was given, scaled intensity
    residual : consistency of the result, as its record holds it
    """

    row: str
    verb: str
    subject: str
    contrast: str
    error: Voxels
    std: Voxels
    busy: Voxels
    remoteness: Voxels
    sigma: float
    residual: float

    def half_width(self, interval: Interval) -> Voxels:
        """(N,) scaled intensity, as `medldm.inference.uncertainty.Interval.half_width` gives it for a whole scan."""
        floor = interval.still**2 + (interval.noisy * self.sigma) ** 2 + interval.far**2 * self.remoteness
        half: Voxels = interval.q * np.sqrt(self.std**2 + floor + (interval.busy * self.busy) ** 2)
        return half


def calibrate(model: str, data: Path, *, blocks: int = 8, rows: Sequence[Row] = ()) -> dict[str, Any]:
    """Measure a model's intervals, residuals and training scans, and write them on its card.

    Parameters
    ----------
    model : name or path, as ``--model`` takes it
    data : folder with a manifest
    blocks : training scans that the floor is fitted on
    rows : what is done to the scans; those of the modality when not given

    Returns
    -------
    the new parts of the card, ``calibration`` and ``ood``

    Raises
    ------
    UsageError
        A model without a spread head.
    """
    model_card = card(model)
    if not model_card.spread:
        raise UsageError(f"{model_card.name} has no spread head: there is nothing to calibrate.")
    rows = rows or (ROWS if model_card.modality == MR.name else CT_ROWS)
    train, val = (scans(data, split, model_card.modality) for split in ("train", "val"))
    fitted = measure(model_card, _varied(train, blocks), rows)
    chosen = measure(model_card, val, rows)
    # A verb that no validation subject shows has no scale, and gets no interval.
    verbs = {verb: _calibrated(verb, fitted, chosen) for verb in sorted({errors.verb for errors in chosen})}
    calibration = {
        "coverage": COVERAGE,
        "fitted_on": f"{len({errors.subject for errors in fitted})} training subjects (floor)",
        "subjects": sorted({errors.subject for errors in chosen}),
        "verbs": verbs,
    }
    amended = {
        "calibration": calibration,
        "ood": {**fit_ood(train, val, model_card.modality), "residual": _usual(chosen)},
    }
    amend(model_card, amended)
    return amended


def fit_ood(train: Sequence[dict[str, str]], val: Sequence[dict[str, str]], modality: str) -> dict[str, Any]:
    """`medldm.qc.ood.fit` on scans of a manifest.

    Parameters
    ----------
    train, val : rows of `medldm.benchmark.scans.scans`
    modality : name in `medldm.modality.MODALITIES`
    """
    described = [[ood.describe(read_image(Path(row["path"])), modality) for row in rows] for rows in (train, val)]
    return ood.fit(*described)


def amend(model_card: Card, changes: dict[str, Any]) -> None:
    """Parts of a card written into its JSON; the weights, and the card in their header, stay as they were.

    Parameters
    ----------
    model_card : card on disk
    changes : fields and their new values
    """
    path = model_card.path.with_name(f"{model_card.name}.json")
    stored = {FIELDS.get(key, key): value for key, value in json.loads(path.read_text()).items()} | changes
    with whole_file(path) as temporary:
        temporary.write_text(compact(stored))


def measure(model_card: Card, rows_of_scans: Sequence[dict[str, str]], rows: Sequence[Row]) -> list[Errors]:
    """Every row on a block of every scan that is fit for it.

    Parameters
    ----------
    model_card : card of the model
    rows_of_scans : from `medldm.benchmark.scans.scans`
    rows : what is done to them
    """
    done = []
    for scan in rows_of_scans:
        done += [errors_of(model_card, trial) for trial in trials_of(scan, rows) if trial.scored.sum() >= 500]
        log.info("%s: %d rows", scan["file"], len(done))
    return done


def trials_of(scan: dict[str, str], rows: Sequence[Row]) -> Iterator[Trial]:
    """Every row on a block of a scan; of CT on a slab, since a lower dose is simulated in whole planes."""
    volume = read_image(Path(scan["path"]))
    for row in rows:
        if row.modality != MR.name:
            yield from trials(row, scan)
        elif not row.needs_thin or is_thin(volume.spacing):
            yield block_trial(row, scan, volume)


def block_trial(row: Row, scan: dict[str, str], volume: Volume) -> Trial:
    """A row on a block from the middle of a scan, seeded by both names.

    Parameters
    ----------
    row : what to do
    scan : its line of the manifest
    volume : the scan
    """
    inside = foreground_mask(volume.voxels)
    middle = [round(float(place)) for place in ndimage.center_of_mass(inside)]
    axis = int(np.argmax(np.round(volume.spacing, 2) + np.array([0, 0, 1e-6])))
    order = [axis, *(a for a in range(3) if a != axis)]
    if not row.needs_thin:
        order = [order[1], order[2], order[0]]
    where: list[Any] = [slice(None)] * 3
    for a, size in zip(order, BLOCK, strict=True):
        start = int(np.clip(middle[a] - size // 2, 0, max(0, volume.shape[a] - size)))
        where[a] = slice(start, start + size)
    cut = tuple(where)
    unit = mri_scaling(volume.voxels).unit
    clean = (volume.voxels[cut] / np.float32(unit)).astype(np.float32)
    seed = int(hashlib.sha256(f"{row.name}|{scan['file']}|block".encode()).hexdigest()[:8], 16)
    labels = {key: scan.get(key, "") for key in ("subject", "file", "source")} | {"contrast": scan.get("modality", "")}
    base = Volume(clean, volume.affine, name=scan["file"], stored=Stored(modality=MR.name))
    return damage(row, base, inside[cut], torch.Generator().manual_seed(seed), labels)


def errors_of(model_card: Card, trial: Trial) -> Errors:
    """Restore one trial, and compare it with the truth.

    Parameters
    ----------
    model_card : card of the model
    trial : from `block_trial`
    """
    row = trial.row
    facts = dict(trial.facts)
    mask = facts.pop("mask", None)
    if "missing" in facts:
        facts["missing"] = tuple(facts["missing"])
    place = str(model_card.path.with_name(f"{model_card.name}.json"))
    known = make(TASKS[row.verb].settings, {**facts, "model": place, "modality": row.modality})
    measured = trial.stored()
    result = run(row.verb, measured, known, mask=mask)
    assert result.std is not None
    facts_of_run = result.history[-1].facts
    scaling = trial.modality.fixed_scaling or mri_scaling(measured.voxels)
    restored = scaling.apply(result.voxels) if trial.modality.fixed_scaling else result.voxels / scaling.unit
    reference = trial.reference if trial.modality.fixed_scaling else trial.reference / scaling.unit
    at = np.flatnonzero(trial.scored)
    at = np.random.default_rng(0).choice(at, min(VOXELS, len(at)), replace=False)
    if mask is not None or "missing" in facts:
        observed = torch.from_numpy(np.asarray(trial.untouched, dtype=np.float32))
    elif trial.degradation is not None:
        observed = trial.degradation.observe(torch.from_numpy(np.array(trial.measured.voxels))).observed
    else:
        observed = torch.ones(trial.reference.shape)
    contrast = local_contrast(torch.from_numpy(np.array(restored, dtype=np.float32)))
    return Errors(
        row=row.name,
        verb=row.verb,
        subject=trial.subject,
        contrast=trial.contrast,
        error=(restored - reference).ravel()[at],
        std=result.std.ravel()[at] / scaling.unit,
        busy=contrast.numpy().ravel()[at],
        remoteness=remoteness(observed).numpy().ravel()[at],
        sigma=float(facts_of_run["noise_told"]),
        residual=float(facts_of_run.get("consistency_residual", 0.0)),
    )


def fit_floor(blocks: Sequence[Errors]) -> Interval:
    """The interval with the smallest mean interval score, each block weighed by its own typical error.

    Parameters
    ----------
    blocks : of one verb
    """
    typical = [float(np.quantile(np.abs(block.error), COVERAGE)) for block in blocks]
    noise, far = any(block.sigma > 0 for block in blocks), any(block.remoteness.any() for block in blocks)

    def interval(logs: Sequence[float]) -> Interval:
        still, noisy, away, busy, q = (float(block) for block in np.exp(np.clip(logs, -12, 5)))
        return Interval(still, noisy if noise else 0.0, away if far else 0.0, busy, q)

    def score(logs: Sequence[float]) -> float:
        tried, total = interval(logs), 0.0
        for block, size in zip(blocks, typical, strict=True):
            half = block.half_width(tried)
            missed = np.maximum(np.abs(block.error) - half, 0)
            total += float((2 * half + 2 / (1 - COVERAGE) * missed).mean()) / size
        return total

    starts = [np.log([0.02, 0.2, 0.02, 0.1, q]) for q in (1.0, 4.0)]
    options = {"maxiter": 1500, "xatol": 1e-3, "fatol": 1e-5, "adaptive": True}
    ends = [optimize.minimize(score, start, method="Nelder-Mead", options=options) for start in starts]
    return interval(min(ends, key=lambda end: float(end.fun)).x)


def conformal_q(blocks: Sequence[Errors], interval: Interval) -> float:
    """The scale that holds `COVERAGE` of the voxels, each subject counting the same.

    Parameters
    ----------
    blocks : of one verb, subjects that the interval was not fitted on
    interval : its floor is used, its q is not
    """
    scores: dict[str, list[Voxels]] = defaultdict(list)
    for block in blocks:
        scores[block.subject].append(np.abs(block.error) / np.maximum(block.half_width(interval._replace(q=1.0)), 1e-9))
    pooled = [np.concatenate(parts) for parts in scores.values()]
    values = np.concatenate(pooled)
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in pooled])
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(share, COVERAGE)), len(values) - 1)])


def _calibrated(verb: str, fitted: Sequence[Errors], chosen: Sequence[Errors]) -> dict[str, Any]:
    mine, others = ([block for block in part if block.verb == verb] for part in (fitted, chosen))
    interval = fit_floor(mine or others)
    q = conformal_q(others or mine, interval)
    return {
        "still": round(interval.still, 5),
        "noisy": round(interval.noisy, 4),
        "far": round(interval.far, 5),
        "busy": round(interval.busy, 4),
        "q": round(q, 4),
        "subjects": len({block.subject for block in others}),
    }


def _usual(blocks: Sequence[Errors]) -> dict[str, Any]:
    """Residuals that validation blocks left, with half as much room again on both sides."""
    limits = {}
    for verb in ("denoise", "super-resolve"):
        mine = [block for block in blocks if block.verb == verb]
        if not mine:
            continue
        left = [
            block.residual / block.sigma if verb == "denoise" else max(0.0, block.residual - block.sigma)
            for block in mine
        ]
        low = min(left) / 1.5 if verb == "denoise" else 0.0
        limits[verb] = {"low": round(low, 4), "high": round(max(1.5 * max(left), 0.02), 4)}
    return limits


def _varied(rows: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """Scans of different contrasts and sources, thin ones first, since every row takes them."""
    kinds: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        kinds[row["modality"], row["source"].split("@")[0]].append(row)
    queues = list(kinds.values())
    queues.sort(key=lambda rows: not is_thin(spacing_of(Path(rows[0]["path"]))))
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return turns[:count]


def compact(fields: dict[str, Any]) -> str:
    """JSON as cards are written, but with lists of numbers on one line each."""
    import re

    text = json.dumps(fields, indent=1)
    return re.sub(r"\[\s+([-\d.,eE\s]+?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


__all__ = ["COVERAGE", "ROWS", "Errors", "amend", "calibrate", "conformal_q", "fit_floor", "measure"]
