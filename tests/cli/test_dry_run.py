"""A dry run says what the run would do: the same refusals in the same words with the same exit code, and no file."""

import json
import shutil

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pytest

from medldm.cli import main

SHAPE = (24, 24, 12)


@pytest.fixture
def case(tmp_path, tiny_model, monkeypatch):
    """A folder with a scan, a tree, a series, masks and models, as the current one."""
    monkeypatch.chdir(tmp_path)
    voxels = phantoms.brain(SHAPE)
    phantoms.save(tmp_path / "scan.nii.gz", voxels, dtype=np.int16)
    gap = voxels.copy()
    gap[:, :, 5] = 0
    phantoms.save(tmp_path / "gap.nii.gz", gap, dtype=np.int16)
    phantoms.save(tmp_path / "flat.nii.gz", voxels[:, :, 5:6], np.diag([1, 1, 5, 1]), dtype=np.int16)
    phantoms.save(tmp_path / "zero.nii.gz", np.zeros(SHAPE, np.int16))
    phantoms.save(tmp_path / "labels.nii.gz", voxels // 300, dtype=np.int16)
    phantoms.save(tmp_path / "func.nii.gz", np.stack([voxels] * 3, -1), dtype=np.int16)
    region = np.zeros(SHAPE, np.uint8)
    region[10:14, 10:14, 5:7] = 1
    phantoms.save(tmp_path / "mask.nii.gz", region)
    phantoms.save(tmp_path / "wrong.nii.gz", region[:-1])
    shifted = np.eye(4)
    shifted[0, 3] = 3
    phantoms.save(tmp_path / "shifted.nii.gz", region, shifted)
    phantoms.save(tmp_path / "full.nii.gz", np.ones(SHAPE, np.uint8))
    phantoms.save(tmp_path / "mask4d.nii.gz", np.stack([region] * 2, -1))
    (tmp_path / "text.nii.gz").write_text("words")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "scan.nii.gz").read_bytes()[:1500])
    phantoms_dicom.write_series(tmp_path / "series", voxels.astype(np.int16))
    phantoms_dicom.write_series(
        tmp_path / "unnamed", voxels.astype(np.int16), edit=lambda image, k: delattr(image, "StudyInstanceUID")
    )
    phantoms_dicom.write_series(tmp_path / "twice", voxels.astype(np.int16), along=[*range(11), 10])
    tree = tmp_path / "tree"
    for name in ("a", "b/c"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "gap.nii.gz", tree / f"{name}.nii.gz")
    shutil.copy(tmp_path / "cut.nii.gz", tree / "cut.nii.gz")
    shutil.copy(tmp_path / "flat.nii.gz", tree / "flat.nii.gz")
    for name, changes in {"ct": {"modality": "ct"}, "few": {"verbs": ["denoise"]}, "bad": {"sha256": "0" * 64}}.items():
        shutil.copytree(tiny_model.parent, tmp_path / name)
        card = tmp_path / name / tiny_model.name
        card.write_text(json.dumps(json.loads(card.read_text()) | {"name": name} | changes))
    (tmp_path / "others" / "dicom" / "series-003").mkdir(parents=True)
    (tmp_path / "others" / "dicom" / "series-003" / "notes.txt").write_text("mine")
    (tmp_path / "a_file").write_text("mine")
    return tmp_path


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


