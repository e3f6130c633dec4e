"""Several processes that train one network: each draws its own patches, all take the same step.

Lightning Fabric starts the processes and connects them. Its `setup` would wrap the network, whose methods (encode,
decode) the stages call; its gradients are therefore averaged here, by one `all_reduce`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medldm.errors import ResourceError, UsageError, reason_of
from medldm.system import cores


class Distributed:
    """The processes of a run, as one of them sees them; here a single process."""

    rank, world_size = 0, 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients become their mean over all processes, in place."""

    def all_true(self, condition: bool) -> bool:
        """Whether a condition holds in every process."""
        return condition

    def barrier(self) -> None:
        """Wait for all processes."""


class FabricDistributed(Distributed):
    """Processes that Lightning Fabric started, one for each device.

    Parameters
    ----------
    fabric : `lightning_fabric.Fabric`, launched
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.world_size = fabric, fabric.global_rank, fabric.world_size

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """One message for all gradients: many small ones would cost more than they carry."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        mean: Tensor = self.fabric.all_reduce(flat, reduce_op="mean")
        parts = torch.split(mean, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.reshape(gradient.shape))

    def all_true(self, condition: bool) -> bool:
        """Whether a condition holds in every process."""
        count = torch.tensor(float(condition), device=self.fabric.device)
        return float(self.fabric.all_reduce(count, reduce_op="sum")) == self.world_size

    def barrier(self) -> None:
        """Wait for all processes."""
        self.fabric.barrier()


def launch(work: Callable[..., Any], devices: int, device: str, **options: Any) -> Any:
    """Run a function in one process, or in several at once.

    Parameters
    ----------
    work : takes ``distributed`` and ``device`` by name beside `options`; importable, so that new processes find it
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
        return work(distributed=Distributed(), device=device, **options)
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
        return fabric.launch(partial(_process, work, options, level))
    except OSError as problem:  # what a process raises comes wrapped; this is the system
        raise ResourceError(
            f"--devices {devices}: the processes cannot be started ({reason_of(problem)}). "
            "They need a writable /dev/shm and a local network; say --devices 1 otherwise."
        ) from problem


def _process(work: Callable[..., Any], options: dict[str, Any], level: int, fabric: Any) -> Any:
    # A new process: logging and threads are set up anew.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("medldm").setLevel(level if fabric.global_rank == 0 else logging.ERROR)
    if fabric.device.type == "cpu":
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // fabric.world_size)))  # noqa: TID251  this process is ours
    done = work(distributed=FabricDistributed(fabric), device=str(fabric.device), **options)
    fabric.barrier()
    if torch.distributed.is_initialized():
        # A process that ends while gloo's threads still run is aborted now and then, after all the work was done.
        torch.distributed.destroy_process_group()
    return done
