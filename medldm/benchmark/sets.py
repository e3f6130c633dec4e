"""Features of what each method restored, kept beside the scores, and the distances of these sets from the truth's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm import metrics
from medldm.benchmark.protocol import Trial
from medldm.benchmark.scoring import Backbone, plane_features, scored_places
from medldm.data.volume import Voxels
from medldm.errors import ModelError

TRUTH = "reference"
PAIRWISE = ", pairs"  # in the name of a network that compares two images, as LPIPS does
Extractor = Callable[[Trial, Voxels], Voxels]


def extractors(backbone: Backbone, files: Iterable[str | Path] = ()) -> dict[str, Extractor]:
    """Ways from a restoration to (planes, D) features, by the name that stands beside their numbers.

    Parameters
    ----------
    backbone : encoder of a medldm model; none where it has no features
    files : TorchScript networks that the user has: (B, 3, H, W) in [0, 1] to (B, D) features or class probabilities
        (RadImageNet, Inception, ...); or two of (B, 3, H, W) in [-1, 1] to distances (LPIPS)

    Raises
    ------
    ModelError
        A file that is no TorchScript network.
    """
    made: dict[str, Extractor] = {}
    if backbone.features is not None:
        made[backbone.name] = lambda trial, image: plane_features(trial, image, backbone)
    for file in files:
        path = Path(file)
        network = load_torchscript(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        pairs = images_taken(network) > 1
        name = f"{path.stem}{PAIRWISE if pairs else ''}@{digest}"
        made[name] = partial(_pairs_by if pairs else _planes_by, network)
    return made


def images_taken(network: Any) -> int:
    """How many images a TorchScript network takes: one gives features, two are compared.

    Parameters
    ----------
    network : from `load_torchscript`
    """
    return sum(not argument.has_default_value() for argument in network.forward.schema.arguments[1:])


def _planes_by(network: Any, trial: Trial, image: Voxels) -> Voxels:
    shown = np.where(trial.scored, image, trial.reference)
    return torchscript_features(network, np.moveaxis(shown[:, scored_places(trial)], 1, 0))


def _pairs_by(network: Any, trial: Trial, image: Voxels) -> Voxels:
    """(1, 1) distance of planes from the reference's."""
    shown = [np.where(trial.scored, one, trial.reference) for one in (image, trial.reference)]
    planes = [np.moveaxis(one[:, scored_places(trial)], 1, 0) for one in shown]
    return np.array([[torchscript_distance(network, *planes)]])


def load_torchscript(path: Path) -> Any:
    """A network from a TorchScript file; no code of the file's author but the network runs.

    Raises
    ------
    ModelError
    """
    jit: Any = torch.jit
    try:
        return jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as problem:
        raise ModelError(f"{path} is not a TorchScript network. Export it with torch.jit.trace.") from problem


def torchscript_features(network: Any, planes: Voxels) -> Voxels:
    """Features of grey planes by a network that was made for colour.

    Parameters
    ----------
    network : (B, 3, H, W) in [0, 1] to (B, D), or (B, D, h, w), which is averaged over the plane
    planes : (B, H, W) scaled intensity

    Returns
    -------
    (B, D)
    """
    grey = torch.from_numpy(np.ascontiguousarray(np.clip(planes, 0, 1), dtype=np.float32))
    with torch.inference_mode():
        features = network(grey[:, None].expand(-1, 3, -1, -1))
    pooled: Voxels = (features.flatten(2).mean(2) if features.ndim > 2 else features).float().numpy()
    return pooled


def torchscript_distance(network: Any, guess: Voxels, reference: Voxels) -> float:
    """Mean distance of two stacks of planes by a network that compares, as LPIPS does.

    Parameters
    ----------
    network : two (B, 3, H, W) in [-1, 1], LPIPS's range, to (B, ...) distances
    guess, reference : (B, H, W) scaled intensity
    """
    pair = [
        torch.from_numpy(np.ascontiguousarray(np.clip(planes, 0, 1), dtype=np.float32))[:, None].expand(-1, 3, -1, -1)
        for planes in (guess, reference)
    ]
    with torch.inference_mode():
        return float(network(pair[0] * 2 - 1, pair[1] * 2 - 1).mean())


def keep(folder: Path, makers: dict[str, Extractor], trial: Trial, method: str, image: Voxels) -> None:
    """Write the features of a restoration, and once those of the truth."""
    for name, maker in makers.items():
        for who, shown in ((method, image), (TRUTH, trial.reference)):
            path = _place(folder, name, trial.row.name, who, trial.file)
            if who == TRUTH and path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, maker(trial, shown).astype(np.float32))


def set_distances(
    folder: Path, backbone: str, row: str, methods: Sequence[str], files: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Kernel and Frechet distance of each method's planes from the truth's, over the same scans.

    Parameters
    ----------
    folder, backbone : where `keep` wrote, and whose features
    row : of the protocol
    methods : whose
    files : scans

    Returns
    -------
    method to ``kid``, ``fid`` and, where features are class probabilities, ``inception``; to ``distance``, the mean
    over scans, where the network compares; methods without features are left out
    """
    distances: dict[str, dict[str, float]] = {}
    for method in methods:
        pairs = [[_place(folder, backbone, row, who, file) for who in (method, TRUTH)] for file in files]
        pairs = [pair for pair in pairs if all(path.is_file() for path in pair)]
        if not pairs:
            continue
        if PAIRWISE in backbone:
            distances[method] = {"distance": float(np.mean([np.load(mine) for mine, _ in pairs]))}
            continue
        ours, real = (np.concatenate([np.load(pair[side]) for pair in pairs]) for side in (0, 1))
        if len(ours) < 2:
            continue
        scores = {"kid": metrics.kernel_distance(ours, real), "fid": metrics.frechet_distance(ours, real)}
        if bool((ours >= 0).all()) and np.allclose(ours.sum(1), 1, atol=1e-3):
            scores["inception"] = metrics.inception_score(ours)
        distances[method] = scores
    return distances


def _place(folder: Path, backbone: str, row: str, method: str, file: str) -> Path:
    return folder / backbone / row / method.replace("/", "_") / f"{file}.npy"
