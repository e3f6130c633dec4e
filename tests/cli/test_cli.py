"""The command line as people and pipelines meet it: exit codes, sentences, no half-written file."""

import errno
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest

from medldm.cli import main


@pytest.fixture
def restore(tiny_model, capsys):
    """Run a verb with the tiny model; gives the exit code and what was said on stderr."""

    def run(*arguments):
        code = main([*map(str, arguments), "--model", str(tiny_model)])
        return code, capsys.readouterr().err

    return run


def text_as_nifti(folder):
    (folder / "bad.nii.gz").write_text("these are words")
    return folder / "bad.nii.gz"


def truncated(folder):
    path = phantoms.save(folder / "cut.nii.gz", phantoms.brain(), dtype=np.int16)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def four_dimensional(folder):
    return phantoms.save(folder / "func.nii.gz", np.random.default_rng(0).random((8, 8, 8, 5)).astype(np.float32))


def zeros(folder):
    return phantoms.save(folder / "zeros.nii.gz", np.zeros((8, 8, 8), np.float32))


def nans(folder):
    return phantoms.save(folder / "nans.nii.gz", np.full((8, 8, 8), np.nan, np.float32))


def labels(folder):
    return phantoms.save(folder / "brain.nii.gz", (phantoms.brain() // 300), dtype=np.int16)


def empty_folder(folder):
    (folder / "nothing").mkdir()
    return folder / "nothing"


def missing(folder):
    return folder / "not_there.nii.gz"


@pytest.mark.parametrize(
    "make", [text_as_nifti, truncated, four_dimensional, zeros, nans, labels, empty_folder, missing]
)
def test_what_cannot_be_restored_gets_a_sentence_and_code_3(make, tmp_path, restore):
    source = make(tmp_path)
    code, said = restore("denoise", source, tmp_path / "out" / "x.nii.gz")
    assert code == 3
    assert source.name.split(".")[0] in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.nii*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["denoise", "IN", "OUT", "--loud"],
        ["denoise", "IN", "OUT", "--noise", "lots"],
        ["denoise", "IN", "OUT", "--fidelity", "3"],
        ["denoise", "IN", "IN"],
        ["denoise", "IN"],
        ["fill-slices", "IN", "OUT", "--missing", "99"],
        ["denoise", "IN", "OUT", "--shard", "3/2"],
        ["inpaint", "IN", "OUT"],
        ["sing"],
        [],
    ],
)
def test_wrong_usage_is_code_2(arguments, scan_file, tmp_path, tiny_model, capsys):
    places = {"IN": str(scan_file), "OUT": str(tmp_path / "out.nii.gz")}
    verb = [places.get(word, word) for word in arguments]
    model = ["--model", str(tiny_model)] if arguments[:1] not in (["sing"], []) else []
    assert main([*verb, *model]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out.nii.gz").exists()


def test_an_unknown_or_damaged_model_is_code_4(scan_file, tmp_path, tiny_model, capsys):
    assert main(["denoise", str(scan_file), str(tmp_path / "o.nii.gz"), "--model", "nope"]) == 4
    assert "nope" in capsys.readouterr().err
    shutil.copy(tiny_model, tmp_path / "tiny-2d.json")
    (tmp_path / "tiny-2d.safetensors").write_bytes(b"not weights")
    assert main(["denoise", str(scan_file), str(tmp_path / "o.nii.gz"), "--model", str(tmp_path / "tiny-2d.json")]) == 4
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "o.nii.gz").exists()


def test_a_scan_is_denoised_with_a_record_beside_it(scan_file, tmp_path, restore):
    out = tmp_path / "res" / "clean.nii.gz"
    code, _ = restore("denoise", scan_file, out, "--noise", "0.05", "--preview")
    assert code == 0
    before, after = nib.load(scan_file), nib.load(out)
    assert after.get_data_dtype() == before.get_data_dtype()
    assert np.allclose(after.affine, before.affine)
    record = json.loads((tmp_path / "res" / "clean_medldm.json").read_text())
    for key in ("task", "settings", "seed", "model", "sha256", "versions", "device", "timings", "invented_slices",
                "clipped_voxels", "consistency_residual"):  # fmt: skip
        assert key in record, key
    assert (tmp_path / "res" / "clean_preview.png").read_bytes().startswith(b"\x89PNG")


