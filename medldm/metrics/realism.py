"""Do samples look like real scans? Sets of patches against sets of patches; no patch is compared with its own truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medldm.data.volume import Voxels
from medldm.metrics.images import Mask

Array = npt.NDArray[Any]
Classifier = Callable[[Array], Array]  # (N, size, size) patches to (N,) bool, whether they are taken for real

PATCH = 16  # voxels along the edge of a patch
STEPS = 600  # of training a classifier: some seconds on a core
BATCH = 128  # half of them real
PEAK_RATE = 1e-2


def power_gap_db(guess: Voxels, reference: Voxels, axis: int, where: Mask) -> float:
    """Root mean square over frequencies of the log power along an axis that a guess lacks or has too much of.

    Lines along the axis, their mean subtracted, under a Hann window; power is averaged over lines, then compared. The
    zero frequency is left out.

    Parameters
    ----------
    guess, reference : (X, Y, Z)
    axis : along which detail was lost
    where : (X, Y, Z) bool; lines of which less than half count are left out

    Returns
    -------
    dB; 0 for equal spectra
    """
    have, want = (log_power_db(image, axis, where) for image in (guess, reference))
    return float(np.sqrt(np.square(have - want).mean()))


def log_power_db(image: Voxels, axis: int, where: Mask) -> Array:
    """Power by frequency along an axis, dB, from one cycle a line to the Nyquist frequency; see `power_gap_db`."""
    lines = np.moveaxis(image, axis, -1)[np.moveaxis(where, axis, -1).mean(-1) >= 0.5].astype(np.float64)
    if len(lines) == 0:
        raise ValueError("no line along the axis has half of its voxels in the mask")
    windowed = (lines - lines.mean(1, keepdims=True)) * np.hanning(lines.shape[1])
    power = (np.abs(np.fft.rfft(windowed)) ** 2).mean(0)[1:]
    decibels: Array = 10 * np.log10(power + 1e-20)
    return decibels


def patch_places(where: Mask, count: int, generator: np.random.Generator, size: int = PATCH) -> Array:
    """Random centres of patches in the planes of the first two axes, some of them more than once where there are few.

    Parameters
    ----------
    where : (X, Y, Z) bool, voxels that may be a centre; those too near to the edges of a plane are not
    count : centres
    generator : source of randomness
    size : edge of a patch, voxels

    Returns
    -------
    (count, 3), or (0, 3) where there is no place at all
    """
    half = size // 2
    fit = np.zeros(where.shape, dtype=bool)
    inner = (slice(half, where.shape[0] - half + 1), slice(half, where.shape[1] - half + 1))
    fit[inner] = where[inner]
    places = np.argwhere(fit)
    return places[generator.integers(0, len(places), count)] if len(places) else places


def patches(image: Voxels, places: Array, size: int = PATCH) -> Array:
    """(N, size, size) patches of an image around `places`, in the planes of its first two axes.

    Parameters
    ----------
    image : (X, Y, Z)
    places : (N, 3) from `patch_places`
    size : edge of a patch, voxels
    """
    around = np.arange(size) - size // 2
    rows, columns = places[:, 0, None, None] + around[:, None], places[:, 1, None, None] + around
    cut: Array = image[rows, columns, places[:, 2, None, None]]
    return cut


def sliced_wasserstein(ours: Array, real: Array, generator: np.random.Generator, directions: int = 256) -> float:
    """Sliced 2-Wasserstein distance of two sets (Bonneel et al., J Math Imaging Vis 51, 2015).

    Root mean square over random directions of the distance between the sets as they project onto them.

    Parameters
    ----------
    ours, real : (N, ...) as many of both
    generator : of the directions
    directions : how many

    Returns
    -------
    in the unit of the sets
    """
    if ours.shape != real.shape:
        raise ValueError(f"two sets of equal size are compared, not {ours.shape} and {real.shape}")
    flat = [patch.reshape(len(patch), -1) for patch in (ours, real)]
    lines = generator.standard_normal((flat[0].shape[1], directions))
    lines /= np.linalg.norm(lines, axis=0)
    have, want = (np.sort(patch @ lines, 0) for patch in flat)
    return float(np.sqrt(np.square(have - want).mean()))


def two_sample_classifier(ours: Array, real: Array, seed: int = 0, steps: int = STEPS) -> Classifier:
    """A small convolutional network that learns to tell two sets of patches apart.

    Its accuracy on patches that it has not seen is a two-sample test (Lopez-Paz and Oquab, ICLR 2017): 0.5 where the
    sets are of one kind.

    Parameters
    ----------
    ours, real : (N, size, size) and (M, size, size)
    seed : of weights and order
    steps : of training
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours
        network = torch.nn.Sequential(*_layers())
    for weights in network.parameters():
        if weights.ndim > 1:
            torch.nn.init.kaiming_normal_(weights, generator=generator)
        else:
            torch.nn.init.zeros_(weights)
    scale = float(np.std(real)) or 1.0
    sets = [torch.from_numpy(np.asarray(part, np.float32) / np.float32(scale))[:, None] for part in (ours, real)]
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps)
    answers = torch.arange(2).repeat_interleave(BATCH // 2)
    network.train()
    for _ in range(steps):
        drawn = [part[torch.randint(len(part), (BATCH // 2,), generator=generator)] for part in sets]
        mirrored = [axis for axis in (2, 3) if torch.rand((), generator=generator) < 0.5]
        batch = torch.cat(drawn).flip(mirrored)
        loss = torch.nn.functional.cross_entropy(network(batch), answers)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()

    def takes_for_real(patch: Array) -> Array:
        with torch.no_grad():
            scaled = torch.from_numpy(np.asarray(patch, np.float32) / np.float32(scale))[:, None]
            answer: Array = network(scaled).argmax(1).numpy() == 1
        return answer

    return takes_for_real


def accuracy(classifier: Classifier, ours: Array, real: Array) -> float:
    """Share of patches that a classifier puts into the right set; both sets count the same.

    Parameters
    ----------
    classifier : from `two_sample_classifier`
    ours, real : (N, size, size) and (M, size, size), not seen in training

    Returns
    -------
    NaN where there are no patches
    """
    if not len(ours) or not len(real):
        return math.nan
    return float((1 - classifier(ours).mean() + classifier(real).mean()) / 2)


def _layers() -> Sequence[Any]:
    from torch import nn

    return (
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 2),
    )
