"""The sets of scans that a generator is judged by: real ones, what its autoencoder makes of them, and its samples."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.benchmark.scoring import Backbone
from medldm.data.description import Description
from medldm.errors import ModelError, UsageError
from medldm.inference.generation import Generator, draw_latent, draw_voxels
from medldm.io.atomic import whole_file
from medldm.settings import Progress
from medldm.training.generation import scans
from medldm.zoo import Card

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
COARSE = 200_000  # voxels; finer grids are halved before volumes are compared with many others
FIRST_SEED = 1_000_000  # that no decoder was tuned on, see `medldm.training.generation.stages.drawn`
PLACES = (0.375, 0.5, 0.625)  # of the planes along each axis whose features are taken
NEIGHBOURS = 4  # planes on either side of these that the encoder sees too


@dataclass(frozen=True, kw_only=True)
class ScanSet:
    """Scans on the grid of a generator.

    Parameters
    ----------
    voxels : (N, X, Y, Z) uint8; 255 is `medldm.data.template.BRIGHTEST`
    descriptions, subjects, files : of each
    features : (N, D), see `features_of`; (N, 0) before they are computed
    """

    voxels: Tensor
    descriptions: list[Description]
    subjects: list[str]
    files: list[str]
    features: Array

    def __len__(self) -> int:
        return len(self.voxels)

    def volume(self, number: int) -> Array:
        """(X, Y, Z) float32 scaled intensity of one."""
        scaled: Array = self.voxels[number].float().div(scans.LEVELS).numpy()
        return scaled

    def coarse(self) -> Tensor:
        """(N, X, Y, Z) float32 scaled intensity; on half the grid where it is large."""
        large = is_large(self.voxels[0])
        shrunk = [
            F.avg_pool3d(voxels[None].float(), 2)[0] if large else voxels.float() for voxels in self.voxels
        ]  # one by one: all at once would need the memory of the whole set at full resolution
        return torch.stack(shrunk) / scans.LEVELS

    def foreground(self) -> Array:
        """(X, Y, Z) bool, where the mean of the scans is brighter than a tenth of its brightest part."""
        mean = self.voxels.sum(0, dtype=torch.int32).numpy() / len(self)
        inside: Array = mean > 0.1 * np.quantile(mean, 0.995)
        return inside

    def subset(self, numbers: Sequence[int]) -> ScanSet:
        """Some of the scans, in the order of their numbers."""
        chosen = list(numbers)
        return ScanSet(
            voxels=self.voxels[chosen],
            descriptions=[self.descriptions[number] for number in chosen],
            subjects=[self.subjects[number] for number in chosen],
            files=[self.files[number] for number in chosen],
            features=self.features[chosen],
        )

    def joined(self, other: ScanSet) -> ScanSet:
        """Both sets, one after the other."""
        return ScanSet(
            voxels=torch.cat([self.voxels, other.voxels]),
            descriptions=self.descriptions + other.descriptions,
            subjects=self.subjects + other.subjects,
            files=self.files + other.files,
            features=np.concatenate([self.features, other.features]),
        )


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Everything that scores are computed from.

    Parameters
    ----------
    training, held_out : real scans, split by subject
    training_decoded, held_out_decoded : the same after autoencoder and back
    samples : drawn
    latents : of the training scans, their mirror images, held-out people and samples, (N, C, ...) each
    psnr, mae : (held-out scans,) of autoencoder and back, dB and scaled intensity
    card : of the generator
    spacing : mm
    small : whether the scans are cut-out organs, which fill the grid
    """

    training: ScanSet
    held_out: ScanSet
    training_decoded: ScanSet
    held_out_decoded: ScanSet
    samples: ScanSet
    latents: dict[str, Tensor]
    psnr: Array
    mae: Array
    card: Card
    spacing: float
    small: bool