REFUSED = [
    (["fill-slices", "scan.nii.gz", "o.nii.gz", "--missing", "99"], 2, "slices 0 to 11"),
    (["fill-slices", "scan.nii.gz", "o.nii.gz", "--missing", "3-1000000000000"], 2, "slices 0 to 11"),
    (["fill-slices", "scan.nii.gz", "o.nii.gz", "--missing", "5-3"], 2, "Say 3-5"),
    (["fill-slices", "scan.nii.gz", "o.nii.gz", "--missing", "all"], 2, "like 12,13,40-44"),
    (["fill-slices", "scan.nii.gz", "o.nii.gz", "--missing", "0-10"], 2, "too little"),
    (["fill-slices", "tree", "out", "--missing", "5-3"], 2, "Say 3-5"),
    (["fill-slices", "tree", "out", "--missing", "99"], 8, "slices 0 to 11"),
    (["fill-slices", "flat.nii.gz", "o.nii.gz"], 3, "nothing between slices"),
    (["fill-slices", "scan.nii.gz", "o.nii.gz", "--missing", "3", "--model", "few"], 4, "cannot fill-slices"),
    (["super-resolve", "flat.nii.gz", "o.nii.gz"], 3, "single slice"),
    (["super-resolve", "scan.nii.gz", "o.nii.gz", "--spacing", "0.5", "--noise", "7"], 2, "more than all signal"),
    (["super-resolve", "scan.nii.gz", "o.nii.gz", "--spacing", "0.5,0.5"], 2, "three"),
    (["denoise", "scan.nii.gz", "o.nii.gz", "--noise", "7"], 2, "more than all signal"),
    (["denoise", "scan.nii.gz", "o.nii.gz", "--modality", "ct"], 4, "restores MR"),
    (["denoise", "scan.nii.gz", "o.nii.gz", "--model", "ct"], 4, "restores CT"),
    (["denoise", "scan.nii.gz", "o.nii.gz", "--model", "bad"], 4, "are damaged"),
    (["denoise", "scan.nii.gz", "o.nii.gz", "--model", "nowhere"], 4, "no model 'nowhere'"),
    (["denoise", "scan.nii.gz", "o.nii.gz", "--device", "cuda:9"], 4, "no device"),
    (["denoise", "scan.nii.gz", "o.nii.gz", "--volume", "1"], 2, "no volume 1"),
    (["denoise", "func.nii.gz", "o.nii.gz"], 3, "--volume"),
    (["denoise", "func.nii.gz", "o.nii.gz", "--volume", "9"], 2, "no volume 9"),
    (["denoise", "zero.nii.gz", "o.nii.gz"], 3, "zero everywhere"),
    (["denoise", "labels.nii.gz", "o.nii.gz"], 3, "label map"),
    (["denoise", "cut.nii.gz", "o.nii.gz"], 3, "truncated"),
    (["denoise", "text.nii.gz", "o.nii.gz"], 3, "text.nii.gz"),
    (["denoise", "nowhere.nii.gz", "o.nii.gz"], 3, "does not exist"),
    (["denoise", "scan.nii.gz", "scan.nii.gz"], 2, "OUT is IN"),
    (["denoise", "scan.nii.gz", "gap.nii.gz"], 2, "exists already"),
    (["denoise", "scan.nii.gz", "a_file/o.nii.gz"], 2, "is no folder"),
    (["denoise", "scan.nii.gz", "a_file"], 2, "is a file that is not an image"),
    (["denoise", "scan.nii.gz", "o.png"], 2, "does not write"),
    (["denoise", "scan.nii.gz", "x" * 230 + ".nii.gz"], 2, "File name too long"),
    (["denoise", "scan.nii.gz", "out", "--format", "dicom"], 2, "is NIfTI"),
    (["denoise", "series", "o.nii.gz", "--format", "dicom"], 2, "--format says dicom"),
    (["denoise", "unnamed", "out"], 3, "no StudyInstanceUID"),
    (["denoise", "series", "others", "--overwrite"], 2, "holds other files"),
    (["denoise", "tree/a.nii.gz", "tree", "--overwrite"], 2, "would replace"),
    (["denoise", "twice", "out"], 3, "--fix"),
    (["denoise", "tree", "out"], 8, "truncated"),
    (["denoise", "tree", "out", "--scheduler", "tcp://127.0.0.1:9"], 8, "No Dask scheduler answers"),
    (["denoise", "tree", "out", "--fail-fast"], 8, "were not finished"),
    (["inpaint", "scan.nii.gz", "o.nii.gz"], 2, "needs --mask"),
    (["inpaint", "scan.nii.gz", "o.nii.gz", "--mask", "nowhere.nii.gz"], 2, "does not exist"),
    (["inpaint", "scan.nii.gz", "o.nii.gz", "--mask", "wrong.nii.gz"], 3, "23 x 24 x 12"),
    (["inpaint", "scan.nii.gz", "o.nii.gz", "--mask", "shifted.nii.gz"], 3, "3 mm"),
    (["inpaint", "scan.nii.gz", "o.nii.gz", "--mask", "full.nii.gz"], 2, "covers all"),
    (["inpaint", "scan.nii.gz", "o.nii.gz", "--mask", "mask4d.nii.gz"], 3, "4D"),
    (["inpaint", "scan.nii.gz", "o.nii.gz", "--mask", "text.nii.gz"], 3, "text.nii.gz"),
    (["restore", "gap.nii.gz", "o.nii.gz", "--noisy-from-mr", "0", "--model", "few"], 4, "cannot fill-slices"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"), REFUSED, ids=[" ".join(arguments)[:70] for arguments, _, _ in REFUSED]
)
def test_a_dry_run_refuses_what_the_run_refuses(arguments, code, said, case, tiny_model, capsys, monkeypatch):
    monkeypatch.setattr("medldm.batch.dask_cluster.CONNECT_TIMEOUT_S", 1)  # for the scheduler that is not there
    arguments = arguments if "--model" in arguments else [*arguments, "--model", str(tiny_model)]
    before = everything(case)
    refusals = []
    for more in (["--dry-run"], []):
        assert main([*arguments, *more]) == code, arguments
        lines = capsys.readouterr().err.splitlines()
        refused = [line for line in lines if said in line]
        assert refused, lines
        refusals.append(refused[0])
        if more:
            assert everything(case) == before
    assert refusals[0] == refusals[1]


PROMISED = [
    (["fill-slices", "scan.nii.gz", "o.nii.gz", "--missing", "3,5-6"], "done"),
    (["fill-slices", "gap.nii.gz", "o.nii.gz"], "done"),
    (["fill-slices", "scan.nii.gz", "o.nii.gz"], "unchanged"),
    (["super-resolve", "scan.nii.gz", "o.nii.gz", "--spacing", "0.8"], "done"),
    (["super-resolve", "scan.nii.gz", "o.nii.gz"], "unchanged"),
    (["denoise", "flat.nii.gz", "o.nii.gz"], "done"),
    (["denoise", "series", "out"], "done"),
    (["inpaint", "scan.nii.gz", "o.nii.gz", "--mask", "mask.nii.gz"], "done"),
    (["restore", "gap.nii.gz", "o.nii.gz"], "done"),
    (["super-resolve", "unnamed", "out", "--spacing", "3"], "unchanged"),  # a copy cites nothing
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "status"), PROMISED, ids=[" ".join(arguments) for arguments, _ in PROMISED])
def test_what_a_dry_run_promises_is_done(arguments, status, case, tiny_model, capsys):
    arguments, before = [*arguments, "--model", str(tiny_model)], everything(case)
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert ("would write a copy" in said) == (status == "unchanged")
    assert "would write" in said
    assert everything(case) == before
    assert main(arguments) == 0
    assert f"{status}: " in capsys.readouterr().err


