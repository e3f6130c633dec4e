"""Scans outside what a card covers are reported; scans inside are not."""

import json
from dataclasses import replace

import numpy as np
import phantoms
import pytest

import medldm
from medldm.data.volume import Step, Stored, Volume
from medldm.io import read, read_nifti, write_nifti
from medldm.qc import ood
from medldm.qc.inspection import inspect
from medldm.samples import sample_path
from medldm.zoo import Card, card, cards


def brain(seed):
    """Brains that differ in size, brightness and noise, as subjects do."""
    draw = np.random.default_rng(seed)
    shape = tuple(int(size) for size in draw.integers((44, 52, 40), (54, 62, 50)))
    voxels = phantoms.brain(shape) ** draw.uniform(0.9, 1.1)
    noisy = phantoms.rician(voxels, 0.02 * voxels.max(), seed).astype(np.float32)
    return Volume(noisy, np.diag([3.0, 3.0, 3.0, 1.0]), name=f"brain {seed}", stored=Stored(modality="mr"))


def card_with(limits, **fields):
    return Card(
        **{
            "name": "brains",
            "title": "",
            "modality": "mr",
            "spatial_dims": 2,
            "role": "restorer",
            "verbs": (),
            "architecture": {},
            "weights": "",
            "sha256": "",
            "licence": "",
            "ood": limits,
            **fields,
        }
    )


@pytest.fixture(scope="module")
def covered():
    """A card fitted on twelve brains, its limits chosen on four others."""
    described = [ood.describe(brain(seed), "mr") for seed in range(16)]
    return card_with(json.loads(json.dumps(ood.fit(described[:12], described[12:]))))


def test_a_new_brain_is_no_alarm(covered):
    assert ood.check(brain(99), covered) == {}


def test_a_cylinder_and_a_box_are_not_brains(covered):
    at = phantoms.coordinates((50, 56, 44))
    for inside in (np.hypot(at[..., 0], at[..., 1]) < 0.9, (np.abs(at) < 0.8).all(-1)):
        voxels = phantoms.rician(1000.0 * inside, 20).astype(np.float32)
        scan = Volume(voxels, np.diag([3.0, 3.0, 3.0, 1.0]), name="bottle", stored=Stored(modality="mr"))
        warnings = ood.check(scan, covered)
        assert {"intensity", "anatomy"} & set(warnings)
        assert all("bottle" in message and "there" in message for message in warnings.values())


def test_ct_is_reported_whatever_the_user_said(covered):
    scan = phantoms.ct((64, 64, 40))
    said = scan.with_voxels(scan.voxels, stored=replace(scan.stored, modality="mr"))
    assert "modality" in ood.check(said, covered)
    assert "modality" in ood.check(phantoms.phantom(), card_with({}, modality="ct"))


def test_voxels_of_a_size_never_seen_are_reported_but_not_those_of_a_single_slice(covered):
    scan = phantoms.phantom(spacing=(1.0, 1.0, 9.0))
    assert "9 mm" in ood.check(scan, covered)["spacing"]
    assert "spacing" not in ood.check(replace(scan, voxels=scan.voxels[:, :, :1]), covered)


def test_too_few_slices_to_judge_are_said_so(covered):
    assert "few slices" in ood.check(phantoms.one_slice((80, 88)), covered)


def test_lost_slices_do_not_hide_the_anatomy(covered):
    scan = brain(99)
    gaps = scan.with_voxels(np.where(np.arange(scan.shape[2]) % 4 == 0, scan.voxels, np.float32(np.nan)))
    assert set(ood.check(gaps, covered)) <= {"texture"}
    assert "anatomy" in ood.describe(gaps, "mr")


def test_a_result_says_that_it_is_one(tmp_path, covered):
    scan = phantoms.phantom()
    done = scan.with_voxels(scan.voxels, step=Step("denoise"))
    write_nifti(done, tmp_path / "done.nii.gz")
    write_nifti(scan, tmp_path / "scan.nii.gz")
    again = read_nifti(tmp_path / "done.nii.gz")
    assert again.stored.restored_by == "denoise"
    assert "restored" in ood.check(again, covered)
    assert read_nifti(tmp_path / "scan.nii.gz").stored.restored_by == ""
    # A mark that somebody's converter dropped: the record beside the file still tells.
    (tmp_path / "scan_medldm.json").write_text(json.dumps({"task": "inpaint", "result": "scan.nii.gz"}))
    assert read(tmp_path / "scan.nii.gz").stored.restored_by == "inpaint"


