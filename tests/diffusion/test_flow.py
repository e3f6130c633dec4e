"""The flow's mathematics on priors whose answers are known."""

import math

import pytest
import torch

from medldm.diffusion import SAMPLERS, draw_times, flow_loss, interpolate

QUARTER = math.pi / 2


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def gaussian_flow(mean, std):
    """E[dz/da | z] for latents N(mean, std^2)."""

    def flow(z, time):
        angle = (time * QUARTER).reshape(-1, 1, 1, 1)
        cos, sin = angle.cos(), angle.sin()
        spread = cos**2 + (sin * std) ** 2
        latent = mean + sin * std**2 * (z - sin * mean) / spread
        noise = cos * (z - sin * mean) / spread
        return cos * latent - sin * noise

    return flow


def test_many_steps_land_on_the_prior():
    noise = torch.randn(4, 1, 64, 64, generator=seeded())
    drawn = SAMPLERS["euler"](gaussian_flow(2.0, 0.5), noise, 200)
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


def test_the_straight_path_ends_where_the_circle_does_and_few_steps_draw_less():
    """Four steps leave 52 % of the variance of a Gaussian, as posterior-mean rectified flow does with as many."""
    noise = torch.randn(4, 1, 64, 64, generator=seeded())
    drawn = SAMPLERS["straight"](gaussian_flow(2.0, 0.5), noise, 400)
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)
    assert float(SAMPLERS["straight"](gaussian_flow(0.0, 1.0), noise, 4).var()) == pytest.approx(0.52, abs=0.03)


@pytest.mark.parametrize("steps", [1, 4])
def test_few_steps_keep_the_size_of_unit_latents(steps):
    """On a straight path four steps would leave 52 % of the variance."""
    noise = torch.randn(4, 1, 64, 64, generator=seeded())
    drawn = SAMPLERS["euler"](gaussian_flow(0.0, 1.0), noise, steps)
    assert torch.allclose(drawn, noise, atol=1e-6)


def test_the_path_is_a_quarter_of_a_circle():
    latent, noise = torch.randn(3, 2, 8, 8, generator=seeded()), torch.randn(3, 2, 8, 8, generator=seeded(1))
    z, velocity = interpolate(latent, noise, torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(z[0], noise[0])
    assert torch.allclose(velocity[0], latent[0])
    assert torch.allclose(z[1], (latent + noise)[1] / math.sqrt(2))
    assert torch.allclose(z[2], latent[2], atol=1e-6)


def test_a_perfect_velocity_costs_nothing():
    """Where all latents are zero, z = cos(a) noise says what the velocity is."""
    latent = torch.zeros(4, 2, 8, 8)

    def perfect(z, time):
        angle = (time * QUARTER).reshape(-1, 1, 1, 1)
        return -z * angle.tan()

    assert float(flow_loss(perfect, latent, seeded())) < 1e-6
    assert float(flow_loss(lambda z, time: 0 * z, latent, seeded())) == pytest.approx(0.5, abs=0.4)


def test_more_steps_lead_nearer_to_a_latent_that_is_certain():
    latent = torch.full((1, 1, 4, 4, 4), 1.5)
    noise = torch.randn((1, 1, 4, 4, 4), generator=seeded())

    def velocity(z, time):
        angle = time.reshape(-1, 1, 1, 1, 1) * QUARTER
        return (latent - angle.sin() * z) / angle.cos()

    errors = [float((SAMPLERS["euler"](velocity, noise, steps) - latent).abs().max()) for steps in (2, 8, 200)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_times_lie_between_noise_and_latent():
    times = draw_times(4000, seeded())
    assert 0 < float(times.min()) < 0.1
    assert 0.9 < float(times.max()) < 1
    assert float(times.median()) == pytest.approx(0.5, abs=0.03)
