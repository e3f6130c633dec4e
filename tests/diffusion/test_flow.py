"""The flow's mathematics on priors whose answers are known."""

import pytest
import torch

from medldm.diffusion import SAMPLERS, draw_times, flow_loss, interpolate


def gaussian_denoiser(mean, std):
    """E[z | z_t] for z ~ N(mean, std^2) and z_t = (1 - t) z + t noise."""

    def denoise(z, times):
        t = times.reshape(-1, 1, 1, 1)
        gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
        return mean + gain * (z - (1 - t) * mean)

    return denoise


def test_many_steps_land_on_the_prior():
    noise = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    drawn = SAMPLERS["euler"](gaussian_denoiser(2.0, 0.5), noise, steps=200)
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


def test_one_step_is_the_conditional_mean():
    noise = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(SAMPLERS["euler"](gaussian_denoiser(2.0, 0.5), noise, steps=1), torch.full_like(noise, 2.0))


def test_every_step_is_reported():
    calls = []
    progress = lambda step, steps: calls.append((step, steps))  # noqa: E731
    SAMPLERS["euler"](gaussian_denoiser(0.0, 1.0), torch.zeros(1, 1, 4, 4), steps=3, progress=progress)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_path_is_straight():
    clean, noise = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    assert torch.allclose(interpolate(clean, noise, torch.tensor([0.25, 1.0]))[:, 0, 0, 0], torch.tensor([0.25, 1.0]))


def test_a_perfect_guess_costs_nothing_and_a_wrong_one_its_velocity_error():
    clean, noise = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    assert float(flow_loss(lambda z, t: clean, clean, noise, torch.tensor([0.5]))) == 0
    assert float(flow_loss(lambda z, t: clean + 0.1, clean, noise, torch.tensor([0.5]))) == pytest.approx(0.04)


def test_times_dwell_at_pure_noise():
    times = draw_times(4000, torch.Generator().manual_seed(0), at_noise=0.35)
    assert float((times == 1).float().mean()) == pytest.approx(0.35, abs=0.03)
    assert float(times.min()) > 0
