"""The training loop: steps that cannot explode, averaged weights, a validation curve, checkpoints, a clock."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from medldm.errors import ModelError, UsageError
from medldm.training.distributed import Distributed
from medldm.training.state import CHECKPOINT, MovingAverage, annealed_rate, load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)

EXPLOSION = 5.0  # a step whose loss exceeds this many running medians is not learned
CHECKPOINT_S = 180.0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train.

    Parameters
    ----------
    minutes : wall-clock minutes over all resumed runs; the learning rate is annealed to them
    batch : patches a step
    patch : edge of a patch, voxels
    learning_rate : peak, after `warm_up` steps
    clip : gradient norm
    average : decay of the averaged (EMA) weights
    seed : of patches and damage
    validate_s : seconds between validations
    """

    minutes: float = 60.0
    batch: int = 8
    patch: int = 96
    learning_rate: float = 1e-3
    warm_up: int = 300
    clip: float = 0.5
    average: float = 0.999
    seed: int = 0
    validate_s: float = 240.0


class Trainer:
    """One network in training.

    Parameters
    ----------
    network : the network that learns
    plan : how long and how fast
    folder : where checkpoint, curve and weights go
    score : validation of a network, row name to dB
    resume : go on from the folder's checkpoint
    device : of the network
    distributed : the processes that train it; this one alone when not given
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        folder: Path,
        score: Callable[[nn.Module], dict[str, float]],
        *,
        resume: bool = False,
        device: torch.device | str = "cpu",
        distributed: Distributed | None = None,
    ) -> None:
        self.distributed = distributed or Distributed()
        self.plan, self.folder, self.score, self.device = plan, folder, score, torch.device(device)
        self.network = network.to(self.device)
        self.average = MovingAverage(self.network, plan.average)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.step_number, self.skipped, self.before_s = 0, 0, 0.0
        self.recent: deque[float] = deque(maxlen=200)
        self.rows: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if resume and (folder / CHECKPOINT).is_file():
            self.load()
        elif (folder / CHECKPOINT).is_file():
            raise UsageError(f"{folder} holds a training run already; go on with --resume, or choose another folder.")
        self.started = time.monotonic()
        self.last_validated = self.last_saved = time.monotonic()

    # -- the clock ------------------------------------------------------------------------------------------------
    @property
    def seconds(self) -> float:
        """Training time so far, resumed runs included."""
        return self.before_s + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the planned minutes that has passed, in [0, 1]."""
        return min(1.0, self.seconds / (60 * self.plan.minutes)) if self.plan.minutes > 0 else 1.0

    def learning_rate(self) -> float:
        """Warm-up, then a cosine that ends with the planned minutes."""
        return annealed_rate(self.plan.learning_rate, self.plan.warm_up, self.step_number, self.progress)

    @property
    def averaged(self) -> dict[str, Tensor]:
        """Averaged (EMA) weights."""
        return {name: value.detach().float() for name, value in self.average.module.state_dict().items()}

    # -- the loop -------------------------------------------------------------------------------------------------
    def batches(self, draw: Callable[[torch.Generator], T]) -> Iterator[T]:
        """Batches until the time is up, each drawn from the seed and the step number, so that a resumed run goes on.

        Parameters
        ----------
        draw : makes a batch from a generator; runs one step ahead in a thread
        """

        def make(step: int) -> T:
            number = step * self.distributed.world_size + self.distributed.rank
            return draw(torch.Generator().manual_seed(self.plan.seed * 1_000_003 + number))

        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(make, self.step_number)
            while self.distributed.all_true(self.progress < 1):
                batch = waiting.result()
                waiting = ahead.submit(make, self.step_number + 1)
                yield batch
            waiting.cancel()

    def step_generator(self) -> torch.Generator:
        """What a step draws beyond its batch: by seed, step and process, so that no two processes draw the same."""
        number = self.step_number * self.distributed.world_size + self.distributed.rank
        return torch.Generator().manual_seed(self.plan.seed + 7919 * number)

    def step(self, loss: Tensor) -> None:
        """Learn from one batch, unless its loss or gradient has exploded."""
        value = float(loss.detach())
        median = sorted(self.recent)[len(self.recent) // 2] if len(self.recent) > 20 else math.inf
        learn = self.distributed.all_true(math.isfinite(value) and value <= EXPLOSION * median)
        if learn:
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.distributed.average_gradients(self.network.parameters())
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip)
            learn = bool(torch.isfinite(norm))
        if learn:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            self.optimizer.step()
            self.average.update(self.network, self.step_number)
        else:
            self.skipped += 1
        if math.isfinite(value):
            self.recent.append(value)
        self.step_number += 1
        now = time.monotonic()
        if self.distributed.is_main and now - self.last_validated > self.plan.validate_s:
            self.validate()
        if self.distributed.is_main and now - self.last_saved > CHECKPOINT_S:
            self.save()

    # -- what is seen ---------------------------------------------------------------------------------------------
    def validate(self) -> dict[str, float]:
        """Score the averaged weights, report one line, extend the curve."""
        with torch.inference_mode():
            scores = self.score(self.average.module)
        loss = sum(self.recent) / max(1, len(self.recent))
        row = {
            "minutes": self.seconds / 60,
            "step": float(self.step_number),
            "loss": loss,
            "skipped": float(self.skipped),
        }
        self.rows.append({**row, **scores})
        write_curve(self.folder / "curve.csv", self.rows)
        values = "  ".join(f"{name} {value:.2f}" for name, value in scores.items())
        log.info(
            "%5.1f min  step %6d  loss %.5f  skipped %d  |  %s",
            row["minutes"],
            self.step_number,
            loss,
            self.skipped,
            values,
        )
        self.last_validated = time.monotonic()
        return scores

    # -- what is kept ---------------------------------------------------------------------------------------------
    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "step": self.step_number,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "rows": self.rows,
            "plan": asdict(self.plan),
        }
        save_checkpoint(self.folder, self.network, self.average, self.optimizer, state)
        self.last_saved = time.monotonic()

    def load(self) -> None:
        """Go on where the checkpoint stands."""
        try:
            state = load_checkpoint(self.folder, self.network, self.average, self.optimizer)
        except RuntimeError as problem:
            raise ModelError(
                f"{self.folder / CHECKPOINT} belongs to a network of another shape. Go on with the options that it was "
                "begun with, or choose another folder."
            ) from problem
        self.step_number, self.skipped = state["step"], state["skipped"]
        self.before_s, self.rows = state["seconds"], state["rows"]

    def finish(self) -> dict[str, Tensor]:
        """Last validation and checkpoint; the averaged weights."""
        if self.distributed.is_main:
            self.validate()
            self.save()
        self.distributed.barrier()
        return self.averaged


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """The validation curve as CSV, and as PNG where matplotlib works."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[-1]))
        writer.writeheader()
        writer.writerows({name: f"{value:.5g}" for name, value in row.items()} for row in rows)
    try:
        from matplotlib.figure import Figure
    except (ImportError, OSError):  # not installed, or without a folder of its own to write to
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in list(rows[-1])[4:]:
        axes.plot([row["minutes"] for row in rows], [row.get(name, math.nan) for row in rows], label=name)
    axes.set(xlabel="minutes", ylabel="validation PSNR, dB")
    axes.legend(fontsize="small")
    figure.savefig(path.with_suffix(".png"), dpi=100)
