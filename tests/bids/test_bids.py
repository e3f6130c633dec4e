"""A BIDS dataset gives BIDS derivatives."""

import json
import re
import shutil
import subprocess

import numpy as np
import phantoms
import pytest

from medldm.batch.bids import inherited
from medldm.batch.summary import Row
from medldm.cli import main
from medldm.io.images import recorded
from medldm.io.sidecars import RESULT, read_record, record_path
from medldm.report.facts import facts_of
from medldm.tasks import TASKS

# Entities that BIDS 1.10 allows in names of anatomical derivatives, in its order.
ENTITIES = (
    "sub ses sample task acq ce trc rec dir run mod echo flip inv mt part hemi space split chunk seg res den label desc"
)


@pytest.fixture
def dataset(tmp_path):
    """Two participants, one with two sessions; a mask, and results of somebody else."""
    root = tmp_path / "raw"
    for name in (
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w",
        "sub-01/ses-b/anat/sub-01_ses-b_T2w",
        "sub-02/anat/sub-02_T1w",
        "derivatives/other/sub-02/anat/sub-02_desc-preproc_T1w",
    ):
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        phantoms.save(path, phantoms.brain((24, 24, 12)), np.diag([1, 1, 4.0, 1]), dtype=np.int16)
    (root / "dataset_description.json").write_text('{"Name": "Demo", "BIDSVersion": "1.8.0", "License": "CC0"}')
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t34\nsub-02\t29\nsub-03\t51\n")
    (root / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tdose\nses-a\t1\nses-b\t2\nses-c\t3\n")
    (root / "T1w.json").write_text('{"MagneticFieldStrength": 3, "EchoTime": 0.1}')
    own = {"EchoTime": 0.003, "PatientName": "Doe^Jane", "AcquisitionDateTime": "2020-01-01T10:00:00"}
    (root / "sub-02/anat/sub-02_T1w.json").write_text(json.dumps(own))
    return root


@pytest.fixture
def bids(stub_network, capsys):
    """The verb, its network a stub that adds one."""

    def run(*arguments):
        return main(["bids", *map(str, arguments)]), capsys.readouterr().err

    return run


def files(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_dataset_gives_derivatives_with_names_that_bids_knows(dataset, bids, tmp_path):
    out = tmp_path / "out"
    code, said = bids(dataset, out, "participant", "--task", "super-resolve", "--spacing", "1.5")
    assert code == 0, said
    images = {name for name in files(out) if name.endswith(".nii.gz")}
    assert images == {
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_res-1p5mm_desc-thin_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_res-1p5mm_desc-thin_T2w.nii.gz",
        "sub-02/anat/sub-02_res-1p5mm_desc-thin_T1w.nii.gz",
    }
    for name in images:
        entities = [part.split("-")[0] for part in name.rsplit("/", 1)[1].split("_")[:-1]]
        assert entities == sorted(entities, key=ENTITIES.split().index)
        facts = json.loads((out / name.replace(".nii.gz", ".json")).read_text())
        source = facts["Sources"][0].removeprefix("bids:raw:")
        assert (dataset / source).is_file()
        assert facts["Resolution"].endswith("mm")
    assert files(out) - images == {name.replace(".nii.gz", ".json") for name in images} | {
        "dataset_description.json", "README", ".bidsignore", "participants.tsv", "sub-01/sub-01_sessions.tsv",
        "summary.csv", "summary.json", *(f"logs/{name.removesuffix('.nii.gz')}.log" for name in images),
    }  # fmt: skip
    assert "logs/" in (out / ".bidsignore").read_text().splitlines()


def test_the_dataset_says_what_it_is_and_where_it_comes_from(dataset, bids, tmp_path):
    bids(dataset, tmp_path / "out", "participant", "--task", "denoise")
    facts = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert facts["DatasetType"] == "derivative"
    assert facts["GeneratedBy"][0]["Name"] == "medldm"
    assert facts["SourceDatasets"] == [{"URL": dataset.resolve().as_uri()}]
    assert facts["License"] == "CC0"
    assert (tmp_path / "out" / "participants.tsv").read_text() == "participant_id\tage\nsub-01\t34\nsub-02\t29\n"
    assert (tmp_path / "out" / "sub-01/sub-01_sessions.tsv").read_text() == "session_id\tdose\nses-a\t1\nses-b\t2\n"


def test_acquisition_facts_are_inherited_and_names_are_not(dataset, bids, tmp_path):
    scan = dataset / "sub-02/anat/sub-02_T1w.nii.gz"
    assert inherited(scan, dataset)["EchoTime"] == 0.003
    bids(dataset, tmp_path / "out", "participant", "--task", "denoise")
    facts = json.loads((tmp_path / "out/sub-02/anat/sub-02_desc-denoised_T1w.json").read_text())
    assert (facts["EchoTime"], facts["MagneticFieldStrength"]) == (0.003, 3)
    everything = "".join((tmp_path / "out" / name).read_text(errors="ignore") for name in files(tmp_path / "out"))
    assert "Doe^Jane" not in everything
    assert "AcquisitionDateTime" not in everything


def test_participants_are_chosen_and_strangers_are_named(dataset, bids, tmp_path):
    code, _ = bids(dataset, tmp_path / "out", "participant", "--participant-label", "sub-02", "--task", "denoise")
    assert code == 0
    assert {name.split("/")[0] for name in files(tmp_path / "out") if name.endswith(".nii.gz")} == {"sub-02"}
    code, said = bids(dataset, tmp_path / "two", "participant", "--participant-label", "99")
    assert code == 3
    assert "no sub-99; it has 01, 02" in said
    code, said = bids(dataset, tmp_path / "two", "participant", "--task", "denoise", "--spacing", "2")
    assert code == 2
    assert "--spacing" in said
    assert bids(dataset, tmp_path / "two", "group")[0] == 2
    assert bids(dataset / "sub-01", tmp_path / "two", "participant")[0] == 3


def test_derivatives_inside_the_dataset_are_done_once_and_never_restored_again(dataset, bids):
    out = dataset / "derivatives" / "medldm"
    arguments = (dataset, out, "participant", "--task", "denoise", "--samples", "2", "--uncertainty")
    code, said = bids(*arguments)
    assert code == 0, said
    assert (out / "sub-02/anat/sub-02_desc-denoisedStd_T1w.nii.gz").is_file()
    before = {name: (out / name).stat().st_mtime_ns for name in files(out) if name.endswith(".nii.gz")}
    code, said = bids(*arguments)
    assert code == 0
    assert "already done" in said
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert len(before) == 6


def test_a_record_in_bids_is_repeated(dataset, bids, tmp_path, capsys):
    bids(dataset, tmp_path / "out", "participant", "--participant-label", "02", "--task", "denoise")
    sidecar = tmp_path / "out/sub-02/anat/sub-02_desc-denoised_T1w.json"
    assert main(["rerun", str(sidecar), "--overwrite"]) == 0
    assert "byte for byte" in capsys.readouterr().err


def test_records_in_bids_are_found_by_whoever_asks_for_one(dataset, bids, tmp_path, capsys):
    """They are called scan.json there: `inspect`, the header's mark, the report and the pace all look there."""
    out = tmp_path / "out"
    arguments = ("participant", "--task", "denoise", "--samples", "2", "--uncertainty")
    bids(dataset, out, *arguments, "--participant-label", "02")
    image = out / "sub-02/anat/sub-02_desc-denoised_T1w.nii.gz"
    sidecar = record_path(image)
    assert sidecar.name == "sub-02_desc-denoised_T1w.json"
    facts = json.loads(sidecar.read_text())
    assert recorded(image) == "denoise"
    assert facts_of([Row("sub-02", "done", result=str(image))], out, width=10)[0].task == "denoise"
    sidecar.write_text(json.dumps({**facts, "interval": {"coverage": 0.9, "median_half_width": 12.5}}))
    # The map of its spread is no second scan, and the interval is that of the record.
    assert main(["inspect", "--json", str(out)]) == 0
    (scan,) = [row for row in json.loads(capsys.readouterr().out) if row["status"] == "restorable"]
    assert scan["name"] == "sub-02/anat/sub-02_desc-denoised_T1w"
    assert scan["facts"]["interval"]["median_half_width"] == 12.5
    assert main(["inspect", str(image)]) == 0
    assert "half widths, in the middle 12.5" in capsys.readouterr().out
    # Nobody has a result in the folders of the other subject, but the machine is the same.
    code, said = bids(dataset, out, *arguments, "--participant-label", "01", "--dry-run")
    assert code == 0
    assert said.count(f"at the pace of what lies in {out}") == 2


def test_a_record_that_left_its_dataset_is_found_by_its_content(dataset, bids, tmp_path):
    bids(dataset, tmp_path / "out", "participant", "--participant-label", "02", "--task", "denoise")
    (tmp_path / "away").mkdir()
    for path in (tmp_path / "out/sub-02/anat").iterdir():
        shutil.copy(path, tmp_path / "away")
    image = tmp_path / "away" / "sub-02_desc-denoised_T1w.nii.gz"
    assert read_record(image).task == "denoise"
    # A sidecar of the scanner is no record, nor is one of another image.
    (tmp_path / "away" / "sub-02_T1w.json").write_text('{"EchoTime": 0.003}')
    (tmp_path / "away" / "other.json").write_text(record_path_text(image))
    assert read_record(tmp_path / "away" / "sub-02_T1w.nii.gz") is None
    assert read_record(tmp_path / "away" / "other.nii.gz") is None


def test_the_record_of_a_series_may_lie_outside_the_folder_that_is_sent(tmp_path):
    series = tmp_path / "dicom" / "sub" / "series-003"
    series.mkdir(parents=True)
    home = tmp_path / "sub" / "series-003"
    assert record_path(series) == tmp_path / "dicom" / "sub" / "series-003_medldm.json"
    assert record_path(series, home) == tmp_path / "sub" / "series-003_medldm.json"
    home.parent.mkdir()
    record_path(series, home).write_text('{"task": "denoise"}')
    assert read_record(series).task == "denoise"


def record_path_text(image):
    return image.with_name("sub-02_desc-denoised_T1w.json").read_text()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_labels_hold_letters_and_digits(task):
    assert re.fullmatch("[A-Za-z0-9]+", task.labels.desc)
    assert RESULT.fullmatch(f"sub-1_desc-{task.labels.desc}_T1w")


def test_raw_scans_have_their_skull_unless_they_say_otherwise(dataset, bids, tmp_path):
    """Derivatives must say it."""
    (dataset / "T2w.json").write_text('{"SkullStripped": true}')
    bids(dataset, tmp_path / "out", "participant", "--task", "denoise")
    sidecars = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").rglob("sub-*_desc-*.json")}
    assert {name.split("_")[-1]: facts["SkullStripped"] for name, facts in sidecars.items()} == {
        "T1w.json": False,
        "T2w.json": True,
    }


def test_results_never_lie_among_the_scans_of_a_subject(dataset, bids):
    before = files(dataset)
    for out in (dataset / "sub-01", dataset / "sub-02" / "anat" / "new"):
        code, said = bids(dataset, out, "participant", "--task", "denoise")
        assert code == 2
        assert "of the raw dataset" in said
    assert files(dataset) == before


# The older validator (1.x) knows no names of derivatives; the one written for Deno is its successor.
@pytest.mark.skipif(not shutil.which("bids-validator-deno"), reason="bids-validator-deno is not installed")
@pytest.mark.parametrize("arguments", [["super-resolve"], ["denoise", "--samples", "2", "--uncertainty", "--report"]])
def test_the_bids_validator_accepts_the_derivatives(arguments, dataset, bids, tmp_path):
    bids(dataset, tmp_path / "out", "participant", "--task", *arguments)
    command = ["bids-validator-deno", tmp_path / "out", "--format", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(ran.stdout)
    assert sorted(report["summary"]["subjects"]) == ["01", "02"]
    assert not [issue for issue in report["issues"]["issues"] if issue["severity"] == "error"]


# What an image of each kind has to say about itself, besides what the other scans of the dataset say.
METADATA = {
    "fmap/sub-02_dir-AP_epi": {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05},
    "fmap/sub-02_magnitude": {},
    "func/sub-02_task-rest_sbref": {"TaskName": "rest", "RepetitionTime": 2.0, "EffectiveEchoSpacing": 0.0005},
    "perf/sub-02_m0scan": {"RepetitionTimePreparation": 5.0},
}


@pytest.mark.skipif(not shutil.which("bids-validator-deno"), reason="bids-validator-deno is not installed")
def test_the_bids_validator_accepts_derivatives_of_field_maps_and_references(dataset, bids, tmp_path):
    for name, facts in METADATA.items():
        path = dataset / "sub-02" / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        phantoms.save(path, phantoms.brain((24, 24, 12)), np.diag([1, 1, 4.0, 1]), dtype=np.int16)
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(facts))
    bids(dataset, tmp_path / "out", "participant", "--participant-label", "02", "--task", "denoise")
    for name, facts in METADATA.items():
        kind, suffix = name.rsplit("_", 1)
        sidecar = json.loads((tmp_path / "out" / "sub-02" / f"{kind}_desc-denoised_{suffix}.json").read_text())
        assert facts.items() <= sidecar.items()
    command = ["bids-validator-deno", tmp_path / "out", "--format", "json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    issues = json.loads(ran.stdout)["issues"]["issues"]
    assert not [issue for issue in issues if issue["severity"] == "error"]
