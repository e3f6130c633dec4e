"""`--uncertainty` with one answer: a map where the model has a spread head, a sentence where it has none."""

import nibabel as nib
import numpy as np
import phantoms
import pytest

from medldm.cli import main


@pytest.fixture
def scan(tmp_path):
    """A scan of thick slices on disk."""
    volume = phantoms.phantom(shape=(40, 48, 12), spacing=(1.0, 1.0, 4.0))
    return phantoms.save(tmp_path / "scan.nii.gz", volume.voxels, volume.affine, dtype=np.int16)


def test_one_answer_of_a_model_with_a_spread_head_gets_a_map(scan, tmp_path):
    model = phantoms.tiny_model(tmp_path / "model")
    out = tmp_path / "thin.nii.gz"
    options = ["--spacing", "1", "--model", str(model), "--uncertainty", "--quiet"]
    assert main(["super-resolve", str(scan), str(out), *options]) == 0
    spread, image = nib.load(tmp_path / "thin_std.nii.gz"), nib.load(out)
    assert spread.shape == image.shape
    np.testing.assert_allclose(spread.affine, image.affine)
    assert np.asarray(spread.dataobj).min() > 0


def test_a_model_without_one_says_what_it_needs(scan, tmp_path, capsys):
    model = phantoms.tiny_model(tmp_path / "model", spread=False)
    options = ["--spacing", "1", "--model", str(model), "--uncertainty"]
    assert main(["super-resolve", str(scan), str(tmp_path / "thin.nii.gz"), *options]) == 2
    assert "medldm models" in capsys.readouterr().err
    assert not (tmp_path / "thin.nii.gz").exists()
