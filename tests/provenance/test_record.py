"""What a record says is kept, whichever version wrote it."""

import json
from pathlib import Path

import numpy as np
import phantoms
import pytest

from medldm.batch.summary import Row
from medldm.cli import main
from medldm.data.volume import Step
from medldm.io.sidecars import read_record
from medldm.provenance import RunRecord, Source
from medldm.provenance.record import VERSION
from medldm.qc.inspection import inspect
from medldm.report import write_page
from medldm.report.facts import facts_of

OLD = sorted((Path(__file__).parent / "records").glob("*.json"))  # as medldm wrote them before records had a version


@pytest.fixture
def unknown(tmp_path):
    """A result of a task and a record version that this medldm does not know."""
    phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain((24, 24, 12)), np.diag([1, 1, 4.0, 1]), dtype=np.int16)
    record = RunRecord(
        task="imagine",
        settings={"seed": 1},
        facts={"modality": "us", "noise_level": 0.04, "notes": ["a note"], "dream": {"depth": 2}},
        source=Source(root=str(tmp_path / "in.nii.gz"), sha256="0"),
        result="scan.nii.gz",
        result_sha256="0",
        version=VERSION + 1,
    )
    (tmp_path / "scan_medldm.json").write_text(record.text())
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_old_records_are_read_without_a_loss(path):
    data = json.loads(path.read_text())
    record = RunRecord.from_json(data)
    assert record.version == 1
    assert record.repeatable
    assert json.loads(record.text()) == {**data, "record_version": 1}
    assert record.model == "brain-mri-2d"
    assert record.seconds == data["timings"]["seconds"]
    assert record.source.files == tuple(data["input"]["files"])


def test_what_is_read_of_an_old_record():
    record = RunRecord.from_json(json.loads(OLD[-1].read_text()))
    assert record.task == "restore"
    assert [step["verb"] for step in record.plan] == ["fill-slices", "super-resolve", "denoise"]
    assert (record.filled_slices, record.invented_slices) == ((7,), tuple(range(64)))
    assert record.outside_of_card == ("intensity", "anatomy")
    assert record.noise_level == pytest.approx(0.04748)
    assert not record.unchanged


def test_a_record_is_read_as_it_was_written():
    record = RunRecord(
        task="denoise",
        settings={"noise": 0.05},
        facts={"seed": 0},
        plan=({"verb": "denoise", "reason": "noise"},),
        said="1. denoise: noise",
        command=("medldm", "denoise"),
    )
    assert RunRecord.from_json(json.loads(record.text())) == record


def test_keys_of_a_later_version_are_kept(unknown):
    record = read_record(unknown)
    assert record.version == VERSION + 1
    assert record.facts["dream"] == {"depth": 2}
    assert record.to_json()["dream"] == {"depth": 2}


@pytest.mark.parametrize("value", [None, "x", 3, [1, "a"], {"a": []}, True])
def test_values_of_another_type_count_as_not_given(value):
    names = [*RunRecord().to_json(), "plan", "invented_slices", "notes", "interval", "noise_level", "outside_of_card"]
    record = RunRecord.from_json(dict.fromkeys(names, value))
    for name, kind in (("invented_slices", tuple | None), ("notes", tuple), ("noise_level", float | None)):
        assert isinstance(getattr(record, name), kind)
    assert isinstance(record.source.files, tuple)
    assert record.interval is None
    assert not record.repeatable


def test_a_step_is_a_record_without_files():
    facts = {"model": "m", "seconds": 2.5, "plan": [{"verb": "denoise", "reason": "noise"}], "medldm": "0.1.0"}
    record = RunRecord.of_step(Step("restore", {"seed": 3}, facts))
    assert (record.model, record.seconds, record.medldm, record.plan[0]["verb"]) == ("m", 2.5, "0.1.0", "denoise")
    assert dict(record.facts) == {"model": "m"}


def test_a_record_of_an_unknown_task_is_shown(unknown, capsys):
    (facts,) = facts_of([Row("scan", "done", result=str(unknown))], unknown.parent, width=10)
    assert (facts.task, facts.notes) == ("imagine", ("a note",))
    page = write_page([Row("scan", "done", result=str(unknown))], unknown.parent).read_text()
    assert "<small>imagine</small>" in page
    (finding,) = inspect(unknown)
    assert "imagine" in finding.facts["outside_of_card"]["restored"]
    assert main(["rerun", str(unknown.with_name("scan_medldm.json"))]) == 3
    assert "has no task 'imagine'" in capsys.readouterr().err
