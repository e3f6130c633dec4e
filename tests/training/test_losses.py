"""What the loss asks for, on images whose answer is known."""

import pytest
import torch

from medldm.training.losses import root_mean_square

CLEAN = torch.rand((2, 1, 48, 48), generator=torch.Generator().manual_seed(0))


def test_the_answer_to_doubt_is_the_mean_not_the_median():
    """Three in four patches are dark, one is bright: squared errors are smallest at their mean."""
    possible = torch.tensor([0.0, 0.0, 0.0, 1.0] * 16).reshape(1, 1, 8, 8)
    tried = {level: float(root_mean_square(torch.full_like(possible, level), possible)) for level in (0.0, 0.25, 0.5)}
    assert min(tried, key=tried.get) == 0.25
    assert root_mean_square(CLEAN, CLEAN).shape == (2,)
    assert float(root_mean_square(CLEAN, CLEAN).max()) == pytest.approx(0, abs=1e-6)
