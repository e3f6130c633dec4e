"""Every score of one restoration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from medldm import metrics
from medldm.benchmark.protocol import Trial
from medldm.errors import ModelError
from medldm.volume import Voxels

PLANES = 8  # that the perceptual distance looks at
FACTOR = 16  # the encoder wants planes of whole multiples


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
    found = {
        "psnr": metrics.psnr(guess, reference, mask),
        "ssim": metrics.ssim(guess, reference, mask),
        "detail_energy": metrics.detail_energy_ratio(guess, reference, trial.detailed, axes),
        "detail_correlation": metrics.detail_correlation(guess, reference, trial.detailed, axes),
        "mae": metrics.mae(guess, reference, mask),
        "nmi": metrics.nmi(guess, reference, mask),
        "consistency": consistency(trial, guess),
        **{f"bias_{number}": value for number, value in enumerate(bias, 1)},
    }
    if trial.untouched is not None:
        measured = np.asarray(trial.measured.voxels)
        found["untouched"] = float(np.array_equal(guess[trial.untouched], measured[trial.untouched]))
    if backbone.features is not None:
        found["perceptual"] = perceptual(trial, guess, backbone.features)
    return found


def consistency(trial: Trial, guess: Voxels) -> float:
    """RMS of (restoration measured again - measurement) over the RMS of the measurement, in the foreground.

    For noise rows the measurement is the noisy scan itself, so the right answer is near the noise, not zero.
    """
    before = np.asarray(trial.measured.voxels)
    image = torch.from_numpy(np.array(guess, dtype=np.float32))
    again = guess if trial.degradation is None else trial.degradation.degrade(image).numpy()
    # Thick slices and coarse planes live on another grid; there the whole slab counts.
    where = trial.inside if again.shape == trial.inside.shape else np.ones(again.shape, dtype=bool)
    error, size = (np.square(each[where], dtype=np.float64).mean() for each in (again - before, before))
    return float(np.sqrt(error / max(size, 1e-12)))


def perceptual(trial: Trial, guess: Voxels, features: Callable[[Voxels, Voxels], list[Voxels]]) -> float:
    """Feature distance over planes through the scored region; what is not scored is taken from the reference."""
    shown = np.where(trial.scored, guess, trial.reference)
    extent = np.flatnonzero(trial.scored.any(axis=(0, 2)))
    places = np.unique(np.linspace(extent[0], extent[-1], PLANES + 2).round().astype(int)[1:-1])
    return metrics.feature_distance(lambda image: features(image, places), shown, trial.reference)


def encoder_backbone() -> Backbone:
    """The encoder of the shipped autoencoder, over X-Z planes; an empty backbone where none is shipped."""
    from medldm.chain import load_chain
    from medldm.zoo import best

    try:
        card = best("mr")
        latent = load_chain(card).latent
    except ModelError:
        return Backbone()
    assert latent is not None
    vae: Any = latent.vae

    def features(image: Voxels, places: Voxels) -> list[Voxels]:
        planes = np.moveaxis(image[:, places, :], 1, 0).astype(np.float32)
        lacking = [(0, -size % FACTOR) for size in planes.shape[1:]]
        planes = np.pad(planes, [(0, 0), *lacking], mode="reflect")
        with torch.inference_mode():
            found = vae.features(torch.from_numpy(planes)[:, None])
        return [each.transpose(0, 1).float().numpy() for each in found]

    # Of the encoder alone: scores stay valid while flow and decoder are trained on.
    digest = hashlib.sha256()
    for weights in vae.network.encoder.state_dict().values():
        digest.update(weights.contiguous().numpy().tobytes())
    return Backbone(f"{card.name}@{digest.hexdigest()[:8]}", features)
