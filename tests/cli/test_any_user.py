"""What a container gives: no passwd entry, no home, no writable package, no terminal, no locale, perhaps no /tmp."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import phantoms
import pytest
import strangers

import medldm
from medldm.cli import process
from medldm.errors import UsageError
from medldm.samples import sample_path

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(strangers.why_impossible()), reason=strangers.why_impossible())]
FAST = {"OMP_NUM_THREADS": 1}


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """The tiny model where a stranger can read it."""
    folder = tmp_path_factory.mktemp("readable")
    for path in tiny_model.parent.glob(f"{tiny_model.stem}*"):
        shutil.copy(path, folder)
    return folder / tiny_model.name


@pytest.fixture
def scan(tmp_path):
    phantom = phantoms.phantom((32, 40, 20))
    noisy = phantom.voxels + np.random.default_rng(0).normal(0, 30, phantom.shape)
    return phantoms.save(tmp_path / "scan.nii.gz", noisy.clip(0), phantom.affine, dtype=np.int16)


@pytest.fixture
def run(tmp_path):
    """``run("denoise", ...)`` as a stranger who may write to tmp_path only; fails unless it succeeds."""

    def run(*arguments, code=0, **environment):
        done = strangers.as_stranger(tmp_path, "-m", "medldm", *arguments, **FAST | environment)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "atplotlib" not in done.stderr
        return done

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("denoise", "--noise", "0.05", "--report"),
        ("super-resolve", "--spacing", "0.8", "--preview"),
        ("fill-slices", "--missing", "9"),
        ("restore",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_task_restores_what_it_restores_for_its_owner(run, scan, model, tmp_path, arguments):
    verb, *options = arguments
    run(verb, scan, tmp_path / "theirs.nii.gz", "--model", model, *options)
    ours = medldm.cli.main([verb, str(scan), str(tmp_path / "ours.nii.gz"), "--model", str(model), *options])
    assert ours == 0
    theirs, mine = (np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("theirs", "ours"))
    np.testing.assert_array_equal(theirs, mine)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []  # nothing forgotten


def test_inpaint(run, scan, model, tmp_path):
    region = np.zeros((32, 40, 20), np.uint8)
    region[12:16, 12:16, 8:12] = 1
    mask = phantoms.save(tmp_path / "mask.nii.gz", region, phantoms.phantom((32, 40, 20)).affine)
    run("inpaint", scan, tmp_path / "out.nii.gz", "--mask", mask, "--model", model)
    before, after = (np.asarray(nib.load(path).dataobj) for path in (scan, tmp_path / "out.nii.gz"))
    np.testing.assert_array_equal(after[region == 0], before[region == 0])


@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": "/nonexistent", "LANG": "C", "TERM": "dumb", "COLUMNS": "-3"},
        {"HOME": "", "LC_ALL": "xx_YY.ISO-8859-1", "COLUMNS": "wide", "TMPDIR": "/nonexistent"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "XDG_CACHE_HOME": "/proc", "COLUMNS": "0"},
    ],
    ids=["no home", "odd words", "ASCII"],
)
def test_any_environment_will_do(run, scan, model, tmp_path, environment):
    out = tmp_path / "Zoë" / "x.nii.gz"
    run("denoise", scan, out, "--noise", "0.05", "--model", model, "--report", **environment)
    assert nib.load(out).shape == (32, 40, 20)


def test_what_needs_no_network_of_ours(run, scan, model, tmp_path):
    assert json.loads(run("inspect", scan, "--json").stdout)[0]["status"] == "restorable"
    assert "brain-mri-2d" in run("models").stdout
    assert "Apache" in run("models", "brain-mri-2d").stdout or "CC BY" in run("models", "brain-mri-2d").stdout
    assert "usage" in run("train", "--help", COLUMNS="abc").stdout
    run("export-model", model, tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())["version"]


def test_a_run_is_repeated_from_its_record(run, scan, model, tmp_path):
    run("denoise", scan, tmp_path / "out.nii.gz", "--noise", "0.05", "--model", model)
    again = run("rerun", tmp_path / "out_medldm.json", tmp_path / "again.nii.gz")
    assert "byte for byte" in again.stderr


def test_a_dataset_of_bids(run, scan, model, tmp_path):
    folder = tmp_path / "bids" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    shutil.copy(scan, folder / "sub-01_T1w.nii.gz")
    (tmp_path / "bids" / "dataset_description.json").write_text('{"Name": "one", "BIDSVersion": "1.8.0"}')
    run("bids", tmp_path / "bids", tmp_path / "out", "participant", "--task", "denoise", "--model", model)
    assert len(list((tmp_path / "out").rglob("*_T1w.nii.gz"))) == 1


def test_an_archive_is_unpacked_beside_the_results_and_removed(run, scan, model, tmp_path):
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as packed:
        packed.write(scan, "a.nii.gz")
        packed.write(scan, "b.nii.gz")
    run("denoise", tmp_path / "scans.zip", tmp_path / "out", "--noise", "0.05", "--model", model)
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "b.nii.gz"}
    assert not list(tmp_path.rglob(".medldm*"))
    # Without results there is no such place, and a sentence says so.
    assert "TMPDIR" in run("inspect", tmp_path / "scans.zip", code=3).stderr


def scans_for_training(folder):
    for number in range(4):
        phantom = phantoms.phantom((40, 40, 24))
        phantoms.save(folder / f"s{number}.nii.gz", phantom.voxels, phantom.affine, dtype=np.int16)
    return folder


def test_training(run, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    run("train", "unet", scans_for_training(data), tmp_path / "model", "--minutes", "0.01", "--device", "cpu")
    assert list((tmp_path / "model").glob("*.safetensors"))


def test_the_benchmark_scores(run, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    scans_for_training(data)
    run("benchmark", data, "--quick", "--out", tmp_path / "scores", "--methods", "nothing", "--tasks", "noise-3")
    assert "noise-3" in (tmp_path / "scores" / "table.md").read_text(encoding="utf-8")


def test_a_batch_with_two_workers(run, scan, model, tmp_path):
    pytest.importorskip("distributed")
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a", "b"):
        shutil.copy(scan, data / f"{name}.nii.gz")
    run("denoise", data, tmp_path / "out", "--noise", "0.05", "--model", model, "--workers", "2")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_the_demo(run, tmp_path):
    run("demo", tmp_path / "demo")
    assert (tmp_path / "demo" / "restored_preview.png").stat().st_size > 10_000


@pytest.mark.parametrize("closed", ["1>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams(scan, model, tmp_path, closed):
    command = f'"{sys.executable}" -m medldm denoise "$0" "$1" --noise 0.05 --preview --model "$2" {closed}'
    out = tmp_path / "x.nii.gz"
    place = os.environ | {"PYTHONPATH": f"{strangers.ROOT}"}
    done = subprocess.run(["bash", "-c", command, scan, out, model], env=place, timeout=280)
    assert done.returncode == 0
    assert np.isfinite(nib.load(out).get_fdata()).all()  # nothing that was printed has landed in it


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_behind_stdout_is_said(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "medldm", "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 8  # as the help says of a full disk, wherever it is met
    assert done.stderr == "medldm: The disk is full. Free some space, then run it again.\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_log_that_cannot_be_written_does_not_undo_a_run(scan, tmp_path):
    arguments = [sys.executable, "-m", "medldm", "fill-slices", scan, tmp_path / "out" / "x.nii.gz", "--no-progress"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.returncode == 0
    assert (tmp_path / "out" / "x.nii.gz").exists()


def test_a_current_folder_that_was_removed(tmp_path):
    command = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$1" -m medldm inspect x.nii.gz'
    place = os.environ | {"PYTHONPATH": f"{strangers.ROOT}"}
    arguments = ["bash", "-c", command, tmp_path / "gone", sys.executable]
    done = subprocess.run(arguments, env=place, capture_output=True, text=True)
    assert done.returncode == UsageError.exit_code
    assert done.stderr == "medldm: The current folder does not exist any more. Change to another one.\n"


def test_python_and_the_plugins_process_need_no_name_either(tmp_path):
    code = (
        "import getpass, medldm, napari_medldm.serve, napari_medldm.jobs\n"
        f"scan = medldm.read({str(sample_path('mr'))!r})\n"
        "before = getpass.getuser\n"
        "import medldm.tasks\n"
        "assert getpass.getuser is before\n"
    )
    done = strangers.as_stranger(tmp_path, "-c", code, **FAST)
    assert done.returncode == 0, done.stderr


def test_the_names_of_users_stay_as_they_are():
    before = getpass.getuser
    import medldm.models.monai_parts

    assert medldm.models.monai_parts.UNet
    assert getpass.getuser is before


def test_the_temporary_folder_of_a_caller_is_not_touched(tmp_path):
    before = dict(os.environ)
    process.find_temporary_folder(tmp_path)
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_what_the_image_begins_with(tmp_path, scan, model):
    """The entry point of the Containerfile, its user, and what it copies."""
    containerfile = (strangers.ROOT / "Containerfile").read_text()
    assert int(strangers.containerfile("USER").split(":")[0]) > 0
    assert strangers.containerfile("WORKDIR") == "/data"
    for line in containerfile.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            assert all((strangers.ROOT / name).exists() for name in line.split()[1:-1]), line
    command = strangers.sandbox(
        tmp_path, *strangers.PACKAGES, *strangers.entry_point(), "denoise", scan, "out.nii.gz", "--model", model
    )
    done = subprocess.run(command, env={"CWD": tmp_path}, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert nib.load(tmp_path / "out.nii.gz").shape == (32, 40, 20)


def test_the_containerfile_is_clean():
    hadolint = shutil.which("hadolint", path=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    if not hadolint:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, strangers.ROOT / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
