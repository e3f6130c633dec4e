"""Noise estimates: right within a tenth when the noise is known, doubtful where it cannot be."""

from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
from scipy import ndimage

from medldm.data.intensity import mri_scaling
from medldm.qc.noise import estimate_noise, noise_map, rician_correction, without_anatomy

SHARED = Path(__file__).parents[3] / "shared" / "data" / "val"
BRAIN = phantoms.brain((64, 72, 56))


def error_table(volumes, levels=(0.01, 0.03, 0.05, 0.07, 0.09), where="everywhere", seed=0):
    """Estimated over true noise for known Rician noise on scans that carry some of their own.

    Parameters
    ----------
    volumes : name -> (voxels, spacing)
    levels : added sigma, fraction of the scan's 99.5th percentile
    where : ``"everywhere"``, or ``"brain"`` where non-zero voxels alone get noise

    Returns
    -------
    rows of (name, level, estimate / added, estimate / root of added^2 + own^2)
    """
    rows = []
    for name, (voxels, spacing) in volumes.items():
        brightest, own = mri_scaling(voxels).high, estimate_noise(voxels, spacing).sigma
        for level in levels:
            noisy = phantoms.rician(voxels, level * brightest, seed).astype(np.float32)
            noisy = noisy if where == "everywhere" else np.where(voxels > 0, noisy, 0)
            sigma = estimate_noise(noisy, spacing).sigma
            rows.append((name, level, sigma / (level * brightest), sigma / np.hypot(level * brightest, own)))
    return rows


@pytest.mark.parametrize("where", ["everywhere", "brain"])
@pytest.mark.parametrize("level", [0.01, 0.03, 0.06, 0.09])
def test_known_noise_is_found(level, where):
    ((_, _, direct, _),) = error_table({"phantom": (BRAIN, (1, 1, 1))}, (level,), where)
    assert direct == pytest.approx(1, abs=0.07)


def test_the_level_is_a_fraction_of_white():
    noisy = phantoms.rician(BRAIN, 50)
    estimate = estimate_noise(noisy)
    assert estimate.level == pytest.approx(estimate.sigma / mri_scaling(noisy).high)
    assert estimate.reliable
    assert "%" in str(estimate)


def test_thick_slices_are_measured_in_their_planes():
    noisy = phantoms.rician(BRAIN[:, :, ::4], 50)
    assert estimate_noise(noisy, (1, 1, 4)).sigma == pytest.approx(50, rel=0.1)


def test_a_zeroed_background_is_reported():
    noisy = np.where(BRAIN > 0, phantoms.rician(BRAIN, 50), 0)
    estimate = estimate_noise(noisy)
    assert not estimate.reliable
    assert "the background is zeroed" in estimate.reasons


def test_smooth_noise_is_reported_and_the_air_knows_its_size():
    draw = np.random.default_rng(0)
    smooth = [ndimage.gaussian_filter(draw.standard_normal(BRAIN.shape), 0.6) for _ in range(2)]
    real, imaginary = (60 * part / part.std() for part in smooth)
    estimate = estimate_noise(np.hypot(BRAIN + real, imaginary))
    assert not estimate.reliable
    assert any("correlated" in reason for reason in estimate.reasons)
    assert estimate.sigma == pytest.approx(60, rel=0.15)


FINE = 0.25 * ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(BRAIN.shape), 0.7)


@pytest.mark.parametrize("level", [20, 30, 60])
def test_fine_anatomy_is_not_taken_for_noise(level):
    """Texture as fine as the voxels of a sharp scan; too little is better than too much."""
    sharp = (BRAIN * (1 + FINE)).astype(np.float32)
    sigma = estimate_noise(phantoms.rician(sharp, level)).sigma
    assert 0.85 * level < sigma < 1.1 * level


def test_air_that_coils_lift_is_not_taken_for_noise():
    """A sum of squares lifts air and leaves it smooth: its median is no Rayleigh's. Fine anatomy made it be asked."""
    sharp = (BRAIN * (1 + FINE)).astype(np.float32)
    lifted = np.hypot(sharp, ndimage.gaussian_filter(np.random.default_rng(1).normal(90, 300, BRAIN.shape), 4))
    assert estimate_noise(lifted).sigma < 25
    for level in (20, 30):
        assert estimate_noise(phantoms.rician(lifted, level)).sigma < 1.15 * level


def test_noise_of_a_coarser_grid_is_known_by_its_air():
    """Zero filling correlates the noise: neighbours hide it, air shows both that and its size."""
    draw = np.random.default_rng(0)
    coarse = [ndimage.zoom(draw.standard_normal((43, 48, 37)), (64 / 43, 72 / 48, 56 / 37), order=3) for _ in range(2)]
    real, imaginary = (40 * part / part.std() for part in coarse)
    estimate = estimate_noise(np.hypot(BRAIN + real, imaginary))
    assert estimate.sigma == pytest.approx(40, rel=0.15)


