"""The benchmark on phantoms, with methods that need no weights: fair, seeded, resumable."""

import numpy as np
import phantoms
import pytest

from medldm.benchmark import run
from medldm.benchmark.protocol import CORE, trials
from medldm.benchmark.tables import difference, read_scores
from medldm.errors import MedldmError


@pytest.fixture
def scan(tmp_path):
    (tmp_path / "data").mkdir()
    path = phantoms.save(tmp_path / "data" / "p1_T1w.nii.gz", phantoms.brain((64, 66, 60)), dtype=np.int16)
    return {"path": str(path), "file": path.name, "subject": "p1", "modality": "MR T1w", "source": "drawn"}


@pytest.mark.parametrize("row", CORE, ids=lambda row: row.name)
def test_every_row_damages_the_same_way_each_time(row, scan):
    (once,), (again,) = list(trials(row, scan)), list(trials(row, scan))
    assert np.array_equal(once.measured.voxels, again.measured.voxels)
    assert once.reference.shape == once.scored.shape
    assert once.scored.any()


def test_the_truth_measured_again_is_consistent(scan):
    row = next(row for row in CORE if row.name == "thick-3.7mm")
    (trial,) = trials(row, scan)
    import torch

    again = trial.degradation.degrade(torch.from_numpy(np.array(trial.reference)))
    assert np.allclose(again.numpy(), trial.measured.voxels, atol=1e-5)


def test_a_table_is_written_and_a_second_run_computes_nothing(scan, tmp_path):
    wanted = {"tasks": ("noise-3", "thick-4mm", "gap-of-3"), "methods_wanted": ("nothing", "linear", "cubic", "tv")}
    table = run(tmp_path / "data", tmp_path / "out", **wanted)
    text = table.read_text()
    assert "| thick-4mm | 1 |" in text
    scores = read_scores(tmp_path / "out" / "scores.csv")
    by = {(score["row"], score["method"]): score["psnr"] for score in scores}
    assert by["noise-3", "tv"] > by["noise-3", "nothing"]
    assert by["thick-4mm", "linear"] > by["thick-4mm", "nothing"]
    before = (tmp_path / "out" / "scores.csv").read_bytes()
    run(tmp_path / "data", tmp_path / "out", **wanted)
    assert (tmp_path / "out" / "scores.csv").read_bytes() == before


def test_scans_acquired_thick_are_no_reference_for_thin_slices(tmp_path):
    path = phantoms.save(tmp_path / "t.nii.gz", phantoms.brain((40, 40, 16)), np.diag([1, 1, 4, 1.0]), dtype=np.int16)
    scan = {"path": str(path), "file": path.name, "subject": "t", "modality": "MR", "source": ""}
    assert not list(trials(next(row for row in CORE if row.name == "thick-4mm"), scan))
    assert list(trials(next(row for row in CORE if row.name == "noise-3"), scan))


def test_an_effect_comes_with_its_interval():
    mean, low, high = difference({"a": 2.0, "b": 3.0, "c": 4.0}, {"a": 1.0, "b": 2.0, "c": 3.0})
    assert mean == low == high == 1.0


def test_unknown_rows_and_methods_are_refused(tmp_path):
    for wrong in ({"tasks": ("song",)}, {"methods_wanted": ("magic",), "tasks": ("noise-3",)}):
        phantoms.save(tmp_path / "x.nii.gz", phantoms.brain((16, 16, 16)))
        with pytest.raises(MedldmError, match=r"song|magic"):
            run(tmp_path, tmp_path / "out", **wrong)
