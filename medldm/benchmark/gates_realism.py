"""How realistic the samples of damaged cubes are, and what samples would be without a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medldm.benchmark.gate_cases import Case
from medldm.benchmark.gates import Answer
from medldm.inference.networks import Networks
from medldm.inference.residual import latent_noise
from medldm.metrics import fine_detail, kernel_distance
from medldm.metrics.realism import (
    PATCH,
    accuracy,
    patch_places,
    patches,
    power_gap_db,
    sliced_wasserstein,
    two_sample_classifier,
)
from medldm.metrics.samples import energy_score, fair_crps
from medldm.training.validation import EDGE

Array = npt.NDArray[Any]
Figures = dict[str, float]

PATCHES = 1500  # of each cube and set, for the classifier
SMALL = 8  # voxels along the edge of a patch whose pixels are compared as numbers
COMPARED = 2000  # of these, per scanner
SEEDS = 3  # of the classifier
TRAINED_SHARE = 0.6  # of the scored voxels of a cube, along its third axis; the classifier is judged beyond them
BETWEEN = 4  # voxels between the two


class Restored(NamedTuple):
    """A case and what the networks say of it."""

    case: Case
    answer: Answer


class Details(NamedTuple):
    """Patches of fine detail of one scanner: of one kind of image each, at the same places.

    Parameters
    ----------
    trained, held : kind (clean, b, sample) to (N, size, size), on both sides of a cut through every cube
    """

    trained: dict[str, Array]
    held: dict[str, Array]


def details(restored: Sequence[Restored]) -> Details:
    """Patches of the cubes of a scanner, half of those of samples from another sample than the rest.

    Parameters
    ----------
    restored : cubes of one row and scanner
    """
    sides: list[dict[str, list[Array]]] = [{}, {}]
    for number, (damaged, given) in enumerate(restored):
        generator = np.random.default_rng(number)
        images = {"clean": damaged.clean, "b": given.b, "sample": given.samples[0], "other": given.samples[-1]}
        fine = {kind: fine_detail(image.numpy(), damaged.detail_axes) for kind, image in images.items()}
        along = damaged.scored.sum((0, 1)).cumsum()
        cut = int(np.searchsorted(along, TRAINED_SHARE * along[-1]))
        for side, planes in zip(sides, (slice(0, cut), slice(cut + BETWEEN, None)), strict=True):
            where = np.zeros(damaged.scored.shape, dtype=bool)
            where[..., planes] = damaged.scored[..., planes]
            places = patch_places(where, PATCHES, generator)
            half = len(places) // 2  # a second sample for half of the patches
            for kind in ("clean", "b"):
                side.setdefault(kind, []).append(patches(fine[kind], places))
            of_samples = [patches(fine[kind], at) for kind, at in (("sample", places[:half]), ("other", places[half:]))]
            side.setdefault("sample", []).append(np.concatenate(of_samples))
    trained, held = ({kind: np.concatenate(parts) for kind, parts in side.items()} for side in sides)
    return Details(trained, held)


def classified(parts: Mapping[str, Details]) -> dict[str, Figures]:
    """Accuracy of classifiers trained on all scanners, on held-out patches of each."""
    result: dict[str, Figures] = {scanner: {} for scanner in parts}
    for kind, key in (("sample", "classifier"), ("b", "classifier b")):
        ours, real = (np.concatenate([part.trained[name] for part in parts.values()]) for name in (kind, "clean"))
        trained = [two_sample_classifier(ours, real, seed) for seed in range(SEEDS)]
        for scanner, part in parts.items():
            shares = [accuracy(classifier, part.held[kind], part.held["clean"]) for classifier in trained]
            result[scanner][key] = float(np.mean(shares))
    return result


def compared(part: Details) -> Figures:
    """Kernel distance and sliced Wasserstein distance of fine detail to real detail elsewhere."""
    generator = np.random.default_rng(0)
    middle = slice((PATCH - SMALL) // 2, (PATCH + SMALL) // 2)
    scale = float(part.trained["clean"].std())

    def small(kind: str, order: Array) -> Array:
        whole = np.concatenate([part.trained[kind], part.held[kind]])[order]
        return (whole[:, middle, middle] / scale).reshape(len(order), -1)

    count = len(part.trained["clean"]) + len(part.held["clean"])
    order = generator.permutation(count)[: 2 * min(COMPARED, count // 2)]
    real, places = np.split(order, 2)  # both estimators want sets that do not share places
    out = {}
    for kind, suffix in (("sample", ""), ("b", " b"), ("clean", " real")):
        ours, true = small(kind, places), small("clean", real)
        out[f"kernel{suffix}"] = kernel_distance(ours, true)
        out[f"sliced{suffix}"] = sliced_wasserstein(ours, true, np.random.default_rng(0))
    return out


def spectra(damaged: Case, given: Answer) -> Figures:
    """Gap of log power along the damaged axis, dB."""
    clean, where = damaged.clean.numpy(), damaged.inside
    inner = (slice(EDGE, -EDGE),) * 3
    gaps = [power_gap_db(guess.numpy()[inner], clean[inner], 0, where[inner]) for guess in (given.samples[0], given.b)]
    return {"power": gaps[0], "power b": gaps[1]}


def noise_alone(networks: Networks, case: Case, given: Answer) -> Figures:
    """Scores of samples whose latents are noise that no flow has moved: what a flow must do better than.

    They are Gaussian with the spread of b and the correlations that the residual has everywhere.

    Parameters
    ----------
    networks : of a set with a residual flow
    case : damaged cube
    given : what the networks say of it
    """
    latent = networks.latent_blocks
    assert latent is not None
    shape = [size // latent.factor for size in case.clean.shape]
    seeds = range(0, 2 * len(given.samples), 2)
    noise = [latent_noise(seed, latent.channels, shape).to(latent.basis.device) for seed in seeds]
    drawn = [given.regression.mean + given.s * latent.decode(z)[0, 0].float().cpu() for z in noise]
    samples, truth = np.stack([case.project(one).numpy() for one in drawn]), case.clean.numpy()
    where = case.scored
    return {
        "crps noise": float(fair_crps(samples[:, where], truth[where]).mean()),
        "energy score noise": energy_score(samples, truth, where),
    }
