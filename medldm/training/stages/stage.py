"""What all stages are given, and what they make of it in the same way."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medldm.errors import ModelError
from medldm.inference.networks import Networks
from medldm.models.blocks import dense_format
from medldm.models.residual import PrincipalBlocks, SpreadHead
from medldm.models.unet import Residual, build_unet
from medldm.settings import Architecture
from medldm.training.corpus import Corpus
from medldm.training.data import Packed
from medldm.training.distributed import Distributed
from medldm.training.residual_scores import Case, residual_cases
from medldm.training.state import read_metadata, save_atomically
from medldm.training.trainer import Plan, Trainer
from medldm.training.validation import Cube, cubes_by_scanner

STAGES = ("unet", "spread", "latent", "flow")  # in this order
WEIGHTS = "weights.safetensors"  # of a finished stage, in its folder
SCENES = "scenes"  # folder of a run for scenes
THIN = 3.0  # how much more often isotropic scans are drawn for the residual
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is computed at once.

    Parameters
    ----------
    batch, patch : patches a step of the regression network, and their edge, voxels
    scenes, scene : scenes that are made at once, and their edge, voxels, a multiple of 8 from 24 on: of smaller grids
        oneDNN gets gradients in bf16 wrong. Samples are drawn in tiles of this edge (`medldm.inference.residual.TILE`)
    spread : edge of the scenes that the spread head learns from: it looks at a few voxels around each
    flow : scenes a step of the flow
    most : scenes that are kept
    """

    batch: int = 8
    patch: int = 96
    scenes: int = 4
    scene: int = 48
    spread: int = 32
    flow: int = 4
    most: int = 512

    @classmethod
    def fitted(cls, device: str, spatial_dims: int) -> Sizes:
        """Those that suit a device: a large GPU, a part of them on a smaller one, few on a CPU.

        Parameters
        ----------
        device : torch device
        spatial_dims : of the regression network
        """
        flat = spatial_dims == 2
        if torch.device(device).type != "cuda":
            return cls() if flat else cls(batch=2, patch=48)
        share = min(1.0, torch.cuda.get_device_properties(torch.device(device)).total_memory / 75e9)

        def part(number: int) -> int:
            return max(1, int(number * share))

        whole = {"batch": 128, "patch": 96} if flat else {"batch": 16, "patch": 64}
        return cls(
            batch=part(whole["batch"]),
            patch=whole["patch"],
            scenes=part(32),
            scene=cls.scene,
            flow=part(32),
            most=part(8192),
        )


