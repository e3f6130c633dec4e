"""Intervals: the formula, where it applies, and what a run says about it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm.data.volume import Stored, Volume
from medldm.degradations import Observation
from medldm.inference.uncertainty import (
    Interval,
    distance_to_measured,
    local_contrast,
    mean_and_spread,
    no_spread,
    pooled,
    remoteness,
    why_not,
)
from medldm.settings import Denoise
from medldm.zoo import card

VERBS = {"denoise": {"still": 0.01, "noisy": 0.3, "far": 0.0, "busy": 0.0, "q": 2.0}}
VERBS["fill-slices"] = {"still": 0.0, "noisy": 0.0, "far": 0.3, "busy": 0.0, "q": 2.0}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The tiny pipeline, with a calibration on its card."""
    path = phantoms.tiny_model(tmp_path_factory.mktemp("calibrated"))
    card = json.loads(path.read_text())
    card["calibration"] = {"coverage": 0.9, "samples": 4, "steps": 4, "verbs": VERBS}
    Path(path).write_text(json.dumps(card))
    return {"model": str(path)}


def test_the_interval_is_the_formula():
    observed = torch.zeros(5, 5, 9)
    observed[..., [0, 8]] = 1
    mean = torch.linspace(0, 1, 9).expand(5, 5, 9)
    interval = Interval(still=0.01, noisy=0.5, far=0.02, busy=0.1, q=3.0)
    half = interval.half_width(mean, torch.full((5, 5, 9), 0.04), torch.full((1, 1, 1), 0.06), observed)
    slope = float(np.std([0, 1 / 8, 2 / 8]))  # along the last axis; along the others nothing changes
    for place in (1, 4, 7):
        floor = 0.01**2 + (0.5 * 0.06) ** 2 + 0.02**2 * float(remoteness(observed)[2, 2, place]) + (0.1 * slope) ** 2
        assert half[2, 2, place] == pytest.approx(3 * np.sqrt(0.04**2 + floor), rel=1e-4)


def test_distances_count_from_the_nearest_measured_voxel():
    observed = torch.ones(3, 3, 7)
    assert not distance_to_measured(observed).any()
    observed[..., 2:5] = 0
    assert distance_to_measured(observed)[1, 1].tolist() == [0, 0, 1, 2, 1, 0, 0]


def test_a_gap_among_lone_slices_is_more_remote_than_one_between_slabs():
    slabs = torch.ones(4, 4, 61)
    slabs[..., 29:32] = 0
    lone = torch.zeros(4, 4, 61)
    lone[..., 0::4] = 1
    assert not remoteness(torch.ones(4, 4, 61)).any()
    assert remoteness(slabs)[1, 1, 30] == pytest.approx(2 * 0.15, abs=0.02)  # three of some twenty slices
    assert remoteness(lone)[1, 1, 30] == pytest.approx(2 * 0.75, abs=0.02)


def test_local_contrast_is_that_of_the_neighbours():
    image = torch.zeros(7, 7, 7)
    image[3:] = 1
    assert local_contrast(image)[[0, 2, 3, 6], 3, 3].tolist() == pytest.approx([0, 2**0.5 / 3, 2**0.5 / 3, 0], abs=1e-5)


