"""Blocks and damage drawn in batches: they are what one volume at a time gives."""

import dataclasses
import math

import numpy as np
import phantoms
import pytest
import torch
from toy_training import PLANES, VOLUMES, numbered, scan, seeded

from medldm.degradations import DEGRADATIONS, InPlane, MissingSlices, ThickSlices
from medldm.degradations.regions import fill_smoothly
from medldm.degradations.sampling import interpolation_matrix, observation_weights, profile_matrix, slice_centres
from medldm.errors import InputError
from medldm.inference.conditioning import measured_channels
from medldm.modality import CT
from medldm.training import batches
from medldm.training.corpus import Blocks, Corpus, augment, augmented, piecewise_linear
from medldm.training.damage import draw_damage, family_shares, measure_one

TASK = {name: number for number, name in enumerate(family_shares())}
VOXELS = 40
FINE = 1e-3  # scaled intensity a level: too fine to be dithered


# --- blocks of scans --------------------------------------------------------------------------------------------------


def test_blocks_are_pieces_of_their_scan_and_air_lies_around_it():
    shapes, size = [(9, 14, 11), (16, 7, 12)], (10, 8, 6)
    scans = [scan(numbered(shapes[0]), scale=FINE), scan(numbered(shapes[1], first=2000), scale=FINE)]
    firsts = [1, 2000]
    blocks = Corpus(scans).draw(64, size, seeded())
    assert blocks.clean.shape == (64, *size)
    assert blocks.isotropic.all()
    assert set(blocks.scan.tolist()) == {0, 1}
    orders = set()
    for clean, which in zip((blocks.clean / FINE).round().numpy(), blocks.scan.tolist(), strict=True):
        inside = clean > 0
        box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(inside))
        assert inside[box].all()  # what is not air is one box
        at = np.stack(np.unravel_index(clean[box].astype(int) - firsts[which], shapes[which]))  # where each came from
        order = []
        for place in range(3):
            steps = np.diff(at, axis=place + 1)
            moved = [axis for axis in range(3) if steps[axis].any()]
            assert len(moved) == 1
            assert len(np.unique(steps[moved[0]])) == 1
            assert abs(steps[moved[0]].flat[0]) == 1
            order += moved
            assert inside[box].shape[place] == min(size[place], shapes[which][moved[0]])
        assert sorted(order) == [0, 1, 2]
        orders.add(tuple(order))
    assert len(orders) == 6


@pytest.mark.parametrize("axis", range(3))
def test_thick_slices_lie_across_the_last_axis(axis):
    shape, spacing = (8, 9, 10), tuple(4.0 if a == axis else 1.0 for a in range(3))
    blocks = Corpus([scan(numbered(shape), spacing, scale=FINE)]).draw(16, (4, 4, 3), seeded())
    assert not blocks.isotropic.any()
    for clean in (blocks.clean / FINE).round().numpy():
        at = np.unravel_index(clean.astype(int) - 1, shape)[axis]
        assert (np.abs(np.diff(at, axis=2)) == 1).all()
        assert (at == at[:1, :1]).all()


def test_scans_are_drawn_by_weight_and_scaled_and_coarse_ones_are_dithered():
    flat = np.full((8, 8, 8), 200, np.uint8)
    flat[0] = 0
    scans = [
        scan(flat, scale=0.005),
        scan(numbered((8, 8, 8), 60000), weight=0.0),
        scan(numbered((8, 8, 8), 65000), scale=0.001),
    ]
    blocks = Corpus(scans).draw(32, (8, 8, 8), seeded())
    assert set(blocks.scan.tolist()) == {0, 2}
    eight, sixteen = blocks.clean[blocks.scan == 0], blocks.clean[blocks.scan == 2]
    torch.testing.assert_close(
        sixteen.flatten(1).sort(1).values, (torch.arange(65000, 65512) * 0.001).expand(len(sixteen), -1)
    )
    assert ((eight == 0).flatten(1).sum(1) == 64).all()
    signal = eight[eight > 0] / 0.005
    assert 199.5 - 1e-3 <= float(signal.min()) < 199.6
    assert 200.4 < float(signal.max()) <= 200.5 + 1e-3
    only = Corpus(scans[:1]).draw(4, (8, 8, 8), seeded())  # a buffer of bytes
    assert ((only.clean == 0).flatten(1).sum(1) == 64).all()


def test_thin_scans_have_their_share_of_the_blocks():
    """One of nine is thin: it is drawn as often as asked for; enough of them, or none, stay as they are."""
    thin, thick = (scan(numbered((8, 8, 8)), (1.0, 1.0, mm)) for mm in (1.0, 4.0))
    mixed = Corpus([thin, *[thick] * 8]).with_thin_share(0.25)
    assert mixed.weight[0] / mixed.weight.sum() == pytest.approx(0.25)
    for scans in ([thin, thick], [thick, thick], [thin]):
        assert torch.equal(Corpus(scans).with_thin_share(0.25).weight, Corpus(scans).weight)


