"""One training loop for networks whose batches are made on the device they learn on; resumable in pieces of minutes."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from medldm.models.precision import autocast
from medldm.training.trainer import part, read_metadata, save_atomically

log = logging.getLogger(__name__)

EXPLOSION = 5.0  # a step whose gradient norm exceeds this many running means is not learned


class Loop:
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
        self.learning_rate, self.warm_up, self.clip, self.decay = learning_rate, warm_up, clip, decay
        self.average = AveragedModel(network)  # `_average` fills it
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=_fused(network)
        )
        self.validate, self.validate_s, self.checkpoint_s = validate, validate_s, checkpoint_s
        self.steps, self.before_s = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self.losses: list[Tensor] = []
        self.device = next(network.parameters()).device
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checkpoint.safetensors").is_file():
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
            # Without a look at the value, which would make the device wait: an exploding step gets no weight.
            good = torch.isfinite(norm) & ((norm < EXPLOSION * norm_mean) | (norm_mean == 0) | (norm < self.clip))
            for parameter in self.network.parameters():
                if parameter.grad is not None:
                    parameter.grad = torch.where(good, parameter.grad, torch.zeros_like(parameter.grad))
            norm_mean = torch.where(good, torch.where(norm_mean == 0, norm, norm_mean.lerp(norm, 0.01)), norm_mean)
            self.optimizer.step()
            self._average()
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
        warm = min(1.0, (self.steps + 1) / self.warm_up)
        return self.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def _average(self) -> None:
        # A short memory at first, so that the average does not drag the first steps along.
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averaged, now = list(self.average.module.parameters()), list(self.network.parameters())
        with torch.no_grad():
            torch._foreach_lerp_([p.data for p in averaged], [p.data for p in now], 1 - decay)

    def _report(self, steps: int, seconds: float) -> None:
        loss = torch.stack(self.losses[-200:]).mean().item()
        log.info("%6.1f s  step %6d  loss %.5f  %.2f steps/s", self.seconds, self.steps, loss, steps / seconds)

    def score(self) -> None:
        """Validate the averaged weights and extend the curve."""
        self.losses = self.losses[-400:]
        loss = torch.stack(self.losses[-200:]).mean().item() if self.losses else math.nan
        row = {"seconds": round(self.seconds, 1), "step": self.steps, "loss": loss}
        if self.validate:
            self.average.module.eval()
            with torch.no_grad(), autocast(self.device):
                row |= self.validate(self.average.module)
        self.rows.append(row)
        log.info("%s", "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        (self.folder / "curve.json").write_text(json.dumps(self.rows))

    def averaged(self) -> dict[str, Tensor]:
        """Averaged weights on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.average.module.state_dict().items()}

    def save(self) -> None:
        """Checkpoint: weights, average, optimiser and clock in one file, for CPU and GPU alike."""
        tensors = {f"now.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.module.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        state = {"step": self.steps, "seconds": self.seconds, "rows": self.rows}
        tensors = {name: value.detach().cpu() for name, value in tensors.items()}
        save_atomically(tensors, self.folder / "checkpoint.safetensors", {"state": json.dumps(state)})

    def _load(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        tensors, state = load_file(path), json.loads(read_metadata(path)["state"])
        self.network.load_state_dict(part(tensors, "now."))
        self.average.module.load_state_dict(part(tensors, "average."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in part(tensors, "optimizer.").items():
            number, key = name.split(".", 1)
            moments.setdefault(int(number), {})[key] = value
        full = self.optimizer.state_dict()
        full["state"] = moments
        self.optimizer.load_state_dict(full)
        self.steps, self.before_s, self.rows = state["step"], state["seconds"], state["rows"]


def _fused(network: nn.Module) -> bool:
    return next(network.parameters()).device.type == "cuda"
