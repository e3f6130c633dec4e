"""What restore decides, and what inspect says about it."""

from dataclasses import replace

import numpy as np
import phantoms
import pytest

from medldm.data.volume import Stored
from medldm.qc.inspection import inspect, make_plan
from medldm.settings import Restore


def verbs(volume, **options):
    return [step.verb for step in make_plan(volume, Restore(**options)).steps]


def noisy(volume, share):
    return volume.with_voxels(phantoms.rician(volume.voxels, share * phantoms.WHITE).astype(np.float32))


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((1.0, 1.0, 1.0), []),
        ((1.0, 1.0, 1.5), []),  # not above 1.5 mm
        ((1.0, 1.0, 1.6), ["super-resolve"]),
        ((1.4, 1.4, 2.0), []),  # not above 1.5 times the planes
        ((0.5, 0.5, 5.0), ["super-resolve"]),
    ],
)
def test_thick_slices_are_thinned(spacing, expected):
    assert verbs(phantoms.phantom((40, 44, 24), spacing)) == expected


def test_the_wanted_spacing_is_that_of_the_planes_but_not_below_1_mm():
    for in_plane, wanted in ((0.5, 1.0), (1.2, 1.2)):
        (step,) = make_plan(phantoms.phantom((40, 44, 24), (in_plane, in_plane, 5.0)), Restore()).steps
        assert step.options["spacing"] == pytest.approx((in_plane, in_plane, wanted))


def test_missing_slices_are_filled_first_and_noise_goes_last():
    thick = noisy(phantoms.phantom((48, 56, 40), (1.0, 1.0, 4.0)), 0.08)
    assert verbs(phantoms.with_missing_slices(thick, [12])) == ["fill-slices", "super-resolve", "denoise"]


def test_noise_below_the_threshold_is_left_alone():
    scan = noisy(phantoms.phantom((48, 56, 40)), 0.08)
    assert verbs(scan) == ["denoise"]
    assert verbs(scan, noisy_from_mr=0.5) == []


def test_settings_that_would_make_slices_thicker_plan_nothing():
    assert verbs(phantoms.phantom((40, 44, 24), (0.5, 0.5, 0.9)), thick_from=0.8) == []


def test_a_turned_scan_gets_a_word_about_its_axis():
    plan = make_plan(phantoms.phantom((24, 44, 40), (5.0, 1.0, 1.0)), Restore())
    assert plan.steps == ()
    assert "--axis 0" in plan.text()


def test_one_slice_is_no_stack():
    assert verbs(replace(phantoms.one_slice(), stored=Stored(modality="mr"))) == []


def test_inspect_tells_scans_masks_and_wrecks_apart(tmp_path):
    phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain(), dtype=np.int16)
    phantoms.save(tmp_path / "seg.nii.gz", phantoms.brain() // 300, dtype=np.int16)
    phantoms.save(tmp_path / "four.nii.gz", np.stack([phantoms.brain((24, 24, 12))] * 2, -1), dtype=np.int16)
    (tmp_path / "bad.nii.gz").write_text("these are words")
    findings = {finding.name: finding for finding in inspect(tmp_path)}
    assert {name: one.status for name, one in findings.items()} == {
        "scan": "restorable",
        "seg": "skipped",
        "four": "skipped",
        "bad": "failed",
    }
    assert "MR 48 x 56 x 40 voxels of 1 x 1 x 1 mm, RAS, int16" in findings["scan"].lines()[1]


def test_what_does_not_fit_into_memory_is_not_looked_at(tmp_path, monkeypatch):
    phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    monkeypatch.setattr("medldm.qc.inspection.free_bytes", lambda: 10_000)
    (finding,) = inspect(tmp_path)
    assert finding.status == "failed"
    assert "0.0 GiB are free" in finding.reason
