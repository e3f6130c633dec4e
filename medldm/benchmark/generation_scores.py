"""The scores of a generator: samples against real scans, and beside them real scans against real scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from medldm import metrics
from medldm.benchmark.generated_sets import ScanSet, Sets, matched
from medldm.data.description import SEXES, Description
from medldm.data.intensity import foreground_mask
from medldm.metrics import attributes, memorisation, resampling
from medldm.metrics.resampling import Estimate

Array = npt.NDArray[Any]

TIMES_CHANCE = 3.0  # goal: kernel distance of samples over what chance gives between halves of real scans
MORE_COPIES = 0.05  # goal: share of copies above that of held-out people
PAIRS = 100  # of scans, for diversity
PAIR_VOXELS = 20_000_000  # in all pairs: fewer pairs of large scans
FEWEST = 8  # training scans that an attribute is learned from
TISSUES = ("darkest", "middle", "brightest")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A line of the table.

    Parameters
    ----------
    name : in the JSON file
    title : what is measured
    samples, real : of the samples; of real scans, for comparison
    meaning : one plain line
    numbers : for the JSON file
    passed : whether the goal is reached; None where there is none
    """

    name: str
    title: str
    samples: str = ""
    real: str = ""
    meaning: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    passed: bool | None = None


def all_scores(sets: Sets, captions: Callable[[ScanSet], Array | None], backbone: str) -> list[Score]:
    """Every score that the data allow; those that they do not allow say why.

    Parameters
    ----------
    sets : scans
    captions : cosines of scans and descriptions; None of a model that has no text encoder
    backbone : name of the encoder behind the features
    """
    random = np.random.default_rng(0)
    numbers = matched(sets.training.joined(sets.held_out), sets.samples, random)
    real = sets.training.joined(sets.held_out).subset(numbers)
    real_decoded = sets.training_decoded.joined(sets.held_out_decoded).subset(numbers)
    return [
        *distances(sets, real, real_decoded, random, backbone),
        diversity(sets, real, real_decoded, random),
        *memorised(sets, random),
        reconstruction(sets, random),
        inception(sets, random),
        caption_score(sets, captions, random),
        ages(sets, random),
        sexes(sets, random),
        *tissues(sets, real, real_decoded, random),
    ]


def distances(
    sets: Sets, real: ScanSet, real_decoded: ScanSet, random: np.random.Generator, backbone: str
) -> list[Score]:
    """Kernel and Frechet distances.

    Parameters
    ----------
    sets : scans
    real, real_decoded : real scans with contrasts as common as among samples, and the same after the autoencoder
    random : source of randomness
    backbone : name of the encoder
    """
    size = len(real) // 2
    if size < 2:
        return [Score(name="kernel_distance", title="Kernel distance", meaning="no score: fewer than four real scans")]
    halves = resampling.kernel_distances_of_halves(real.features, size, random)
    chance = max(float(np.abs(halves).mean()), 1e-12)
    others = np.not_equal.outer(np.array(real_decoded.subjects), np.array(real.subjects))
    rows = [
        ("kernel_distance", "samples to real scans", sets.samples, real, None),
        ("kernel_distance_autoencoder", "autoencoder alone to real scans", real_decoded, real, others),
        ("kernel_distance_flow", "samples to real scans after the autoencoder", sets.samples, real_decoded, None),
    ]
    meanings = (
        "{times} times what chance gives between halves of the real scans (goal: at most {goal:g})",
        "{times} times; real scans that were only coded and decoded: what the autoencoder loses",
        "{times} times; both were decoded: what is due to the flow",
    )
    scores = []
    for (name, title, ours, theirs, independent), meaning in zip(rows, meanings, strict=True):
        estimate = resampling.bootstrapped_kernel_distance(
            ours.features, theirs.features, random, independent=independent
        )
        times = estimate.value / chance
        numbers = {**_numbers(estimate), "halves_mean_absolute": chance, "times_chance": times, "features": backbone}
        numbers |= {"halves_95th_percentile": float(np.quantile(np.abs(halves), 0.95)), "scans_of_a_half": size}
        scores.append(
            Score(
                name=name,
                title=f"Kernel distance, {title}",
                samples=_with_interval(estimate, 4),
                real=f"{chance:.4f} (halves, by chance)",
                meaning=meaning.format(times=_digits(times), goal=TIMES_CHANCE),
                numbers=numbers,
                passed=times <= TIMES_CHANCE if name == "kernel_distance" else None,
            )
        )
    return [*scores, frechet(sets, real, real_decoded, random, backbone)]