def test_without_anatomy_is_never_more_nor_much_less():
    assert without_anatomy(10, 10, 3) == 10
    assert without_anatomy(10, 9, 2) == 10
    assert without_anatomy(10, 15, 2) == pytest.approx((100 - 125 / (1.6**4 - 1)) ** 0.5)
    assert without_anatomy(10, 1000, 3) == pytest.approx(7)
    assert without_anatomy(10, 15, 3) > without_anatomy(10, 15, 2)


def test_infinite_voxels_do_not_disturb():
    noisy = phantoms.rician(BRAIN, 50)
    noisy[20:22, 30, 30], noisy[5, 5, 5] = np.inf, -np.inf
    assert estimate_noise(noisy).sigma == pytest.approx(50, rel=0.1)


def test_louder_air_than_tissue_is_reported():
    noisy = np.where(BRAIN > 0, phantoms.rician(BRAIN, 20), phantoms.rician(BRAIN, 80, seed=1))
    assert "background and tissue disagree" in estimate_noise(noisy).reasons


def test_missing_slices_do_not_disturb():
    noisy = phantoms.rician(BRAIN, 50)
    noisy[:, :, [20, 30, 31]] = np.nan
    assert estimate_noise(noisy).sigma == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize("voxels", [np.zeros((9, 9, 9)), np.full((9, 9, 9), np.nan), np.ones((3, 3, 1)), BRAIN])
def test_silence_is_no_crash(voxels):
    estimate = estimate_noise(voxels)
    assert np.isfinite(estimate.sigma)
    assert estimate.level < 0.01
    assert np.isfinite(noise_map(voxels)).all()


def test_one_slice_is_enough():
    plane = phantoms.brain((128, 128, 9))[:, :, 4:5]
    noisy = phantoms.rician(plane, 50)
    assert estimate_noise(noisy, (1, 1, 5)).sigma == pytest.approx(50, rel=0.15)
    assert noise_map(noisy, (1, 1, 5)).shape == noisy.shape


@pytest.mark.parametrize("kernel", ["white", "soft", "sharp"])
def test_ct_noise_is_found_whatever_the_kernel(kernel):
    quiet = phantoms.ct((96, 96, 10), noise_hu=0).voxels.astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(quiet.shape)
    smooth = ndimage.gaussian_filter(noise, (0.8, 0.8, 0))
    noise = {"white": noise, "soft": smooth, "sharp": noise - smooth}[kernel]
    noisy = quiet + 20 * noise / noise.std()
    estimate = estimate_noise(noisy, (0.8, 0.8, 3.0), "ct")
    assert estimate.unit == "HU"
    assert estimate.sigma == pytest.approx(20, rel=0.1)


def test_a_map_follows_noise_that_grows():
    at = phantoms.coordinates(BRAIN.shape)
    sigma = 30 * (1 + 2 * np.exp(-((at - [0.5, 0, 0]) ** 2).sum(-1) / 1.5))
    noisy = phantoms.rician(BRAIN, sigma)
    brain = BRAIN > 0
    ratio = noise_map(noisy)[brain] / sigma[brain]
    assert np.percentile(ratio, 5) > 0.8
    assert np.percentile(ratio, 95) < 1.25
    even = noise_map(phantoms.rician(BRAIN, 50))[brain]
    assert np.percentile(even, 95) / np.percentile(even, 5) < 1.15


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.0, 5.0])
def test_the_rician_correction_holds_between_signal_and_noise(ratio):
    magnitudes = phantoms.rician(np.full(400_000, 10 * ratio), 10)
    for typical in (magnitudes.mean(), np.median(magnitudes)):
        assert rician_correction(float(typical), float(magnitudes.std())) == pytest.approx(10, rel=0.03)


def test_the_rician_correction_knows_both_ends():
    assert rician_correction(1000, 10) == pytest.approx(10, rel=1e-3)
    assert rician_correction(1.2533, 0.6551) == pytest.approx(1, rel=0.05)  # nothing but noise of sigma 1
    assert rician_correction(5, 0) == 0


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize("where", ["everywhere", "brain"])
def test_known_noise_is_found_on_real_scans(where):
    volumes = {}
    for path in [sorted(SHARED.glob("*_T1w.nii.gz"))[0], sorted(SHARED.glob("openms*FLAIR*"))[0]]:
        image = nib.as_closest_canonical(nib.load(path))
        crop = tuple(slice(size // 6, -size // 6) if size > 100 else slice(None) for size in image.shape)
        volumes[path.name] = np.asarray(image.dataobj, np.float32)[crop], image.header.get_zooms()[:3]
    for name, level, _, total in error_table(volumes, (0.03, 0.06, 0.09), where):
        assert total == pytest.approx(1, abs=0.1), (name, level)
