"""`medldm generate` from end to end: words, one scan, many, DICOM, and what is refused."""

import json
import subprocess

import numpy as np
import pydicom
import pytest
import toy_generator

import medldm
from medldm.cli import main
from medldm.errors import ModelError, UsageError
from medldm.io.sidecars import read_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Path of a generator trained for a moment."""
    return toy_generator.train_toy(tmp_path_factory.mktemp("generator"))


def generate(*arguments):
    return main(["generate", *map(str, arguments), "--steps", "3", "--no-progress"])


def test_a_scan_of_nobody_says_so_everywhere(toy, tmp_path, capsys):
    out = tmp_path / "synthetic.nii.gz"
    assert generate("T1w hippocampus, female, 34 years", out, "--model", toy) == 0
    assert "understood: contrast T1w, region hippocampus, sex female, age 34" in capsys.readouterr().err
    record = read_record(out)
    assert record.synthetic
    assert record.description == "contrast T1w, region hippocampus, sex female, age 34"
    assert list(record.invented_slices) == list(range(toy_generator.SHAPE[2]))
    assert main(["inspect", str(out)]) == 0
    assert "is synthetic: its header or its record says" in capsys.readouterr().out


def test_the_mark_is_found_when_the_record_is_lost(toy, tmp_path):
    from medldm.qc import watermark

    marked, plain = (
        medldm.generate("hippocampus", model=str(toy), steps=3, watermark=wanted).voxels for wanted in (True, False)
    )
    assert watermark.find(marked) > watermark.find(plain) + 1
    assert np.abs(marked - plain).max() < 0.25 * plain.max()


def test_equal_seeds_give_equal_bytes_and_others_others(toy, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert generate("hippocampus", tmp_path / f"{name}.nii.gz", "--model", toy, "--seed", seed) == 0
    a, b, c = ((tmp_path / f"{name}.nii.gz").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_many_scans_go_on_where_they_stopped_and_divide_into_shards(toy, tmp_path, capsys):
    out = tmp_path / "many"
    assert generate("hippocampus", out, "--model", toy, "--count", 2) == 0
    first = (out / "synthetic-00001.nii.gz").stat().st_mtime_ns
    assert generate("hippocampus", out, "--model", toy, "--count", 3) == 0
    assert capsys.readouterr().err.count("already there") == 2
    assert (out / "synthetic-00001.nii.gz").stat().st_mtime_ns == first
    for shard in ("1/2", "2/2"):
        assert generate("hippocampus", tmp_path / "shards", "--model", toy, "--count", 3, "--shard", shard) == 0
    rows = json.loads((tmp_path / "shards" / "summary.json").read_text())
    assert [row["case"] for row in rows] == [f"synthetic-0000{number}.nii.gz" for number in range(3)]
    assert (tmp_path / "shards/synthetic-00002.nii.gz").read_bytes() == (out / "synthetic-00002.nii.gz").read_bytes()


def test_other_settings_do_not_take_what_lies_there_for_theirs(toy, tmp_path, capsys):
    out = tmp_path / "one.nii.gz"
    assert generate("hippocampus", out, "--model", toy) == 0
    assert generate("hippocampus", out, "--model", toy) == 0
    assert "already there" in capsys.readouterr().err
    assert generate("hippocampus", out, "--model", toy, "--seed", 5) == 2
    assert "exists already" in capsys.readouterr().err
    assert generate("hippocampus", out, "--model", toy, "--seed", 5, "--overwrite") == 0


def test_a_scan_is_varied_by_strength(toy, tmp_path):
    scan = tmp_path / "generator" / "organ.nii.gz"
    scan.parent.mkdir()
    import nibabel as nib

    nib.save(nib.Nifti1Image(toy_generator.organ(3), np.eye(4)), scan)
    options = {"model": str(toy), "steps": 4, "like": str(scan), "watermark": False}
    kept, near, far = (
        medldm.generate("hippocampus", strength=strength, **options).voxels for strength in (0.0, 0.2, 1.0)
    )
    assert np.abs(near - kept).mean() < np.abs(far - kept).mean()
    free = medldm.generate("hippocampus", model=str(toy), steps=4, watermark=False).voxels
    assert np.array_equal(far, free)  # nothing of the scan is left


def test_a_finer_grid_is_made_by_super_resolution(toy):
    fine = medldm.generate("hippocampus", model=str(toy), steps=2, spacing=0.5)
    assert fine.shape == tuple(2 * size for size in toy_generator.SHAPE)
    assert fine.spacing == pytest.approx((0.5, 0.5, 0.5))
    assert fine.history[-1].facts["super_resolved_to_mm"] == 0.5


def test_dicom_is_a_study_of_a_patient_who_does_not_exist(toy, tmp_path, capsys):
    out = tmp_path / "series"
    assert generate("T1w hippocampus, male, 60 years", out, "--model", toy, "--format", "dicom") == 0
    files = sorted(out.glob("*.dcm"))
    assert len(files) == toy_generator.SHAPE[2]
    slices = [pydicom.dcmread(path) for path in files]
    first = slices[0]
    assert first.PatientID.startswith("SYNTHETIC-")
    assert (first.PatientSex, first.PatientAge, first.SyntheticData) == ("M", "060Y", "YES")
    assert first.SeriesDescription == "SYNTHETIC T1w hippocampus medldm RUO"
    assert len({one.SOPInstanceUID for one in slices}) == len(files)
    assert len({one.StudyInstanceUID for one in slices}) == 1
    again = medldm.read(out)
    assert again.stored.restored_by == "generate"
    nifti = tmp_path / "same.nii.gz"
    assert generate("T1w hippocampus, male, 60 years", nifti, "--model", toy) == 0
    assert np.array_equal(medldm.read(nifti).voxels, again.voxels)
    assert np.allclose(medldm.read(nifti).affine, again.affine, atol=1e-3)
    before = [path.read_bytes() for path in files]
    assert generate("T1w hippocampus, male, 60 years", out, "--model", toy, "--format", "dicom", "--overwrite") == 0
    assert before == [path.read_bytes() for path in files]


def test_dicom_is_valid(toy, tmp_path):
    import shutil

    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy is not installed (.ci/display)")
    out = tmp_path / "series"
    assert generate("hippocampus", out, "--model", toy, "--format", "dicom") == 0
    done = subprocess.run(["dciodvfy", str(out / "0003.dcm")], capture_output=True, text=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    assert [line for line in errors if "(0x0008,0x001c)" not in line] == []  # SyntheticData is younger than dciodvfy


def test_restoring_a_synthetic_scan_says_so(toy, tmp_path, capsys):
    out = tmp_path / "synthetic.nii.gz"
    generate("hippocampus", out, "--model", toy)
    assert main(["denoise", str(out), str(tmp_path / "denoised.nii.gz"), "--no-progress"]) == 0
    assert "It shows nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("",), 2, "Say what to generate"),
        (("T3",), 2, "Not understood: 't3'"),
        (("happy hippocampus",), 2, "Not understood: 'happy'"),
        (("hippocampus, 250 years",), 2, "An age of 250 makes no sense"),
        (("hippocampus", "--count", "0"), 2, "--count 0 makes no sense"),
        (("FLAIR hippocampus",), 2, "knows the contrast T1w, not FLAIR"),
        (("brain",), 2, "knows the region hippocampus, not brain"),
        (("hippocampus", "--like", "nowhere.nii.gz"), 3, "nowhere.nii.gz"),
        (("hippocampus", "--guidance", "-1"), 2, "--guidance -1 makes no sense"),
        (("hippocampus", "--shard", "1/2"), 2, "--shard divides the scans of --count"),
    ],
)
def test_bad_input_is_one_sentence(toy, tmp_path, capsys, arguments, code, sentence):
    prompt, *options = arguments
    assert generate(prompt, tmp_path / "out.nii.gz", "--model", toy, *options) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("out*"))


def test_unknown_words_may_be_left_out_on_request(toy, tmp_path, capsys):
    assert generate("happy hippocampus", tmp_path / "a.nii.gz", "--model", toy, "--ignore-unknown") == 0
    assert "not understood: 'happy'" in capsys.readouterr().err


def test_like_of_ct_is_refused(toy, tmp_path, capsys):
    import phantoms

    scan = phantoms.ct()
    path = phantoms.save(tmp_path / "ct.nii.gz", scan.voxels, scan.affine, dtype=np.int16)
    assert generate("hippocampus", tmp_path / "a.nii.gz", "--model", toy, "--like", path) == 2
    assert "is CT, what toy-generator draws is MR" in capsys.readouterr().err


def test_a_model_that_restores_cannot_draw():
    with pytest.raises(ModelError, match="restores scans and cannot draw them"):
        medldm.generate("T1w", model="brain-mri-2d")
    with pytest.raises(UsageError, match="Not understood"):
        medldm.generate("T1w, purple", model="brain-mri-2d")


def test_people_older_than_those_learned_from_are_a_guess(toy, tmp_path, capsys):
    assert generate("hippocampus, 99 years", tmp_path / "a.nii.gz", "--model", toy) == 0
    assert "learned from people of 20 to 45 years" in capsys.readouterr().err


def test_a_run_is_repeated_from_its_record(toy, tmp_path, capsys):
    out = tmp_path / "one.nii.gz"
    assert generate("hippocampus", out, "--model", toy, "--seed", 4) == 0
    record = tmp_path / "one_medldm.json"
    assert main(["rerun", str(record), str(tmp_path / "again.nii.gz"), "--no-progress"]) == 0
    assert "the same image, byte for byte" in capsys.readouterr().err
    assert (tmp_path / "again.nii.gz").read_bytes() == out.read_bytes()
    assert main(["rerun", str(record)]) == 2
    assert "would be replaced: say --overwrite" in capsys.readouterr().err
    assert generate("hippocampus", tmp_path / "series", "--model", toy, "--format", "dicom") == 0
    assert main(["rerun", str(tmp_path / "series_medldm.json"), str(tmp_path / "other"), "--no-progress"]) == 0
    assert "the same image" in capsys.readouterr().err


def test_a_scan_that_lost_its_record_when_a_run_was_killed_is_drawn_again_and_nothing_else(toy, tmp_path, capsys):
    out = tmp_path / "many"
    assert generate("hippocampus", out, "--model", toy, "--count", 2) == 0
    (out / "synthetic-00000_medldm.json").unlink()
    (out / "synthetic-00001_medldm.json").unlink()
    (out / "synthetic-00001.nii.gz").write_bytes(b"somebody's")
    assert generate("hippocampus", out, "--model", toy, "--count", 2) == 8
    assert "synthetic-00001.nii.gz exists already" in capsys.readouterr().err
    assert read_record(out / "synthetic-00000.nii.gz").synthetic
    assert (out / "synthetic-00001.nii.gz").read_bytes() == b"somebody's"


def test_a_scan_that_fails_does_not_stop_the_others(toy, tmp_path, monkeypatch, capsys):
    from medldm.inference import generation

    draw, drawn = generation.draw_voxels, []

    def sometimes(*arguments):
        drawn.append(1)
        if len(drawn) == 1:
            raise ValueError("patient Doe")
        return draw(*arguments)

    monkeypatch.setattr(generation, "draw_voxels", sometimes)
    assert generate("hippocampus", tmp_path / "many", "--model", toy, "--count", 2) == 8
    rows = json.loads((tmp_path / "many" / "summary.json").read_text())
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "a bug in medldm" in rows[0]["message"]
    assert "Doe" not in capsys.readouterr().err


def test_a_spacing_coarser_than_the_model_draws_is_a_sentence(toy, tmp_path, capsys):
    assert generate("hippocampus", tmp_path / "a.nii.gz", "--model", toy, "--spacing", "3") == 2
    assert "--spacing 3 is coarser than the 1 mm" in capsys.readouterr().err
