"""What all stages are given, and what they make of it in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from medldm.settings import Architecture
from medldm.training.data import Packed
from medldm.training.distributed import Distributed
from medldm.training.examples import Example, draw_example
from medldm.training.trainer import Plan, Trainer
from medldm.training.validation import Cube, cubes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network to train, and on what.

    Parameters
    ----------
    name : of the stage
    train, val : packed scans
    config, plan : architecture, and how long to train it
    out : folder of the run; checkpoint and curve go into one of the stage's name
    resume : go on from the checkpoint
    init : weights to start from
    device, distributed : where this process computes, and the other processes; this one alone when not given
    """

    train: list[Packed]
    val: list[Packed]
    config: Architecture
    out: Path
    name: str = ""
    plan: Plan
    resume: bool = False
    init: dict[str, Tensor] | None = None
    device: str = "cpu"
    distributed: Distributed | None = None

    @cached_property
    def cases(self) -> list[Cube]:
        """The validation cubes."""
        return cubes(self.val, self.config)

    def examples(self, generator: torch.Generator) -> list[Example]:
        """The patches of one batch."""
        return [draw_example(self.train, self.config, self.plan.patch, generator) for _ in range(self.plan.batch)]

    def pairs(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same as (inputs, clean), (B, C, ...) and (B, 1, ...)."""
        examples = self.examples(generator)
        return torch.stack([example.inputs for example in examples]), torch.stack(
            [example.clean for example in examples]
        )

    def trainer(self, network: nn.Module, validate: Callable[[nn.Module], dict[str, float]]) -> Trainer:
        """The training loop.

        Parameters
        ----------
        network : that learns
        validate : a network to the rows of the curve, dB
        """
        return Trainer(
            network,
            self.plan,
            self.out / self.name,
            validate,
            resume=self.resume,
            device=self.device,
            distributed=self.distributed,
        )
