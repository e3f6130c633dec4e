"""A noise level is a number or a map: every verb takes both, given or estimated, on phantoms and on a real head."""

import nibabel as nib
import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm.data.resample import field_of_view_affine
from medldm.data.volume import Stored, Volume
from medldm.errors import GeometryError, UsageError
from medldm.inference import pipeline
from medldm.inference.resolve import NoiseLevel
from medldm.samples import sample_path
from medldm.tasks.inputs import as_volume


@pytest.fixture
def model(tiny_model):
    return {"model": str(tiny_model)}


@pytest.fixture
def calls(monkeypatch):
    """The inputs of each call of the networks: observation, and noise level on its grid."""
    calls, real = [], pipeline.estimate_with_spread

    def spy(networks, observation, sigma, *rest):
        calls.append((observation, sigma))
        return real(networks, observation, sigma, *rest)

    monkeypatch.setattr(pipeline, "estimate_with_spread", spy)
    return calls


def varying(shape):
    """Noise as parallel imaging leaves it, loud in the middle of each plane; fraction of white, (X, Y, Z)."""
    x, y = (np.linspace(-1, 1, size) for size in shape[:2])
    return np.broadcast_to((0.02 + 0.04 * np.exp(-2.5 * (x[:, None] ** 2 + y[None] ** 2)))[..., None], shape)


def head(slice_mm=1, noisy="varying", slices=40, crop=40):
    """The middle of the shipped head, in thick slices and noisy; its noise, fraction of white, and the clean voxels."""
    scan = medldm.read(sample_path("mr"))
    thin = np.asarray(scan.voxels, dtype=np.float32)[crop : -crop or None, crop : -crop or None]
    first = (thin.shape[2] - slices * slice_mm) // 2
    clean = thin[:, :, first : first + slices * slice_mm].reshape(*thin.shape[:2], slices, slice_mm).mean(-1)
    level = varying(clean.shape) if noisy == "varying" else np.full(clean.shape, 0.04)
    voxels = phantoms.rician(clean, level * np.percentile(clean, 99.5)).astype(np.float32)
    affine = field_of_view_affine(scan.affine, (*clean.shape[:2], slices * slice_mm), clean.shape)
    return Volume(voxels, affine, name="head", stored=Stored(modality="mr")), level, clean


