"""The training loop for batches that are made on the device of the network, which never waits for a value of it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medldm.models.precision import autocast
from medldm.training.state import CHECKPOINT, MovingAverage, annealed_rate, load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)

EXPLOSION = 5.0  # a step whose gradient norm exceeds this many running means is not learned


class DeviceTrainer:
    """A network, its optimiser, its average and its clock.

    Parameters
    ----------
    network : on its device
    folder : checkpoint and curve
    minutes : over all resumed runs; the learning rate is annealed to them
    learning_rate : peak
    warm_up : steps
    decay : of the averaged weights (exponential moving average)
    clip : gradient norm
    validate : network to rows of the curve
    validate_s, checkpoint_s : seconds between validations, and between checkpoints
    """

    def __init__(
        self,
        network: nn.Module,
        folder: Path,
        *,
        minutes: float,
        learning_rate: float,
        warm_up: int = 300,
        decay: float = 0.999,
        clip: float = 0.5,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        validate_s: float = 120.0,
        checkpoint_s: float = 120.0,
    ) -> None:
        self.network, self.folder, self.minutes = network, folder, minutes
        self.learning_rate, self.warm_up, self.clip = learning_rate, warm_up, clip
        self.average = MovingAverage(network, decay)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=_fused(network)
        )
        self.validate, self.validate_s, self.checkpoint_s = validate, validate_s, checkpoint_s
        self.steps, self.before_s = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self.losses: list[Tensor] = []
        self.device = next(network.parameters()).device
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).is_file():
            self._load()

    def run(
        self, draw: Callable[[torch.Generator], Any], loss_of: Callable[[nn.Module, Any], Tensor], seed: int = 0
    ) -> dict[str, Tensor]:
        """Learn until the minutes are over.

        Parameters
        ----------
        draw : makes a batch on the device from a generator there
        loss_of : (network, batch) to a scalar
        seed : batches follow from it and the step's number

        Returns
        -------
        averaged weights, on the CPU
        """
        generator = torch.Generator(self.device)
        self.started = last_validated = last_saved = last_logged = time.monotonic()
        self.network.train()
        norm_mean = torch.zeros((), device=self.device)
        since = self.steps
        while self.seconds < 60 * self.minutes:
            generator.manual_seed(seed * 1_000_003 + self.steps)
            with torch.no_grad():
                batch = draw(generator)
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate()
            with autocast(self.device):
                loss = loss_of(self.network, batch)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
            # The value is not read, which would make the device wait: an exploding step gets no weight.
            good = torch.isfinite(norm) & ((norm < EXPLOSION * norm_mean) | (norm_mean == 0) | (norm < self.clip))
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad = torch.where(good, parameter.grad, torch.zeros_like(parameter.grad))
            norm_mean = torch.where(good, torch.where(norm_mean == 0, norm, norm_mean.lerp(norm, 0.01)), norm_mean)
            self.optimizer.step()
            self.average.update(self.network, self.steps)
            self.steps += 1
            self.losses.append(loss.detach())
            now = time.monotonic()
            if now - last_logged > 20:
                self._report(self.steps - since, now - last_logged)
                last_logged, since = now, self.steps
            if self.validate and now - last_validated > self.validate_s:
                self.score()
                last_validated = time.monotonic()
            if now - last_saved > self.checkpoint_s:
                self.save()
                last_saved = time.monotonic()
        self.score()
        self.save()
        return self.averaged()

    @property
    def seconds(self) -> float:
        """Training time so far, resumed runs included."""
        return self.before_s + time.monotonic() - self.started

    def _rate(self) -> float:
        progress = min(1.0, self.seconds / (60 * self.minutes))
        return annealed_rate(self.learning_rate, self.warm_up, self.steps, progress)

    def _report(self, steps: int, seconds: float) -> None:
        loss = torch.stack(self.losses[-200:]).mean().item()
        log.info("%6.1f s  step %6d  loss %.5f  %.2f steps/s", self.seconds, self.steps, loss, steps / seconds)

    def score(self) -> None:
        """Validate the averaged weights and extend the curve."""
        self.losses = self.losses[-400:]
        loss = torch.stack(self.losses[-200:]).mean().item() if self.losses else math.nan
        row = {"seconds": round(self.seconds, 1), "step": self.steps, "loss": loss}
        if self.validate:
            with torch.no_grad(), autocast(self.device):
                row |= self.validate(self.average.module)
        self.rows.append(row)
        log.info("%s", "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        (self.folder / "curve.json").write_text(json.dumps(self.rows))

    def averaged(self) -> dict[str, Tensor]:
        """Averaged weights on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.average.module.state_dict().items()}

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"step": self.steps, "seconds": self.seconds, "rows": self.rows}
        save_checkpoint(self.folder, self.network, self.average, self.optimizer, state)

    def _load(self) -> None:
        state = load_checkpoint(self.folder, self.network, self.average, self.optimizer)
        self.steps, self.before_s, self.rows = state["step"], state["seconds"], state["rows"]


def _fused(network: nn.Module) -> bool:
    return next(network.parameters()).device.type == "cuda"
