"""Outliers: found where nothing real can be, and nowhere else; what lies beside them never learns of them."""

from dataclasses import replace

import numpy as np
import phantoms
import pytest
from scipy import ndimage

import medldm
from medldm.data.outliers import find_outliers, set_aside
from medldm.data.volume import Stored, Volume
from medldm.io import guess_modality
from medldm.qc.inspection import make_plan
from medldm.qc.noise import estimate_noise
from medldm.samples import sample_path
from medldm.settings import Restore

SPIKES = [1e9, -1e9, np.inf, -np.inf, 3e5]
BRAIN = phantoms.rician(phantoms.brain((48, 56, 40)), 40).astype(np.float32)


@pytest.fixture
def model(tiny_model):
    return {"model": str(tiny_model)}


def spoiled(voxels, places, value):
    """A copy with one value at some places."""
    copy = np.array(voxels)
    copy[tuple(np.transpose(places))] = value
    return copy


@pytest.mark.parametrize("value", SPIKES)
@pytest.mark.parametrize("places", [[(20, 20, 20)], [(0, 0, 0)], [(20, 20, 20), (21, 20, 20), (30, 9, 5)]])
def test_absurd_values_are_found_wherever_they_are(value, places):
    mask = find_outliers(spoiled(BRAIN, places, value))
    assert sorted(map(tuple, np.argwhere(mask))) == sorted(places)


def test_overflow_of_sixteen_bits_is_found_and_integers_stay_integers():
    scan = Volume(spoiled(BRAIN.astype(np.int16), [(20, 20, 20)], 32767), np.eye(4))
    clean, outliers = set_aside(scan)
    assert outliers.where.tolist() == [[20, 20, 20]]
    assert clean.voxels.dtype == np.int16
    assert abs(int(clean.voxels[20, 20, 20]) - BRAIN[20, 20, 20]) < 200


