"""The training loop: steps that cannot explode, averaged weights, a validation curve, checkpoints, a clock.

Batches are made on the device of the network, and no value of it is read between two reports, so that it never waits.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medldm.errors import ModelError, UsageError
from medldm.models.precision import autocast
from medldm.training.distributed import Distributed
from medldm.training.state import CHECKPOINT, MovingAverage, annealed_rate, load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)

EXPLOSION = 5.0  # a step whose gradient norm exceeds this many running means is not learned
SETTLING = 20  # steps of a run whose norms say what is usual
CHECKPOINT_S = 120.0
REPORT_S = 20.0
RECENT = 200  # steps whose loss is averaged in reports


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long and how fast to train.

    Parameters
    ----------
    minutes : wall-clock minutes over all resumed runs; the learning rate is annealed to them
    learning_rate : peak, after `warm_up` steps
    clip : gradient norm
    average : decay of the averaged (EMA) weights
    seed : of patches and damage
    validate_s : seconds between validations
    """

    minutes: float = 60.0
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
    folder : where checkpoint and curve go
    score : validation of a network, row name to value
    resume : go on from the folder's checkpoint
    device : of the network
    distributed : the processes that train it; this one alone when not given
    begun : reading of `time.monotonic` from which on this run counts; now when not given
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
        begun: float | None = None,
    ) -> None:
        self.distributed = distributed or Distributed()
        self.plan, self.folder, self.score, self.device = plan, folder, score, torch.device(device)
        self.network = network.to(self.device)
        self.average = MovingAverage(self.network, plan.average)
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=fused
        )
        self.step_number, self.before_s = 0, 0.0
        self.steps_here = 0  # since this run began
        self.skipped, self.typical_norm = (torch.zeros((), device=self.device) for _ in range(2))
        self.losses: list[Tensor] = []
        self.rows: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if resume and (folder / CHECKPOINT).is_file():
            self.load()
        elif (folder / CHECKPOINT).is_file():
            raise UsageError(f"{folder} holds a training run already; go on with --resume, or choose another folder.")
        self.started = time.monotonic() if begun is None else begun
        self.pace = Pace(self.device)

    # -- the clock ------------------------------------------------------------------------------------------------
    @property
    def seconds(self) -> float:
        """Training time so far, resumed runs included."""
        return self.before_s + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the planned minutes that has passed, in [0, 1]."""
        return min(1.0, self.seconds / (60 * self.plan.minutes)) if self.plan.minutes > 0 else 1.0

    @property
    def averaged(self) -> dict[str, Tensor]:
        """Averaged (EMA) weights, on the CPU."""
        return {name: value.detach().cpu().float().clone() for name, value in self.average.module.state_dict().items()}

    # -- the loop -------------------------------------------------------------------------------------------------
    def run(
        self,
        draw: Callable[[torch.Generator], Any],
        loss_of: Callable[[nn.Module, Any], Tensor],
        examples: int = 1,
    ) -> dict[str, Tensor]:
        """Learn until the minutes are over.

        Parameters
        ----------
        draw : makes a batch from a generator, both on the device
        loss_of : (network, batch) to a scalar
        examples : in a batch

        Returns
        -------
        averaged weights, on the CPU
        """
        self.network.train()
        reported = validated = saved = time.monotonic()
        for batch in self.batches(draw):
            with autocast(self.device):
                loss = loss_of(self.network, batch)
            self.step(loss)
            now = time.monotonic()
            if not self.distributed.is_main:
                continue
            if now - reported > REPORT_S:
                self.report(now - reported, examples)
                reported = now
            if now - validated > self.plan.validate_s:
                self.validate()
                validated = time.monotonic()
            if now - saved > CHECKPOINT_S:
                self.save()
                saved = time.monotonic()
        if self.distributed.is_main and (self.steps_here or not self.rows):
            self.validate()
            self.save()
        self.distributed.barrier()
        return self.averaged

    def batches(self, draw: Callable[[torch.Generator], Any]) -> Iterator[Any]:
        """Batches until the time is up, at least one; each follows from seed, step and process."""
        generator = torch.Generator(self.device)
        while self.distributed.all_true(self.progress < 1 or self.step_number == 0):
            number = self.step_number * self.distributed.world_size + self.distributed.rank
            generator.manual_seed(self.plan.seed * 1_000_003 + number)
            with self.pace, torch.no_grad():
                batch = draw(generator)
            yield batch

    def step(self, loss: Tensor) -> None:
        """Learn from one batch, unless its gradient has exploded."""
        for group in self.optimizer.param_groups:
            group["lr"] = annealed_rate(self.plan.learning_rate, self.plan.warm_up, self.step_number, self.progress)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.distributed.average_gradients(self.network.parameters())
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip)
        # The norm is not read, which would make the device wait: a gradient that explodes becomes zero instead.
        finite = torch.isfinite(norm)
        good = finite & ((norm < EXPLOSION * self.typical_norm) | (norm < self.plan.clip))
        if self.steps_here < SETTLING:
            good = finite
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.where(good, parameter.grad, torch.zeros_like(parameter.grad))
        # Steps that are not learned count a little too, so that norms that stay larger become typical.
        seen = torch.where(good, norm, EXPLOSION * self.typical_norm)
        self.typical_norm = self.typical_norm.lerp(seen, max(0.01, 1 / (self.steps_here + 1)))
        self.skipped = self.skipped + ~good
        self.optimizer.step()
        self.average.update(self.network, self.step_number)
        self.losses = [*self.losses[-RECENT:], loss.detach()]
        self.step_number += 1
        self.steps_here += 1

    # -- what is seen ---------------------------------------------------------------------------------------------
    def report(self, seconds: float, examples: int) -> None:
        """One line: how far, how fast, and which share of the time went into making batches."""
        steps, waited = self.pace.since()
        log.info(
            "%5.1f min  step %6d  loss %.5f  %.1f examples/s  data %.0f %% of the time",
            self.seconds / 60,
            self.step_number,
            self.loss,
            steps * examples * self.distributed.world_size / seconds,
            100 * waited / seconds,
        )

    @property
    def loss(self) -> float:
        """Mean of the last steps."""
        return float(torch.stack(self.losses).mean()) if self.losses else math.nan

    def validate(self) -> dict[str, float]:
        """Score the averaged weights, report one line, extend the curve."""
        with torch.no_grad(), autocast(self.device):
            scores = self.score(self.average.module)
        row = {
            "minutes": self.seconds / 60,
            "step": float(self.step_number),
            "loss": self.loss,
            "skipped": float(self.skipped),
        }
        self.rows.append({**row, **scores})
        write_curve(self.folder / "curve.csv", self.rows)
        values = "  ".join(f"{name} {value:.2f}" for name, value in scores.items())
        log.info(
            "%5.1f min  step %6d  loss %.5f  skipped %d  |  %s",
            row["minutes"],
            self.step_number,
            row["loss"],
            int(row["skipped"]),
            values,
        )
        return scores

    # -- what is kept ---------------------------------------------------------------------------------------------
    @property
    def state(self) -> dict[str, Any]:
        """Clock, steps and curve, as JSON."""
        return {
            "step": self.step_number,
            "skipped": int(self.skipped),
            "seconds": self.seconds,
            "rows": self.rows,
            "plan": asdict(self.plan),
        }

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(self.folder, self.network, self.average, self.optimizer, self.state)

    def load(self) -> None:
        """Go on where the checkpoint stands."""
        try:
            state = load_checkpoint(self.folder, self.network, self.average, self.optimizer)
        except RuntimeError as problem:
            raise ModelError(
                f"{self.folder / CHECKPOINT} belongs to a network of another shape. Go on with the options that it was "
                "begun with, or choose another folder."
            ) from problem
        self.step_number, self.before_s, self.rows = state["step"], state["seconds"], state["rows"]
        self.skipped = torch.tensor(float(state["skipped"]), device=self.device)


class Pace:
    """Batches that were made, and the time it took: as a context manager around each.

    Parameters
    ----------
    device : where they are made; a GPU measures by itself, and is asked when its work is done anyway
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: list[Any] = []

    def __enter__(self) -> None:
        self.marks.append(self._now())

    def __exit__(self, *failure: object) -> None:
        self.marks.append(self._now())

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def since(self) -> tuple[int, float]:
        """Batches and seconds since the last call."""
        pairs, self.marks = list(zip(self.marks[::2], self.marks[1::2], strict=True)), []
        if not self.on_gpu:
            return len(pairs), sum(end - start for start, end in pairs)
        torch.cuda.synchronize()
        return len(pairs), sum(start.elapsed_time(end) for start, end in pairs) / 1000


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """The validation curve as CSV, and as PNG where matplotlib works."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({name: f"{value:.5g}" for name, value in row.items()} for row in rows)
    try:
        from matplotlib.figure import Figure
    except (ImportError, OSError):  # not installed, or without a folder of its own to write to
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in names[4:]:
        axes.plot([row["minutes"] for row in rows], [row.get(name, math.nan) for row in rows], label=name)
    axes.set(xlabel="minutes", ylabel="validation, dB where not %")
    axes.legend(fontsize="small")
    figure.savefig(path.with_suffix(".png"), dpi=100)
