"""Every score of one restoration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from medldm import metrics
from medldm.benchmark.lesions import lesion_scores
from medldm.benchmark.protocol import Trial
from medldm.benchmark.rod import object_scores
from medldm.data.volume import Voxels
from medldm.errors import ModelError
from medldm.modality import CT, MR

PLANES = 8  # that the perceptual distance looks at
SOFT_HU = (-160.0, 240.0)  # the window radiologists read soft tissue in
FACTOR = 16  # the encoder wants planes of whole multiples
SEEN_NOISE = torch.full((1, 1, 1), 0.02)  # that the encoder is given, scaled intensity


class Backbone(NamedTuple):
    """The network behind the perceptual distance.

    Parameters
    ----------
    name : card, and SHA-256 of the encoder's own weights, as written beside the scores; empty for none
    features : (X, Y, Z) and (PLANES,) positions along Y to activations, channels first; None for none
    """

    name: str = ""
    features: Callable[[Voxels, Voxels], list[Voxels]] | None = None


def scores_of(trial: Trial, guess: Voxels, backbone: Backbone) -> dict[str, float]:
    """All scores.

    Parameters
    ----------
    trial : with reference and masks
    guess : (X, Y, Z) restored, scaled intensity, on the grid of the reference
    backbone : of the perceptual distance

    Returns
    -------
    fields of `medldm.benchmark.ledger.NUMBERS`, those that apply
    """
    reference, mask, axes = trial.reference, trial.scored, trial.detail_axes
    bias = metrics.bias_by_intensity(guess, reference, mask)
    scores = {
        "psnr": metrics.psnr(guess, reference, mask),
        "ssim": metrics.ssim(guess, reference, mask),
        "detail_energy": metrics.detail_energy_ratio(guess, reference, trial.detailed, axes),
        "detail_correlation": metrics.detail_correlation(guess, reference, trial.detailed, axes),
        "mae": metrics.mae(guess, reference, mask),
        "nmi": metrics.nmi(guess, reference, mask),
        "ms_ssim": metrics.ms_ssim(guess, reference, mask),
        "consistency": consistency(trial, guess),
        **{f"bias_{number}": value for number, value in enumerate(bias, 1)},
    }
    if trial.untouched is not None:
        measured = np.asarray(trial.measured.voxels)
        scores["untouched"] = float(np.array_equal(guess[trial.untouched], measured[trial.untouched]))
    if backbone.features is not None:
        scores["perceptual"] = perceptual(trial, guess, backbone.features)
    if trial.row.modality == CT.name:
        scores |= hounsfield_scores(trial, guess)
    if "missing" in trial.facts and trial.lost is not None:
        axis = trial.facts["axis"]
        filled = np.asarray(trial.lost.any(axis=tuple(a for a in range(3) if a != axis)))
        scores["roughness_jump"] = metrics.roughness_jump(guess, filled, axis, trial.inside)
    if trial.healthy is not None:
        spacing = volume_spacing(trial)
        scores |= lesion_scores(guess, reference, trial.healthy, trial.lesions, spacing, trial.inside, trial.lost)
    return scores


def hounsfield_scores(trial: Trial, guess: Voxels) -> dict[str, float]:
    """What CT asks for beside: error in HU, PSNR of the soft-tissue window, and on the drawn object noise and edges."""
    scaling = CT.scaling(guess)
    have, want, measured = (scaling.invert(image) for image in (guess, trial.reference, trial.measured.voxels))
    low, high = SOFT_HU
    soft = [(np.clip(image, low, high) - low) / (high - low) for image in (have, want)]
    scores = {
        "mae_hu": metrics.mae(have, want, trial.scored),
        "psnr_soft": metrics.psnr(soft[0], soft[1], trial.scored),
    }
    return scores | (object_scores(have, want, measured) if trial.row.drawn else {})


def volume_spacing(trial: Trial) -> list[float]:
    """Voxel size of the reference, mm."""
    measured, shape = trial.measured, trial.reference.shape
    return [mm * old / new for mm, old, new in zip(measured.spacing, measured.shape, shape, strict=True)]


def plane_features(trial: Trial, image: Voxels, backbone: Backbone) -> Voxels:
    """(planes, D) features of planes through the scored region, averaged over each plane: for distances of sets."""
    assert backbone.features is not None
    shown = np.where(trial.scored, image, trial.reference)
    activations = backbone.features(shown, scored_places(trial))
    return np.concatenate([layer.mean((2, 3)).T for layer in activations], 1)


def consistency(trial: Trial, guess: Voxels) -> float:
    """RMS of (restoration measured again - measurement) over the RMS of the measurement, in the foreground.

    For noise rows the measurement is the noisy scan itself, so the right answer is near the noise, not zero.
    """
    before = np.asarray(trial.measured.voxels)
    image = torch.from_numpy(np.array(guess, dtype=np.float32))
    again = guess if trial.degradation is None else trial.degradation.degrade(image).numpy()
    # Thick slices and coarse planes live on another grid; there the whole slab counts.
    where = trial.inside if again.shape == trial.inside.shape else np.ones(again.shape, dtype=bool)
    error, size = (np.square(part[where], dtype=np.float64).mean() for part in (again - before, before))
    return float(np.sqrt(error / max(size, 1e-12)))


def perceptual(trial: Trial, guess: Voxels, features: Callable[[Voxels, Voxels], list[Voxels]]) -> float:
    """Feature distance over planes through the scored region; what is not scored is taken from the reference."""
    shown = np.where(trial.scored, guess, trial.reference)
    places = scored_places(trial)
    return metrics.feature_distance(lambda image: features(image, places), shown, trial.reference)


def scored_places(trial: Trial) -> Any:
    """(PLANES,) positions along Y of planes through the scored region."""
    extent = np.flatnonzero(trial.scored.any(axis=(0, 2)))
    return np.unique(np.linspace(extent[0], extent[-1], PLANES + 2).round().astype(int)[1:-1])


def encoder_backbone() -> Backbone:
    """The down path of the shipped regression network, over X-Z planes; an empty backbone where none is shipped."""
    from medldm.inference.conditioning import measured_channels
    from medldm.inference.networks import load_networks
    from medldm.models.unet import encoder_features
    from medldm.zoo import best

    try:
        card = best(MR.name)
    except ModelError:
        return Backbone()
    networks = load_networks(card)

    def features(image: Voxels, places: Voxels) -> list[Voxels]:
        planes = torch.from_numpy(np.moveaxis(image, 1, 2).astype(np.float32))
        inputs = measured_channels(planes, torch.ones_like(planes), SEEN_NOISE, 1.0, networks.config)[places]
        lacking = [part for size in reversed(planes.shape[:2]) for part in (0, -size % FACTOR)]
        with torch.inference_mode():
            activations = encoder_features(networks.unet, F.pad(inputs, lacking, mode="reflect"))
        return [layer.transpose(0, 1).float().numpy() for layer in activations]

    # Of the regression network alone: scores stay valid while the flow is trained on.
    digest = hashlib.sha256()
    for weights in networks.unet.state_dict().values():
        digest.update(weights.contiguous().numpy().tobytes())
    return Backbone(f"{card.name}@{digest.hexdigest()[:8]}", features)
