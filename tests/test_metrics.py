"""Scores on images whose scores are known."""

import math

import numpy as np
import phantoms
import pytest

from medldm import metrics

REFERENCE = phantoms.brain() / 1000
EVERYWHERE = np.ones(REFERENCE.shape, dtype=bool)


def test_a_constant_error_has_the_psnr_it_should():
    assert metrics.psnr(REFERENCE + 0.1, REFERENCE, EVERYWHERE) == pytest.approx(20)
    assert metrics.psnr(REFERENCE, REFERENCE, EVERYWHERE) == math.inf


def test_only_the_mask_is_scored():
    guess = REFERENCE.copy()
    guess[:5] += 1
    mask = EVERYWHERE.copy()
    mask[:5] = False
    assert metrics.psnr(guess, REFERENCE, mask) == math.inf


def test_ssim_is_one_for_the_same_and_less_for_noise():
    noisy = phantoms.rician(REFERENCE, 0.1).astype(np.float32)
    assert metrics.ssim(REFERENCE, REFERENCE, EVERYWHERE) == pytest.approx(1)
    assert metrics.ssim(noisy, REFERENCE, EVERYWHERE) < 0.9


def test_blur_loses_detail_and_a_gain_on_detail_restores_its_energy_not_its_place():
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(REFERENCE, 1.5)
    assert metrics.detail_energy_ratio(REFERENCE, REFERENCE, EVERYWHERE) == pytest.approx(1)
    assert metrics.detail_energy_ratio(blurred, REFERENCE, EVERYWHERE) < 0.6
    detail = metrics.fine_detail(REFERENCE)
    doubled = REFERENCE + detail
    assert metrics.detail_energy_ratio(doubled, REFERENCE, EVERYWHERE) > 1.5
    assert metrics.detail_correlation(REFERENCE, REFERENCE, EVERYWHERE) == pytest.approx(1)
    assert metrics.detail_correlation(np.zeros_like(REFERENCE), REFERENCE, EVERYWHERE) == 0


def test_bias_is_told_for_each_intensity():
    reference = np.linspace(0, 0.999, 1000).reshape(10, 10, 10)
    guess = reference + np.where(reference < 0.2, 0.05, 0)
    bias = metrics.bias_by_intensity(guess, reference, np.ones_like(reference, dtype=bool))
    assert bias[0] == pytest.approx(0.05)
    assert np.allclose(bias[1:], 0)


def test_feature_distance_of_known_vectors():
    same = lambda image: [np.stack([np.ones((2, 2)), np.zeros((2, 2))])]  # noqa: E731
    turned = lambda image: [np.stack([np.zeros((2, 2)), np.ones((2, 2))])]  # noqa: E731
    choose = lambda image: same(image) if image.sum() > 0 else turned(image)  # noqa: E731
    assert metrics.feature_distance(choose, np.ones((2, 2, 2)), np.ones((2, 2, 2))) == 0
    assert metrics.feature_distance(choose, np.ones((2, 2, 2)), -np.ones((2, 2, 2))) == pytest.approx(2, rel=1e-4)
