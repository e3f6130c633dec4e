"""Scaled intensity: exactly invertible, and anchored to the patient rather than to the air."""

import numpy as np
import phantoms
import pytest

from medldm.data.intensity import Scaling, foreground_mask, mri_scaling
from medldm.modality import CT


def overlap(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_integers_come_back_as_they_were(dtype):
    limits = np.iinfo(dtype)
    stored = np.linspace(limits.min, limits.max, 5000).astype(dtype)
    scaling = Scaling(-37.5, 3911.25)
    assert np.array_equal(np.rint(scaling.invert(scaling.apply(stored))).astype(dtype), stored)


def test_nothing_is_clipped_and_nan_stays():
    scaling = CT.fixed_scaling
    hu = np.array([-2000, -1000, 0, 1000, 3000, np.nan], np.float32)
    scaled = scaling.apply(hu)
    assert scaled.dtype == np.float32
    assert np.allclose(scaled[:5], [-0.5, 0, 0.5, 1, 2])
    assert np.isnan(scaled[5])
    assert np.allclose(scaling.invert(scaled)[:5], hu[:5])
    assert scaling.unit == 2000


def test_a_scaling_needs_high_above_low():
    with pytest.raises(ValueError, match="above low"):
        Scaling(1.0, 1.0)


def test_white_is_the_brightest_tissue_not_the_air(phantom):
    brain = phantom.voxels[phantom.voxels > 0]
    scaling = mri_scaling(phantom.voxels)
    assert scaling.low == 0
    assert scaling.high == pytest.approx(np.percentile(brain, 99.5))
    padded = np.pad(phantom.voxels, 20)
    assert mri_scaling(padded).high == pytest.approx(scaling.high)


@pytest.mark.parametrize("fraction", [0.01, 0.03, 0.06, 0.09])
def test_noise_in_the_air_is_not_the_patient(fraction, phantom):
    noisy = phantoms.rician(phantom.voxels, fraction * phantoms.PEAK)
    assert overlap(foreground_mask(noisy), phantom.voxels > 0) > 0.9
    assert mri_scaling(noisy).high == pytest.approx(mri_scaling(phantom.voxels).high, rel=0.12)


def test_a_stripped_brain_is_kept_whole_and_cavities_belong_to_the_patient(phantom):
    assert np.array_equal(foreground_mask(phantom.voxels), phantom.voxels > 0)
    hollow = phantom.voxels.copy()
    hollow[20:28, 24:32, 16:24] = 1  # an airway, nearly black
    noisy = phantoms.rician(hollow, 20)
    assert foreground_mask(noisy)[22:26, 26:30, 18:22].all()


def test_missing_voxels_are_no_foreground(phantom):
    voxels = phantom.voxels.copy()
    voxels[:, :, 20] = np.nan
    assert not foreground_mask(voxels)[:, :, 20].any()
    assert np.isfinite(mri_scaling(voxels).high)


def test_the_body_of_a_ct_holds_its_lungs():
    volume = phantoms.ct()
    body = CT.foreground(volume.voxels)
    at = phantoms.coordinates(volume.shape)
    inside = (at[..., :2] ** 2).sum(-1) < 0.7**2
    assert body[inside].all()
    assert not body[(at[..., :2] ** 2).sum(-1) > 0.8**2].any()
    assert CT.scaling(volume.voxels) == CT.fixed_scaling


def test_scans_standardised_to_zero_mean_keep_their_dark_half(phantom):
    brain = phantom.voxels > 0
    values = phantom.voxels[brain]
    standard = np.zeros(phantom.shape, np.float32)
    standard[brain] = (values - values.mean()) / values.std()
    scaled = mri_scaling(standard).apply(standard[brain])
    assert -0.2 < scaled.min() < 0.05
    assert 0.95 < np.percentile(scaled, 99.5) < 1.05


@pytest.mark.parametrize("voxels", [np.zeros((5, 5, 5)), np.full((5, 5, 5), np.nan), np.full((5, 5, 5), -3.0)])
def test_an_image_without_signal_still_has_a_scaling(voxels):
    assert mri_scaling(voxels.astype(np.float32)).unit > 0
