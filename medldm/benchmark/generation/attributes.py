"""Do samples show what was asked for? Contrast, words, age, sex and tissues, read from them and from real scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from scipy import stats

from medldm import metrics
from medldm.benchmark.generation.sets import Array, ScanSet, Sets
from medldm.benchmark.generation.table import Score, numbers_of, percent, with_interval
from medldm.data.description import SEXES, Description
from medldm.data.intensity import foreground_mask
from medldm.metrics import attributes, resampling
from medldm.metrics.resampling import Estimate

FEWEST = 8  # training scans that an attribute is learned from
TISSUES = ("darkest", "middle", "brightest")


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
        samples=with_interval(scores["samples"], 2),
        real=f"{with_interval(scores['held_out'], 2)} (held-out people)",
        meaning=f"1 to {len(contrasts)}, the number of contrasts; the contrast asked for is recognised in "
        f"{100 * right['samples']:.0f} % of samples and {100 * right['held_out']:.0f} % of held-out scans",
        numbers={name: {**numbers_of(scores[name]), "accuracy": right[name]} for name in scores},
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
    numbers = {"samples": numbers_of(ours), "held_out": numbers_of(real)}
    meaning = "all descriptions are the same: it says little"
    if (shuffled := _other_descriptions(sets.held_out, random)) is not None:
        wrong = captions(shuffled)
        assert wrong is not None
        chance = resampling.mean_estimate(wrong, random)
        numbers["held_out_wrong_description"] = numbers_of(chance)
        meaning = f"held-out people with the description of somebody else: {with_interval(chance, 3)}"
    return Score(
        name="caption_score",
        title=title,
        samples=with_interval(ours, 3),
        real=f"{with_interval(real, 3)} (held-out people)",
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
        samples=f"{with_interval(mean['samples'], 1)}; correlation {slope['samples']:.2f}",
        real=f"{with_interval(mean['held_out'], 1)}; correlation {slope['held_out']:.2f} (held-out people)",
        meaning=f"of the age asked for, and of the true one; always guessing the mean errs by {nothing:.1f}; after the "
        f"autoencoder {mean['held_out_decoded'].value:.1f}",
        numbers={
            name: {**numbers_of(mean[name]), "correlation": slope[name], "scans": len(errors[name])} for name in mean
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
        samples=percent(share["samples"]),
        real=f"{percent(share['held_out'])} (held-out people)",
        meaning=f"of the sex asked for, and of the true one; always guessing the more frequent one: {100 * often:.0f} "
        f"%; after the autoencoder {100 * share['held_out_decoded'].value:.0f} %",
        numbers={name: {**numbers_of(share[name]), "scans": len(right[name])} for name in share}
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


def _correlation(one: Array, other: Array) -> float:
    if min(np.std(one), np.std(other)) < 1e-9:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
