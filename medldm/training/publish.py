"""Write what a run of training has finished as a model with a card."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.degradations import DEGRADATIONS
from medldm.models.checkpoint import save_model
from medldm.qc.ood_features import extended, fit
from medldm.settings import Architecture
from medldm.system import cores
from medldm.training.data import load_cache, scan_descriptions
from medldm.training.stages.stage import STAGES, WEIGHTS, finished_weights, foundation, state_of
from medldm.zoo import Card

log = logging.getLogger(__name__)

FEWEST = 5  # scans; fewer do not show how much scans differ
OF_LATENT = ("spatial_dims", "context", "latent_channels", "latent_factor", "flow")  # of a card's field `residual`


def publish(
    out: Path,
    name: str,
    config: Architecture,
    latent: Architecture,
    flow_blocks: int,
    modality: str,
    device: str,
    start: Card | None = None,
    init: dict[str, dict[str, Tensor]] | None = None,
    teacher: Card | None = None,
) -> Path:
    """Write the sets that a run has finished: the regression network alone for benchmarks, and what stands on it.

    Parameters
    ----------
    out : folder of the run
    name : of the set
    config, latent, flow_blocks : architecture of the regression network, and of latent and flow
    modality : title
    device : for the card
    start, init : card of the model that training started from, and its weights by stage
    teacher : card of the model whose answers the regression network learned

    Returns
    -------
    path of the last card, or of the run where there is nothing to write
    """
    parts = parts_that_fit(out, init or {})
    own = tuple(stage for stage in parts if (out / stage / WEIGHTS).is_file())
    written = out
    common = {
        "modality": modality.lower(),
        "spatial_dims": config.spatial_dims,
        "architecture": asdict(config),
        "licence": "as you choose",
        "verbs": verbs(),
        "ood": covered(out, start),
    }
    if "unet" in own:
        fields = common | {
            "name": f"{name}-unet",
            "title": f"Regression network ({config.spatial_dims}D), the baseline of {name}",
            "role": "baseline",
            "training": training_facts(out, ("unet",), device, start, teacher),
            "validation": curve_end(out / "unet"),
        }
        written = save_model({"unet": parts["unet"]}, fields, out)
    if "spread" in parts and own:
        draws = {"latent", "flow"} <= set(parts)
        if not draws:
            parts = {stage: parts[stage] for stage in ("unet", "spread")}
        fields = common | {
            "name": name,
            "title": f"Regression ({config.spatial_dims}D) with its spread"
            + (" and a latent diffusion of its residual" if draws else ""),
            "role": "restorer",
            "spread": True,
            "residual": residual_fields(latent, flow_blocks, tile_of(out, start)) if draws else {},
            "training": training_facts(out, tuple(stage for stage in own if stage in parts), device, start),
            "validation": {stage: curve_end(out / stage) for stage in own if stage in parts},
        }
        written = save_model(parts, fields, out)
    log.info("wrote %s", written)
    return written


def tile_of(out: Path, start: Card | None) -> int:
    """Latents along the edge of what the flow of a run was trained on; of one that was taken over, by its card."""
    if (out / "flow" / WEIGHTS).is_file():
        return int(state_of(out / "flow")["tile"])
    return int(start.residual["tile"]) if start else 0


def residual_fields(latent: Architecture, flow_blocks: int, tile: int) -> dict[str, Any]:
    """What a card says of latent and flow, in its field `residual`."""
    widths = {name: getattr(latent, name) for name in OF_LATENT}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in widths.items()} | {
        "flow_blocks": flow_blocks,
        "tile": tile,
    }


def parts_that_fit(out: Path, init: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Weights by stage, of this run or of the model it started from, as far as they were trained on each other."""
    parts: dict[str, dict[str, Tensor]] = {}
    new = False  # whether a stage of this run came before, which those of `init` do not know
    for stage in STAGES:
        if (out / stage / WEIGHTS).is_file():
            if state_of(out / stage).get("foundation", "") != foundation(stage, out, init):
                log.warning("%s was trained on another %s: train it again", stage, " and ".join(parts))
                break
            parts[stage], new = finished_weights(stage, out, init), True
        elif stage in init and not new:
            parts[stage] = init[stage]
        else:
            break
    return parts


def verbs() -> list[str]:
    """Tasks that a trained model serves: those that undo a degradation, and `restore`, which chooses among them."""
    rows = [row for kind in DEGRADATIONS.values() for row in kind.rows()]
    return [*dict.fromkeys(row.verb for row in rows), "restore"]


def covered(out: Path, started: Card | None) -> dict[str, Any]:
    """What the card says of its training scans, so that `medldm.qc.ood` warns of others; empty of too few.

    Parameters
    ----------
    out : folder of the run, its cache packed
    started : card of the model that training started from; what that covers, the new one covers too
    """
    train = scan_descriptions(out / "cache", "train")
    if started and started.ood:
        return extended(started.ood, train)
    return fit(train, scan_descriptions(out / "cache", "val")) if len(train) >= FEWEST else {}


def training_facts(
    out: Path, stages: tuple[str, ...], device: str, start: Card | None, teacher: Card | None = None
) -> dict[str, Any]:
    """Subjects per contrast and source, licences, minutes, steps and hardware of a run."""
    scans = load_cache(out / "cache", "train")
    subjects: dict[str, set[str]] = {}
    for scan in scans:
        subjects.setdefault(f"{scan.modality} | {scan.source.split('@')[0] or 'own data'}", set()).add(scan.subject)
    states = {stage: state_of(out / stage) for stage in stages}
    return {
        "subjects": {key: len(names) for key, names in sorted(subjects.items())},
        "licences": dict(sorted(Counter(scan.licence for scan in scans if scan.licence).items())),
        "minutes": {stage: round(state["seconds"] / 60, 1) for stage, state in states.items()},
        "steps": {stage: state["step"] for stage, state in states.items()},
        "skipped_steps": {stage: state["skipped"] for stage, state in states.items()},
        "hardware": f"{device}, {cores()} cores, {platform.machine()}, torch {torch.__version__}",
        **({"started_from": start.name} if start else {}),
        **({"distilled_from": teacher.name} if teacher else {}),
    }


def curve_end(folder: Path) -> dict[str, float]:
    """Last row of a validation curve."""
    rows = state_of(folder)["rows"]
    not_scores = ("minutes", "step", "loss", "skipped")
    return {key: round(value, 2) for key, value in rows[-1].items() if key not in not_scores} if rows else {}