def real_scans(data: Path, cache: Path, card: Card) -> scans.Corpus:
    """The scans of a folder on the generator's grid; those that lie beside the model are used where they are the same.

    Parameters
    ----------
    data : folder with a split table
    cache : folder to fill
    card : of the generator

    Raises
    ------
    UsageError
        Scans that lie on another grid than the generator draws on.
    InputError
    """
    beside = card.path.parent / "cache" if card.path else None
    if beside and (beside / "generation.json").is_file() and not (cache / "generation.json").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        for name in ("generation.npz", "generation.json"):  # checked against the files of `data` when they are loaded
            shutil.copyfile(beside / name, cache / name)
    regions = card.generator.get("regions") or [""]
    corpus = scans.load(data, cache, regions[0])
    drawn = tuple(card.generator.get("shape", ()))
    if corpus.shape != drawn:
        raise UsageError(
            f"The scans of {data} lie on a grid of {_grid(corpus.shape)} voxels, {card.name} draws {_grid(drawn)}. "
            "Name the data that it was trained on, or a generator of such scans."
        )
    return corpus


def split_of(corpus: scans.Corpus, *, train: bool) -> ScanSet:
    """The scans of one split, without features."""
    numbers = torch.nonzero(corpus.train == train).flatten().tolist()
    return ScanSet(
        voxels=corpus.voxels[numbers],
        descriptions=[corpus.descriptions[number] for number in numbers],
        subjects=[corpus.subjects[number] for number in numbers],
        files=[corpus.files[number] for number in numbers],
        features=np.zeros((len(numbers), 0)),
    )


def drawn_samples(
    generator: Generator,
    people: Sequence[Description],
    folder: Path,
    *,
    count: int,
    steps: int,
    guidance: float,
    progress: Progress,
) -> tuple[ScanSet, Tensor]:
    """Samples with seeds from `FIRST_SEED` on, described as people in turn; what was drawn before is not drawn again.

    Parameters
    ----------
    generator : networks
    people : descriptions of real people, so that attributes are as common as they are among them
    folder : to keep latents in, of one model, one number of steps and one guidance
    count, steps, guidance : samples, and see `medldm.inference.generation.draw_latent`
    progress : called with (done, total, what)

    Returns
    -------
    samples without features, (N, C, ...) latents
    """
    asked = [people[number % len(people)] for number in range(count)]
    volumes, latents = [], []
    for seed, description in enumerate(asked, FIRST_SEED):
        path = folder / f"{seed:05d}.npy"
        shape = (1, generator.config.latent_channels, *generator.config.latent_shape)
        kept = np.load(path) if path.is_file() else None
        if kept is None or kept.shape != shape:
            latent = draw_latent(generator, description, seed=seed, steps=steps, guidance=guidance).cpu()
            with whole_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, latent.numpy())
        else:
            latent = torch.from_numpy(kept)
        latents.append(latent)
        volumes.append(in_bytes(draw_voxels(generator, latent.to(generator.device))))
        progress(len(volumes), count, "samples drawn")
    names = [f"seed {FIRST_SEED + number}" for number in range(count)]
    samples = ScanSet(
        voxels=torch.stack(volumes), descriptions=asked, subjects=names, files=names, features=np.zeros((count, 0))
    )
    return samples, torch.cat(latents)


def decoded(
    generator: Generator, real: ScanSet, progress: Progress, *, mirrored: bool = False
) -> tuple[ScanSet, dict[str, Tensor], Array, Array]:
    """Real scans after autoencoder and back.

    Parameters
    ----------
    generator : networks
    real : scans
    progress : called with (done, total, what)
    mirrored : whether latents of the mirror images are wanted too

    Returns
    -------
    scans without features; latents ``plain`` and, where wanted, ``mirrored``, (N, C, ...); PSNR of each, dB, and mean
    absolute error of each, scaled intensity
    """
    volumes, latents, psnr, mae = [], {"plain": [], "mirrored": []}, [], []  # type: ignore[var-annotated]
    with torch.no_grad():
        for number in range(len(real)):
            volume = torch.from_numpy(real.volume(number))
            inputs = volume[None, None].to(generator.device)
            latent = generator.autoencoder.normalised(inputs)
            back = draw_voxels(generator, latent)
            latents["plain"].append(latent.cpu())
            if mirrored:
                latents["mirrored"].append(generator.autoencoder.normalised(inputs.flip(2)).cpu())
            psnr.append(-10 * np.log10(max(float(((back - volume) ** 2).mean()), 1e-12)))
            mae.append(float((back - volume).abs().mean()))
            volumes.append(in_bytes(back))
            progress(number + 1, len(real), "real scans through the autoencoder")
    kept = {name: torch.cat(parts) for name, parts in latents.items() if parts}
    return replace(real, voxels=torch.stack(volumes)), kept, np.array(psnr), np.array(mae)