def test_blocks_are_drawn_around_signal():
    voxels = np.zeros((40, 8, 8), np.uint16)
    voxels[:10] = 1
    blocks = Corpus([scan(voxels)]).draw(100, (4, 4, 4), seeded())
    assert ((blocks.clean > 0).flatten(1).any(1)).float().mean() > 0.95  # 1 in 32 by twelve tries without luck


def test_augmented_blocks_stay_finite_and_keep_air_dark():
    clean = torch.rand(64, 6, 7, 8, generator=seeded())
    clean[:, :2] = 0
    image = augment(clean, seeded(1))
    assert image.shape == clean.shape
    assert torch.isfinite(image).all()
    assert image[:, :2].abs().max() < 1e-6
    assert ((image - clean).flatten(1).abs().max(1).values > 0).all()
    curves = torch.tensor([[0.0, 1.0, 0.5], [0.0, 2.0, 4.0]])
    result = piecewise_linear(torch.tensor([[0.25, 0.75], [0.5, 2.0]]), curves, 1.0)
    torch.testing.assert_close(result, torch.tensor([[0.5, 0.75], [2.0, 8.0]]))


# --- damage -----------------------------------------------------------------------------------------------------------


def sampled(centres, thickness, *, rect=False, fourier=False, beside=None):
    """`batches.sampling` of these centres, beside other slices in one batch, so that rows of nothing are there."""
    other = torch.arange(VOXELS, dtype=torch.float32) if beside is None else beside
    places, there = torch.zeros(2, VOXELS), torch.zeros(2, VOXELS, dtype=torch.bool)
    for row, item in enumerate((centres, other)):
        places[row, : len(item)] = item.float()
        there[row, : len(item)] = True
    result = batches.sampling(
        places,
        there,
        torch.tensor([thickness, 1e-3]),
        torch.tensor([rect, False]),
        torch.tensor([fourier, False]),
        VOXELS,
        torch.tensor([thickness, 1.0]),
        torch.tensor([True, False]),
    )
    # The other one selects voxels, whatever stands beside it.
    if beside is None:
        torch.testing.assert_close(result.measure[1], torch.eye(VOXELS))
        torch.testing.assert_close(result.interpolate[1], torch.eye(VOXELS))
    count = len(centres)
    assert not result.measure[0, count:].any()
    if not fourier:
        assert not result.interpolate[0, :, count:].any()
    assert result.thickness.tolist() == pytest.approx([thickness, 1.0])
    return result.measure[0, :count], result.interpolate[0, :, :count], result.observed[0]


