"""Are samples like real scans, and as varied? Distances of sets and of pairs, with what the autoencoder alone gives."""

from __future__ import annotations

import numpy as np

from medldm import metrics
from medldm.benchmark.generation.sets import ScanSet, Sets
from medldm.benchmark.generation.table import Score, numbers_of, rounded, with_interval
from medldm.metrics import resampling
from medldm.metrics.resampling import Estimate

TIMES_CHANCE = 3.0  # goal: kernel distance of samples over what chance gives between halves of real scans
PAIRS = 100  # of scans, for diversity
PAIR_VOXELS = 20_000_000  # in all pairs: fewer pairs of large scans


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
        numbers = {**numbers_of(estimate), "halves_mean_absolute": chance, "times_chance": times, "features": backbone}
        numbers |= {"times_chance_low": estimate.low / chance, "times_chance_high": estimate.high / chance}
        numbers |= {"halves_95th_percentile": float(np.quantile(np.abs(halves), 0.95)), "scans_of_a_half": size}
        scores.append(
            Score(
                name=name,
                title=f"Kernel distance, {title}",
                samples=with_interval(estimate, 4),
                real=f"{chance:.4f} (halves, by chance)",
                meaning=meaning.format(times=rounded(times), goal=TIMES_CHANCE),
                numbers=numbers,
                passed=times <= TIMES_CHANCE if name == "kernel_distance" else None,
            )
        )
    return [*scores, frechet(sets, real, real_decoded, random, backbone)]


def frechet(sets: Sets, real: ScanSet, real_decoded: ScanSet, random: np.random.Generator, backbone: str) -> Score:
    """Frechet distances of sets of one size; see `distances`."""
    size = min(len(real) // 2, len(sets.samples))
    drawn, plain, back = resampling.principal_coordinates(sets.samples.features, real.features, real_decoded.features)
    halves, ours, coded = (
        resampling.interval(float(values.mean()), values)
        for values in (
            resampling.frechet_distances(None, plain, size, random),
            resampling.frechet_distances(drawn, plain, size, random),
            resampling.frechet_distances(back, plain, size, random, paired=True),
        )
    )
    numbers = {"samples": numbers_of(ours), "halves": numbers_of(halves), "autoencoder": numbers_of(coded)}
    return Score(
        name="frechet_distance",
        title="Frechet distance, samples to real scans",
        samples=with_interval(ours, 0),
        real=f"{with_interval(halves, 0)} (halves)",
        meaning=f"{ours.value / max(halves.value, 1e-12):.1f} times that of halves; autoencoder alone "
        f"{with_interval(coded, 0)}; sets of {size} scans each, since it depends on their size",
        numbers={**numbers, "scans_of_a_set": size, "features": backbone},
    )


def diversity(sets: Sets, real: ScanSet, real_decoded: ScanSet, random: np.random.Generator) -> Score:
    """Multi-scale structural similarity of pairs; see `distances`."""
    inside = sets.training.foreground()
    most = min(PAIRS, max(10, PAIR_VOXELS // inside.size))

    def similarity(some: ScanSet) -> Estimate:
        pairs = [
            (i, j)
            for i in range(len(some))
            for j in range(i)
            if some.subjects[i] != some.subjects[j] and some.descriptions[i].contrast == some.descriptions[j].contrast
        ]
        chosen = [pairs[number] for number in random.permutation(len(pairs))[:most]]
        values = [metrics.ms_ssim(some.volume(i), some.volume(j), inside) for i, j in chosen]
        return resampling.mean_estimate(np.array(values or [np.nan]), random)

    ours, theirs, back = (similarity(some) for some in (sets.samples, real, real_decoded))
    closer = (
        "more alike than" if ours.low > back.high else "less alike than" if ours.high < back.low else "as varied as"
    )
    return Score(
        name="ms_ssim_of_pairs",
        title="Multi-scale SSIM between two samples",
        samples=with_interval(ours, 3),
        real=f"{with_interval(theirs, 3)}; after the autoencoder {with_interval(back, 3)}",
        meaning=f"samples are {closer} real people after the same autoencoder (1: all the same)",
        numbers={
            "samples": numbers_of(ours),
            "real": numbers_of(theirs),
            "autoencoder": numbers_of(back),
            "pairs": most,
        },
    )


def reconstruction(sets: Sets, random: np.random.Generator) -> Score:
    """What the autoencoder loses of held-out people."""
    psnr, mae = (resampling.mean_estimate(values, random) for values in (sets.psnr, sets.mae))
    return Score(
        name="reconstruction",
        title="Reconstruction by the autoencoder, held-out people",
        real=f"PSNR {with_interval(psnr, 2)} dB; mean absolute error {with_interval(mae, 4)}",
        meaning="no sample has finer detail than this; range 1",
        numbers={"psnr_db": numbers_of(psnr), "mae": numbers_of(mae)},
    )