def is_large(voxels: Tensor) -> bool:
    """Whether volumes of this grid are halved before they are compared with many others."""
    return voxels.numel() > COARSE


def in_bytes(volume: Tensor) -> Tensor:
    """(X, Y, Z) scaled intensity as uint8, as real scans are kept."""
    return (volume * scans.LEVELS).round().clamp(0, 255).to(torch.uint8)


def features_of(some: ScanSet, backbone: Backbone) -> tuple[Array, Array]:
    """Features of scans by a restoration encoder: mean and standard deviation of each channel over planes.

    Three planes around the middle along each axis; statistics over planes and places together.

    Parameters
    ----------
    some : scans
    backbone : encoder

    Returns
    -------
    (N, D), (D,) number of the group (axis, level, statistic) that a feature belongs to

    Raises
    ------
    ModelError
        There is no encoder.
    """
    if backbone.features is None:
        raise ModelError("Features come from a shipped MR restorer, and there is none. Install medldm again.")
    rows, groups = [], []
    for number in range(len(some)):
        volume, parts = some.volume(number), []
        for axis in range(3):
            for layer in backbone.features(*slabs(np.moveaxis(volume, axis, 1))):
                parts += [layer.mean((1, 2, 3)), layer.std((1, 2, 3))]
        rows.append(np.concatenate(parts))
        groups = [len(part) for part in parts]
    return np.stack(rows).astype(np.float64), np.repeat(np.arange(len(groups)), groups)


def slabs(volume: Array) -> tuple[Array, Array]:
    """The planes across Y whose features are taken, with their neighbours: an encoder need not see all the others.

    Parameters
    ----------
    volume : (X, Y, Z)

    Returns
    -------
    (X, n, Z) volume, positions of the planes in it
    """
    size, around = volume.shape[1], np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    places = np.unique([round(place * (size - 1)) for place in PLACES])
    chosen = np.clip(places[:, None] + around, 0, size - 1).ravel()
    return volume[:, chosen], NEIGHBOURS + len(around) * np.arange(len(places))


def scaled(raw: Array, groups: Array, reference: Array) -> Array:
    """Features around the mean of the training scans, each group brought to a variance of 1 on average.

    So no level of the encoder outweighs the others; a channel that hardly varies is not blown up.

    Parameters
    ----------
    raw : (N, D)
    groups : (D,) from `features_of`
    reference : (M, D) raw features of the training scans
    """
    variance = reference.var(0)
    of_group = np.bincount(groups, variance) / np.bincount(groups)
    result: Array = (raw - reference.mean(0)) / np.sqrt(np.maximum(of_group[groups], 1e-12))
    return result


def matched(real: ScanSet, samples: ScanSet, generator: np.random.Generator) -> list[int]:
    """Numbers of the largest set of real scans in which contrasts are as common as among samples, at random.

    Parameters
    ----------
    real, samples : scans
    generator : source of randomness
    """
    asked = Counter(description.contrast for description in samples.descriptions)
    of_contrast = {
        contrast: [n for n, description in enumerate(real.descriptions) if description.contrast == contrast]
        for contrast in asked
    }
    total = min(len(of_contrast[contrast]) * len(samples) / count for contrast, count in asked.items())
    chosen: list[int] = []
    for contrast, count in asked.items():
        size = int(total * count / len(samples) + 1e-9)
        chosen += generator.permutation(of_contrast[contrast])[:size].tolist()
    return sorted(chosen)


def _grid(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
