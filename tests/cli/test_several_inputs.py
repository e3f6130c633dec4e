"""Several inputs on one command line: each scan has a place of its own, a bad one stops no other."""

import json
import shutil
import zipfile

import numpy as np
import phantoms
import phantoms_dicom
import pytest

import medldm
from medldm.cli import main
from medldm.io.discovery import find_cases

SHAPE = (24, 24, 12)


def scan(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    return phantoms.save(path, phantoms.brain(SHAPE) + level, dtype=np.int16)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder: two subjects whose scans are called alike, a series, a zip, a list, something broken."""
    monkeypatch.chdir(tmp_path)
    scan(tmp_path / "a.nii.gz"), scan(tmp_path / "b.nii.gz", 1)
    scan(tmp_path / "x" / "T1.nii.gz", 2), scan(tmp_path / "y" / "T1.nii.gz", 3)
    phantoms_dicom.write_series(tmp_path / "series", phantoms.brain(SHAPE).astype(np.int16))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.write(tmp_path / "a.nii.gz", "in/T1.nii.gz")
    (tmp_path / "list.txt").write_text("y/T1.nii.gz\n")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:1500])
    return tmp_path


@pytest.fixture
def denoise(tiny_model, stub_network, capsys):
    def run(*arguments):
        code = main(["denoise", *map(str, arguments), "--model", str(tiny_model)])
        return code, capsys.readouterr().err

    return run


def statuses(out="OUT"):
    with open(f"{out}/summary.json") as file:
        return {row["case"]: row["status"] for row in json.load(file)}


def results(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz"))


def test_files_beside_each_other_lie_beside_each_other(here, denoise):
    code, said = denoise("a.nii.gz", "b.nii.gz", "OUT/")
    assert code == 0, said
    assert results(here / "OUT") == ["a.nii.gz", "b.nii.gz"]
    assert "2 cases: 2 done" in said


def test_equal_names_mirror_their_folders(here, denoise):
    assert denoise("x/T1.nii.gz", "y/T1.nii.gz", "OUT")[0] == 0
    assert results(here / "OUT") == ["x/T1.nii.gz", "y/T1.nii.gz"]
    x, y = (medldm.read(here / "OUT" / name / "T1.nii.gz").voxels for name in "xy")
    assert not np.array_equal(x, y)


def test_files_folders_zips_series_and_lists_go_together(here, denoise):
    code, said = denoise("a.nii.gz", "x", "packed.zip", "list.txt", "series", "OUT")
    assert code == 0, said
    assert results(here / "OUT") == ["a.nii.gz", "packed/in/T1.nii.gz", "x/T1.nii.gz", "y/T1.nii.gz"]
    assert list((here / "OUT" / "dicom" / "series").glob("*.dcm"))
    assert set(statuses().values()) == {"done"}


def test_whatever_is_named_twice_is_done_once(here, denoise):
    code, said = denoise("x/T1.nii.gz", "x", "./x/../x/T1.nii.gz", "a.nii.gz", "OUT")
    assert code == 0, said
    assert results(here / "OUT") == ["a.nii.gz", "x/T1.nii.gz"]


def test_dots_in_a_path_lead_no_result_out_of_out(here, denoise, monkeypatch):
    (here / "x" / "deep").mkdir()
    monkeypatch.chdir(here / "x" / "deep")
    assert denoise("../../y/T1.nii.gz", "../T1.nii.gz", "OUT")[0] == 0
    assert results(here / "x" / "deep" / "OUT") == ["x/T1.nii.gz", "y/T1.nii.gz"]


def test_a_bad_one_is_reported_and_the_others_are_done(here, denoise):
    (here / "empty").mkdir()
    code, said = denoise("a.nii.gz", "cut.nii.gz", "nowhere.nii.gz", "empty", "OUT")
    assert code == 8
    assert statuses() == {"a": "done", "cut": "failed", "empty": "failed", "nowhere": "failed"}
    assert "nowhere.nii.gz does not exist. Check the path." in said
    assert "empty is an empty folder." in said


def test_when_none_exists_nothing_is_done(here, denoise):
    code, said = denoise("p.nii.gz", "q.nii.gz", "OUT")
    assert code == 3
    assert "None of the 2 inputs exists, the first being p.nii.gz." in said
    assert not (here / "OUT").exists()


@pytest.mark.parametrize("out", ["b.nii.gz", "new.nii.gz", "list.txt"])
def test_a_file_cannot_hold_several_results(out, here, denoise):
    before = (here / "b.nii.gz").read_bytes()
    code, said = denoise("a.nii.gz", "x", out, "--overwrite")
    assert code == 2
    assert "2 inputs need a folder as OUT, the last path" in said
    assert (here / "b.nii.gz").read_bytes() == before


def test_options_may_stand_anywhere(here, denoise):
    code, said = denoise("a.nii.gz", "--noise", "0.05", "b.nii.gz", "-q", "OUT")
    assert code == 0, said
    assert results(here / "OUT") == ["a.nii.gz", "b.nii.gz"]
    assert denoise("a.nii.gz")[0] == 2
    assert denoise("a.nii.gz", "b.nii.gz", "--nois", "5", "OUT")[0] == 2


def test_patterns_choose_among_them(here, denoise):
    assert denoise("a.nii.gz", "x", "y", "OUT", "--include", "*T1*", "--exclude", "y/*")[0] == 0
    assert results(here / "OUT") == ["x/T1.nii.gz"]


def test_a_run_is_resumed_sharded_rehearsed_and_reported(here, denoise):
    named = ["a.nii.gz", "x", "y", "OUT"]
    code, said = denoise(*named, "--dry-run")
    assert code == 0
    assert "3 cases: 3 to do" in said
    assert not (here / "OUT").exists()
    assert denoise(*named, "--shard", "1/2")[0] == denoise(*named, "--shard", "2/2")[0] == 0
    assert set(statuses()) == {"a", "x/T1", "y/T1"}
    code, said = denoise(*named, "--report")
    assert code == 0
    assert said.count("already done") == 3
    assert (here / "OUT" / "report.html").exists()


@pytest.mark.slow
def test_workers_share_them(here, denoise, tiny_model, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.undo()  # workers are processes of their own, with the true network
    arguments = [str(here / name) for name in ("x/T1.nii.gz", "y/T1.nii.gz", "OUT")]
    assert main(["denoise", *arguments, "--noise", "0.05", "--workers", "2", "--model", str(tiny_model)]) == 0
    assert results(here / "OUT") == ["x/T1.nii.gz", "y/T1.nii.gz"]


def test_the_record_of_each_repeats_it(here, denoise, capsys, monkeypatch):
    assert denoise("a.nii.gz", "packed.zip", "y", "OUT")[0] == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    for name in ("a", "packed/in/T1", "y/T1"):
        record = here / "OUT" / f"{name}_medldm.json"
        assert main(["rerun", str(record), str(here / "again.nii.gz"), "--overwrite"]) == 0
        assert "byte for byte" in capsys.readouterr().err
        command = json.loads(record.read_text())["command"]
        assert command[:2] == ["medldm", "denoise"]
        assert command[2] in (str(here / "a.nii.gz"), str(here / "packed.zip"), str(here / "y" / "T1.nii.gz"))


def test_results_inside_a_named_folder_are_no_input(here, denoise):
    for _ in range(2):
        assert denoise("x", "y", "x/OUT")[0] == 0
        assert set(statuses("x/OUT")) == {"x/T1", "y/T1"}


def test_a_list_whose_folder_holds_its_results_does_not_feed_on_them(here, denoise):
    (here / "all.txt").write_text("x\ny\n")
    for _ in range(2):
        assert denoise("all.txt", "x/OUT")[0] == 0
        assert set(statuses("x/OUT")) == {"x/T1", "y/T1"}


def test_the_result_of_another_scan_of_that_name_is_not_replaced(here, denoise):
    assert denoise("x/T1.nii.gz", "OUT")[0] == 0
    before = (here / "OUT" / "T1.nii.gz").read_bytes()
    code, said = denoise("y/T1.nii.gz", "OUT")
    assert code == 2
    assert f"is the result of {here}/x/T1.nii.gz, not of y/T1.nii.gz. Say --overwrite" in said
    assert (here / "OUT" / "T1.nii.gz").read_bytes() == before
    scan(here / "x" / "T1.nii.gz", 9)  # the same scan, exported again
    assert denoise("x/T1.nii.gz", "OUT")[0] == 0
    assert denoise("y/T1.nii.gz", "OUT", "--overwrite")[0] == 0
    shutil.move(here / "y", here / "z")
    code, said = denoise("z/T1.nii.gz", "OUT")
    assert code == 0
    assert "already done" in said


def test_a_bids_dataset_is_named_alone(here, denoise):
    (here / "x" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    scan(here / "x" / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    code, said = denoise("x", "a.nii.gz", "OUT")
    assert code == 2
    assert "x is a BIDS dataset, and its results become a dataset of their own. Name it alone" in said


def test_scans_of_a_bids_dataset_may_be_named_one_by_one(here, denoise):
    names = [f"ds/sub-{number}/anat/sub-{number}_T1w.nii.gz" for number in (1, 2)]
    for number, name in enumerate(names):
        scan(here / name, number)
    assert denoise(*names, "OUT")[0] == 0
    assert results(here / "OUT") == [name.removeprefix("ds/") for name in names]


def test_inspect_looks_at_several(here, capsys):
    assert main(["inspect", "a.nii.gz", "--json", "x", "y", "--exclude", "y/*"]) == 0
    assert [scan["name"] for scan in json.loads(capsys.readouterr().out)] == ["a", "x/T1"]
    assert main(["inspect", "a.nii.gz", "cut.nii.gz"]) == 8
    assert "cut: failed" in capsys.readouterr().out
    assert [finding.name for finding in medldm.inspect([here / "a.nii.gz", here / "y"])] == ["a", "y/T1"]


def test_images_of_one_series_named_one_by_one_are_one_scan(here):
    (case,) = find_cases(sorted((here / "series").iterdir()))
    assert len(case.files) == 12
    assert case.place.as_posix() == "series-003"
