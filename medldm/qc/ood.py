"""Does a scan lie outside what a model's card covers? Few numbers a person can check, compared with training scans.

Four kinds of checks, none of which needs a network: what is written about the scan (spacing, Hounsfield units,
restored already), its grey values, its texture, and its anatomy (size, outline, symmetry). The last three are small
vectors of named numbers; how far a scan lies from the nearest training scan (nearest-neighbour outlier detection:
Ramaswamy et al., SIGMOD 2000; Tax and Duin, ICPR 2000) is compared with a limit that validation scans chose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from medldm.data.intensity import FOREGROUND_PERCENTILE, Mask, Scaling
from medldm.data.volume import Volume, Voxels
from medldm.modality import MODALITIES
from medldm.qc import watermark
from medldm.qc.ood_features import GROUPS, distances, extended, fit
from medldm.zoo import Card

PLANES = 48  # that are looked at for a watermark
COARSE_MM = 3.0  # grid on which a scan is looked at; noise and thin structures do not reach it
BINS = 6  # of an outline: cross-sections from one end of the foreground to the other
SMALLEST = 12  # coarse voxels along every axis that an outline needs
QUANTILES = (5, 25, 50, 75, 95)
AXES = ("left to right", "back to front", "bottom to top")


def describe(volume: Volume, modality: str, foreground: Mask | None = None) -> dict[str, dict[str, float]]:
    """A scan in named numbers, by group.

    Parameters
    ----------
    volume : scan, stored units; NaN counts as air
    modality : name in `medldm.modality.MODALITIES`, which says how it is scaled
    foreground : (X, Y, Z) bool, of `medldm.modality.Modality.foreground`, where it is known already

    Returns
    -------
    ``intensity``, ``texture`` and ``anatomy``, each name to number; ``anatomy`` and ``texture`` are left out for scans
    of a few slices, whose outline says nothing. Empty without foreground.
    """
    image, inside, spacing = _coarse(volume, modality, foreground)
    if inside.sum() < 100:
        return {}
    numbers = {"intensity": _intensity(image, inside)}
    if min(inside.shape) >= SMALLEST:
        numbers["texture"] = _texture(image, inside, spacing)
        numbers["anatomy"] = _anatomy(image, inside, spacing)
    return numbers


def check(volume: Volume, card: Card, verb: str = "", foreground: Mask | None = None) -> dict[str, str]:
    """What speaks against restoring a scan with a model.

    Parameters
    ----------
    volume : scan, as read
    card : of the model
    verb : about to run; one that ran before, in this process, is named too
    foreground : (X, Y, Z) bool, of `medldm.modality.Modality.foreground`, where it is known already

    Returns
    -------
    name of the check to a sentence; empty when the card covers the scan
    """
    warnings: dict[str, str] = {}
    if why := synthetic_by(volume):
        warnings["synthetic"] = (
            f"{volume.name} is synthetic: {why}. It shows nobody, and what is done to it is evidence of nothing."
        )
    elif done := volume.stored.restored_by or (verb if verb in {step.task for step in volume.history} else ""):
        warnings["restored"] = (
            f"{volume.name} was restored already ({done}): its noise and edges are a network's, and what is done to "
            "it now is an estimate of an estimate. Restore the original."
        )
    warnings |= _spacing(volume, card) | _units(volume, card)
    limits = card.ood
    if not limits:
        return warnings
    numbers = describe(volume, card.modality, foreground)
    if not numbers:
        return warnings
    for group, far in distances(numbers, limits).items():
        if far > 1:
            warnings[group] = (
                f"The {GROUPS[group]} of {volume.name} {'are' if group == 'intensity' else 'is'} unlike every scan "
                f"{card.name} was trained on ({far:.1f} times the limit; {_why(numbers[group], limits[group])}). "
                "Look at the result with care."
            )
    if "anatomy" not in numbers:
        warnings["few slices"] = (
            f"{volume.name} covers too little for its anatomy to be compared with what {card.name} was trained on."
        )
    return warnings


def synthetic_by(volume: Volume) -> str:
    """How we know that a scan was drawn by `medldm generate`; empty where nothing says so.

    Parameters
    ----------
    volume : scan, as read
    """
    if "generate" in volume.stored.restored_by or any(step.task == "generate" for step in volume.history):
        return "its header or its record says that medldm generated it"
    if min(volume.shape[:2]) >= watermark.SMALLEST and watermark_height(volume) > watermark.THRESHOLD:
        return "its voxels bear the watermark of medldm"
    return ""


def watermark_height(volume: Volume) -> float:
    """How clearly a scan bears the watermark, see `medldm.qc.watermark.find`.

    The middle planes show a mark as well as all do, and take less time.

    Parameters
    ----------
    volume : scan, planes of at least `medldm.qc.watermark.SMALLEST` voxels
    """
    depth = volume.shape[2]
    first = max(0, depth // 2 - PLANES // 2)
    planes = volume.voxels[:, :, first : first + PLANES].astype(np.float32)
    return watermark.find(np.nan_to_num(planes, posinf=0, neginf=0))


def missing_reference(volume: Volume, card: Card) -> str:
    """A sentence where a card says nothing of its training scans, so that `check` has nothing to compare; else empty.

    Parameters
    ----------
    volume : scan
    card : of the model
    """
    if any(group in card.ood for group in GROUPS):
        return ""
    return (
        f"{card.name} does not say what its training scans look like: whether it covers {volume.name}, nobody can "
        "tell. Only units and spacing were checked."
    )


def check_residual(
    card: Card, verb: str, residual: float | None, noise: float, *, in_noise: bool = False
) -> dict[str, str]:
    """Whether what a restoration leaves of the measurement looks as it did on validation scans.

    Parameters
    ----------
    card : of the model
    verb : that ran
    residual : root mean square of the re-measured result minus the measurement, as the record holds it, or None
    noise : level that the network was given, in the unit of the residual
    in_noise : whether the residual of this verb is measured in the noise level

    Returns
    -------
    name of the check to a sentence; empty when nothing is odd, or the card does not know
    """
    limits = card.ood.get("residual", {}).get(verb)
    if limits is None or residual is None:
        return {}
    low, high = limits["low"], limits["high"]
    if in_noise and noise <= 0:
        return {}
    value = residual / noise if in_noise else max(0.0, residual - noise)
    if low <= value <= high:
        return {}
    unit = "times the noise level" if in_noise else "of the signal above the noise"
    return {
        "consistency": (
            f"What {card.name} took away or added is {value:.2f} {unit}; on validation scans it was {low:.2f} to "
            f"{high:.2f}. The noise level or the slice profile may be another one than assumed."
        )
    }


def _spacing(volume: Volume, card: Card) -> dict[str, str]:
    low, high = card.spacing_mm
    sizes = [mm for mm, count in zip(volume.spacing, volume.shape, strict=True) if count > 1]
    odd = [mm for mm in sizes if not 0.99 * low <= mm <= 1.01 * high]
    if not odd:
        return {}
    listed = " and ".join(f"{mm:.3g}" for mm in odd)
    return {
        "spacing": (
            f"{volume.name} has voxels of {listed} mm; {card.name} has seen {low:g} to {high:g} mm. "
            "If the header is wrong, correct it first."
        )
    }


def _units(volume: Volume, card: Card) -> dict[str, str]:
    with np.errstate(invalid="ignore"):
        low = float(np.nanmin(volume.voxels))
    expected, stored = MODALITIES[card.modality], MODALITIES.get(volume.stored.modality or "")
    if expected.body_above is not None:
        if low <= expected.body_above and stored in (expected, None):
            return {}
        return {
            "modality": f"{volume.name} holds no air at {expected.air:.0f} {expected.unit} (its lowest value is "
            f"{low:.0f}); {card.name} restores {expected.title} in {expected.unit}."
        }
    by_header = volume.stored.container == "dicom" and stored is expected  # its padding may lie as low
    for other in MODALITIES.values():
        if other.body_above is None:
            continue
        if stored is other or (low <= other.body_above and not by_header):
            return {
                "modality": f"{volume.name} looks like {other.title}, by its values as low as {low:.0f}; {card.name} "
                f"restores {expected.title}."
            }
    return {}


def _coarse(volume: Volume, modality: str, known: Mask | None) -> tuple[Voxels, Mask, tuple[float, ...]]:
    """The scan averaged to about 3 mm, scaled and cut to its foreground, where that is, and the new spacing."""
    kind, voxels = MODALITIES[modality], _without_gaps(volume.voxels)
    mask = known if known is not None and voxels is volume.voxels else kind.foreground(voxels)
    if not mask.any():
        return np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), dtype=bool), volume.spacing
    # One percentile serves here, where `mri_scaling` would look for the foreground once more.
    brightest = float(np.percentile(voxels[mask][::7], FOREGROUND_PERCENTILE))
    scaling = kind.fixed_scaling or Scaling(0.0, brightest if brightest > 0 else 1.0)
    box = _box(mask)
    image = np.nan_to_num(np.clip(scaling.apply(voxels[box]), 0, 1.5))
    steps = [min(count, max(1, round(COARSE_MM / mm))) for mm, count in zip(volume.spacing, image.shape, strict=True)]
    small, inside = _averaged(image, steps), _averaged(mask[box], steps) > 0.5
    return small, inside, tuple(mm * step for mm, step in zip(volume.spacing, steps, strict=True))


def _averaged(array: Voxels, steps: Sequence[int]) -> Voxels:
    """Means over blocks, float32; what is left over at the ends is dropped."""
    cut = tuple(slice(0, count // step * step) for count, step in zip(array.shape, steps, strict=True))
    blocks = [n for count, step in zip(array.shape, steps, strict=True) for n in (count // step, step)]
    means: Voxels = array[cut].reshape(blocks).mean((1, 3, 5), dtype=np.float32)
    return means


def _without_gaps(voxels: Voxels) -> Voxels:
    """Lost slices (all zero or NaN between others) replaced by their nearest neighbours, so that anatomy shows."""
    for axis in range(3):
        filled = np.flatnonzero(((voxels != 0) & np.isfinite(voxels)).any(tuple(a for a in range(3) if a != axis)))
        if len(filled) == 0 or filled[-1] - filled[0] + 1 == len(filled):
            continue
        inside = np.arange(filled[0], filled[-1] + 1)
        nearest = filled[np.abs(inside[:, None] - filled).argmin(1)]
        at = np.concatenate([np.arange(filled[0]), nearest, np.arange(filled[-1] + 1, voxels.shape[axis])])
        voxels = np.take(voxels, at, axis=axis)
    return voxels


def _box(inside: Mask) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        filled = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _intensity(image: Voxels, inside: Mask) -> dict[str, float]:
    values = image[inside]
    numbers = {f"{share}th percentile": float(np.percentile(values, share)) for share in QUANTILES}
    counts = ndimage.gaussian_filter1d(np.histogram(values, 50, (0, 1.25))[0].astype(np.float64), 1)
    numbers["share of the commonest grey"] = float(counts.max() / counts.sum())
    return numbers


def _texture(image: Voxels, inside: Mask, spacing: Sequence[float]) -> dict[str, float]:
    """Gradients at 3 mm, scaled intensity per cm; logarithms, since they spread over decades."""
    core = ndimage.binary_erosion(inside)
    core = core if core.sum() > 100 else inside
    steps = np.gradient(image, *spacing)
    size = 10 * np.sqrt(sum(np.square(step) for step in steps))[core]
    low, middle, high = np.percentile(size, [10, 50, 95])
    smooth = ndimage.gaussian_filter(image, 1.0)
    fine = np.abs(image - smooth)[core]
    return {
        "median gradient": math.log10(middle + 1e-3),
        "gradient in flat tissue": math.log10(low + 1e-3),
        "gradient at edges": math.log10(high + 1e-3),
        "fine structure": math.log10(float(fine.mean()) + 1e-4),
    }


def _anatomy(image: Voxels, inside: Mask, spacing: Sequence[float]) -> dict[str, float]:
    """Size, outline along three axes, and left-right symmetry."""
    millilitres = float(inside.sum()) * math.prod(spacing) / 1000
    numbers = {"volume, log10 of ml": math.log10(millilitres)}
    for axis, along in enumerate(AXES):
        numbers[f"extent {along}, dm"] = inside.shape[axis] * spacing[axis] / 100
    numbers["filled share of its box"] = float(inside.mean())
    for axis, along in enumerate(AXES):
        area = inside.sum(tuple(a for a in range(3) if a != axis)).astype(np.float64)
        at = (np.arange(BINS) + 0.5) / BINS * len(area) - 0.5
        outline = np.interp(at, np.arange(len(area)), ndimage.uniform_filter1d(area, max(1, len(area) // BINS)))
        outline /= max(outline.mean(), 1e-9)
        numbers |= {f"outline {along}, {number + 1} of {BINS}": float(v) for number, v in enumerate(outline)}
    numbers["symmetry of the outline"] = _alike(inside.astype(np.float32), inside[::-1].astype(np.float32))
    both = inside & inside[::-1]
    numbers["symmetry of grey values"] = _alike(image[both], image[::-1][both])
    return numbers


def _alike(one: Voxels, other: Voxels) -> float:
    """Pearson correlation, 0 where one of both is constant."""
    one, other = one.ravel() - one.mean(), other.ravel() - other.mean()
    size = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum() / size) if size > 1e-9 else 0.0


def _why(numbers: Mapping[str, float], kept: Mapping[str, Any]) -> str:
    """The number that lies farthest from the training scans, and where those lie."""
    outside = [
        (max(low - numbers[name], numbers[name] - high) / spread, name, low, high)
        for name, (low, high), spread in zip(kept["names"], kept["range"], kept["spread"], strict=True)
    ]
    _, name, low, high = max(outside)
    return f"{name} {numbers[name]:.2f}, there {low:.2f} to {high:.2f}"


__all__ = ["GROUPS", "check", "check_residual", "describe", "distances", "extended", "fit", "missing_reference"]
