"""A set with spread head and residual flow: one answer with its spread, samples that differ, volumes without seams."""

import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm.degradations import Observation
from medldm.errors import UsageError
from medldm.inference import residual
from medldm.inference.conditioning import Orientation
from medldm.inference.networks import load_networks
from medldm.inference.uncertainty import mean_and_spread
from medldm.zoo import card


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Path of the card of a tiny set with a flow."""
    return str(phantoms.tiny_model(tmp_path_factory.mktemp("residual")))


@pytest.fixture(scope="module")
def thick():
    """A brain of slices 4 mm thick."""
    return phantoms.phantom(shape=(40, 48, 12), spacing=(1.0, 1.0, 4.0))


def test_one_answer_comes_with_its_spread(model, thick):
    result = medldm.super_resolve(thick, spacing=1.0, model=model)
    assert result.std is not None
    assert result.std.shape == result.voxels.shape
    assert (result.std > 0).all()


def test_a_set_without_a_flow_gives_the_same_answer_and_spread(model, thick, tmp_path):
    alone = str(phantoms.tiny_model(tmp_path, flow=False))
    one, other = (medldm.super_resolve(thick, spacing=1.0, model=name) for name in (model, alone))
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.std, other.std)


def test_a_set_without_a_flow_says_that_it_draws_no_samples(thick, tmp_path):
    alone = str(phantoms.tiny_model(tmp_path, flow=False))
    for options in ({"samples": 4}, {"fidelity": 0.5}):
        with pytest.raises(UsageError, match="has no flow"):
            medldm.super_resolve(thick, spacing=1.0, model=alone, **options)


def test_a_plane_is_too_thin_for_samples_in_volumes(model):
    plane = phantoms.phantom(shape=(40, 48, 1))
    with pytest.raises(UsageError, match="1 voxels thin"):
        medldm.denoise(plane, model=model, samples=2)


def test_seeds_matter_and_one_seed_gives_one_image(model, thick):
    def drawn(seed):
        return medldm.super_resolve(thick, spacing=1.0, model=model, fidelity=0.0, seed=seed).voxels

    first, again, other = drawn(0), drawn(0), drawn(1)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01 * phantoms.PEAK


def test_fidelity_goes_from_the_mean_to_a_sample(model, thick):
    mean, half, drawn = (
        medldm.super_resolve(thick, spacing=1.0, model=model, fidelity=fidelity).voxels for fidelity in (1.0, 0.5, 0.0)
    )
    free = (mean > 0.01) & (drawn > 0.01)  # a magnitude is not below zero, which bends the line
    np.testing.assert_allclose(half[free], (mean + drawn)[free] / 2, atol=0.02 * phantoms.PEAK)


def test_a_sample_measured_again_is_the_scan(model, thick):
    drawn = medldm.super_resolve(thick, spacing=1.0, model=model, fidelity=0.0)
    assert drawn.history[-1].facts["consistency_residual"] < 0.05


def test_the_spread_of_samples_leaves_out_what_was_measured(model, thick):
    filled = medldm.fill_slices(thick, missing=(4, 5), model=model, samples=4)
    lost = np.zeros(filled.shape[2], bool)
    lost[[4, 5]] = True
    assert (filled.std[..., ~lost] == 0).all()
    assert filled.std[..., lost].max() > 0
    np.testing.assert_array_equal(filled.voxels[..., ~lost], thick.voxels[..., ~lost])


def test_samples_come_in_pairs_of_opposite_noise():
    one, opposite, other = (residual.latent_noise(seed, 4, (6, 6, 6)) for seed in (10, 11, 12))
    assert torch.equal(one, -opposite)
    assert not torch.equal(one, other)


def test_tiles_of_a_pointwise_flow_leave_no_seam():
    noise = torch.randn((1, 4, 40, 20, 12), generator=torch.Generator().manual_seed(0))
    seen = []

    def flow(z, time, projected):
        return 2 * z - projected

    tiles = residual.Tiles(flow, noise, 1, 12, lambda done, total: seen.append((done, total)))
    velocity = tiles(noise, torch.zeros(1))
    torch.testing.assert_close(velocity, noise, atol=1e-5, rtol=1e-5)
    assert seen[-1][0] == seen[-1][1]


def test_a_flow_runs_in_tiles_of_the_size_it_was_trained_on(model, thick, monkeypatch):
    """Attention sees a whole tile: in larger ones a flow draws less than it learned."""
    seen = []
    flow = load_networks(card(model)).residual_flow
    real = flow.forward
    monkeypatch.setattr(flow, "forward", lambda z, *rest: seen.append(z.shape[2:]) or real(z, *rest))
    monkeypatch.setattr(flow, "tile", 6)
    grid = Observation(torch.rand(40, 48, 36), torch.ones(40, 48, 36))
    regression = residual.Regression(torch.rand(40, 48, 36), torch.full((40, 48, 36), -3.0))
    planes = Orientation((2, 0, 1))
    residual.draw(load_networks(card(model)), grid, torch.zeros(1, 1, 1), regression, planes, seed=0, steps=1)
    assert set(seen) == {(6, 6, 6)}
    assert len(seen) == 2 * 2 * 3  # of 10 x 10 x 12 latents, a third of each tile overlapping


@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_deviation_of_opposite_pairs_is_not_widened(count):
    """Standard normal draws in pairs have a standard deviation of 1, whatever their number."""
    mean, std = mean_and_spread(lambda n: residual.latent_noise(n, 1, (60, 60, 60)), count, opposite=True)
    assert abs(float(std.pow(2).mean()) - 1) < 0.02
    if count % 2 == 0:
        assert float(mean.abs().max()) < 1e-6