def frechet(sets: Sets, real: ScanSet, real_decoded: ScanSet, random: np.random.Generator, backbone: str) -> Score:
    """Frechet distances of sets of one size; see `distances`."""
    size = min(len(real) // 2, len(sets.samples) - 1)
    drawn, plain, back = resampling.principal_coordinates(sets.samples.features, real.features, real_decoded.features)
    halves, ours, coded = (
        resampling.interval(float(values.mean()), values)
        for values in (
            resampling.frechet_distances(None, plain, size, random),
            resampling.frechet_distances(_not_as_many(drawn, plain), plain, size, random),
            resampling.frechet_distances(back, plain, size, random),
        )
    )
    numbers = {"samples": _numbers(ours), "halves": _numbers(halves), "autoencoder": _numbers(coded)}
    return Score(
        name="frechet_distance",
        title="Frechet distance, samples to real scans",
        samples=_with_interval(ours, 0),
        real=f"{_with_interval(halves, 0)} (halves)",
        meaning=f"{ours.value / max(halves.value, 1e-12):.1f} times that of halves; autoencoder alone "
        f"{_with_interval(coded, 0)}; sets of {size} scans each, since it depends on their size",
        numbers={**numbers, "scans_of_a_set": size, "features": backbone},
    )


def _not_as_many(drawn: Array, real: Array) -> Array:
    """Samples of which one is left out where they are as many as the real scans, to which they do not belong."""
    return drawn[:-1] if len(drawn) == len(real) else drawn


def diversity(sets: Sets, real: ScanSet, real_decoded: ScanSet, random: np.random.Generator) -> Score:
    """Multi-scale structural similarity of pairs; see `distances`."""
    everywhere = np.ones(sets.samples.voxels.shape[1:], dtype=bool)
    most = min(PAIRS, max(10, PAIR_VOXELS // everywhere.size))

    def similarity(some: ScanSet) -> Estimate:
        pairs = [
            (i, j)
            for i in range(len(some))
            for j in range(i)
            if some.subjects[i] != some.subjects[j] and some.descriptions[i].contrast == some.descriptions[j].contrast
        ]
        chosen = [pairs[number] for number in random.permutation(len(pairs))[:most]]
        values = [metrics.ms_ssim(some.volume(i), some.volume(j), everywhere) for i, j in chosen]
        return resampling.mean_estimate(np.array(values or [np.nan]), random)

    ours, theirs, back = (similarity(some) for some in (sets.samples, real, real_decoded))
    closer = (
        "more alike than" if ours.low > back.high else "less alike than" if ours.high < back.low else "as varied as"
    )
    return Score(
        name="ms_ssim_of_pairs",
        title="Multi-scale SSIM between two samples",
        samples=_with_interval(ours, 3),
        real=f"{_with_interval(theirs, 3)}; after the autoencoder {_with_interval(back, 3)}",
        meaning=f"samples are {closer} real people after the same autoencoder (1: all the same)",
        numbers={"samples": _numbers(ours), "real": _numbers(theirs), "autoencoder": _numbers(back), "pairs": most},
    )


def memorised(sets: Sets, random: np.random.Generator) -> list[Score]:
    """Nearest training scans of samples against those of held-out people."""
    training, training_decoded = sets.training.coarse(), sets.training_decoded.coarse()
    mask = _foreground(training)
    samples = sets.samples.coarse()
    decoded = [memorisation.nearest(v, training_decoded, mask) for v in (samples, sets.held_out_decoded.coarse())]
    plain = [memorisation.nearest(v, training, mask) for v in (samples, sets.held_out.coarse())]
    inside = torch.ones(sets.latents["samples"].shape[1:], dtype=torch.bool)
    latent = [
        torch.stack([
            memorisation.correlations(sets.latents[name], sets.latents[side], inside)
            for side in ("training", "mirrored")
        ]).amax((0, 2)).double().numpy()
        for name in ("samples", "held_out")
    ]  # fmt: skip
    scores = [
        _copies(
            "copies",
            "Share of copies: nearest training scan, after autoencoder and alignment",
            [part.correlation for part in decoded],
            random,
            f"goal: at most {100 * MORE_COPIES:g} points above held-out people; all scans decoded, so that noise plays "
            "no part",
            goal=True,
        ),
        _copies(
            "copies_as_scanned",
            "Share of copies, training scans and held-out people as scanned",
            [part.correlation for part in plain],
            random,
            "samples have no noise, which alone brings them nearer to every scan",
        ),
        _copies(
            "copies_by_margin",
            "Share of samples that stand out: nearest training scan ahead of the second nearest",
            [part.margin for part in decoded],
            random,
            "a copy is much nearer to one training scan than to all others",
        ),
        _copies("copies_in_latent_space", "Share of copies, correlation of latents", latent, random, "no alignment"),
    ]
    nearest = decoded[0]
    scores[0].numbers["nearest"] = [
        {
            "sample": sets.samples.files[number],
            "description": str(sets.samples.descriptions[number]),
            "training_scan": sets.training.files[nearest.scan[number]],
            "number": int(nearest.scan[number]),
            "mirrored": bool(nearest.mirrored[number]),
            "correlation": float(nearest.correlation[number]),
            "margin": float(nearest.margin[number]),
        }
        for number in range(len(sets.samples))
    ]
    return scores


def _copies(
    name: str, title: str, values: Sequence[Array], random: np.random.Generator, note: str, *, goal: bool = False
) -> Score:
    ours, held_out = values
    result = memorisation.copies(ours, held_out, random)
    return Score(
        name=name,
        title=title,
        samples=f"{_percent(result.share)}; {np.median(ours):.3f} at the median",
        real=f"{100 * result.share_held_out:.0f} % of held-out people; {np.median(held_out):.3f} at the median",
        meaning=f"above {result.threshold:.3f}, which one in twenty held-out people exceeds; {note}",
        numbers={
            "threshold": result.threshold,
            "share": _numbers(result.share),
            "share_held_out": result.share_held_out,
            "excess": _numbers(result.excess),
            "median_samples": float(np.median(ours)),
            "median_held_out": float(np.median(held_out)),
            "highest_sample": float(np.max(ours)),
            "highest_held_out": float(np.max(held_out)),
        },
        passed=result.excess.value <= MORE_COPIES if goal else None,
    )


def reconstruction(sets: Sets, random: np.random.Generator) -> Score:
    """What the autoencoder loses of held-out people."""
    psnr, mae = (resampling.mean_estimate(values, random) for values in (sets.psnr, sets.mae))
    return Score(
        name="reconstruction",
        title="Reconstruction by the autoencoder, held-out people",
        real=f"PSNR {_with_interval(psnr, 2)} dB; mean absolute error {_with_interval(mae, 4)}",
        meaning="no sample has finer detail than this; range 1",
        numbers={"psnr_db": _numbers(psnr), "mae": _numbers(mae)},
    )


def inception(sets: Sets, random: np.random.Generator) -> Score:
    """Inception score with a classifier of contrasts."""
    title = "Inception score of contrasts"
    contrasts = sorted({d.contrast for d in sets.training.descriptions if d.contrast})
    if len(contrasts) < 2:
        only = contrasts[0] if contrasts else "unknown"
        return Score(
            name="inception", title=title, meaning=f"no score: all training scans are of one contrast ({only})"
        )
    known = [n for n, d in enumerate(sets.training.descriptions) if d.contrast]
    classes = np.array([contrasts.index(sets.training.descriptions[n].contrast) for n in known])
    predict = attributes.logistic_regression(sets.training.features[known], classes)
    chances = {name: predict(some.features) for name, some in _judged(sets).items()}
    scores = {name: _inception_interval(p, random) for name, p in chances.items()}
    right = {
        name: float(np.mean([contrasts[c] == d.contrast for c, d in zip(p.argmax(1), some.descriptions, strict=True)]))
        for (name, p), some in zip(chances.items(), _judged(sets).values(), strict=True)
    }
    return Score(
        name="inception",
        title=title,
        samples=_with_interval(scores["samples"], 2),
        real=f"{_with_interval(scores['held_out'], 2)} (held-out people)",
        meaning=f"1 to {len(contrasts)}, the number of contrasts; the contrast asked for is recognised in "
        f"{100 * right['samples']:.0f} % of samples and {100 * right['held_out']:.0f} % of held-out scans",
        numbers={name: {**_numbers(scores[name]), "accuracy": right[name]} for name in scores},
    )


def _inception_interval(chances: Array, random: np.random.Generator) -> Estimate:
    drawn = [metrics.inception_score(chances[random.integers(0, len(chances), len(chances))]) for _ in range(500)]
    return resampling.interval(metrics.inception_score(chances), np.array(drawn))


def caption_score(sets: Sets, captions: Callable[[ScanSet], Array | None], random: np.random.Generator) -> Score:
    """Cosine of scans and descriptions, of our own text encoder."""
    title = "CLIP score of our own (cosine of scan and description)"
    cosines = captions(sets.samples)
    if cosines is None:
        return Score(name="caption_score", title=title, meaning="no score: the model has no text encoder")
    theirs = captions(sets.held_out)
    assert theirs is not None
    ours, real = (resampling.mean_estimate(values, random) for values in (cosines, theirs))
    numbers = {"samples": _numbers(ours), "held_out": _numbers(real)}
    meaning = "all descriptions are the same: it says little"
    if (shuffled := _other_descriptions(sets.held_out, random)) is not None:
        wrong = captions(shuffled)
        assert wrong is not None
        chance = resampling.mean_estimate(wrong, random)
        numbers["held_out_wrong_description"] = _numbers(chance)
        meaning = f"held-out people with the description of somebody else: {_with_interval(chance, 3)}"
    return Score(
        name="caption_score",
        title=title,
        samples=_with_interval(ours, 3),
        real=f"{_with_interval(real, 3)} (held-out people)",
        meaning=meaning,
        numbers=numbers,
    )


def _other_descriptions(some: ScanSet, random: np.random.Generator) -> ScanSet | None:
    """The same scans with descriptions of other people; those scans for which there is one."""
    pairs: list[tuple[int, Description]] = []
    for number, own in enumerate(some.descriptions):
        different = [description for description in some.descriptions if description != own]
        if different:
            pairs.append((number, different[random.integers(len(different))]))
    if not pairs:
        return None
    rest = some.subset([number for number, _ in pairs])
    rest.descriptions[:] = [description for _, description in pairs]
    return rest


def ages(sets: Sets, random: np.random.Generator) -> Score:
    """Error of an age regressor on held-out people, and on samples against the age that was asked for."""
    title = "Age: error of a regressor of real scans, years"

    def known(some: ScanSet) -> tuple[Array, Array]:
        rows = [n for n, d in enumerate(some.descriptions) if d.age is not None]
        return some.features[rows], np.array([some.descriptions[n].age for n in rows], dtype=np.float64)

    features, values = known(sets.training)
    judged = {name: known(some) for name, some in _judged(sets).items()}
    if len(values) < FEWEST or any(len(years) < 2 for _, years in judged.values()):
        return Score(name="age", title=title, meaning="no score: the ages of these people are not known")
    predict = attributes.ridge_regression(features, values)
    errors = {name: np.abs(predict(f) - years) for name, (f, years) in judged.items()}
    mean = {name: resampling.mean_estimate(e, random) for name, e in errors.items()}
    slope = {name: _correlation(predict(f), years) for name, (f, years) in judged.items()}
    nothing = float(np.abs(judged["held_out"][1] - values.mean()).mean())
    return Score(
        name="age",
        title=title,
        samples=f"{_with_interval(mean['samples'], 1)}; correlation {slope['samples']:.2f}",
        real=f"{_with_interval(mean['held_out'], 1)}; correlation {slope['held_out']:.2f} (held-out people)",
        meaning=f"of the age asked for, and of the true one; always guessing the mean errs by {nothing:.1f}; after the "
        f"autoencoder {mean['held_out_decoded'].value:.1f}",
        numbers={
            name: {**_numbers(mean[name]), "correlation": slope[name], "scans": len(errors[name])} for name in mean
        }
        | {"guessing_the_mean": nothing, "training_scans": len(values)},
    )


def sexes(sets: Sets, random: np.random.Generator) -> Score:
    """Accuracy of a classifier of sex on held-out people, and on samples against the sex that was asked for."""
    title = "Sex: accuracy of a classifier of real scans"

    def known(some: ScanSet) -> tuple[Array, Array]:
        rows = [n for n, d in enumerate(some.descriptions) if d.sex]
        return some.features[rows], np.array([SEXES.index(some.descriptions[n].sex) for n in rows], dtype=np.int64)

    features, classes = known(sets.training)
    judged = {name: known(some) for name, some in _judged(sets).items()}
    if len(classes) < FEWEST or len(set(classes.tolist())) < 2 or any(len(c) < 2 for _, c in judged.values()):
        return Score(name="sex", title=title, meaning="no score: the sexes of these people are not known")
    predict = attributes.logistic_regression(features, classes)
    right = {name: (predict(f).argmax(1) == c).astype(float) for name, (f, c) in judged.items()}
    share = {name: resampling.mean_estimate(r, random) for name, r in right.items()}
    held_out = judged["held_out"][1]
    often = float(max(held_out.mean(), 1 - held_out.mean()))
    return Score(
        name="sex",
        title=title,
        samples=_percent(share["samples"]),
        real=f"{_percent(share['held_out'])} (held-out people)",
        meaning=f"of the sex asked for, and of the true one; always guessing the more frequent one: {100 * often:.0f} "
        f"%; after the autoencoder {100 * share['held_out_decoded'].value:.0f} %",
        numbers={name: {**_numbers(share[name]), "scans": len(right[name])} for name in share}
        | {"guessing_the_more_frequent": often, "training_scans": len(classes)},
    )


def tissues(sets: Sets, real: ScanSet, real_decoded: ScanSet, random: np.random.Generator) -> list[Score]:
    """Volumes of three classes of intensity, of the contrast that most samples have; see `distances`."""
    contrast = Counter(d.contrast for d in sets.samples.descriptions).most_common(1)[0][0]
    voxel_ml = sets.spacing**3 / 1000

    def volumes(some: ScanSet) -> Array:
        rows = []
        for number, description in enumerate(some.descriptions):
            if description.contrast == contrast:
                volume = some.volume(number)
                inside = np.ones(volume.shape, dtype=bool) if sets.small else foreground_mask(volume)
                rows.append(attributes.tissue_shares(volume[inside])[1] * inside.sum() * voxel_ml)
        return np.array(rows)

    ours, theirs, back = (volumes(some) for some in (sets.samples, real, real_decoded))
    if min(len(ours), len(theirs)) < 4:
        return [Score(name="tissue", title="Volumes of tissue classes", meaning="no score: too few scans")]
    scores, size = [], min(len(theirs) // 2, len(ours))
    for kind, name in enumerate(TISSUES):
        halves = [
            stats.wasserstein_distance(*np.split(random.permutation(theirs[:, kind])[: 2 * size], 2))
            for _ in range(200)
        ]
        distance, chance = stats.wasserstein_distance(ours[:, kind], theirs[:, kind]), float(np.mean(halves))
        summary = {
            part: {"mean": float(values[:, kind].mean()), "sd": float(values[:, kind].std(ddof=1))}
            for part, values in (("samples", ours), ("real", theirs), ("autoencoder", back))
        }
        shown = {part: f"{value['mean']:.3g} ± {value['sd']:.2g}" for part, value in summary.items()}
        scores.append(
            Score(
                name=f"tissue_{name}",
                title=f"Volume of the {name} of three classes of intensity{f' ({contrast})' if contrast else ''}, ml",
                samples=shown["samples"],
                real=f"{shown['real']}; after the autoencoder {shown['autoencoder']}",
                meaning=f"mean and standard deviation; distributions {distance:.2g} ml apart, halves of the real scans "
                f"{chance:.2g} ml",
                numbers={**summary, "wasserstein_ml": float(distance), "wasserstein_halves_ml": chance},
            )
        )
    return scores


def _judged(sets: Sets) -> dict[str, ScanSet]:
    return {"samples": sets.samples, "held_out": sets.held_out, "held_out_decoded": sets.held_out_decoded}


def _foreground(volumes: torch.Tensor) -> torch.Tensor:
    """(X, Y, Z) bool, where the mean of the scans is brighter than a tenth of its brightest part."""
    mean = volumes.mean(0)
    return mean > 0.1 * float(np.quantile(mean.numpy(), 0.995))


def _correlation(one: Array, other: Array) -> float:
    if min(np.std(one), np.std(other)) < 1e-9:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _with_interval(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"
