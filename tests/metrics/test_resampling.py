"""Distances of sets with intervals, and what chance gives between halves of one set."""

import numpy as np
import pytest
from scipy import linalg

from medldm.metrics import frechet_distance, kernel_distance, resampling


def scans(count, shift=0.0, seed=0, features=6):
    return np.random.default_rng(seed).normal(size=(count, features)) + shift


def test_the_interval_of_a_mean_narrows_with_the_root_of_the_number():
    random = np.random.default_rng(0)
    few, many = (resampling.mean_estimate(random.normal(size=n), random) for n in (100, 10_000))
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 10, rel=0.3)
    assert few.low < few.value < few.high


def test_the_bootstrap_brackets_the_plain_distance():
    ours, real = scans(40, 0.7, seed=1), scans(60, seed=2)
    estimate = resampling.bootstrapped_kernel_distance(ours, real, np.random.default_rng(0), draws=300)
    assert estimate.value == pytest.approx(kernel_distance(ours, real))
    assert estimate.low < estimate.value < estimate.high


def test_two_sets_of_one_kind_are_as_far_apart_as_halves_are_on_average():
    random = np.random.default_rng(3)
    pool = scans(80, seed=4)
    chance = np.abs(resampling.kernel_distances_of_halves(pool, 40, random)).mean()
    same = [abs(kernel_distance(scans(40, seed=s), scans(40, seed=100 + s))) for s in range(100)]
    assert np.mean(same) / chance == pytest.approx(1, abs=0.35)
    assert abs(kernel_distance(scans(40, 1.0, seed=5), pool)) > 10 * chance


def test_halves_are_not_apart_on_average():
    distances = resampling.kernel_distances_of_halves(scans(40, seed=6), 20, np.random.default_rng(0), splits=3000)
    assert abs(distances.mean()) < 4 * distances.std() / np.sqrt(3000)


def test_pairs_of_a_scan_and_its_own_reconstruction_can_be_left_out():
    real = scans(30, seed=7)
    independent = ~np.eye(30, dtype=bool)
    random = np.random.default_rng(0)
    with_itself = resampling.bootstrapped_kernel_distance(real, real, random, draws=2)
    without = resampling.bootstrapped_kernel_distance(real, real, random, independent=independent, draws=2)
    assert with_itself.value < 0  # each scan has its twin on the other side
    assert without.value == pytest.approx(0, abs=1e-9)


def test_frechet_distances_of_halves_are_near_those_of_two_sets_of_one_kind():
    random = np.random.default_rng(8)
    pool, same, other = scans(80, seed=9), scans(40, seed=10), scans(40, 1.5, seed=11)
    halves = resampling.frechet_distances(None, pool, 40, random).mean()
    assert resampling.frechet_distances(same, pool, 40, random).mean() / halves == pytest.approx(1, abs=0.5)
    assert resampling.frechet_distances(other, pool, 40, random).mean() > 5 * halves


def test_the_frechet_distance_is_that_of_the_roots_of_matrices():
    ours, real = scans(50, 0.5, seed=12, features=4) * [1, 2, 3, 4], scans(30, seed=13, features=4)
    first, second = np.cov(ours.T), np.cov(real.T)
    gap = ours.mean(0) - real.mean(0)
    expected = gap @ gap + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert frechet_distance(ours, real) == pytest.approx(expected)


def test_principal_coordinates_keep_distances():
    ours, real = scans(5, 1.0, seed=14, features=40), scans(7, seed=15, features=40)
    short = resampling.principal_coordinates(ours, real)
    assert short[0].shape == (5, 12)
    assert frechet_distance(*short) == pytest.approx(frechet_distance(ours, real))
