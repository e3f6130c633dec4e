"""Several processes that train one network: each draws its own patches, all take the same step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medldm.errors import ResourceError, UsageError, reason_of
from medldm.system import cores


class Processes:
    """A process that trains alone; what several of them agree on, it decides by itself."""

    rank, size = 0, 1

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients become their mean over the team, in place."""

    def all_reduce(self, answer: bool) -> bool:
        """Whether all say yes."""
        return answer

    def wait(self) -> None:
        """Until everybody is here."""


class FabricTeam(Processes):
    """Processes that Lightning Fabric started, one for each device.

    Parameters
    ----------
    fabric : `lightning_fabric.Fabric`, launched
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.size = fabric, fabric.global_rank, fabric.world_size

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """One message for all gradients: many small ones would cost more than they carry."""
        having = [parameter for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([parameter.grad.flatten() for parameter in having if parameter.grad is not None])
        mean: Tensor = self.fabric.all_reduce(flat, reduce_op="mean")
        parts = torch.split(mean, [parameter.numel() for parameter in having])
        for parameter, part in zip(having, parts, strict=True):
            parameter.grad = part.reshape(parameter.shape).clone()

    def all_reduce(self, answer: bool) -> bool:
        """Whether all say yes."""
        votes = torch.tensor(float(answer), device=self.fabric.device)
        return float(self.fabric.all_reduce(votes, reduce_op="sum")) == self.size

    def wait(self) -> None:
        """Until everybody is here."""
        self.fabric.barrier()


def with_team(work: Callable[..., Any], devices: int, device: str, **options: Any) -> Any:
    """Run a function in one process, or in several at once.

    Parameters
    ----------
    work : takes ``team`` and ``device`` by name beside `options`; importable, so that new processes find it
    devices : how many
    device : ``cpu`` or ``cuda``

    Returns
    -------
    what `work` returns, in the first process

    Raises
    ------
    UsageError
        Lightning Fabric or the devices are not there.
    ResourceError
        The system allows no such processes.
    """
    if devices == 1:
        return work(processes=Processes(), device=device, **options)
    try:
        from lightning_fabric import Fabric
    except ImportError as problem:
        raise UsageError(
            "Training on several devices needs Lightning Fabric: pip install 'medldm[train]', or say --devices 1."
        ) from problem
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.device_count() < devices:
        raise UsageError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA devices.")
    fabric = Fabric(accelerator=kind, devices=devices, strategy="ddp_spawn")
    # Bound, not passed: Fabric walks through arguments and stumbles over frozen dataclasses.
    level = logging.getLogger("medldm").getEffectiveLevel()
    try:
        return fabric.launch(partial(_join, work, options, level))
    except OSError as problem:  # what a process raises comes wrapped; this is the system
        raise ResourceError(
            f"--devices {devices}: the processes cannot be started ({reason_of(problem)}). "
            "They need a writable /dev/shm and a local network; say --devices 1 otherwise."
        ) from problem


def _join(work: Callable[..., Any], options: dict[str, Any], level: int, fabric: Any) -> Any:
    # A new process of ours: it has to be told again how loud and how wide to be.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medldm").setLevel(level if fabric.global_rank == 0 else logging.ERROR)
    if fabric.device.type == "cpu":
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // fabric.world_size)))  # noqa: TID251  this process is ours
    done = work(processes=FabricTeam(fabric), device=str(fabric.device), **options)
    fabric.barrier()
    if torch.distributed.is_initialized():
        # A process that ends while gloo's threads still run is aborted now and then, after all the work was done.
        torch.distributed.destroy_process_group()
    return done
