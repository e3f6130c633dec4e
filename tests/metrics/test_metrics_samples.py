"""Scores of samples, on ensembles whose law is known."""

import math

import numpy as np
import pytest

from medldm.metrics import samples

SIZE = 20_000


def drawn(seed, count, spread=1.0, size=SIZE):
    return spread * np.random.default_rng(seed).standard_normal((count, size))


def test_crps_of_two_samples_by_hand():
    # |0 - 1| and |4 - 1| give a mean of 2; the pair lies 4 apart: 4 / (2 * 1)
    assert samples.fair_crps(np.array([[4.0], [0.0]]), np.array([1.0]))[0] == pytest.approx(2 - 4 / 2)


def test_crps_of_a_gaussian_at_its_mean():
    expected = 2 * (math.sqrt(2) - 1) / math.sqrt(math.pi)
    assert samples.gaussian_crps(3.0, 2.0, np.array(3.0)) == pytest.approx(expected)
    assert samples.gaussian_crps(0.0, 1e-9, np.array(0.5)) == pytest.approx(0.5)


@pytest.mark.parametrize("count", [2, 8])
def test_fair_crps_of_gaussian_samples_is_that_of_the_gaussian_whatever_their_number(count):
    truth = drawn(0, 1)[0]
    have = samples.fair_crps(drawn(1, count, 1.5), truth).mean()
    assert have == pytest.approx(samples.gaussian_crps(0.0, 1.5, truth).mean(), rel=0.02)


def test_the_right_spread_scores_best():
    truth = drawn(0, 1)[0]
    scores = [samples.gaussian_crps(0.0, std, truth).mean() for std in (0.5, 1.0, 2.0)]
    assert scores[1] < min(scores[0], scores[2])


def test_energy_score_of_one_voxel_is_the_crps():
    truth, ensemble = drawn(0, 1, size=60)[0], drawn(1, 5, size=60)
    score = samples.energy_score(ensemble.reshape(5, 3, 4, 5), truth.reshape(3, 4, 5), block=1)
    assert score == pytest.approx(samples.fair_crps(ensemble, truth).mean())


def test_energy_score_knows_that_voxels_belong_together_and_crps_does_not():
    generator = np.random.default_rng(0)

    def flat(count):  # every cube of one number
        return np.kron(generator.standard_normal((count, 8, 8, 8)), np.ones((1, 4, 4, 4)))

    truth, ensemble = flat(1)[0], flat(8)
    mean, std = np.zeros(truth.shape), np.ones(truth.shape)
    independent = samples.gaussian_energy_score(mean, std, truth, generator)
    assert samples.energy_score(ensemble, truth) < 0.9 * independent
    assert samples.fair_crps(ensemble, truth).mean() == pytest.approx(
        samples.gaussian_crps(mean, std, truth).mean(), rel=0.1
    )


def test_energy_score_leaves_out_what_is_not_asked_for():
    truth, ensemble = drawn(0, 1, size=512)[0].reshape(8, 8, 8), drawn(1, 3, size=512).reshape(3, 8, 8, 8)
    where = np.zeros((8, 8, 8), dtype=bool)
    where[:4, :4, :4] = True
    wrong = np.where(where, ensemble, 100.0)
    corner = samples.energy_score(ensemble[:, :4, :4, :4], truth[:4, :4, :4])
    assert samples.energy_score(wrong, truth, where) == pytest.approx(corner)
    with pytest.raises(ValueError, match="no cube"):
        samples.energy_score(ensemble, truth, ~np.ones((8, 8, 8), dtype=bool))


def test_ranks_are_flat_where_calibrated_and_a_u_where_samples_agree_too_much():
    generator, truth = np.random.default_rng(2), drawn(0, 1)[0]
    flat = samples.rank_histogram(drawn(1, 7), truth, generator)
    assert flat == pytest.approx(np.full(8, 1 / 8), abs=0.01)
    narrow = samples.rank_histogram(drawn(1, 7, 0.3), truth, generator)
    assert min(narrow[0], narrow[-1]) > 2 * narrow[4]


def test_equal_values_get_random_ranks():
    ranks = samples.rank_histogram(np.zeros((3, SIZE)), np.zeros(SIZE), np.random.default_rng(0))
    assert ranks == pytest.approx(np.full(4, 1 / 4), abs=0.02)


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_spread_to_error(spread):
    truth = drawn(0, 1)[0]
    assert samples.spread_to_error(drawn(1, 8, spread), np.zeros(SIZE), truth) == pytest.approx(spread, rel=0.02)


def test_one_sample_is_no_ensemble():
    with pytest.raises(ValueError, match="K > 1"):
        samples.fair_crps(np.zeros((1, 4)), np.zeros(4))