def test_coarser_than_the_scan_is_unchanged_and_a_copy(scan_file, tmp_path, restore):
    code, said = restore("super-resolve", scan_file, tmp_path / "same.nii.gz", "--spacing", 3)
    assert code == 0
    assert "unchanged" in said
    assert (tmp_path / "same.nii.gz").read_bytes() == scan_file.read_bytes()


def test_the_same_run_again_is_done_already_and_a_changed_one_is_done_again(scan_file, tmp_path, restore):
    out = tmp_path / "o.nii.gz"
    assert restore("denoise", scan_file, out, "--noise", "0.05")[0] == 0
    stamp = out.stat().st_mtime_ns
    code, said = restore("denoise", scan_file, out, "--noise", "0.05")
    assert code == 0
    assert "already done" in said
    assert out.stat().st_mtime_ns == stamp
    before = out.read_bytes()
    code, said = restore("denoise", scan_file, out, "--noise", "0.08")
    assert code == 0
    assert "already done" not in said
    assert out.read_bytes() != before


def test_a_result_that_medldm_did_not_make_is_replaced_only_on_request(scan_file, tmp_path, restore):
    out = tmp_path / "o.nii.gz"
    out.write_bytes(scan_file.read_bytes())
    assert restore("denoise", scan_file, out, "--noise", "0.05")[0] == 2
    assert out.read_bytes() == scan_file.read_bytes()
    assert restore("denoise", scan_file, out, "--noise", "0.05", "--overwrite")[0] == 0


def test_a_record_repeats_its_run_to_the_byte(scan_file, tmp_path, restore, capsys):
    out = tmp_path / "o.nii.gz"
    assert restore("denoise", scan_file, out, "--noise", "0.05")[0] == 0
    assert main(["rerun", str(tmp_path / "o_medldm.json"), str(tmp_path / "again.nii.gz")]) == 0
    assert (tmp_path / "again.nii.gz").read_bytes() == out.read_bytes()
    assert main(["rerun", str(tmp_path / "o_medldm.json"), str(tmp_path / "new")]) == 0  # a folder, as for all verbs
    assert (tmp_path / "new" / "o.nii.gz").read_bytes() == out.read_bytes()
    assert main(["rerun", str(tmp_path / "o_medldm.json"), str(tmp_path / "x.mnc")]) == 2
    assert main(["rerun", str(tmp_path / "o_medldm.json")]) == 2
    phantoms.save(scan_file, phantoms.brain() + 1, dtype=np.int16)
    assert main(["rerun", str(tmp_path / "o_medldm.json"), str(tmp_path / "third.nii.gz")]) == 3


def test_a_tree_goes_on_after_a_bad_case(tmp_path, restore):
    tree = tmp_path / "in"
    (tree / "a").mkdir(parents=True)
    phantoms.save(tree / "a" / "good.nii.gz", phantoms.brain(), dtype=np.int16)
    phantoms.save(tree / "a" / "good_mask.nii.gz", phantoms.brain() > 0, dtype=np.uint8)
    text_as_nifti(tree)
    four_dimensional(tree)
    code, said = restore("denoise", tree, tmp_path / "out", "--noise", "0.05", "--report")
    assert code == 8
    rows = {row["case"]: row["status"] for row in json.loads((tmp_path / "out" / "summary.json").read_text())}
    assert rows == {"a/good": "done", "a/good_mask": "skipped", "bad": "failed", "func": "skipped"}
    assert (tmp_path / "out" / "a" / "good.nii.gz").exists()
    assert "1 done, 2 skipped, 1 failed" in said
    assert "a/good" in (tmp_path / "out" / "report.html").read_text()


def test_skipped_cases_do_not_spoil_a_good_night(tmp_path, restore):
    tree = tmp_path / "in"
    tree.mkdir()
    phantoms.save(tree / "good.nii.gz", phantoms.brain(), dtype=np.int16)
    labels(tree)
    code, _ = restore("denoise", tree, tmp_path / "out", "--noise", "0.05", "--exclude", "nothing*")
    assert code == 0


def test_a_dry_run_writes_nothing(scan_file, tmp_path, restore):
    code, said = restore("restore", scan_file, tmp_path / "out.nii.gz", "--dry-run")
    assert code == 0
    assert "would write" in said
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_slice_of_a_4d_file_can_be_asked_for(tmp_path, restore):
    stack = np.stack([phantoms.brain((24, 24, 12))] * 2, -1).astype(np.int16)
    path = phantoms.save(tmp_path / "func.nii.gz", stack)
    assert restore("denoise", path, tmp_path / "o.nii.gz", "--volume", "1", "--noise", "0.05")[0] == 0
    assert nib.load(tmp_path / "o.nii.gz").shape == (24, 24, 12)


