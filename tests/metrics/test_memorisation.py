"""Copies are recognised, also mirrored, shifted and noisy; new people are no copies."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from medldm.metrics import memorisation

SHAPE = (24, 24, 24)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


def people(count, seed):
    """Smooth random volumes that share nothing but half of their variance."""
    random = np.random.default_rng(seed)
    common = ndimage.gaussian_filter(np.random.default_rng(99).normal(size=SHAPE), 2)
    own = [ndimage.gaussian_filter(random.normal(size=SHAPE), 2) for _ in range(count)]
    return torch.from_numpy(np.stack([common + volume for volume in own]) / common.std()).float()


def test_the_correlation_of_volumes_is_that_of_numpy():
    volumes, others = people(2, seed=0), people(3, seed=1)
    pairs = memorisation.correlations(volumes, others, EVERYWHERE)
    expected = np.corrcoef(volumes[1].flatten(), others[2].flatten())[0, 1]
    assert float(pairs[1, 2]) == pytest.approx(expected, abs=1e-5)
    assert float(memorisation.correlations(volumes, torch.ones(1, *SHAPE), EVERYWHERE).abs().max()) == 0


def test_a_noisy_copy_and_a_mirrored_one_are_recognised():
    training = people(6, seed=2)
    noise = 0.3 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    samples = torch.stack([training[4], training[1].flip(0)]) + noise
    result = memorisation.nearest(samples, training, EVERYWHERE)
    assert result.scan.tolist() == [4, 1]
    assert result.mirrored.tolist() == [False, True]
    assert (result.correlation > 0.9).all()
    assert (result.margin > 0.1).all()


def test_a_copy_that_was_moved_is_recognised_after_alignment():
    training = people(4, seed=3)
    moved = torch.from_numpy(ndimage.shift(training[2].numpy(), (1.2, -0.8, 0.7), order=1, mode="nearest"))[None]
    as_it_lies = memorisation.nearest(moved, training, EVERYWHERE, align=False)
    aligned = memorisation.nearest(moved, training, EVERYWHERE)
    assert aligned.scan[0] == 2
    assert aligned.correlation[0] > 0.97 > as_it_lies.correlation[0]


def test_alignment_never_makes_a_correlation_smaller():
    volumes, others = people(3, seed=4), people(3, seed=5)
    plain = memorisation.correlations(volumes, others, EVERYWHERE).diagonal()
    assert (memorisation.aligned_correlations(others, volumes, EVERYWHERE, steps=5) >= plain - 1e-5).all()


def test_samples_that_are_training_scans_plus_noise_are_all_copies_and_new_people_are_not():
    training, held_out, new = people(12, seed=6), people(20, seed=7), people(20, seed=8)
    noise = 0.2 * torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1))
    near = {
        name: memorisation.nearest(volumes, training, EVERYWHERE, align=False).correlation
        for name, volumes in (("copies", training + noise), ("held out", held_out), ("new", new))
    }
    copied = memorisation.copies(near["copies"], near["held out"], np.random.default_rng(0))
    fresh = memorisation.copies(near["new"], near["held out"], np.random.default_rng(0))
    assert copied.share.value == 1
    assert copied.excess.low > 0.5
    assert fresh.excess.low <= 0 <= fresh.excess.high
    assert fresh.share_held_out == pytest.approx(0.05)


def test_the_threshold_is_a_quantile_of_held_out_people():
    held_out = np.linspace(0, 1, 101)
    result = memorisation.copies(np.array([0.5, 0.96]), held_out, np.random.default_rng(0))
    assert result.threshold == pytest.approx(0.95)
    assert result.share.value == 0.5
