"""What the losses ask for, on images whose answer is known."""

import math

import numpy as np
import pytest
import torch

from medldm import metrics
from medldm.training.losses import detail_loss, feature_loss, fine_detail, root_mean_square

CLEAN = torch.rand((2, 1, 48, 48), generator=torch.Generator().manual_seed(0))
EVERYWHERE = torch.ones_like(CLEAN)


def weaker(image, factor):
    """The image with its detail along the first axis scaled, as a blurred estimate has it."""
    return image + (factor - 1) * fine_detail(image, (2,))


def test_detail_is_what_the_benchmark_measures():
    volume = torch.rand((1, 1, 20, 24, 28), generator=torch.Generator().manual_seed(1))
    ours = fine_detail(volume, (2, 3, 4))[0, 0].numpy()
    theirs = metrics.fine_detail(volume[0, 0].numpy())
    inner = (slice(5, -5),) * 3
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=2e-3)


def test_the_right_detail_costs_nothing_and_weak_detail_its_strength():
    assert float(detail_loss(CLEAN, CLEAN, EVERYWHERE)) == pytest.approx(0, abs=1e-4)
    losses = [float(detail_loss(weaker(CLEAN, factor), CLEAN, EVERYWHERE)) for factor in (0.8, 0.5, 0.2)]
    assert losses == sorted(losses)
    assert losses[0] > 0.01


def test_weak_detail_in_place_is_better_than_strong_detail_elsewhere():
    elsewhere = CLEAN.roll((7, 5), (2, 3))
    assert float(detail_loss(weaker(CLEAN, 0.5), CLEAN, EVERYWHERE)) < float(detail_loss(elsewhere, CLEAN, EVERYWHERE))


def test_detail_counts_only_where_nothing_was_measured():
    lost = torch.zeros_like(CLEAN)
    lost[:, :, :24] = 1
    wrong = CLEAN.clone()
    wrong[:, :, 30:] = 0
    assert float(detail_loss(wrong, CLEAN, lost)) == pytest.approx(0, abs=1e-4)


def test_features_are_compared_by_direction():
    def features(image):
        return [torch.cat([image, 2 * image], 1) + 1]

    guess = 3 * CLEAN
    have, want = features(guess)[0], features(CLEAN)[0]
    expected = 2 - 2 * torch.nn.functional.cosine_similarity(have, want, dim=1).mean()
    assert float(feature_loss(features, guess, CLEAN)) == pytest.approx(float(expected), abs=1e-3)
    assert float(feature_loss(features, CLEAN, CLEAN)) == 0
    assert math.isfinite(float(feature_loss(features, torch.full_like(CLEAN, -1), CLEAN)))


def test_the_answer_to_doubt_is_the_mean_not_the_median():
    """Three in four patches are dark, one is bright: squared errors are smallest at their mean."""
    possible = torch.tensor([0.0, 0.0, 0.0, 1.0] * 16).reshape(1, 1, 8, 8)
    tried = {level: float(root_mean_square(torch.full_like(possible, level), possible)) for level in (0.0, 0.25, 0.5)}
    assert min(tried, key=tried.get) == 0.25
    assert root_mean_square(CLEAN, CLEAN).shape == (2,)
    assert float(root_mean_square(CLEAN, CLEAN).max()) == pytest.approx(0, abs=1e-6)