def test_in_a_tree_volume_is_about_its_4d_files(tmp_path, restore):
    stack = np.stack([phantoms.brain((24, 24, 12))] * 2, -1).astype(np.int16)
    (tmp_path / "in").mkdir()
    phantoms.save(tmp_path / "in" / "func.nii.gz", stack)
    phantoms.save(tmp_path / "in" / "anat.nii.gz", stack[..., 0])
    code, said = restore("denoise", tmp_path / "in", tmp_path / "out", "--volume", "1", "--noise", "0.05")
    assert code == 0, said
    assert {nib.load(path).shape for path in (tmp_path / "out").glob("*.nii.gz")} == {(24, 24, 12)}
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_a_3d_file_named_alone_has_no_volume_1(scan_file, tmp_path, restore):
    code, said = restore("denoise", scan_file, tmp_path / "o.nii.gz", "--volume", "1", "--noise", "0.05")
    assert code == 2
    assert "has no volume 1" in said


def test_uncertainty_is_written_beside_the_result(tmp_path, restore):
    damaged = phantoms.with_missing_slices(phantoms.phantom((32, 32, 24)), [10, 11])
    path = phantoms.save(tmp_path / "gap.nii.gz", damaged.voxels, damaged.affine, dtype=np.int16)
    assert restore("fill-slices", path, tmp_path / "o.nii.gz", "--samples", "3", "--uncertainty")[0] == 0
    spread = np.asarray(nib.load(tmp_path / "o_std.nii.gz").dataobj)
    assert spread[..., 10:12].max() > 0
    assert spread[..., 20].max() == 0


def test_inspect_and_models_speak_json_on_stdout(scan_file, capsys):
    assert main(["inspect", str(scan_file), "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["facts"]["shape"] == [48, 56, 40]
    assert finding["facts"]["noise"]["unit"]
    assert main(["models", "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


def test_inspect_of_a_tree_says_by_its_code_that_some_are_refused(scan_file, capsys):
    good = scan_file.parent
    phantoms.save(good / "other.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    assert main(["inspect", str(good)]) == 0
    phantoms.save(good / "empty.nii.gz", np.zeros((8, 8, 8), np.int16))
    assert main(["inspect", str(good)]) == 8
    assert "empty: refused" in capsys.readouterr().out


def test_a_read_only_place_is_code_2(scan_file, tmp_path, restore):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("root may write anywhere")
    assert restore("denoise", scan_file, folder / "o.nii.gz", "--noise", "0.05")[0] == 2


def test_a_full_disk_is_code_8_and_leaves_nothing_behind(scan_file, tmp_path, restore, monkeypatch):
    import errno

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, said = restore("denoise", scan_file, tmp_path / "out" / "o.nii.gz", "--noise", "0.05")
    assert code == 8
    assert "disk is full" in said
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_volume_larger_than_memory_is_refused_before_it_is_read(tmp_path, tiny_model):
    header = nib.Nifti1Header()
    header.set_data_shape((600, 600, 600))
    header.set_data_dtype(np.int16)
    header.set_zooms((1, 1, 1))
    header["sform_code"] = 1
    header.set_sform(np.eye(4), 1)
    path = tmp_path / "huge.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + b"\0" * 4)
        for _ in range(7):
            file.write(bytes(64_000_000))
    limit = 4 * 2**30
    done = subprocess.run(
        [sys.executable, "-m", "medldm", "denoise", str(path), str(tmp_path / "o.nii.gz"), "--model", str(tiny_model)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode in (3, 8), done.stderr
    assert "memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.nii.gz").exists()


def test_an_interrupted_run_is_code_130_and_leaves_no_result(scan_file, tmp_path, restore, monkeypatch):
    import medldm.tasks

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(medldm.tasks, "run", interrupted)
    assert restore("denoise", scan_file, tmp_path / "o.nii.gz")[0] == 130
    assert not (tmp_path / "o.nii.gz").exists()


def test_a_bug_of_ours_is_code_1_and_asks_for_a_report(scan_file, tmp_path, restore, monkeypatch):
    import medldm.tasks

    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(medldm.tasks, "run", broken)
    code, said = restore("denoise", scan_file, tmp_path / "o.nii.gz")
    assert code == 1
    assert "report" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["denoise", "SCAN", "OUT"], ["demo", "OUT"], ["export-model", "ct-2d", "OUT"]])
def test_a_name_that_no_file_system_takes_is_no_bug_of_ours(arguments, scan_file, tmp_path, capsys):
    out = tmp_path / ("x" * 300)
    assert main([str({"SCAN": scan_file, "OUT": out}.get(word, word)) for word in arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith("cannot be used: File name too long. Choose a shorter name.")


def test_a_list_and_a_zip_are_scans_too(scan_file, tmp_path, restore):
    listed = tmp_path / "scans.txt"
    listed.write_text(f"# my scans\n{scan_file.name}\n")
    assert restore("denoise", listed, tmp_path / "out", "--noise", "0.05")[0] == 0
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, scan_file.name)
    assert restore("denoise", tmp_path / "packed.zip", tmp_path / "out2", "--noise", "0.05")[0] == 0
    assert [path.name for path in Path(tmp_path / "out2").rglob("*.nii.gz")] == [scan_file.name]


def test_results_inside_the_tree_are_no_input(tmp_path, restore):
    phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain(), dtype=np.int16)
    for _ in range(2):
        assert restore("denoise", tmp_path, tmp_path / "out", "--noise", "0.05")[0] == 0
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())) == 1


def test_a_dicom_series_that_needs_nothing_is_copied(tmp_path, restore):
    import phantoms_dicom

    from medldm.io.dicom import find_series

    voxels = phantoms.brain((24, 24, 16)).astype(np.int16)
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, spacing=(1.0, 1.0, 1.0))
    code, said = restore("super-resolve", source, tmp_path / "out", "--spacing", "2")
    assert code == 0
    assert "unchanged" in said
    (before,), (after,) = find_series(source), find_series(tmp_path / "out")
    assert [p.read_bytes() for p in after.files] == [p.read_bytes() for p in before.files]


def test_a_record_of_an_archive_is_repeated_from_anywhere(scan_file, tmp_path, restore, monkeypatch, capsys):
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, scan_file.name)
    monkeypatch.chdir(tmp_path)
    assert restore("denoise", "packed.zip", "o.nii.gz", "--noise", "0.05")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["rerun", "../o_medldm.json", "../again.nii.gz"]) == 0
    assert "byte for byte" in capsys.readouterr().err
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "o.nii.gz").read_bytes()


