"""Scores of sets of images, of several scales, of noise and of edges, against what pencil and paper give."""

import math

import numpy as np
import phantoms
import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs

from medldm import metrics

REFERENCE = (phantoms.brain() / 1000).astype(np.float32)
EVERYWHERE = np.ones(REFERENCE.shape, dtype=bool)


def test_frechet_distance_of_two_gaussians_on_a_line():
    one = np.array([[-1.0], [1.0]])  # mean 0, variance 2
    other = 3 + 2 * one  # mean 3, variance 8: 9 + 2 + 8 - 2 sqrt(16)
    assert metrics.frechet_distance(other, one) == pytest.approx(9 + 10 - 8)
    assert metrics.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_features_that_do_not_correlate():
    corners = np.array([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]])  # variances 4/3 and 16/3
    wider = corners * [2.0, 1.0]
    assert metrics.frechet_distance(wider, corners) == pytest.approx(4 / 3 * (4 + 1 - 2 * 2))


def test_frechet_distance_with_fewer_images_than_features():
    draw = np.random.default_rng(0).normal(size=(5, 40))
    assert metrics.frechet_distance(draw + 1, draw) == pytest.approx(40, rel=1e-3)  # only the mean moved


def test_kernel_distance_by_hand():
    ours, real = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    # k(0, 1) = 1; k(2, 3) = 343; across: k(0, 2) = k(0, 3) = 1, k(1, 2) = 27, k(1, 3) = 64
    assert metrics.kernel_distance(ours, real) == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


def test_kernel_distance_of_sets_of_one_kind_is_nought_on_average():
    draw = np.random.default_rng(1)
    distances = [metrics.kernel_distance(draw.normal(size=(20, 4)), draw.normal(size=(30, 4))) for _ in range(300)]
    assert abs(np.mean(distances)) < 4 * np.std(distances) / math.sqrt(300)
    assert metrics.kernel_distance(draw.normal(size=(50, 4)) + 1, draw.normal(size=(50, 4))) > max(distances)


def test_inception_score_of_certain_and_of_clueless_answers():
    assert metrics.inception_score(np.eye(5)) == pytest.approx(5)
    assert metrics.inception_score(np.full((7, 5), 0.2)) == pytest.approx(1)
    half = np.array([[0.75, 0.25], [0.25, 0.75]])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert metrics.inception_score(half) == pytest.approx(math.exp(divergence))
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.inception_score(np.ones((2, 3)))


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="two sets"):
        metrics.kernel_distance(np.ones((3, 4)), np.ones((3, 5)))


def test_several_scales_of_a_darker_constant_leave_the_luminance_of_the_coarsest():
    one, half = np.ones((48, 48, 48), np.float32), np.full((48, 48, 48), 0.5, np.float32)
    luminance = (2 * 0.5 + 0.01**2) / (1 + 0.25 + 0.01**2)
    weight = 0.3001 / (0.0448 + 0.2856 + 0.3001)
    assert metrics.ms_ssim(half, one, one > 0) == pytest.approx(luminance**weight, rel=1e-4)
    assert metrics.ms_ssim(REFERENCE, REFERENCE, EVERYWHERE) == pytest.approx(1)


def test_each_scale_is_monais():
    from medldm.metrics.multiscale import _terms

    noisy = phantoms.rician(REFERENCE, 0.05).astype(np.float32)
    pair = [torch.from_numpy(image)[None, None] for image in (noisy, REFERENCE)]
    whole, structure = compute_ssim_and_cs(*pair, spatial_dims=3, kernel_size=(11,) * 3, kernel_sigma=(1.5,) * 3)
    luminance, ours = _terms(noisy, REFERENCE)
    inner = (slice(5, -5),) * 3
    assert np.allclose(ours[inner], structure[0, 0].numpy(), atol=2e-3)
    assert np.allclose((luminance * ours)[inner], whole[0, 0].numpy(), atol=2e-3)


def test_several_scales_forgive_noise_more_than_one_does():
    noisy = phantoms.rician(REFERENCE, 0.05).astype(np.float32)
    assert metrics.ssim(noisy, REFERENCE, EVERYWHERE) < metrics.ms_ssim(noisy, REFERENCE, EVERYWHERE) < 1


def test_white_noise_has_a_flat_spectrum_that_holds_its_variance():
    noise = 3 * np.random.default_rng(0).standard_normal((60, 64, 64))
    frequency, power = metrics.noise_spectrum(noise, 0.5)
    assert np.allclose(power[2:], 9 * 0.5**2, rtol=0.15)  # variance times the area of a pixel
    assert frequency[-1] < 1.0
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + np.roll(noise, (1, 1), (1, 2))
    assert metrics.noise_frequency(smooth, 0.5) < 0.8 * metrics.noise_frequency(noise, 0.5)


def test_the_width_of_a_blurred_rod():
    from scipy.ndimage import gaussian_filter

    x, y = np.indices((80, 80))
    rod = np.repeat((np.hypot(x - 40, y - 40) < 20).astype(float)[..., None], 3, axis=2)
    blurred = gaussian_filter(rod, [2, 2, 0])
    assert metrics.edge_width(blurred, (40, 40), 10.0, 0.5) == pytest.approx(
        2.563 * 2 * 0.5, rel=0.1
    )  # normal, 10-90 %
    assert metrics.edge_width(-1000 * rod, (40, 40), 10.0, 0.5) < 0.8
    assert math.isnan(metrics.edge_width(np.ones((80, 80, 2)), (40, 40), 10.0, 0.5))


def test_a_smooth_slice_between_noisy_ones_is_a_jump():
    image = np.random.default_rng(0).normal(size=(40, 40, 9)).astype(np.float32)
    filled = np.arange(9) == 4
    assert metrics.roughness_jump(image, filled, 2, np.ones(image.shape, bool)) == pytest.approx(1, abs=0.15)
    image[..., 4] /= 4
    assert metrics.roughness_jump(image, filled, 2, np.ones(image.shape, bool)) == pytest.approx(0.25, abs=0.05)
    assert math.isnan(metrics.roughness_jump(image, np.zeros(9, bool), 2, np.ones(image.shape, bool)))