def assert_near(result, wanted, tolerance=2e-5):
    torch.testing.assert_close(result.double(), wanted.double(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("profile", ["gaussian", "rect"])
@pytest.mark.parametrize(("spacing", "thickness"), [(3.7, 4.1), (1.3, 1.3), (8.0, 5.0), (4.0, 4.0)])
def test_thick_slices_are_those_of_one_volume(profile, spacing, thickness):
    wanted = ThickSlices(VOXELS, 0, spacing, thickness, profile, missing=(1,))
    centres = slice_centres(VOXELS, spacing)[wanted.kept]
    measure, interpolate, observed = sampled(centres, thickness, rect=profile == "rect")
    assert_near(measure, wanted.matrices[0])
    assert_near(measure, profile_matrix(centres, VOXELS, thickness, profile))
    assert_near(interpolate, interpolation_matrix(centres, VOXELS))
    assert_near(observed, observation_weights(centres, VOXELS))
    clean = torch.rand(VOXELS, 3, 2, generator=seeded())
    assert_near(torch.einsum("hs,st...->ht...", interpolate @ measure, clean), wanted.observe(wanted.degrade(clean)).y)


@pytest.mark.parametrize("kept", [[0, 3, 4, 9, 20, 39], [5], list(range(2, 40, 3))])
def test_missing_slices_are_those_of_one_volume(kept):
    wanted = MissingSlices(VOXELS, [k for k in range(VOXELS) if k not in kept], axis=0)
    measure, interpolate, observed = sampled(torch.tensor(kept), 1e-3)
    assert measure.argmax(1).tolist() == kept
    torch.testing.assert_close(measure, torch.eye(VOXELS)[kept])
    assert_near(interpolate, interpolation_matrix(torch.tensor(kept), VOXELS))
    assert observed.tolist() == wanted.measured.float().tolist()
    clean = torch.rand(VOXELS, 3, 2, generator=seeded())
    assert_near(torch.einsum("hs,st...->ht...", interpolate @ measure, clean), wanted.observe(wanted.degrade(clean)).y)


@pytest.mark.parametrize("profile", ["kspace", "rect"])
@pytest.mark.parametrize("factor", [1.3, 1.7, 2.0, 2.6])
def test_coarse_planes_are_those_of_one_volume(profile, factor):
    wanted = InPlane((VOXELS, 4, 4), (0,), factor, profile)
    centres = slice_centres(VOXELS, factor)
    measure, interpolate, observed = sampled(centres, factor, rect=profile == "rect", fourier=profile == "kspace")
    assert_near(measure, wanted.matrices[0], 1e-4)
    clean = torch.rand(VOXELS, 4, 4, generator=seeded())
    observation = wanted.observe(wanted.degrade(clean))
    assert_near(torch.einsum("hs,st...->ht...", interpolate @ measure, clean), observation.y, 1e-4)
    assert_near(observed, observation.observed[:, 0, 0])


def test_holes_are_filled_as_in_one_volume():
    image, known = torch.rand(3, 20, 24, 13, generator=seeded()), torch.rand(3, 20, 24, 13, generator=seeded(1)) > 0.3
    known[0, 5:15, 5:18] = False
    known[1] = True  # a block without holes beside blocks with them
    filled = fill_smoothly(image, known)
    for item in range(3):
        torch.testing.assert_close(filled[item], fill_smoothly(image[item], known[item]), atol=1e-6, rtol=1e-5)
    assert (filled[known] == image[known]).all()


@pytest.fixture
def clean_blocks():
    clean = phantoms.brain((24, 20, 18)) / phantoms.PEAK
    stack = torch.from_numpy(np.stack([np.roll(clean, k, axis=1) for k in range(10)]))
    return Blocks(stack, torch.ones(10, dtype=torch.bool), torch.zeros(10, dtype=torch.long))


@pytest.fixture
def no_noise(monkeypatch):
    for kind in DEGRADATIONS.values():
        monkeypatch.setattr(kind, "noise_on_top", kind.noise_on_top._replace(chance=0.0))


def test_what_was_measured_without_noise_stays(clean_blocks, no_noise):
    tasks = torch.tensor([TASK["noise"], TASK["gap"], TASK["region"]] * 3 + [TASK["region"]])
    measured = batches.measure(clean_blocks, seeded(), tasks)
    assert not measured.sigma.any()
    assert measured.thickness.tolist() == [1.0] * 10
    seen = measured.observed == 1
    assert ((measured.observed == 0) | seen).all()
    torch.testing.assert_close(measured.y[seen], clean_blocks.clean[seen], atol=1e-6, rtol=0)
    whole = seen.flatten(1).all(1)
    assert whole[tasks == TASK["noise"]].all()
    assert not whole[tasks == TASK["gap"]].all()
    assert not whole[tasks == TASK["region"]].any()


def test_a_damaged_block_is_what_one_volume_would_be(clean_blocks, monkeypatch):
    """With every draw at two fifths of its range: thick Gaussian slices, k-space planes, no noise."""
    monkeypatch.setattr(batches, "uniform", lambda count, low, high, _: torch.full((count,), low + 0.4 * (high - low)))
    measured = batches.measure(clean_blocks, seeded(), torch.tensor([TASK["thick"], TASK["in-plane"]] * 5))
    spacing = math.exp(math.log(1.3) + 0.4 * (math.log(8) - math.log(1.3)))
    centres = (torch.arange(30, dtype=torch.float64) + 0.1) * spacing - 0.5
    thick = ThickSlices(24, 0, spacing, centres=centres[centres < 23.5])
    plane = InPlane((24, 20, 18), (0, 1), 1.3 + 0.4 * 1.3)
    for item, degradation in enumerate((thick, plane) * 5):
        wanted = degradation.observe(degradation.degrade(clean_blocks.clean[item]))
        torch.testing.assert_close(measured.y[item], wanted.y, atol=1e-4, rtol=0)
        torch.testing.assert_close(measured.observed[item], wanted.observed.float(), atol=1e-5, rtol=0)
        assert measured.thickness[item].item() == pytest.approx(wanted.thickness, rel=1e-5)
    assert not measured.sigma.any()


def test_noise_has_the_level_that_is_told_but_for_the_doubt():
    flat = Blocks(torch.full((40, 16, 16, 16), 0.6), torch.ones(40, dtype=torch.bool), torch.zeros(40).long())
    measured = batches.measure(flat, seeded(), torch.full((40,), TASK["noise"]))
    result = (measured.y - 0.6).flatten(1).std(1)
    level = measured.sigma.flatten(1).square().mean(1).sqrt()
    assert ((result / level).log().abs() < 0.6).all()  # doubt: 0.15 of the logarithm
    assert 0.05 < float((result / level).log().std()) < 0.3
    varying = measured.sigma.flatten(1).std(1) / level > 1e-3
    assert varying.any()
    assert not varying.all()


def test_thick_slices_are_not_thickened_again():
    isotropic = torch.arange(400) < 200
    tasks = batches.draw_tasks(isotropic, seeded())
    thin = (tasks == TASK["thick"]) | (tasks == TASK["gap"])
    assert thin[:200].any()
    assert not thin[200:].any()
    assert set(tasks[200:].tolist()) == {TASK["noise"], TASK["in-plane"], TASK["region"]}


def test_channels_of_a_plane_are_those_that_verbs_use(clean_blocks):
    context = PLANES.context
    measured = batches.measure(clean_blocks._replace(clean=clean_blocks.clean[..., 6 : 6 + context]), seeded())
    result = batches.batch_channels(measured, PLANES)
    for item in range(len(result)):
        fields = (measured.y[item], measured.observed[item], measured.sigma[item], float(measured.thickness[item]))
        torch.testing.assert_close(result[item], measured_channels(*fields, PLANES)[context // 2])


def test_channels_of_a_volume_are_those_that_verbs_use(clean_blocks):
    measured = batches.measure(clean_blocks, seeded())
    result = batches.batch_channels(measured, VOLUMES)
    for item in range(len(result)):
        fields = (measured.y[item], measured.observed[item], measured.sigma[item], float(measured.thickness[item]))
        torch.testing.assert_close(result[item], measured_channels(*fields, VOLUMES)[0])


@pytest.mark.parametrize("task", [name for name, share in family_shares().items() if share])
def test_every_family_of_damage_can_be_learned_from(task, clean_blocks):
    tasks = torch.full((10,), TASK[task])
    measured = batches.measure(clean_blocks, seeded(), tasks)
    assert measured.y.shape == measured.observed.shape == measured.sigma.shape == clean_blocks.clean.shape
    assert all(torch.isfinite(field).all() for field in measured[:4])
    assert ((measured.y - clean_blocks.clean).flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("task", [name for name, share in family_shares().items() if share])
def test_damage_to_one_block_is_seen_on_its_grid(task):
    clean, generator = torch.rand(40, 32, 5), seeded()
    observation, sigma = measure_one(clean, draw_damage(task, tuple(clean.shape), generator), generator)
    assert observation.y.shape == clean.shape
    assert sigma.expand_as(clean).shape == clean.shape


# --- CT ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ct_scan():
    """Body in air, with two draws of noise beside it that can be told apart."""
    voxels = np.zeros((40, 36, 32), np.uint16)
    voxels[6:34, 6:30] = 1064  # 40 HU
    noise = np.random.default_rng(0).normal(size=(2, *voxels.shape)) * np.array([20, 40]).reshape(2, 1, 1, 1)
    packed = scan(voxels, scale=1 / 2000)
    return dataclasses.replace(packed, modality="CT abdomen", shift=-0.012, noise=noise.round().astype(np.int16))


def test_blocks_of_ct_come_with_their_noise_and_are_not_augmented(ct_scan):
    blocks = Corpus([ct_scan, ct_scan]).draw(24, (16, 16, 16), seeded())
    assert blocks.modality is CT
    assert augmented(blocks, seeded()) is blocks
    body = blocks.clean > 0.4
    torch.testing.assert_close(blocks.clean[body], torch.full((int(body.sum()),), 0.52))
    levels = blocks.noise.flatten(1).std(1) * 2000
    assert ((levels - 20).abs() < 3).any()
    assert ((levels - 40).abs() < 6).any()
    assert (((levels - 20).abs() < 3) | ((levels - 40).abs() < 6)).all()


def test_low_dose_noise_comes_before_thick_slices_and_its_level_is_given(ct_scan):
    blocks = Corpus([ct_scan]).draw(60, (32, 16, 16), seeded())
    families = family_shares("ct")
    assert families["in-plane"] == 0
    seen = set(batches.measure(blocks, seeded()).task.tolist())
    assert seen == {TASK[name] for name in ("noise", "thick", "gap", "region")}
    measured = batches.measure(blocks, seeded(1), torch.full((60,), TASK["noise"]))
    body = blocks.clean > 0.25
    error = [float((y - clean)[b].std()) for y, clean, b in zip(measured.y, blocks.clean, body, strict=True)]
    level = measured.sigma.flatten(1)[:, 0]
    assert np.corrcoef(np.log(error), level.log())[0, 1] > 0.95
    thick = batches.measure(blocks, seeded(2), torch.full((60,), TASK["thick"]))
    sigma = thick.sigma.flatten(1)[:, 0]
    assert (sigma == 0).float().mean() > 0.4  # the full dose
    assert sigma.max() < level.max()  # averaged


def test_scans_of_two_modalities_are_not_drawn_together(ct_scan):
    with pytest.raises(InputError, match="of the 2 packed scans are CT and others MR; a network learns one"):
        Corpus([scan(numbered((4, 4, 4))), ct_scan])
