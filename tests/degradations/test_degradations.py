"""Each degradation makes its damage, shows it to a network and keeps a guess true to it; new ones join when listed."""

import math

import numpy as np
import pytest
import torch

from medldm.degradations import DEGRADATIONS, LowDose, MissingSlices, Regions, Rician, ThickSlices, VaryingRician
from medldm.degradations.sampling import profile_matrix, slice_centres

SHAPE = (24, 20, 26)
EXAMPLES = {f"{name}-{n}": one for name, kind in DEGRADATIONS.items() for n, one in enumerate(kind.examples(SHAPE))}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def clean(generator):
    return torch.rand(SHAPE, generator=generator)


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_network_sees_lies_on_the_grid_of_the_clean_image(name, clean, generator):
    degradation = EXAMPLES[name]
    seen = degradation.observe(degradation.degrade(clean, generator))
    assert seen.y.shape == seen.observed.shape == clean.shape
    assert float(seen.observed.min()) >= 0
    assert float(seen.observed.max()) <= 1


LINEAR = [name for name in EXAMPLES if EXAMPLES[name].linear]


@pytest.mark.parametrize("name", LINEAR)
def test_the_adjoint_is_the_adjoint(name, clean, generator):
    degradation = EXAMPLES[name]
    measured = degradation.degrade(clean)
    other = torch.randn(measured.shape, generator=generator)
    assert torch.allclose((measured * other).sum(), (clean * degradation.adjoint(other)).sum(), rtol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_a_reconciled_guess_measures_as_the_scan_did(name, clean):
    degradation = EXAMPLES[name]
    measured = degradation.degrade(clean)
    repaired = degradation.reconcile(torch.zeros_like(clean), measured)
    assert torch.allclose(degradation.degrade(repaired), measured, atol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_the_truth_is_left_as_it_is(name, clean):
    degradation = EXAMPLES[name]
    assert torch.allclose(degradation.reconcile(clean, degradation.degrade(clean)), clean, atol=1e-5)


def test_rician_noise_has_the_second_moment_it_should():
    signal, sigma = 0.5, 0.1
    noisy = Rician(sigma).degrade(torch.full((60, 60, 60), signal), torch.Generator().manual_seed(1))
    assert float((noisy**2).mean()) == pytest.approx(signal**2 + 2 * sigma**2, rel=0.01)


def test_rician_noise_without_signal_is_rayleigh():
    sigma = 0.1
    air = Rician(sigma).degrade(torch.zeros(60, 60, 60), torch.Generator().manual_seed(1))
    assert float(air.mean()) == pytest.approx(sigma * (torch.pi / 2) ** 0.5, rel=0.01)
    assert float(air.var()) == pytest.approx((2 - torch.pi / 2) * sigma**2, rel=0.02)


NOISY = [name for name in EXAMPLES if name not in LINEAR]


@pytest.mark.parametrize("name", NOISY)
def test_equal_seeds_give_equal_noise_and_others_another(name, clean):
    noise = EXAMPLES[name]
    once, again, other = (noise.degrade(clean, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_callers_image_and_random_state_stay_as_they_were(name, clean, generator):
    degradation, before, state = EXAMPLES[name], clean.clone(), torch.random.get_rng_state()
    measured = degradation.degrade(clean, generator)
    kept = measured.clone()
    degradation.reconcile(torch.zeros_like(clean), measured)
    assert torch.equal(clean, before)
    assert torch.equal(measured, kept)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_is_linear(name, clean, generator):
    degradation, other = EXAMPLES[name], torch.randn(SHAPE, generator=generator)
    together = degradation.degrade(2 * clean - 3 * other)
    assert torch.allclose(together, 2 * degradation.degrade(clean) - 3 * degradation.degrade(other), atol=1e-4)


@pytest.mark.parametrize("name", NOISY)
def test_noise_has_no_adjoint(name, clean):
    with pytest.raises(TypeError, match="not linear"):
        EXAMPLES[name].adjoint(clean)


@pytest.mark.parametrize("name", LINEAR)
def test_projecting_twice_changes_nothing_more(name, clean, generator):
    degradation = EXAMPLES[name]
    measured, guess = degradation.degrade(clean), torch.rand(SHAPE, generator=generator)
    once = degradation.reconcile(guess, measured)
    assert torch.allclose(degradation.reconcile(once, measured), once, atol=1e-4)


def test_parallel_imaging_noise_grows_to_its_gain():
    level = VaryingRician(0.02, gain=3.0).level(torch.zeros(41, 41, 41))
    assert float(level[20, 20, 20]) == pytest.approx(0.06, rel=0.01)
    assert float(level.min()) >= 0.02


def test_a_denoised_voxel_moves_at_most_four_sigma(clean, generator):
    noise = Rician(0.05)
    measured = noise.degrade(clean, generator)
    kept = noise.reconcile(torch.full_like(measured, 9.0), measured)
    assert float((kept - measured).max()) <= 4 * 0.05 + 1e-6


def test_measured_slices_and_regions_are_copied_bit_for_bit(clean):
    slices = MissingSlices(SHAPE[2], [4, 5, 11])
    kept = slices.reconcile(torch.zeros_like(clean), slices.degrade(clean))
    rest = [k for k in range(SHAPE[2]) if k not in (4, 5, 11)]
    assert torch.equal(kept[..., rest], clean[..., rest])
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[3:9, 3:9, 3:9] = True
    region = Regions(mask)
    assert torch.equal(region.reconcile(torch.zeros_like(clean), region.degrade(clean))[~mask], clean[~mask])


@pytest.mark.parametrize("profile", ["gaussian", "rect", "kspace"])
@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.7])
def test_slices_of_a_constant_are_that_constant(profile, ratio):
    matrix = profile_matrix(slice_centres(48, ratio), 48, ratio, profile)
    assert torch.allclose(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64))


def test_slices_that_were_never_acquired_are_asked_of_nobody(clean):
    thick = ThickSlices(SHAPE[2], spacing=4.0, missing=(2,))
    assert thick.degrade(clean).shape[2] == thick.slices - 1 == 5
    assert float(thick.observe(thick.degrade(clean)).observed[0, 0, 8:12].max()) == 0


def test_with_noise_the_projection_does_not_copy_it(clean, generator):
    thick = ThickSlices(SHAPE[2], spacing=4.0, noise_level=0.1)
    measured = thick.degrade(clean) + 0.1 * torch.randn(thick.degrade(clean).shape, generator=generator)
    left = (thick.degrade(thick.reconcile(clean, measured)) - measured).std()
    assert float(left) > 0.05


def test_ct_noise_is_as_strong_as_filtered_back_projection_makes_it():
    """Behind air all rays are equal: sigma = pi / sqrt(12 M) * sigma_p / a with M views and pixels of a mm
    (Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, section 5.2, ramp filter). Linear
    interpolation between detectors keeps 2/3 - 2/pi^2 of the variance, as neighbours of ramp-filtered noise are
    correlated by -6/pi^2."""
    scan = LowDose(dose=0.25, pixel_mm=0.8, photons=1e5, electronic=0, views=180, kernel="ramp")
    noise = scan.noise(np.full((96, 96), -1000.0), torch.Generator().manual_seed(0))[24:72, 24:72]
    sigma_p = math.sqrt((4 - 1) / 1e5)
    expected = 1000 / 0.0192 * math.pi / math.sqrt(12 * 180) * sigma_p / 0.8
    expected *= math.sqrt(2 / 3 - 2 / math.pi**2)
    assert noise.std() == pytest.approx(expected, rel=0.05)
    assert abs(noise.mean()) < 0.1 * expected


def test_ct_noise_grows_behind_more_body_and_at_less_dose():
    y, x = np.mgrid[:96, :96] - 48
    body = np.where(x**2 + y**2 < 44**2, 0.0, -1000.0)

    def strength(dose, rows):
        return LowDose(dose, pixel_mm=3.0).noise(body, torch.Generator().manual_seed(1))[rows, 40:56].std()

    middle, rim = slice(40, 56), slice(6, 14)
    assert strength(0.25, middle) > 1.2 * strength(0.25, rim)
    assert strength(0.1, middle) > 1.5 * strength(0.25, middle)


def test_line_integrals_are_length_times_attenuation():
    water = np.full((80, 80), -1000.0)
    y, x = np.mgrid[:80, :80] - 39.5
    water[x**2 + y**2 < 30**2] = 0
    integrals = LowDose(pixel_mm=2.0).line_integrals(water)
    assert integrals.max() == pytest.approx(60 * 2.0 * 0.0192, rel=0.05)