def test_a_settings_file_or_a_record_replays_a_run(scan_file, tmp_path, restore):
    said = tmp_path / "mine.json"
    said.write_text(json.dumps({"noise": 0.05, "seed": 3}))
    assert restore("denoise", scan_file, tmp_path / "a.nii.gz", "--settings", said)[0] == 0
    settings = json.loads((tmp_path / "a_medldm.json").read_text())["settings"]
    assert (settings["noise"], settings["seed"]) == (0.05, 3)
    record = tmp_path / "a_medldm.json"
    assert restore("denoise", scan_file, tmp_path / "b.nii.gz", "--settings", record)[0] == 0
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "a.nii.gz").read_bytes()
    assert restore("denoise", scan_file, tmp_path / "c.nii.gz", "--settings", record, "--seed", "4")[0] == 0
    settings = json.loads((tmp_path / "c_medldm.json").read_text())["settings"]
    assert (settings["noise"], settings["seed"]) == (0.05, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be used"),
        ("[1]", "holds no object"),
        ('{"nois": 0.05}', "no option 'nois'"),
        ('{"noise": true}', "--noise cannot be true"),
        ('{"noise": {"a": 1}}', "--noise cannot be"),
        ('{"format": "png"}', "--format cannot be"),
        ('{"noise": -1}', "makes no sense"),
        ('{"task": "inpaint", "settings": {}}', "made by inpaint"),
        ('{"volume": "1"}', "--volume cannot be"),
        ('{"volume": [0]}', "--volume cannot be"),
    ],
)
def test_a_settings_file_that_cannot_be_meant_is_wrong_usage(text, said, scan_file, tmp_path, restore):
    (tmp_path / "mine.json").write_text(text)
    code, message = restore("denoise", scan_file, tmp_path / "o.nii.gz", "--settings", tmp_path / "mine.json")
    assert code == 2
    assert said in message


def test_what_is_no_record_is_not_rerun(tmp_path, capsys):
    (tmp_path / "x_medldm.json").write_text('{"task": "denoise"}')
    assert main(["rerun", str(tmp_path / "x_medldm.json")]) == 3
    assert "not the record" in capsys.readouterr().err