@pytest.mark.parametrize("value", [32767, -32768, 30000, 4e4])
def test_overflow_in_a_real_head_is_found_in_tissue_at_edges_and_in_air(value):
    voxels = np.array(medldm.read(sample_path("mr")).voxels, np.float32)  # of twelve bits
    steep = ndimage.gaussian_gradient_magnitude(voxels, 1.0)
    edge = np.argmin(np.abs(steep - np.percentile(steep[voxels > 0], 97)))
    places = [np.unravel_index(edge, voxels.shape), tuple(size // 2 for size in voxels.shape), (9, 9, 9)]
    for place in [*places, (60, 70, 80), (80, 100, 60), (90, 120, 90)]:
        assert np.argwhere(find_outliers(spoiled(voxels, [place], value))).tolist() == [list(map(int, place))]
    two = [(60, 50, 30), (61, 50, 30)]
    assert sorted(map(tuple, np.argwhere(find_outliers(spoiled(voxels, two, value))))) == two


def test_a_line_of_absurd_values_is_found_whole():
    mask = find_outliers(spoiled(BRAIN, [(k, 20, 20) for k in range(48)], 1e9))
    assert mask.sum() == 48
    assert mask[:, 20, 20].all()


def test_a_weak_spike_beside_an_absurd_one_is_found_too():
    voxels = spoiled(spoiled(BRAIN, [(20, 20, 20)], 1e9), [(21, 20, 20)], 3e4)
    assert np.argwhere(find_outliers(voxels)).tolist() == [[20, 20, 20], [21, 20, 20]]


def blurred(shape, draw, height):
    """Something bright, as a scanner with a point spread of one voxel shows it."""
    sharp = np.zeros(shape)
    draw(sharp)
    return height * ndimage.gaussian_filter(sharp, 0.5)  # of which the voxel itself is a part


VESSEL = {
    "a vessel along an axis": lambda image: image.__setitem__((20, 20, slice(4, 36)), 1),
    "a vessel across": lambda image: image.__setitem__((np.arange(10, 30), np.arange(15, 35), 20), 1),
    "a dot of a vessel": lambda image: image.__setitem__((25, 30, 20), 1),
    "a marker": lambda image: image.__setitem__((slice(20, 22), slice(20, 22), slice(20, 22)), 1),
}


@pytest.mark.parametrize("what", VESSEL)
@pytest.mark.parametrize("height", [3e3, 3e4, 3e5])
def test_what_is_bright_and_blurred_as_everything_is_no_outlier(what, height):
    assert not find_outliers((BRAIN + blurred(BRAIN.shape, VESSEL[what], height)).astype(np.float32)).any()


@pytest.mark.parametrize("height", [6e3, 2e4, 2e5])
@pytest.mark.parametrize("slice_blur", [0.0, 0.5])
def test_what_is_bright_in_one_plane_only_is_no_outlier(height, slice_blur):
    """Thick slices: beside it, across slices, nothing may show; nor in dark surroundings or at an edge."""
    rng = np.random.default_rng(4)
    for at in rng.integers(4, 36, (30, 3)):
        dot = np.zeros(BRAIN.shape)
        dot[tuple(at)] = 1
        dot = height * ndimage.gaussian_filter(dot, (0.5, 0.5, slice_blur))
        assert not find_outliers((BRAIN + dot).astype(np.float32)).any()


def test_an_angiogram_on_dark_ground_keeps_its_vessels():
    ground = np.abs(np.random.default_rng(0).normal(0, 3, BRAIN.shape))
    for draw in VESSEL.values():
        assert not find_outliers((ground + blurred(BRAIN.shape, draw, 4000)).astype(np.float32)).any()


def test_a_small_object_in_a_large_field_is_no_outlier():
    at = np.linalg.norm(phantoms.coordinates((80, 80, 60)), axis=-1)
    voxels = 3000 / (1 + np.exp(60 * (at - 0.15))) + np.abs(np.random.default_rng(0).normal(0, 1, at.shape))
    assert not find_outliers(voxels.astype(np.float32)).any()


def test_metal_dense_bone_and_padding_of_a_ct_are_no_outliers():
    scan = phantoms.ct((64, 64, 16))
    assert not find_outliers(scan.voxels).any()  # padding of -2000 outside the round field
    screw = np.zeros(scan.shape)
    screw[32, 20, 4:12] = 1
    for metal in (3071, 12000, 30000):
        with_screw = scan.voxels + metal * ndimage.gaussian_filter(screw, (0.5, 0.5, 0.3))
        assert not find_outliers(np.rint(with_screw).astype(np.int32)).any()
        clipped = np.where(ndimage.binary_dilation(screw), 3071, scan.voxels).astype(np.int16)
        assert not find_outliers(clipped).any()


@pytest.mark.parametrize("kind", ["mr", "ct"])
def test_the_shipped_samples_hold_none(kind):
    assert not find_outliers(medldm.read(sample_path(kind)).voxels).any()


@pytest.mark.parametrize(
    "voxels", [np.zeros((4, 4, 4)), np.full((4, 4, 4), np.nan), np.ones((4, 4, 1)), np.full((4, 4, 4), np.inf)]
)
def test_scans_of_nothing_have_no_outliers(voxels):
    assert not find_outliers(voxels.astype(np.float32)).any()


def test_infinity_everywhere_around_stays_what_was_never_measured():
    voxels = np.where(phantoms.brain() > 0, BRAIN, -np.inf)
    assert not find_outliers(voxels).any()


def test_places_are_counted_as_the_file_counts():
    stored = Stored(axes=(2, 0, 1), flips=(False, True, False), modality="mr")
    scan = Volume(spoiled(BRAIN, [(10, 20, 30)], 1e9), np.eye(4), name="scan", stored=stored)
    place = tuple(np.argwhere(scan.to_stored(scan.voxels) == 1e9)[0].tolist())
    _, outliers = set_aside(scan)
    assert outliers.facts(scan) == {"outliers": 1, "outliers_at": [list(place)]}
    sentence = outliers.sentence(scan)
    assert f"1e+09 at {place}" in sentence
    assert sentence.count(". ") == 0


VERBS = {
    "denoise": lambda scan, model: medldm.denoise(scan, **model),
    "super-resolve": lambda scan, model: medldm.super_resolve(scan, (0.8, 0.8, 1.0), **model),
    "fill-slices": lambda scan, model: medldm.fill_slices(scan, [19], **model),
    "inpaint": lambda scan, model: medldm.inpaint(scan, _region(scan), **model),
    "restore": lambda scan, model: medldm.restore(scan, **model),
}


def _region(scan):
    mask = np.zeros(scan.shape, bool)
    mask[24:30, 16:22, 17:20] = True
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "value"), [*((verb, 1e9) for verb in VERBS), ("denoise", -1e9), ("denoise", np.inf), ("restore", -np.inf)]
)
def test_no_other_voxel_learns_of_it(verb, value, model, caplog):
    """Whatever stands there, the rest comes out the same, bit for bit; and close to what it is without any."""
    caplog.set_level("WARNING", "medldm")
    places = [(22, 20, 18), (30, 30, 10)]
    affine = np.diag([1.0, 1.0, 3.0 if verb in ("super-resolve", "restore") else 1.0, 1.0])
    scan = Volume(BRAIN, affine, name="scan", stored=Stored(modality="mr"))
    without, spoiled_one, other = (
        VERBS[verb](scan.with_voxels(voxels), model)
        for voxels in (BRAIN, spoiled(BRAIN, places, value), spoiled(BRAIN, places, 7e8))
    )
    there = np.zeros(scan.shape, bool)
    there[tuple(np.transpose(places))] = True
    if spoiled_one.shape == scan.shape:
        assert (spoiled_one.voxels[there] == value).all()  # measured: it stays
    elsewhere = np.ones(without.shape, bool) if spoiled_one.shape != scan.shape else ~there
    assert np.array_equal(spoiled_one.voxels[elsewhere], other.voxels[elsewhere])
    assert np.isfinite(spoiled_one.voxels[elsewhere]).all()
    difference = np.abs(spoiled_one.voxels - without.voxels)[elsewhere]
    near = 4 * 40 if spoiled_one.shape != scan.shape else 40  # a stand-in is off by the noise of one voxel
    assert difference.max() < near
    assert (difference > 20).mean() < 0.002
    facts = spoiled_one.history[-1].facts
    assert facts["outliers"] == 2
    assert sum("far beyond everything else" in note for note in facts["notes"]) == 1
    assert "no scanner measures that" in caplog.text
    assert "outliers" not in without.history[-1].facts