def test_no_samples_are_promised_of_a_model_that_draws_none(case, tmp_path, capsys):
    model = phantoms.tiny_model(tmp_path / "model", flow=False)
    arguments = ["denoise", "scan.nii.gz", "o.nii.gz", "--samples", "4", "--model", str(model)]
    for more in (["--dry-run"], []):
        assert main([*arguments, *more]) == 2
        assert "--samples 1" in capsys.readouterr().err


def test_no_uncertainty_is_promised_of_a_model_without_a_spread_head(case, tmp_path, capsys):
    model = phantoms.tiny_model(tmp_path / "model", spread=False)
    arguments = ["denoise", "scan.nii.gz", "o.nii.gz", "--uncertainty", "--model", str(model)]
    for more in (["--dry-run"], []):
        assert main([*arguments, *more]) == 2
        assert "no spread head" in capsys.readouterr().err
    assert not (case / "o.nii.gz").exists()


def test_a_dry_run_of_a_tree_tells_each_case_as_the_run_would(case, tiny_model, capsys):
    """The network never runs, though every case that it would see is counted."""
    arguments = ["fill-slices", "tree", "out", "--model", str(tiny_model)]
    assert main([*arguments, "--dry-run"]) == 8
    assert "4 cases: 2 to do, 1 failed, 1 refused" in capsys.readouterr().err
    assert main(arguments) == 8
    assert "4 cases: 2 done, 1 failed, 1 refused" in capsys.readouterr().err
    assert nib.load(case / "out" / "b" / "c.nii.gz").shape == SHAPE
