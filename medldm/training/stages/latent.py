"""The latent of the residual: scenes are made and kept, and the principal components of their residual are found."""

from __future__ import annotations

import logging
import math
import shutil
import time
from pathlib import Path

import torch
from torch import Tensor

from medldm.errors import UsageError
from medldm.models.precision import autocast
from medldm.training.residual_scores import latent_scores
from medldm.training.scenes import Pool, Scenes, draw_measured, load_scenes, make_scenes, principal_blocks, save_scenes
from medldm.training.stages.stage import SCENES, WEIGHTS, Stage, state_of
from medldm.training.trainer import REPORT_S, write_curve

log = logging.getLogger(__name__)

A_FILE = 128  # scenes


def train_latent(stage: Stage) -> None:
    """Make scenes for the minutes of the stage, then find their principal components and the overlapping decoder.

    A resumed run keeps the components, so that its flow may go on, and fits the rest anew.
    """
    spent, rows, basis = 0.0, [], None
    if (stage.folder / WEIGHTS).is_file():
        if not stage.resume:
            raise UsageError(
                f"{stage.folder} holds a training run already; go on with --resume, or choose another folder."
            )
        before = state_of(stage.folder)
        rows, basis = before["rows"], stage.finished("latent")["basis"].to(stage.device)
        if before["foundation"] == stage.foundation:
            spent = before["seconds"]
    if stage.distributed.is_main:
        forget_others(stage)
    pool = scenes_of(stage, 60 * stage.plan.minutes - spent)
    weights: dict[str, Tensor] = {}
    if stage.distributed.is_main:
        generator = torch.Generator(stage.device).manual_seed(stage.plan.seed + 1)
        blocks = principal_blocks(pool, stage.latent, generator, basis)
        with torch.no_grad(), autocast(stage.device):
            scores = latent_scores(stage.residual_cases, blocks)
        spent += time.monotonic() - stage.begun
        rows.append({"minutes": spent / 60, "step": pool.size, "loss": math.nan, "skipped": 0, **scores})
        stage.folder.mkdir(parents=True, exist_ok=True)
        write_curve(stage.folder / "curve.csv", rows)
        log.info("%d scenes  |  %s", pool.size, "  ".join(f"{row} {value:.2f}" for row, value in scores.items()))
        weights = {name: value.cpu() for name, value in blocks.state_dict().items()}
    stage.keep(weights, {"step": pool.size, "skipped": 0, "seconds": spent, "rows": rows})


def forget_others(stage: Stage) -> None:
    """Delete the scenes of other networks: they are large, and say what those left open."""
    for folder in (stage.out / SCENES).glob("*"):
        if folder != stage.scenes:
            shutil.rmtree(folder, ignore_errors=True)


def scenes_of(stage: Stage, seconds: float) -> Pool:
    """The scenes of a run, on the device; more are made first, for some time or until there are enough.

    Parameters
    ----------
    stage : whose run; each of its processes makes and takes its own
    seconds : for making them; at least one batch is there in the end
    """
    folder, sizes, rank = stage.scenes, stage.sizes, stage.distributed.rank
    mine: list[Path] = sorted(folder.glob(f"{rank}-*.safetensors"))
    device = torch.device(stage.device)
    kept = [load_scenes(path, device) for path in mine]
    count, number = sum(len(scenes.task) for scenes in kept), len(mine)
    corpus, generator = stage.thin_corpus, torch.Generator(device)
    made: list[Scenes] = []
    begun = reported = time.monotonic()
    while count < sizes.most and (time.monotonic() - begun < seconds or not count):
        # Each batch has a seed of its own, apart from those of the other stages.
        at = (count // sizes.scenes) * stage.distributed.world_size + rank
        generator.manual_seed(stage.plan.seed * 1_000_003 + 500_000_000 + at)
        with torch.no_grad(), autocast(device):
            blocks, measured = draw_measured(corpus, sizes.scenes, sizes.scene, generator)
            made.append(make_scenes(blocks, measured, stage.unet, stage.spread, stage.config).halved())
        count += sizes.scenes
        if sizes.scenes * len(made) >= A_FILE or count >= sizes.most:
            save_scenes(made, folder / f"{rank}-{number:04d}.safetensors")
            kept, made, number = kept + made, [], number + 1
        if time.monotonic() - reported > REPORT_S:
            log.info("%d scenes after %.0f s", count, time.monotonic() - begun)
            reported = time.monotonic()
    if made:
        save_scenes(made, folder / f"{rank}-{number:04d}.safetensors")
    return Pool(kept + made)
