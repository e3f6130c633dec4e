"""Lesions put into a scan before it is degraded: which come out again, and which appear that were not put there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage

from medldm.data.volume import Voxels
from medldm.metrics.images import Mask

SIZES_MM = (2.0, 3.0, 4.0, 6.0, 8.0)
CONTRAST = 0.2  # scaled intensity, brighter or darker than what lies there: half of what divides white from grey matter
APART_MM = 4.0  # between the rims of two lesions
OF_EACH_SIZE = 3  # of every size, bright and dark in turn
LOST = 0.5  # less of its contrast than this, and a reader would not see it


class Lesion(NamedTuple):
    """One sphere.

    Parameters
    ----------
    centre : voxels
    diameter_mm : of the sphere
    contrast : added to what was there, scaled intensity
    """

    centre: tuple[int, int, int]
    diameter_mm: float
    contrast: float


def planted(
    clean: Voxels, inside: Mask, spacing: Sequence[float], generator: torch.Generator
) -> tuple[Any, list[Lesion]]:
    """A scan with lesions, largest first, as many as there is room for.

    Parameters
    ----------
    clean : (X, Y, Z) scaled intensity
    inside : (X, Y, Z) bool, foreground
    spacing : mm
    generator : source of randomness

    Returns
    -------
    (X, Y, Z) with lesions, and what they are
    """
    depth = ndimage.distance_transform_edt(inside, sampling=spacing)
    sick, lesions = clean.copy(), list[Lesion]()
    for diameter in sorted(SIZES_MM, reverse=True):
        for number in range(OF_EACH_SIZE):
            room = np.argwhere((depth > diameter / 2 + 2) & (clean > CONTRAST + 0.05))
            if len(room) == 0:
                continue
            place = room[int(torch.randint(len(room), (1,), generator=generator))]
            centre = (int(place[0]), int(place[1]), int(place[2]))
            lesion = Lesion(centre, diameter, CONTRAST if number % 2 == 0 else -CONTRAST)
            sick += lesion.contrast * weight(lesion, clean.shape, spacing)
            lesions.append(lesion)
            depth[distance_mm(lesion, clean.shape, spacing) < diameter / 2 + APART_MM + max(SIZES_MM) / 2] = 0
    return sick.astype(np.float32), lesions


def weight(lesion: Lesion, shape: Sequence[int], spacing: Sequence[float]) -> Voxels:
    """How much of each voxel the sphere fills, (X, Y, Z) in [0, 1]; its rim is one voxel wide."""
    rim = float(min(spacing))
    reach = (lesion.diameter_mm / 2 - distance_mm(lesion, shape, spacing)) / rim + 0.5
    return np.clip(reach, 0, 1).astype(np.float32)


def distance_mm(lesion: Lesion, shape: Sequence[int], spacing: Sequence[float]) -> Voxels:
    """(X, Y, Z) distance from its centre, mm."""
    squares = [
        (((np.arange(size) - at) * mm) ** 2).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (size, at, mm) in enumerate(zip(shape, lesion.centre, spacing, strict=True))
    ]
    distance: Voxels = np.sqrt(squares[0] + squares[1] + squares[2]).astype(np.float32)
    return distance


def lesion_scores(
    guess: Voxels,
    reference: Voxels,
    clean: Voxels,
    lesions: Sequence[Lesion],
    spacing: Sequence[float],
    inside: Mask,
    lost: Mask | None,
) -> dict[str, float]:
    """What became of the lesions.

    Contrast is the mean over a lesion minus the mean over the shell of 2 mm around it; recovered is the share of what
    the lesion added to it, so 1 is right and 0 is a scan that never had it. False is a blob, no smaller than the
    smallest lesion, that is wrong by more than half a lesion's contrast where none was put.

    Parameters
    ----------
    guess, reference, clean : (X, Y, Z) scaled intensity; restored, with lesions, before they were put in
    lesions : from `planted`
    spacing : mm
    inside : (X, Y, Z) bool, foreground
    lost : (X, Y, Z) bool, what was not measured at all; None for none. A lesion wholly inside cannot be known: it
        counts apart

    Returns
    -------
    ``lesion_2`` to ``lesion_8`` (contrast recovered by diameter, mm), ``lesions_lost`` (share),
    ``lesion_hidden`` (contrast recovered of those wholly inside a gap), ``lesions_false`` (count)
    """
    seen: dict[float, list[float]] = {size: [] for size in SIZES_MM}
    hidden: list[float] = []
    near = np.zeros(guess.shape, dtype=bool)
    for lesion in lesions:
        filled, distance = weight(lesion, guess.shape, spacing) > 0.5, distance_mm(lesion, guess.shape, spacing)
        shell = (distance > lesion.diameter_mm / 2 + 0.5) & (distance < lesion.diameter_mm / 2 + 2.5) & inside
        near |= distance < lesion.diameter_mm / 2 + 2.5
        if not filled.any() or not shell.any():
            continue
        have, want, without = (float(image[filled].mean() - image[shell].mean()) for image in (guess, reference, clean))
        recovered = (have - without) / (want - without)
        within = lost is not None and bool(lost[weight(lesion, guess.shape, spacing) > 0].all())
        (hidden if within else seen[lesion.diameter_mm]).append(recovered)
    all_shares = [share for shares in seen.values() for share in shares]
    named = {f"lesion_{size:.0f}": _mean(shares) for size, shares in seen.items()}
    gone = _mean([float(share < LOST) for share in all_shares])
    false = false_blobs(guess - reference, inside & ~near, spacing)
    return {**named, "lesions_lost": gone, "lesion_hidden": _mean(hidden), "lesions_false": float(false)}


def false_blobs(error: Voxels, where: Mask, spacing: Sequence[float]) -> int:
    """Connected blobs of one sign, no smaller than the smallest lesion, wrong by more than half a lesion's contrast."""
    smallest = math.pi / 6 * min(SIZES_MM) ** 3 / float(np.prod(spacing))
    count = 0
    for sign in (1, -1):
        labels, _ = ndimage.label((sign * error > CONTRAST / 2) & where)
        count += int((np.bincount(labels.ravel())[1:] >= smallest).sum())
    return count


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
