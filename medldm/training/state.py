"""What is kept of training: the learning rate, averaged weights, checkpoints in one safetensors file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

CHECKPOINT = "checkpoint.safetensors"


def annealed_rate(peak: float, warm_up: int, step: int, progress: float) -> float:
    """Learning rate: a linear warm-up, then a cosine that ends at a hundredth of the peak.

    Parameters
    ----------
    peak : highest learning rate
    warm_up : steps
    step : counted from 0
    progress : share of the planned time that has passed, in [0, 1]
    """
    warm = min(1.0, (step + 1) / warm_up)
    return peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class MovingAverage(AveragedModel):
    """Exponential moving average of a network's parameters, with a shorter memory during the first steps.

    Parameters
    ----------
    network : whose parameters are averaged; copied
    decay : share of the average that a step keeps, at most
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self.decay = decay
        self.eval()

    def update(self, network: nn.Module, step: int) -> None:
        """Average in the parameters after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.module.parameters()), list(network.parameters()), None)


def save_checkpoint(
    folder: Path, network: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Weights, average, optimizer and clock in one file, replaced atomically; for CPU and GPU alike.

    Parameters
    ----------
    folder : of the run
    network, average, optimizer : their tensors are stored
    state : clock, steps and curve, as JSON
    """
    tensors = {f"now.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.module.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors = {name: value.detach().cpu() for name, value in tensors.items()}
    save_atomically(tensors, folder / CHECKPOINT, {"state": json.dumps(state)})


def load_checkpoint(
    folder: Path, network: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Fill network, average and optimizer from a checkpoint.

    Returns
    -------
    the state that `save_checkpoint` was given

    Raises
    ------
    RuntimeError
        The checkpoint belongs to another network.
    """
    path = folder / CHECKPOINT
    tensors = load_file(path)
    network.load_state_dict(part(tensors, "now."))
    average.module.load_state_dict(part(tensors, "average."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in part(tensors, "optimizer.").items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    state: dict[str, Any] = json.loads(read_metadata(path)["state"])
    return state


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, which is cut off."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Safetensors under a temporary name, then renamed: a killed run leaves the last file whole.

    The temporary name is always the same, so that runs that are killed again and again leave one file at most.
    """
    temporary = path.with_suffix(".partial")
    temporary.unlink(missing_ok=True)  # one of an earlier version keeps its mode, which is for its owner alone
    temporary.write_bytes(save({name: value.contiguous() for name, value in tensors.items()}, metadata))
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def read_metadata(path: Path) -> dict[str, Any]:
    """The string metadata in the header of a safetensors file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata: dict[str, Any] = header.get("__metadata__", {})
    return metadata
