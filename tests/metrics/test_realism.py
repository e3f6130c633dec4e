"""Distances of sets of patches, on noise whose difference is known."""

import numpy as np
import pytest

from medldm.metrics import realism

EVERYWHERE = np.ones((32, 32, 32), dtype=bool)


def noise(seed, shape=(32, 32, 32), spread=1.0):
    return spread * np.random.default_rng(seed).standard_normal(shape)


def test_twice_the_amplitude_is_six_decibels_at_every_frequency():
    image = noise(0)
    assert realism.power_gap_db(2 * image, image, 0, EVERYWHERE) == pytest.approx(20 * np.log10(2))
    assert realism.power_gap_db(image + 5, image, 0, EVERYWHERE) == pytest.approx(0, abs=1e-9)


def test_power_is_lost_along_the_axis_of_the_blur_alone():
    image = noise(0)
    blurred = (image + np.roll(image, 1, 0)) / 2
    along, across = (realism.power_gap_db(blurred, image, axis, EVERYWHERE) for axis in (0, 1))
    assert across == pytest.approx(-10 * np.log10(0.5), abs=0.5)
    assert along > 2 * across


def test_only_lines_in_the_mask_count():
    image, where = noise(0), EVERYWHERE.copy()
    other = image.copy()
    where[:, :16] = False
    other[:, :16] *= 9
    assert realism.power_gap_db(other, image, 0, where) == pytest.approx(0)
    with pytest.raises(ValueError, match="no line"):
        realism.power_gap_db(other, image, 0, ~EVERYWHERE)


def test_patches_lie_around_their_places():
    image = np.arange(20.0**3).reshape(20, 20, 20)
    places = realism.patch_places(np.ones(image.shape, dtype=bool), 50, np.random.default_rng(0), 8)
    cut = realism.patches(image, places, 8)
    assert cut.shape == (50, 8, 8)
    assert np.array_equal(cut[:, 4, 4], image[tuple(places.T)])
    assert len(realism.patch_places(np.zeros(image.shape, dtype=bool), 5, np.random.default_rng(0))) == 0


def test_sliced_wasserstein_distance_of_gaussians_is_the_difference_of_their_spreads():
    ours, real = noise(1, (4000, 3, 3), 3.0), noise(2, (4000, 3, 3))
    distance = realism.sliced_wasserstein(ours, real, np.random.default_rng(0))
    assert distance == pytest.approx(2, rel=0.05)
    assert realism.sliced_wasserstein(real, real, np.random.default_rng(0)) == 0
    with pytest.raises(ValueError, match="equal size"):
        realism.sliced_wasserstein(ours[:9], real, np.random.default_rng(0))


def held_accuracy(ours, real, steps):
    half = len(real) // 2
    classifier = realism.two_sample_classifier(ours[:half], real[:half], steps=steps)
    return realism.accuracy(classifier, ours[half:], real[half:])


def test_noise_is_not_told_from_noise_but_from_blurred_noise():
    real, other = (noise(seed, (2000, 16, 16)) for seed in (0, 1))
    assert held_accuracy(other, real, 60) == pytest.approx(0.5, abs=0.05)
    assert held_accuracy((other + np.roll(other, 1, 1)) / 2**0.5, real, 60) > 0.95


def test_a_classifier_leaves_the_random_state_of_the_caller_alone():
    import torch

    real, before = noise(0, (64, 16, 16)), torch.random.get_rng_state()
    first, second = (realism.two_sample_classifier(real, real, 3, steps=2) for _ in range(2))
    assert np.array_equal(first(real), second(real))
    assert torch.equal(torch.random.get_rng_state(), before)