def test_the_same_task_twice_in_one_process_is_reported(covered):
    scan = brain(99).with_voxels(brain(99).voxels, step=Step("denoise"))
    assert "restored" in ood.check(scan, covered, "denoise")
    assert ood.check(scan, covered, "fill-slices") == {}


def test_a_residual_unlike_those_of_validation_is_reported():
    limits = {"residual": {"denoise": {"low": 0.5, "high": 1.1}, "super-resolve": {"low": 0.0, "high": 0.01}}}
    model_card = card_with(limits)
    assert ood.check_residual(model_card, "denoise", 0.03, 0.03, in_noise=True) == {}
    assert "2.00" in ood.check_residual(model_card, "denoise", 0.06, 0.03, in_noise=True)["consistency"]
    assert "consistency" in ood.check_residual(model_card, "super-resolve", 0.09, 0.03)
    assert ood.check_residual(model_card, "fill-slices", 0.0, 0.0) == {}
    assert ood.check_residual(card_with({}), "denoise", 9.0, 0.03, in_noise=True) == {}


def test_inspect_warns(tmp_path):
    path = phantoms.save(tmp_path / "far.nii.gz", phantoms.brain(), np.diag([1.0, 1.0, 9.0, 1.0]), dtype=np.int16)
    (finding,) = inspect(path)
    assert "spacing" in finding.facts["outside_of_card"]
    assert any(line.startswith("  warning: ") and "9 mm" in line for line in finding.lines())


def test_a_card_that_says_nothing_of_its_training_scans_is_not_taken_for_one_that_covers_all(covered):
    assert ood.missing_reference(brain(99), covered) == ""
    assert "nobody can tell" in ood.missing_reference(brain(99), card_with({}))
    assert "nobody can tell" in ood.missing_reference(brain(99), card_with({"residual": {}}))


def test_every_shipped_set_for_brains_knows_a_brain_from_a_bottle():
    """Whichever of them somebody names; they were trained on the same scans, and look at them in the same way."""
    at = phantoms.coordinates((50, 56, 44))
    voxels = phantoms.rician(1000.0 * (np.hypot(at[..., 0], at[..., 1]) < 0.9), 20).astype(np.float32)
    bottle = Volume(voxels, np.diag([3.0, 3.0, 3.0, 1.0]), name="bottle", stored=Stored(modality="mr"))
    for shipped in cards():
        if shipped.modality == "mr" and shipped.role != "generator":
            assert {"intensity", "anatomy"} & set(ood.check(bottle, shipped)), shipped.name
            assert ood.check(medldm.read(sample_path("mr")), shipped) == {}, shipped.name


def test_where_nothing_can_be_compared_record_and_inspection_say_so(tmp_path, tiny_model, monkeypatch):
    """A set whose card does not say what it covers."""
    path = phantoms.save(tmp_path / "head.nii.gz", brain(3).voxels, np.eye(4), dtype=np.int16)
    monkeypatch.setattr("medldm.qc.inspection.best", lambda *_, **__: card(str(tiny_model)))
    (finding,) = inspect(path)
    assert any(line.startswith("  note: tiny-2d") and "nobody can tell" in line for line in finding.lines())
    done = medldm.denoise(medldm.read(path), noise=0.02, modality="mr", model=str(tiny_model))
    assert any("nobody can tell" in note for note in done.history[-1].facts["notes"])


def test_a_card_covers_what_its_model_was_trained_on_later_and_before(covered):
    """Fine-tuning on bottles: bottles are no alarm then, brains are none still, a box is one."""
    at = phantoms.coordinates((50, 56, 44))

    def scan(inside, seed):
        voxels = phantoms.rician(1000.0 * inside, 20, seed).astype(np.float32)
        return Volume(voxels, np.diag([3.0, 3.0, 3.0, 1.0]), name="scan", stored=Stored(modality="mr"))

    bottle, box = np.hypot(at[..., 0], at[..., 1]) < 0.9, (np.abs(at) < 0.8).all(-1)
    tuned = card_with(ood.extended(covered.ood, [ood.describe(scan(bottle, seed), "mr") for seed in (1, 2)]))
    assert ood.check(scan(bottle, 3), covered)
    assert ood.check(scan(bottle, 3), tuned) == {}
    assert ood.check(brain(99), tuned) == {}
    assert "anatomy" in ood.check(scan(box, 3), tuned)


def test_one_scan_shows_no_limits():
    numbers = ood.describe(brain(1), "mr")
    assert ood.fit([numbers, numbers], [numbers]) == {}
