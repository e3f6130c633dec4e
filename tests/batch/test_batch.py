"""Many scans, one after another: no scan is replaced, every outcome is reported, every record can be trusted."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import phantoms
import phantoms_dicom
import pytest
from PIL import Image

import medldm.tasks
from medldm.batch import Options, Result, Run, Watch, publish, steps
from medldm.batch.forecast import result_voxels
from medldm.batch.ledger import command
from medldm.batch.outputs import Protected, sweep
from medldm.batch.summary import Row, write_summary
from medldm.cli import main
from medldm.data.volume import Step
from medldm.errors import InputError, ModelError, OutputError
from medldm.io.atomic import LEFTOVER
from medldm.provenance.record import json_text
from medldm.settings import Denoise, SuperResolve


@pytest.fixture
def verb(tiny_model, capsys, monkeypatch):
    """Run a verb whose network is a stub that adds one to every voxel."""

    def stub(task, volume, settings, *, mask=None, progress=None):
        if volume.name.startswith("same"):
            return volume
        facts = {"model": "stub", "sha256": "0", "seed": 0, "invented_slices": [], "seconds": 1.0}
        facts["outside_of_card"] = ["spacing"] if volume.name.startswith("odd") else []
        return volume.with_voxels(volume.voxels + 1, step=Step(task, settings.asdict(), facts))

    monkeypatch.setattr(medldm.tasks, "run", stub)

    def run(*arguments):
        code = main([*map(str, arguments), "--model", str(tiny_model)])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def tree(tmp_path):
    """Three scans in a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        phantoms.save(folder / f"{name}.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    return folder


def rows(out, name="summary.json"):
    return {row["case"]: row["status"] for row in json.loads((out / name).read_text())}


def test_no_result_replaces_its_own_scan(tree, verb):
    before = (tree / "a.nii.gz").read_bytes()
    code, said = verb("denoise", tree / "a.nii.gz", tree, "--overwrite")
    assert code == 2
    assert "would replace a scan" in said
    assert (tree / "a.nii.gz").read_bytes() == before


def test_no_result_replaces_another_scan_or_its_mask(tmp_path):
    protected = Protected([tmp_path / "s" / "1.dcm", tmp_path / "mask.nii.gz"])
    for target in (tmp_path / "mask.nii.gz", tmp_path / "s", tmp_path):
        with pytest.raises(OutputError):
            protected.check(target)
    protected.check(tmp_path / "out.nii.gz")


@pytest.mark.parametrize("arguments", [["super-resolve", "--spacing", "3"], ["restore"], ["fill-slices"]])
def test_an_empty_scan_is_refused_even_when_nothing_would_be_done(arguments, tmp_path, verb):
    path = phantoms.save(tmp_path / "zeros.nii.gz", np.zeros((8, 8, 8), np.int16))
    code, said = verb(arguments[0], path, tmp_path / "o.nii.gz", *arguments[1:])
    assert code == 3
    assert "zero everywhere" in said
    assert not (tmp_path / "o.nii.gz").exists()


def test_an_empty_scan_in_a_tree_is_refused_by_its_path(tree, tmp_path, verb):
    phantoms.save(tree / "deep.nii.gz", np.zeros((8, 8, 8), np.int16))
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 8
    assert "refused" in rows(tmp_path / "out").values()
    assert str(tree / "deep.nii.gz") in said


def test_a_bad_file_of_an_archive_is_called_as_in_the_archive(tree, tmp_path, verb):
    (tree / "broken.nii.gz").write_bytes(b"no image")
    shutil.make_archive(str(tmp_path / "scans"), "zip", tree)
    code, said = verb("denoise", tmp_path / "scans.zip", tmp_path / "out")
    assert code == 8
    assert f"{tmp_path / 'scans.zip'}/broken.nii.gz is no NIfTI file" in said
    assert "medldm-zip" not in said + logs_of(tmp_path / "out")


@pytest.mark.parametrize("command", ["denoise", "dry run", "inspect", "read"])
def test_a_bad_file_of_an_archive_is_never_called_by_a_temporary_path(command, tmp_path, verb, capsys):
    phantoms.save(tmp_path / "cut.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as packed:
        packed.writestr("sub/cut.nii.gz", (tmp_path / "cut.nii.gz").read_bytes()[:2000])
    archive = tmp_path / "scans.zip"
    if command == "read":
        with pytest.raises(InputError) as refusal:
            medldm.read(archive)
        said = str(refusal.value)
    elif command == "inspect":
        assert main(["inspect", str(archive)]) == 3
        said = capsys.readouterr().err
    else:
        code, said = verb("denoise", archive, tmp_path / "out", *["--dry-run"] * (command == "dry run"))
        assert code == 3
    assert f"{archive}/sub/cut.nii.gz is truncated" in said
    assert "medldm-zip" not in said


def test_a_broken_archive_is_a_failure_and_the_others_go_on(tree, tmp_path, verb):
    (tree / "more.zip").write_bytes(b"PK\x03\x04 nonsense")
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 8
    assert rows(tmp_path / "out") == {"a": "done", "b": "done", "c": "done", "more": "failed"}
    assert "cannot be unpacked" in said


def test_the_only_scan_of_a_folder_may_lie_beside_a_damaged_file(tree, tmp_path, verb):
    for name in "bc":
        (tree / f"{name}.nii.gz").unlink()
    (tree / "x.dcm").write_bytes(b"")
    (tree / "backup.tar.gz").write_bytes(b"whatever")
    code, said = verb("denoise", tree, tmp_path / "o.nii.gz")
    assert code == 0
    assert "x.dcm cannot be read (empty)" in said
    assert "backup.tar.gz: medldm reads" in said
    (tree / "a.nii.gz").unlink()
    assert verb("denoise", tree, tmp_path / "o2.nii.gz")[0] == 3


def test_a_disk_that_fails_is_no_bug_of_ours(tree, tmp_path, verb, monkeypatch):
    def failing(case, options):
        raise OSError(errno.EIO, "Input/output error", str(case.source))

    monkeypatch.setattr(steps, "load", failing)
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 8
    assert "Input/output error" in said
    assert "bug" not in said


def test_a_name_that_is_too_long_for_a_result_is_a_sentence(tree, tmp_path, verb):
    (tree / "a.nii.gz").rename(tree / f"{'x' * 245}.nii.gz")
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 8
    assert "File name too long" in said
    assert "bug" not in said


def test_what_killed_runs_left_goes_after_a_day(tree, tmp_path, verb):
    out = tmp_path / "out"
    old = [
        out / ".staged-12-0123abcd-a.nii.gz",
        out / ".12-0123abcd.partial.summary.csv",
        out / ".staged-12-a.nii.gz",
        out / "sub" / ".12.partial..staged-12-b.nii.gz",
        out / f".tries-{'0' * 32}",
    ]
    new, foreign = out / ".staged-13-a.nii.gz", out / ".somebody.partial"
    for path in (*old, new, foreign):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half a file")
        if path is not new:
            os.utime(path, (0, 0))
    assert verb("denoise", tree, out)[0] == 0
    assert not [path for path in old if path.exists()]
    assert new.exists()
    assert foreign.exists()


@pytest.mark.slow
def test_two_processes_of_one_number_write_to_names_of_their_own(tmp_path):
    """In containers that share a folder, process numbers coincide."""
    names, other = {}, "import os, sys; os.getpid = lambda: 8; from pathlib import Path\n"
    other += "from medldm.io.atomic import staged_name, whole_file\n"
    other += "print(staged_name(Path('a.nii.gz')).name, end=' ')\n"
    other += "with whole_file(Path(sys.argv[1]), durable=False) as temporary: print(temporary.name); temporary.touch()"
    for number in range(2):
        ran = subprocess.run([sys.executable, "-c", other, str(tmp_path / "x")], capture_output=True, text=True)
        names[number] = ran.stdout.split()
        assert len(names[number]) == 2
        assert all("8" in name and LEFTOVER.match(name) for name in names[number])
        assert LEFTOVER.match(f".8-01234567.partial.{names[number][0]}")
    assert not set(names[0]) & set(names[1])


def test_marks_of_a_batch_that_lives_are_not_swept(tmp_path):
    living, dead = (tmp_path / f".tries-{digit * 32}" for digit in "01")
    for marks in (living, dead):
        (marks / "sub").mkdir(parents=True)
        (marks / "sub" / "a.tries").touch()
        os.utime(marks / "sub", (0, 0))
        os.utime(marks, (0, 0))
    os.utime(dead / "sub" / "a.tries", (0, 0))
    sweep(tmp_path)
    assert living.exists()
    assert not dead.exists()


def test_one_scan_has_a_report_too(tree, tmp_path, verb):
    assert verb("denoise", tree / "a.nii.gz", tmp_path / "a.nii.gz", "--report")[0] == 0
    assert "medldm report: 1 case<" in (tmp_path / "report.html").read_text()


def test_one_volume_of_a_4d_file_that_needs_nothing_is_one_volume(tmp_path, tiny_model):
    import nibabel as nib

    path = phantoms.save(tmp_path / "f.nii.gz", np.stack([phantoms.brain()] * 2, -1), dtype=np.int16)
    out = tmp_path / "o.nii.gz"
    arguments = ["super-resolve", str(path), str(out), "--volume", "1", "--spacing", "3", "--model", str(tiny_model)]
    assert main(arguments) == 0
    assert nib.load(out).shape == (48, 56, 40)


def test_an_unknown_model_is_code_4_in_a_tree_too(tree, tmp_path):
    assert main(["denoise", str(tree), str(tmp_path / "out"), "--model", "nope"]) == 4
    assert not (tmp_path / "out").exists()


def test_a_scan_that_the_model_is_not_made_for_is_refused(tree, tmp_path, tiny_model):
    phantoms.save(tree / "b.nii.gz", 2 * phantoms.brain((24, 24, 12)) - 1000, dtype=np.int16)
    arguments = ["denoise", str(tree), str(tmp_path / "out"), "--noise", "0.05", "--model", str(tiny_model)]
    assert main(arguments) == 8
    assert rows(tmp_path / "out") == {"a": "done", "b": "refused", "c": "done"}
    assert main(["denoise", str(tree / "b.nii.gz"), str(tmp_path / "b.nii.gz"), *arguments[3:]]) == 4


def test_a_model_that_is_damaged_is_a_failure_and_not_the_fault_of_the_scan(tree, tmp_path, verb, monkeypatch):
    def damaged(*_, **__):
        raise ModelError("The weights of tiny-2d are damaged.")

    monkeypatch.setattr(medldm.tasks, "run", damaged)
    assert verb("denoise", tree, tmp_path / "out")[0] == 8
    assert set(rows(tmp_path / "out").values()) == {"failed"}


def test_a_scan_outside_the_shard_is_nobodys_bug(tree, tmp_path, verb):
    assert verb("denoise", tree / "a.nii.gz", tmp_path / "o.nii.gz", "--shard", "2/2")[0] == 0
    assert not (tmp_path / "o.nii.gz").exists()


def test_shards_add_up_to_one_summary(tree, tmp_path, verb):
    out = tmp_path / "out"
    for part in (1, 2):
        assert verb("denoise", tree, out, "--shard", f"{part}/2")[0] == 0
    assert rows(out, "summary-1-of-2.json") == {"a": "done", "c": "done"}
    assert rows(out) == {"a": "done", "b": "done", "c": "done"}


def test_the_report_of_a_shard_shows_all_that_ran(tree, tmp_path, verb, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the first shard knows OUT by another path
    for part, out in ((1, "out"), (2, tmp_path / "out")):
        assert verb("denoise", tree, out, "--shard", f"{part}/2", "--report")[0] == 0
        monkeypatch.chdir(tree)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "medldm report: 3 cases<" in page
    assert page.count("data:image/jpeg") == 3


def test_a_shard_without_cases_leaves_a_table_too(tree, tmp_path, verb):
    """Who counts the tables sees that every shard ran."""
    code, _ = verb("denoise", tree, tmp_path / "out", "--shard", "9/9")
    assert code == 0
    assert rows(tmp_path / "out", "summary-9-of-9.json") == {}


def test_a_full_disk_ends_the_batch_with_a_summary_of_what_was_done(tree, tmp_path, verb, monkeypatch):
    from medldm.io.atomic import sentence

    wrote = publish.write

    def full(volume, path, **options):
        if "b.nii" in path.name:
            problem = OSError(errno.ENOSPC, "No space left on device")
            raise sentence(problem, path) from problem
        return wrote(volume, path, **options)

    monkeypatch.setattr(publish, "write", full)
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 8
    assert "disk is full" in said
    assert rows(tmp_path / "out") == {"a": "done", "b": "failed"}


def test_an_interrupted_batch_says_how_far_it_came(tree, tmp_path, verb, monkeypatch):
    stub = medldm.tasks.run

    def stopped(task, volume, settings, **options):
        if volume.name.startswith("b"):
            raise KeyboardInterrupt
        return stub(task, volume, settings, **options)

    monkeypatch.setattr(medldm.tasks, "run", stopped)
    assert verb("denoise", tree, tmp_path / "out")[0] == 130
    assert rows(tmp_path / "out") == {"a": "done"}


def test_two_runs_that_end_a_series_at_once_do_not_quarrel(tmp_path, monkeypatch):
    """Another run shows its folder again and again, between our removing it and taking its place."""
    staged, target, others = tmp_path / ".staged", tmp_path / "series", [3]
    staged.mkdir()
    (staged / "0000.dcm").write_text("ours")
    removed = publish.remove

    def quarrel(path):
        removed(path)
        if others[0]:
            others[0] -= 1
            path.mkdir()
            (path / "0000.dcm").write_text("theirs")

    monkeypatch.setattr(publish, "remove", quarrel)
    quarrel(target)
    publish.show(staged, target)
    assert (target / "0000.dcm").read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["series"]


def test_a_result_without_its_record_is_taken_back(tree, tmp_path, verb, monkeypatch):
    def broken(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "write_record", broken)
    assert verb("denoise", tree / "a.nii.gz", tmp_path / "o.nii.gz")[0] == 130
    assert not (tmp_path / "o.nii.gz").exists()


def test_a_result_that_somebody_changed_is_not_taken_for_done(tree, tmp_path, verb):
    out = tmp_path / "o.nii.gz"
    assert verb("denoise", tree / "a.nii.gz", out)[0] == 0
    phantoms.save(out, phantoms.brain((24, 24, 12)) * 2, dtype=np.int16)
    assert verb("denoise", tree / "a.nii.gz", out)[0] == 2


def test_pictures_asked_for_in_the_morning_need_no_network(tree, tmp_path, verb, monkeypatch):
    assert verb("denoise", tree, tmp_path / "night", "--preview")[0] == 0
    out = tmp_path / "out"
    assert verb("denoise", tree, out)[0] == 0
    monkeypatch.setattr(medldm.tasks, "run", None)
    assert "only its preview would be drawn" in verb("denoise", tree, out, "--report", "--dry-run")[1]
    assert not list(out.glob("*.png"))
    assert verb("denoise", tree, out, "--report")[0] == 0
    assert (out / "report.html").read_text().count("data:image/jpeg") == 3
    night, morning = (np.asarray(Image.open(folder / "b_preview.png")) for folder in (tmp_path / "night", out))
    assert np.abs(night.astype(int) - morning).max() <= 1


def test_a_picture_of_the_morning_shows_the_maps_and_the_slices_of_the_night(tree, tmp_path, stub_network, tiny_model):
    arguments = ["denoise", str(tree / "a.nii.gz"), str(tmp_path / "o.nii.gz"), "--model", str(tiny_model)]
    arguments += ["--samples", "3", "--steps", "4", "--uncertainty", "--preview"]
    assert main(arguments) == 0
    night = np.asarray(Image.open(tmp_path / "o_preview.png"))
    (tmp_path / "o_preview.png").unlink()
    assert main(arguments) == 0
    assert np.array_equal(Image.open(tmp_path / "o_preview.png"), night)
    (tmp_path / "o_std.nii.gz").unlink()
    assert main(arguments) == 0
    assert (tmp_path / "o_std.nii.gz").exists()  # that takes the network again


def test_a_picture_of_a_series_is_drawn_in_the_morning_too(tmp_path, stub_network, tiny_model):
    voxels = phantoms.brain((24, 24, 16)).astype(np.int16)
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, spacing=(1.0, 1.0, 1.0))
    arguments = ["denoise", str(source), str(tmp_path / "out"), "--model", str(tiny_model)]
    assert main(arguments) == 0
    assert main([*arguments, "--report"]) == 0
    assert list(tmp_path.rglob("*_preview.png"))


def test_the_morning_after_a_rerun_knows_what_the_night_knew(tree, tmp_path, verb):
    out = tmp_path / "out"
    (tree / "b.nii.gz").rename(tree / "odd.nii.gz")
    (tree / "c.nii.gz").rename(tree / "same.nii.gz")
    for _ in range(2):
        assert verb("denoise", tree, out)[0] == 0
    a, odd, same = json.loads((out / "summary.json").read_text())
    assert a["message"] == "already done with the same input, settings and weights"
    assert odd["message"].endswith("weights; warning, outside what the model covers: spacing")
    assert [row["status"] for row in (a, odd, same)] == ["done", "done", "unchanged"]
    assert a["seconds"] == odd["seconds"] == 1.0


def test_a_warning_says_which_of_many_scans_it_is_about(tree, tmp_path, verb, monkeypatch):
    (tree / "sub").mkdir()
    (tree / "a.nii.gz").rename(tree / "sub" / "scan.nii.gz")
    stub = medldm.tasks.run

    def loud(task, volume, settings, **options):
        logging.getLogger("medldm.tasks").warning("%s covers too little", volume.name)
        return stub(task, volume, settings, **options)

    monkeypatch.setattr(medldm.tasks, "run", loud)
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 0
    assert "sub/scan: scan covers too little" in said
    assert "\nb covers too little" in said or said.startswith("b covers too little")
    assert "warning: scan covers" in (tmp_path / "out" / "logs" / "sub" / "scan.log").read_text()


def test_a_bug_in_a_tree_shows_no_traceback_unless_asked(tree, tmp_path, verb, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(medldm.tasks, "run", broken)
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 8
    assert "Traceback" not in said
    assert "Traceback" in verb("denoise", tree, tmp_path / "out", "-v")[1]


def logs_of(folder):
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.suffix in (".log", ".json"))


def test_a_log_and_a_screen_quote_no_header(tmp_path, verb):
    """What stands in a damaged header may be the name of a patient."""
    voxels = phantoms.brain((24, 24, 8)).astype(np.int16)
    folder = phantoms_dicom.write_series(tmp_path / "in" / "s", voxels, slope=1.23456789)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.23456789", b"Muster^Zac"))
    phantoms.save(tmp_path / "in" / "a.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    code, said = verb("denoise", tmp_path / "in", tmp_path / "out")
    assert code == 8
    messages = said + logs_of(tmp_path / "out")
    assert "RescaleSlope" in messages
    assert "pixels/image.py" in messages
    assert "Muster" not in messages
    # Who asks with -v looks for the cause, and gets it on the screen; what stays in files is without it.
    assert "Muster" in verb("denoise", tmp_path / "in", tmp_path / "out", "-v")[1]
    assert "Muster" not in logs_of(tmp_path / "out")


def test_a_bug_is_reported_by_its_place_and_quotes_nothing(tree, tmp_path, verb, monkeypatch):
    def broken(*_, **__):
        try:
            float("Muster^Zacharias")
        except ValueError as problem:
            raise KeyError("Muster^Zacharias") from problem

    monkeypatch.setattr(medldm.tasks, "run", broken)
    code, alone = verb("denoise", tree / "a.nii.gz", tmp_path / "o.nii.gz")
    assert code == 1
    assert "read that first, it may quote the header" in alone
    assert "Muster" not in alone
    code, said = verb("denoise", tree, tmp_path / "out")
    assert code == 8
    messages = said + logs_of(tmp_path / "out")
    assert "a bug in medldm (KeyError in batch/steps.py, line " in messages
    logged = (tmp_path / "out" / "logs" / "a.log").read_text()
    assert logged.index("ValueError") < logged.index("KeyError")
    assert "Muster" not in messages


def test_dash_v_prints_what_the_exceptions_said(tree, tmp_path, verb, monkeypatch):
    def broken(*_, **__):
        try:
            float("twelve")
        except ValueError as problem:
            raise KeyError("the key") from problem

    monkeypatch.setattr(medldm.tasks, "run", broken)
    for arguments in ((tree / "a.nii.gz", tmp_path / "o.nii.gz"), (tree, tmp_path / "out")):
        said = verb("denoise", *arguments, "-v")[1]
        assert "ValueError: could not convert string to float: 'twelve'" in said
        assert "KeyError: 'the key'" in said
    assert "twelve" not in logs_of(tmp_path / "out")


def test_dicom_is_not_made_from_nifti(tree, tmp_path, verb):
    assert verb("denoise", tree / "a.nii.gz", tmp_path / "out", "--format", "dicom")[0] == 2


def test_a_mask_that_is_not_there_is_wrong_usage(tree, tmp_path, verb):
    code, said = verb("inpaint", tree, tmp_path / "out", "--mask", tmp_path / "gone.nii.gz")
    assert code == 2
    assert "gone.nii.gz" in said


def test_memory_is_counted_on_the_grid_of_the_result():
    scan = phantoms.phantom((20, 20, 10), (1.0, 1.0, 5.0))
    assert result_voxels(scan, SuperResolve(spacing=1.0), None) == 20 * 20 * 50
    assert result_voxels(scan, Denoise(), None) == 20 * 20 * 10


def test_the_recorded_command_names_what_differs_from_the_defaults(tmp_path):
    run = Run(verb="denoise", settings=Denoise(noise=0.05), options=Options(fix=True), sources=(tmp_path,))
    assert command(run, "x") == ["medldm", "denoise", str(tmp_path), "OUT", "--noise", "0.05", "--fix"]


def test_numbers_of_a_record_stand_on_one_line():
    numbers = {"a": [1, 2.5, -3], "b": ["x", "y"]}
    assert '"a": [1, 2.5, -3]' in json_text(numbers)
    assert json.loads(json_text(numbers)) == numbers


def test_a_summary_is_a_table_and_a_list(tmp_path):
    write_summary([Row("a", "done", 1.5, "", "a.nii.gz"), Row("b", "failed", 0.1, "with, a comma")], tmp_path)
    assert (tmp_path / "summary.csv").read_text().splitlines()[0] == "case,status,seconds,message,result"
    assert rows(tmp_path) == {"a": "done", "b": "failed"}


def test_a_silent_watch_needs_nobody():
    Watch().say("nobody hears this")
    assert Result(phantoms.Path("x/scan.nii.gz")).record_path.name == "scan_medldm.json"