class Teacher(NamedTuple):
    """A regression network whose answers a smaller one learns."""

    config: Architecture
    weights: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network to train, and on what.

    Parameters
    ----------
    name : of the stage
    corpus : training scans on the device
    val : packed scans for validation
    config, latent : architecture of the regression network, and of latent and flow of the residual
    flow_blocks : residual blocks a level of the flow
    plan, sizes : how long to train, and on how much at once
    out : folder of the run; checkpoint and curve go into one of the stage's name
    resume : go on from the checkpoint
    init : weights to start from, and those of stages that `out` does not hold, by name of the stage
    teacher : weights of a larger regression network, and its architecture, whose answers `unet` learns; None for none
    device, distributed : where this process computes, and the other processes; this one alone when not given
    begun : reading of `time.monotonic` when the stage began
    """

    corpus: Corpus
    val: list[Packed]
    config: Architecture
    latent: Architecture
    flow_blocks: int = 1
    out: Path
    name: str = ""
    plan: Plan
    sizes: Sizes
    resume: bool = False
    init: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    teacher: Teacher | None = None
    device: str = "cpu"
    distributed: Distributed = field(default_factory=Distributed)
    begun: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Of checkpoint, curve and weights."""
        return self.out / self.name

    @cached_property
    def cases(self) -> list[Cube]:
        """The validation cubes."""
        return cubes_by_scanner(self.val, self.config)

    @cached_property
    def residual_cases(self) -> list[Case]:
        """The validation cubes with regression mean and spread."""
        return self.with_spread(self.spread)

    @property
    def has_scenes(self) -> bool:
        """Whether this process has scenes already."""
        return any(self.scenes.glob(f"{self.distributed.rank}-*.safetensors"))

    def with_spread(self, spread: SpreadHead) -> list[Case]:
        """The same with another spread head; on a CPU one cube of each kind of damage."""
        every = torch.device(self.device).type == "cuda"
        cubes = self.cases if every else list({case.damage: case for case in self.cases}.values())
        return residual_cases(cubes, Networks(self.config, self.unet, spread=spread), self.device)

    @cached_property
    def thin_corpus(self) -> Corpus:
        """The corpus that the residual is learned from: thin slices show what thick ones lack."""
        return self.corpus.preferring_thin(THIN)

    @property
    def scenes(self) -> Path:
        """Folder of the scenes that this spread head and this regression network gave."""
        return self.out / SCENES / foundation("latent", self.out, self.init)[:12]

    def start(self, network: N) -> N:
        """A network with the weights that it starts from, if there are any."""
        if self.name in self.init:
            self._fill(network, self.name, self.init[self.name])
        return network

    def _fill(self, network: nn.Module, name: str, weights: dict[str, Tensor]) -> None:
        try:
            network.load_state_dict(weights)
        except RuntimeError as problem:
            raise ModelError(
                f"The weights of {name} that {self.out} goes on from are of another shape. Leave --init and "
                "--spatial-dims as the run began with them, or choose another folder."
            ) from problem

    def finished(self, name: str) -> dict[str, Tensor]:
        """Weights of an earlier stage, see `finished_weights`."""
        return finished_weights(name, self.out, self.init)

    @cached_property
    def foundation(self) -> str:
        """What this stage stands on, see `foundation`."""
        return foundation(self.name, self.out, self.init)

    def frozen(self, network: N, name: str) -> N:
        """An earlier stage's network on the device, to be used."""
        self._fill(network, name, self.finished(name))
        return dense(network).to(self.device).eval().requires_grad_(False)

    @cached_property
    def unet(self) -> Residual:
        """The trained regression network."""
        return self.frozen(build_unet(self.config), "unet")

    @cached_property
    def larger(self) -> Residual | None:
        """The regression network that teaches, frozen on the device; None for none."""
        if self.teacher is None:
            return None
        network = build_unet(self.teacher.config)
        self._fill(network, "unet", self.teacher.weights)
        return dense(network).to(self.device).eval().requires_grad_(False)

    @cached_property
    def spread(self) -> SpreadHead:
        """The trained spread head."""
        return self.frozen(SpreadHead(self.config.spatial_dims, self.config.unet[0]), "spread")

    @cached_property
    def blocks(self) -> PrincipalBlocks:
        """The latent of the residual."""
        parts = self.finished("latent")
        return PrincipalBlocks(
            parts["basis"].float(), parts["scale"].float(), self.latent.latent_factor, parts["decoder"].float()
        ).to(self.device)

    def trainer(self, network: nn.Module, validate: Callable[[nn.Module], dict[str, float]]) -> Trainer:
        """The training loop.

        Parameters
        ----------
        network : that learns
        validate : a network to the rows of the curve
        """
        return Trainer(
            dense(network),
            self.plan,
            self.folder,
            validate,
            resume=self.resume,
            device=self.device,
            distributed=self.distributed,
            begun=self.begun,
        )

    def keep(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write what the stage leaves: weights, and the state of its training for the card."""
        if self.distributed.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            state = {**state, "foundation": self.foundation}
            save_atomically(weights, self.folder / WEIGHTS, {"state": json.dumps(state)})
        self.distributed.barrier()


def state_of(folder: Path) -> dict[str, Any]:
    """Clock, steps and curve of a finished stage."""
    state: dict[str, Any] = json.loads(read_metadata(folder / WEIGHTS)["state"])
    return state


def dense(network: N) -> N:
    """A network with its kernels channels last, in place."""
    for weights in network.parameters():
        if weights.ndim > 3:
            weights.data = dense_format(weights.data)
    return network


def finished_weights(name: str, out: Path, init: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Weights of a stage: those of a run, else those that it started from.

    Parameters
    ----------
    name : of the stage
    out : folder of the run
    init : weights by stage

    Raises
    ------
    ModelError
        There are none.
    """
    path = out / name / WEIGHTS
    if path.is_file():
        weights: dict[str, Tensor] = load_file(path)
        return weights
    if name in init:
        return init[name]
    raise ModelError(
        f"{path} is missing: train {name} first, start with --init from a model that has one, or train `all`."
    )


def foundation(name: str, out: Path, init: dict[str, dict[str, Tensor]]) -> str:
    """SHA-256 of the weights that a stage stands on, so that nobody takes it for one that stands on others."""
    digest = hashlib.sha256()
    for earlier in STAGES[: STAGES.index(name)]:
        for _, weights in sorted(finished_weights(earlier, out, init).items()):
            digest.update(weights.contiguous().numpy().tobytes())
    return digest.hexdigest()