def test_pooling_keeps_the_mean_variance_and_calms_its_estimate():
    draws = torch.randn(4, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    _, std = mean_and_spread(lambda number: draws[number], 4)
    assert std is not None
    calm = pooled(std)
    assert calm.pow(2).mean() == pytest.approx(float(std.pow(2).mean()), rel=0.05)
    assert calm.std() < 0.4 * std.std()


def test_fewer_samples_or_another_fidelity_get_no_interval_and_a_reason():
    interval = Interval(0.01, 0.3, 0.0, 0.0, 2.0)
    assert why_not(interval, Denoise(samples=4), "m") == ""
    assert "--samples 4" in why_not(interval, Denoise(samples=2), "m")
    assert "--fidelity 1" in why_not(interval, Denoise(samples=4, fidelity=0.5), "m")
    assert "no calibrated interval" in why_not(None, Denoise(samples=4), "m")


def test_a_run_carries_its_half_width_in_stored_units(calibrated):
    scan = phantoms.phantom((32, 32, 16))
    noisy = scan.with_voxels(phantoms.rician(scan.voxels, 50).astype(np.float32))
    restored = medldm.denoise(noisy, 0.05, samples=4, **calibrated)
    assert restored.half_width is not None
    unit = np.percentile(noisy.voxels[noisy.voxels > 300], 99.5)
    least = 2 * np.sqrt(0.01**2 + (0.3 * 0.05) ** 2) * unit
    assert restored.half_width.min() >= 0.9 * least
    assert restored.history[-1].facts["interval"]["q"] == 2.0
    alone = medldm.denoise(noisy, 0.05, **calibrated)
    assert alone.std is None
    assert alone.half_width is None


def test_copied_slices_are_certain_and_the_middle_of_a_gap_is_not(calibrated):
    scan = phantoms.with_missing_slices(phantoms.phantom((32, 32, 17)), [7, 8, 9])
    filled = medldm.fill_slices(scan, samples=4, **calibrated)
    half = filled.half_width
    assert not half[..., [6, 10]].any()
    assert (half[..., 8] > half[..., 7]).mean() > 0.9


def test_a_card_without_calibration_says_so(tiny_model):
    scan = phantoms.phantom((32, 32, 16))
    restored = medldm.denoise(scan, 0.05, samples=2, model=str(tiny_model))
    assert restored.half_width is None
    assert any("no calibrated interval" in note for note in restored.history[-1].facts["notes"])
    assert card(str(tiny_model)).calibration == {}


def test_a_half_width_belongs_to_its_voxels(phantom):
    with pytest.raises(ValueError, match="half_width"):
        replace(phantom, half_width=np.zeros((2, 2, 2), np.float32))


def test_zeros_are_no_spread_and_a_thousandth_of_one_orientation_neither():
    seen = Observation(torch.ones(6, 6, 6), torch.ones(1, 1, 1).expand(6, 6, 6))
    for size, orientations, expected in (
        (0.0, 1, True),
        (5e-4, 1, True),
        (2e-3, 1, False),
        (5e-4, 3, False),
        (0.0, 3, True),
    ):
        message = no_spread(torch.full((6, 6, 6), size), seen, orientations, copies=False)
        assert bool(message) == expected
        assert ("the same planes" in message) == (expected and orientations == 1)
    gap = torch.ones(6, 6, 6)
    gap[..., 3] = 0
    spread = torch.where(gap < 1, 0.01, 0.0)
    assert not no_spread(spread, Observation(seen.y, gap), 1, copies=True)  # of what was filled, not of all
    assert no_spread(1 - gap, Observation(seen.y, torch.where(gap < 1, 1.0, 0.0)), 1, copies=True)


ONE_ORIENTATION = {  # stacks whose noise or region is looked at in their own planes only, and planes that are refined
    "four slices": ((48, 48, 4), (1, 1, 8), "denoise", {"noise": 0.05}),
    "one slice": ((48, 48, 1), (1, 1, 5), "denoise", {"noise": 0.05}),
    "many thick slices": ((40, 40, 12), (1, 1, 5), "denoise", {"noise": 0.05}),
    "a region of four slices": ((48, 48, 4), (1, 1, 8), "inpaint", {}),
    "coarse planes": ((32, 32, 6), (2, 2, 2), "super_resolve", {"spacing": (1.0, 1.0, 2.0)}),
    "restored": ((48, 48, 4), (1, 1, 1.2), "restore", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ONE_ORIENTATION)
def test_draws_that_do_not_differ_have_no_spread_but_a_message(kind, caplog):
    """With the shipped set: its samples differ by the planes they are drawn in, and here there is one way only."""
    caplog.set_level("WARNING", "medldm")
    shape, spacing, verb, options = ONE_ORIENTATION[kind]
    voxels = phantoms.rician(phantoms.brain((*shape[:2], max(shape[2], 9)))[..., 2 : 2 + shape[2]], 60)
    scan = Volume(voxels.astype(np.float32), np.diag([*spacing, 1.0]), name="stack", stored=Stored(modality="mr"))
    more = (np.pad(np.ones((8, 8, 2), bool), ((20, 20), (20, 20), (1, 1))),) if verb == "inpaint" else ()
    result = getattr(medldm, verb)(scan, *more, samples=4, model="brain-mri-2d", **options)
    facts = result.history[-1].facts
    assert result.std is None
    assert "no standard deviation of the samples of stack" in facts["no_spread"]
    assert facts["no_spread"] in facts["notes"]
    assert facts["no_spread"] in caplog.text
    if verb == "denoise":  # calibrated for one orientation: that interval has a floor of its own
        assert (result.half_width > 0).all()


@pytest.mark.slow
def test_draws_that_differ_keep_their_spread():
    scan = phantoms.phantom((40, 40, 16))
    noisy = scan.with_voxels(phantoms.rician(scan.voxels, 50).astype(np.float32))
    for result in (
        medldm.denoise(noisy, 0.05, samples=3, model="brain-mri-2d"),
        medldm.fill_slices(noisy, [7, 8], samples=3, model="brain-mri-2d"),
    ):
        assert np.median(result.std[result.std > 0]) > 1
        assert "no_spread" not in result.history[-1].facts