def test_a_map_goes_with_the_grid():
    """A ramp in space is the same ramp on any grid over the same field of view."""
    ramp = torch.linspace(0.5, 9.5, 10).expand(4, 6, 10) / 100  # voxel k of 10 has its centre at k + 0.5
    level = NoiseLevel(ramp)
    for count in (40, 23, 13):
        moved = level.on((8, 6, count))
        assert moved.shape == (8, 6, count)
        centres = (torch.arange(count) + 0.5) * 10 / count
        assert torch.allclose(moved[3, 2], centres.clamp(0.5, 9.5) / 100, atol=1e-5)
    assert level.on((4, 6, 10)) is ramp
    assert level.typical == pytest.approx(float(ramp.median()))
    assert NoiseLevel.uniform(0.03).on((8, 6, 40)).shape == (1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("noisy", ["varying", "even"])
def test_restore_of_thick_slices_tells_the_network_the_noise_of_each_voxel(noisy, model, calls):
    scan, level, clean = head(4, noisy, slices=18)
    restored = medldm.restore(scan, **model)
    facts = restored.history[-1].facts
    assert restored.shape[2] == 72
    assert [step["verb"] for step in facts["plan"]] == ["super-resolve", "denoise"]
    assert any("a noise map was used" in note for note in facts["notes"]) == (noisy == "varying")
    observation, sigma = calls[0]
    assert tuple(observation.y.shape) == restored.shape
    at = (slice(None, None, 4), slice(None, None, 4), slice(20, 52))
    expected = torch.from_numpy(np.repeat(level, 4, 2).copy())[at]
    inside = torch.from_numpy(np.repeat(clean > 0.2 * clean.max(), 4, 2))[at]
    ratio = (sigma.expand(restored.shape)[at] / expected)[inside]
    assert 0.75 < float(ratio.quantile(0.1)) <= float(ratio.quantile(0.9)) < 1.25


@pytest.mark.slow
def test_restore_of_a_real_head_in_thick_slices_with_the_shipped_set():
    scan, _, _ = head(4, slices=20, crop=0)
    restored = medldm.restore(scan)
    assert restored.shape[2] == 80
    assert np.isfinite(restored.voxels).all()
    reference = medldm.read(sample_path("mr"))
    first = (reference.shape[2] - 80) // 2
    truth = np.asarray(reference.voxels[:, :, first : first + 80], np.float32)
    degraded = np.repeat(scan.voxels, 4, 2)
    wrong = [np.sqrt(np.mean((image - truth)[truth > 0] ** 2)) for image in (degraded, restored.voxels)]
    assert wrong[1] < 0.7 * wrong[0]


def test_restore_of_a_thick_and_unevenly_noisy_phantom(model, calls):
    """The grid of a noise map is the scan's, the network works on another one."""
    clean = phantoms.brain((72, 80, 64))[:, :, 1::4]
    ramp = np.linspace(15, 110, 72)[:, None, None]
    scan = Volume(
        phantoms.rician(clean, ramp).astype(np.float32), np.diag([1, 1, 4, 1.0]), stored=Stored(modality="mr")
    )
    restored = medldm.restore(scan, **model)
    assert restored.shape == (72, 80, 64)
    observation, sigma = calls[0]
    assert sigma.shape == observation.y.shape
    assert float(sigma[54, 40].mean()) > 1.5 * float(sigma[18, 40].mean())


def _mask(scan):
    mask = np.zeros(scan.shape, bool)
    middle = [size // 2 for size in scan.shape]
    mask[tuple(slice(at - 3, at + 3) for at in middle)] = True
    return mask


VERBS = {
    "denoise": lambda scan, **options: medldm.denoise(scan, **options),
    "super-resolve": lambda scan, **options: medldm.super_resolve(scan, 1.5, **options),
    "fill-slices": lambda scan, **options: medldm.fill_slices(scan, [scan.shape[2] // 2], **options),
    "inpaint": lambda scan, **options: medldm.inpaint(scan, _mask(scan), **options),
    "restore": lambda scan, **options: medldm.restore(scan, **options),
}


@pytest.mark.slow
@pytest.mark.parametrize("slice_mm", [1, 3])
@pytest.mark.parametrize("noisy", ["varying", "even"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_task_estimates_on_a_real_head(verb, noisy, slice_mm, model, calls):
    scan, _, _ = head(slice_mm, noisy, slices=24)
    made = VERBS[verb](scan, **model)
    assert np.isfinite(made.voxels).all()
    assert made is scan or calls
    for observation, sigma in calls:
        assert sigma.numel() == 1 or sigma.shape == observation.y.shape
        assert float(sigma.median()) == pytest.approx(0.035, abs=0.012)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("given", ["number", "map"])
@pytest.mark.parametrize("verb", ["denoise", "super-resolve"])
def test_a_given_level_is_used_as_it_is_on_a_real_head(verb, given, samples, model, calls):
    scan, level, _ = head(3, slices=20)
    noise = 0.04 if given == "number" else np.array(level)
    made = VERBS[verb](scan, noise=noise, samples=samples, **model)
    assert np.isfinite(made.voxels).all()
    observation, sigma = calls[0]
    expected = torch.full((1, 1, 1), 0.04) if given == "number" else NoiseLevel(torch.tensor(noise)).on(made.shape)
    assert torch.allclose(sigma.expand_as(observation.y), expected.float().expand_as(observation.y), atol=1e-6)


@pytest.mark.slow
def test_an_even_map_is_the_number(phantom, model):
    noisy = phantom.with_voxels(phantoms.rician(phantom.voxels, 40).astype(np.float32))
    thick = Volume(noisy.voxels[:, :, ::4], np.diag([1, 1, 4, 1.0]), stored=Stored(modality="mr"))
    for verb, scan in ((medldm.denoise, noisy), (medldm.super_resolve, thick)):
        by_number = verb(scan, noise=0.04, **model)
        by_map = verb(scan, noise=np.full(scan.shape, 0.04), **model)
        assert np.allclose(by_number.voxels, by_map.voxels, atol=0.01)
        assert by_map.history[-1].facts["noise_level"] == pytest.approx(0.04)


def test_a_map_bounds_each_voxel_by_its_own_noise(phantom, model):
    """Where the map says that there is no noise, nothing moves."""
    noisy = phantom.with_voxels(phantoms.rician(phantom.voxels, 40).astype(np.float32))
    level = np.full(phantom.shape, 0.05)
    level[:24] = 0
    clean = medldm.denoise(noisy, level, **model)
    assert np.allclose(clean.voxels[:24], noisy.voxels[:24], atol=0.01)
    assert np.abs(clean.voxels[24:] - noisy.voxels[24:]).max() > 1


@pytest.mark.slow
def test_a_map_is_laid_out_like_the_scan_that_was_given(phantom, model):
    """A file whose axes run otherwise: array, nibabel image and Volume of the same map mean the same voxels."""
    noisy = phantoms.rician(phantom.voxels, 40).astype(np.float32)
    level = np.linspace(0.01, 0.09, phantom.shape[0], dtype=np.float32)[:, None, None] + np.zeros_like(noisy)
    affine = np.array([[0, 0, -1.0, 20], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    scan, noise = nib.Nifti1Image(noisy, affine), nib.Nifti1Image(level, affine)
    options = {"modality": "mr", **model}
    results = [
        medldm.denoise(scan, noise, **options),
        medldm.denoise(scan, level, **options),
        medldm.denoise(as_volume(scan), as_volume(noise), **options),
    ]
    for result in results[1:]:
        assert np.array_equal(result.voxels, results[0].voxels)
    assert not np.array_equal(results[0].voxels, medldm.denoise(scan, level[::-1].copy(), **options).voxels)


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (np.full((4, 4, 4), 0.03), GeometryError, "shape"),
        (np.full((48, 56, 40), -0.03), UsageError, "below zero"),
        (np.full((48, 56, 40), np.nan), UsageError, "NaN"),
        (np.full((48, 56, 40), 5.0), UsageError, "more than all signal"),
        (Volume(np.full((48, 56, 40), 0.03), np.diag([1, 1, 1.5, 1])), GeometryError, "does not lie where"),
        (5, UsageError, "more than all signal"),
        ([["a"]], UsageError, "number or a map"),
        (-0.1, UsageError, "at least 0"),
    ],
)
@pytest.mark.parametrize("verb", [medldm.denoise, medldm.super_resolve])
def test_what_is_no_noise_level_is_refused(verb, noise, error, message, phantom, model):
    scan = phantom if verb is medldm.denoise else phantom.with_voxels(phantom.voxels, np.diag([1, 1, 3, 1.0]))
    if isinstance(noise, Volume) and verb is medldm.super_resolve:
        noise = Volume(noise.voxels, np.diag([1, 1, 2.5, 1]))
    with pytest.raises(error, match=message):
        verb(scan, noise=noise, **model)


@pytest.mark.slow
def test_numbers_of_numpy_are_numbers(phantom, model):
    expected = medldm.denoise(phantom, 0.05, **model).voxels
    for number in (np.float32(0.05), np.float64(0.05), np.array(0.05)):
        assert np.allclose(medldm.denoise(phantom, number, **model).voxels, expected, atol=1e-3)


def test_the_record_of_ct_says_hounsfield_units():
    """Of thick slices too, where it said a fraction."""
    scan = phantoms.ct((48, 48, 12))
    thin = medldm.super_resolve(scan, (0.8, 0.8, 1.5), noise=60.0)
    assert thin.history[-1].facts["noise_level"] == pytest.approx(60, rel=0.01)


@pytest.mark.slow
def test_a_map_over_lost_slices_goes_with_the_grid_too(model, calls):
    scan, _, _ = head(4, slices=18)
    damaged = phantoms.with_missing_slices(scan, [7])
    restored = medldm.restore(damaged, **model)
    assert restored.history[-1].facts["filled_slices"] == [7]
    observation, sigma = calls[0]
    assert sigma.shape == observation.y.shape
    assert any("a noise map was used" in note for note in restored.history[-1].facts["notes"])
