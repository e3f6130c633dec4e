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
from medldm.inference.uncertainty import (
    Interval,
    distance_to_measured,
    local_contrast,
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
    card["calibration"] = {"coverage": 0.9, "verbs": VERBS}
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


def test_another_fidelity_gets_no_interval_and_a_reason():
    interval = Interval(0.01, 0.3, 0.0, 0.0, 2.0)
    assert why_not(interval, Denoise(), "m") == why_not(interval, Denoise(samples=4), "m") == ""
    assert "--fidelity 1" in why_not(interval, Denoise(samples=4, fidelity=0.5), "m")
    assert "no calibrated interval" in why_not(None, Denoise(), "m")


def test_a_run_carries_its_half_width_in_stored_units(calibrated):
    scan = phantoms.phantom((32, 32, 16))
    noisy = scan.with_voxels(phantoms.rician(scan.voxels, 50).astype(np.float32))
    restored = medldm.denoise(noisy, 0.05, **calibrated)
    assert restored.half_width is not None
    unit = np.percentile(noisy.voxels[noisy.voxels > 300], 99.5)
    least = 2 * np.sqrt(0.01**2 + (0.3 * 0.05) ** 2) * unit
    assert restored.half_width.min() >= 0.9 * least
    assert restored.history[-1].facts["interval"]["q"] == 2.0
    drawn = medldm.denoise(noisy, 0.05, samples=2, **calibrated)
    assert not np.array_equal(drawn.std, restored.std)
    assert np.corrcoef(drawn.half_width.ravel(), restored.half_width.ravel())[0, 1] > 0.9


def test_copied_slices_are_certain_and_the_middle_of_a_gap_is_not(calibrated):
    scan = phantoms.with_missing_slices(phantoms.phantom((32, 32, 17)), [7, 8, 9])
    filled = medldm.fill_slices(scan, **calibrated)
    half = filled.half_width
    assert not half[..., [6, 10]].any()
    assert (half[..., 8] > half[..., 7]).mean() > 0.9


def test_a_card_without_calibration_says_so(tiny_model):
    scan = phantoms.phantom((32, 32, 16))
    restored = medldm.denoise(scan, 0.05, model=str(tiny_model))
    assert restored.half_width is None
    assert any("no calibrated interval" in note for note in restored.history[-1].facts["notes"])
    assert card(str(tiny_model)).calibration == {}


def test_a_half_width_belongs_to_its_voxels(phantom):
    with pytest.raises(ValueError, match="half_width"):
        replace(phantom, half_width=np.zeros((2, 2, 2), np.float32))


THIN = {  # stacks that the networks see in their own planes only, and planes that are refined
    "four slices": ((48, 48, 4), (1, 1, 8), "denoise", {"noise": 0.05}),
    "one slice": ((48, 48, 1), (1, 1, 5), "denoise", {"noise": 0.05}),
    "many thick slices": ((40, 40, 12), (1, 1, 5), "denoise", {"noise": 0.05}),
    "a region of four slices": ((48, 48, 4), (1, 1, 8), "inpaint", {}),
    "coarse planes": ((32, 32, 6), (2, 2, 2), "super_resolve", {"spacing": (1.0, 1.0, 2.0)}),
    "restored": ((48, 48, 4), (1, 1, 1.2), "restore", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", THIN)
def test_one_answer_has_its_spread_and_its_interval_in_every_kind_of_stack(kind):
    """With the shipped set."""
    shape, spacing, verb, options = THIN[kind]
    voxels = phantoms.rician(phantoms.brain((*shape[:2], max(shape[2], 9)))[..., 2 : 2 + shape[2]], 60)
    scan = Volume(voxels.astype(np.float32), np.diag([*spacing, 1.0]), name="stack", stored=Stored(modality="mr"))
    more = (np.pad(np.ones((8, 8, 2), bool), ((20, 20), (20, 20), (1, 1))),) if verb == "inpaint" else ()
    result = getattr(medldm, verb)(scan, *more, model="brain-mri-2d", **options)
    changed = result.std > 0
    assert changed.any()
    assert np.isfinite(result.std).all()
    assert result.half_width.shape == result.voxels.shape
    assert (result.half_width[changed] > 0).all()


@pytest.mark.slow
def test_samples_of_the_research_flow_differ():
    """And the interval stays that of the spread head, which was calibrated."""
    scan = phantoms.phantom((40, 40, 16))
    noisy = scan.with_voxels(phantoms.rician(scan.voxels, 50).astype(np.float32))
    for verb, how in (("denoise", {"noise": 0.05}), ("fill_slices", {"missing": [7, 8]})):
        alone = getattr(medldm, verb)(noisy, model="brain-mri-2d", **how)
        drawn = getattr(medldm, verb)(noisy, model=str(phantoms.RESEARCH_FLOW), samples=4, **how)
        assert np.median(drawn.std[drawn.std > 0]) > 1
        assert not np.array_equal(drawn.voxels, alone.voxels)
        assert np.corrcoef(drawn.half_width.ravel(), alone.half_width.ravel())[0, 1] > 0.99