def test_the_version_is_reported_wherever_it_is_asked_for(capsys):
    for arguments in (["--version"], ["denoise", "--version"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out.startswith("medldm ")


def test_the_callers_signal_handler_comes_back():
    import signal

    before = signal.getsignal(signal.SIGTERM)
    main(["--version"])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_polite_kill_is_code_130_and_leaves_nothing_half_written(scan_file, tmp_path):
    import signal
    import time

    code = (
        "import sys, time, medldm.tasks\n"
        "def slow(*a, **k):\n    print('begun', flush=True); time.sleep(60)\n"
        "medldm.tasks.run = slow\n"
        "from medldm.batch import ledger; ledger.weights_for = lambda *a: ''\n"
        "from medldm.cli import main; sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [sys.executable, "-c", code, "denoise", str(scan_file), str(tmp_path / "o.nii.gz")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "begun\n"
        time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        said = running.communicate()[1]
    assert running.returncode == 130
    assert "interrupted" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz"]


@pytest.mark.parametrize(
    ("case", "shown"),
    [("", "scan: dark"), ("scan", "scan: dark"), ("b/scan", "b/scan: scan: dark"), ("sca", "sca: scan: dark")],
)
def test_a_line_names_its_case_once(case, shown):
    import logging

    from medldm.cli import OneLine

    record = logging.makeLogRecord({"msg": "%s: dark", "args": ("scan",), "case": case})
    assert OneLine("%(message)s").format(record) == shown


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.ENOSPC, 8, "The disk is full: x was not written."),
        (errno.EIO, 3, "Check the disk or network."),
        (errno.EACCES, 2, "Check its permissions."),
        (errno.ENOENT, 1, "a bug in medldm"),
    ],
)
def test_what_the_system_refuses_has_a_cause_and_a_remedy(number, code, said, monkeypatch, capsys):
    from medldm.cli import verbs

    def refused(arguments):
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr(verbs, "run", refused)
    assert main(["models"]) == code
    assert said in capsys.readouterr().err


def test_a_model_becomes_a_bundle(tiny_model, tmp_path, capsys):
    assert main(["export-model", str(tiny_model), str(tmp_path / "bundle")]) == 0
    assert (tmp_path / "bundle" / "configs" / "metadata.json").exists()
    assert main(["export-model", str(tiny_model), str(tmp_path / "bundle")]) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["denoise", "scan.nii.gz", "d.nii.gz", "--nois", "5"],
            2,
            "medldm denoise has no option --nois; did you mean --noise? See `medldm denoise --help`.",
        ),
        (["denoise", "scan.nii.gz", "d.nii.gz", "--zzz=5"], 2, "medldm denoise has no option --zzz. See"),
        (["denoise", "scan.nii.gz"], 2, "OUT is missing. See `medldm denoise --help`."),
        (["denoise"], 2, "IN and OUT are missing."),
        (["denoyse", "a", "b"], 2, "There is no verb 'denoyse'; there are denoise, super-resolve,"),
        (["denoise", "a", "b", "--format", "png"], 2, "--format is one of nifti, nrrd, mha, mgz, dicom, not 'png'."),
        (["denoise", "a", "b", "--workers", "x"], 2, "--workers is a whole number, not 'x'."),
        (["denoise", "a", "b", "--noise"], 2, "--noise needs a value."),
        (["models", "a", "b"], 2, "medldm models cannot use b."),
        (["train", "all", "a", "b"], 2, "--minutes is missing."),
        (["denoise", "scan.nii.gz", "d.nii.gz", "--noise", "-1"], 2, "at least 0 (MR: a fraction of"),
        (["denoise", "scan.nii.gz", "d.nii.gz", "--noise", "5"], 2, "Say --noise 0.05 for 5 %"),
        (["denoise", "scan.nii.gz", "d.png"], 2, "Name a .nii.gz file or a folder as OUT"),
        (["rerun", "nowhere.json"], 3, "nowhere.json does not exist"),
        (["inspect", "cut.nii.gz"], 3, "medldm: cut.nii.gz is truncated"),
    ],
)
def test_what_people_mistype_is_answered_in_a_sentence(arguments, code, said, scan_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.nii.gz").write_bytes(scan_file.read_bytes()[:3000])
    assert main(arguments) == code
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.nii.gz", "scan.nii.gz"]