def test_in_ct_too():
    quiet = phantoms.ct((64, 64, 16))
    scan = replace(quiet, voxels=quiet.voxels.astype(np.float32))
    spikes = [(30, 30, 8), (12, 33, 3)]
    for value in (1e9, -1e9, 65535):
        without, with_spike = (
            medldm.denoise(scan.with_voxels(voxels)) for voxels in (scan.voxels, spoiled(scan.voxels, spikes, value))
        )
        there = with_spike.voxels == np.float32(value)
        assert np.argwhere(there).tolist() == sorted(map(list, spikes))
        assert np.abs(with_spike.voxels - without.voxels)[~there].max() < 12


def test_it_decides_nothing_about_the_scan():
    for value in SPIKES:
        scan = Volume(spoiled(BRAIN, [(20, 20, 20)], value), np.eye(4), name="x")
        assert guess_modality(scan)[0] == "mr"
        plan = make_plan(scan, Restore())
        assert plan.noise.sigma == pytest.approx(estimate_noise(BRAIN).sigma, rel=0.01)


def test_one_in_a_lost_slice_leaves_it_lost(model):
    lost = phantoms.with_missing_slices(Volume(BRAIN, np.eye(4), stored=Stored(modality="mr")), [18])
    scan = lost.with_voxels(spoiled(lost.voxels, [(20, 20, 18)], 1e9))
    assert make_plan(scan, Restore()).missing == (18,)
    filled = medldm.fill_slices(scan, **model)
    assert filled.history[-1].facts["invented_slices"] == [18]
    assert filled.voxels[..., 18].max() < 3000


def test_one_inside_a_mask_is_painted_over(phantom, model):
    mask = np.zeros(phantom.shape, bool)
    mask[20:28, 20:28, 15:22] = True
    results = [
        medldm.inpaint(phantom.with_voxels(spoiled(phantom.voxels, [(22, 22, 18)], value)), mask, **model)
        for value in (500, 1e9)
    ]
    assert np.array_equal(results[0].voxels, results[1].voxels)
