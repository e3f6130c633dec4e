"""The maps beside a result: plain standard deviation, and half widths where they were calibrated."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest

from medldm.batch.ledger import HALF_WIDTH, STD, Result
from medldm.batch.publish import remove_maps, stage_maps
from medldm.cli import main
from medldm.data.volume import Step
from medldm.errors import InputError
from medldm.io import read
from medldm.io.atomic import staged_name

FACTS = {"model": "tiny", "sha256": "ab" * 32, "seed": 0, "steps": 4, "medldm": "0.1.0"}


def with_maps(volume, half_width=True):
    spread = np.linspace(1, 2, volume.voxels.size, dtype=np.float32).reshape(volume.shape)
    done = volume.with_voxels(np.asarray(volume.voxels, np.float32), step=Step("denoise", {}, FACTS))
    return replace(done, std=spread, half_width=3 * spread if half_width else None)


def write_maps(volume, record):
    for path in stage_maps(volume, record):
        staged_name(path).replace(path)


def test_both_maps_lie_beside_a_nifti_result_and_old_ones_go(tmp_path):
    source = phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain((20, 24, 12)), dtype=np.int16)
    record = Result(tmp_path / "out.nii.gz")
    volume = with_maps(read(source))
    write_maps(volume, record)
    std, half = (nib.load(record.map_path(kind)).get_fdata() for kind in (STD, HALF_WIDTH))
    assert np.allclose(half, 3 * std)
    assert np.allclose(std, volume.to_stored(volume.std))
    assert stage_maps(with_maps(read(source), half_width=False), record) == [record.map_path(STD)]
    remove_maps(record)
    assert not record.map_path(STD).exists()
    assert not record.map_path(HALF_WIDTH).exists()


def test_a_dicom_result_gets_parametric_maps_beside_its_folder(tmp_path):
    series = phantoms_dicom.write_series(tmp_path / "in", phantoms.brain((32, 36, 8)).astype(np.int16))
    record = Result(tmp_path / "series-003")
    write_maps(with_maps(read(series)), record)
    std, half = (pydicom.dcmread(tmp_path / f"series-003_{name}.dcm") for name in ("std", "halfwidth"))
    assert std.ContentLabel == "MEDLDM_STD"
    assert half.ContentLabel == "MEDLDM_HALFWIDTH"
    assert np.allclose(half.pixel_array, 3 * std.pixel_array)
    assert std.SeriesInstanceUID != half.SeriesInstanceUID
    assert std.SeriesNumber != half.SeriesNumber


def test_a_header_that_no_map_can_be_made_of_does_not_cost_the_series(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise InputError("no map can be made of series-003.")

    series = phantoms_dicom.write_series(tmp_path / "in", phantoms.brain((32, 36, 8)).astype(np.int16))
    monkeypatch.setattr("medldm.io.dicom.writing.parametric_map.write_uncertainty", refuse)
    assert stage_maps(with_maps(read(series)), Result(tmp_path / "series-003")) == []
    assert "no map can be made" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nifti", "dicom"])
def test_one_answer_of_the_shipped_set_comes_with_both_maps(form, tmp_path, capsys):
    """Without samples; the run is known as done, and `rerun` makes the same maps."""
    voxels = phantoms.rician(phantoms.brain((48, 48, 9))[..., 2:6], 60).astype(np.int16)
    if form == "nifti":
        source, suffix = phantoms.save(tmp_path / "scan.nii.gz", voxels, np.diag([1, 1, 8, 1.0])), ".nii.gz"
    else:
        source, suffix = phantoms_dicom.write_series(tmp_path / "scan", voxels), ".dcm"
    run = ["denoise", str(source), str(tmp_path / "out"), "--uncertainty", "--model", "brain-mri-2d"]
    assert main(run) == 0
    maps = {path.name.rpartition("_")[2] for path in (tmp_path / "out").rglob(f"*_*{suffix}")}
    assert maps == {f"std{suffix}", f"halfwidth{suffix}"}
    assert main(run) == 0
    assert "already done" in capsys.readouterr().err
    record = next((tmp_path / "out").rglob("*_medldm.json"))
    again = tmp_path / "again" / ("scan.nii.gz" if form == "nifti" else "scan")
    again.parent.mkdir()
    assert main(["rerun", str(record), str(again)]) == 0
    for kind in ("std", "halfwidth"):
        assert len(list(again.parent.rglob(f"*_{kind}{suffix}"))) == 1


def test_samples_of_a_shipped_set_are_refused_with_what_to_do(tmp_path, capsys):
    scan = phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain((24, 24, 12)).astype(np.int16), np.eye(4))
    for asked in (["--samples", "4"], ["--fidelity", "0.5"]):
        assert main(["denoise", str(scan), str(tmp_path / "out.nii.gz"), "--noise", "0.05", *asked]) == 2
        said = capsys.readouterr().err
        assert "has no flow" in said
        assert "--uncertainty" in said
    assert not (tmp_path / "out.nii.gz").exists()
