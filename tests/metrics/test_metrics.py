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


def test_bias_is_reported_for_each_intensity():
    reference = np.linspace(0, 0.999, 1000).reshape(10, 10, 10)
    guess = reference + np.where(reference < 0.2, 0.05, 0)
    bias = metrics.bias_by_intensity(guess, reference, np.ones_like(reference, dtype=bool))
    assert bias[0] == pytest.approx(0.05)
    assert np.allclose(bias[1:], 0)


def test_feature_distance_of_known_vectors():
    same = lambda image: [np.stack([np.ones((2, 2)), np.zeros((2, 2))])]  # noqa: E731
    constant = lambda image: [np.stack([np.zeros((2, 2)), np.ones((2, 2))])]  # noqa: E731
    choose = lambda image: same(image) if image.sum() > 0 else constant(image)  # noqa: E731
    assert metrics.feature_distance(choose, np.ones((2, 2, 2)), np.ones((2, 2, 2))) == 0
    assert metrics.feature_distance(choose, np.ones((2, 2, 2)), -np.ones((2, 2, 2))) == pytest.approx(2, rel=1e-4)


def test_mae_forgets_the_sign():
    alternating = np.where(np.indices(REFERENCE.shape).sum(0) % 2, 0.1, -0.1)
    assert metrics.mae(REFERENCE + alternating, REFERENCE, EVERYWHERE) == pytest.approx(0.1, rel=1e-5)


def test_mutual_information_of_the_same_of_a_remapped_and_of_an_unrelated_image():
    draw = np.random.default_rng(0)
    image, other = draw.random((2, 60, 60, 60))
    everywhere = np.ones(image.shape, dtype=bool)
    assert metrics.nmi(image, image, everywhere) == pytest.approx(2)
    assert metrics.nmi(1 - image, image, everywhere) == pytest.approx(2, abs=0.1)  # contrast does not matter
    assert metrics.nmi(other, image, everywhere) == pytest.approx(1, abs=0.01)


def test_detail_is_what_a_gaussian_of_one_voxel_removes():
    # A Gaussian of sigma 1 leaves exp(-2 (pi f)^2) of a wave of f cycles a voxel.
    wave = np.cos(2 * np.pi * np.arange(64) / 4)[:, None, None] * np.ones((1, 8, 8))
    kept = 1 - np.exp(-2 * (np.pi / 4) ** 2)
    assert np.allclose(metrics.fine_detail(wave)[8:-8], kept * wave[8:-8], atol=2e-3)
    assert np.allclose(metrics.fine_detail(wave, axes=(1, 2)), 0, atol=1e-6)


def test_energy_and_correlation_of_halved_and_of_shifted_detail():
    wave = (0.5 + 0.1 * np.cos(2 * np.pi * np.arange(64) / 4))[:, None, None] * np.ones((1, 16, 16))
    inner = np.zeros(wave.shape, dtype=bool)
    inner[8:-8] = True
    assert metrics.detail_energy_ratio(0.5 + (wave - 0.5) / 2, wave, inner) == pytest.approx(0.25, rel=1e-3)
    quarter = np.roll(wave, 1, axis=0)  # a quarter of a period: as much detail, in the wrong place
    assert metrics.detail_energy_ratio(quarter, wave, inner) == pytest.approx(1, rel=1e-3)
    assert metrics.detail_correlation(quarter, wave, inner) == pytest.approx(0, abs=1e-3)


def test_ssim_takes_scans_thinner_than_its_window():
    thin = REFERENCE[:, :, 18:23]
    assert metrics.ssim(thin, thin, np.ones(thin.shape, dtype=bool)) == pytest.approx(1)


def test_ssim_of_a_darker_constant_is_the_luminance_term():
    one, half = np.ones((16, 16, 16)), np.full((16, 16, 16), 0.5)
    expected = (2 * 0.5 + 0.01**2) / (1 + 0.25 + 0.01**2)  # Wang et al., K1 = 0.01
    assert metrics.ssim(half, one, one.astype(bool)) == pytest.approx(expected, rel=1e-4)
