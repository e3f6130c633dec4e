"""Which model is taken, and how its card says to use it."""

import errno
import json
import os

import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm import zoo
from medldm.errors import ModelError, ResourceError
from medldm.training.state import save_atomically

SLOW = {"denoise": {"psnr": 33.0}, "super-resolve": {"psnr": 26.0}, "in-plane": {"psnr": 99.0}}
FAST = {"denoise": {"psnr": 32.5, "looks": 1}, "super-resolve": {"psnr": 25.0, "looks": 1}}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Cards without weights: a good slow set, a fast one, a volume set, and one for CT that can only denoise."""

    def put(name, **changes):
        stored = {
            "name": name, "title": name, "modality": "mr", "spatial_dims": 2, "role": "restorer", "architecture": {},
            "verbs": ["denoise", "super-resolve", "fill-slices", "inpaint", "restore"], "weights": "none",
            "sha256": "0" * 64, "licence": "none",
        }  # fmt: skip
        (tmp_path / f"{name}.json").write_text(json.dumps({**stored, **changes}))

    put("planes", use=SLOW, pace=8.0)
    put("fast", use=FAST, pace=1.0)
    put("volumes", use={"denoise": {"psnr": 34.0}, "super-resolve": {"psnr": 25.5}}, spatial_dims=3, pace=20.0)
    put("baseline", use={"denoise": {"psnr": 50.0}}, role="baseline")
    put("ct", modality="ct", verbs=["denoise", "restore"], use={"denoise": {"psnr": 39.0}})
    monkeypatch.setattr(zoo, "ROOM", tmp_path)


@pytest.mark.usefixtures("shelf")
def test_the_validation_table_decides_and_tasks_differ():
    assert zoo.best("mr", verb="denoise").name == "volumes"
    assert zoo.best("mr", verb="super-resolve").name == "planes"  # by its slices; planes alone are another matter
    assert zoo.best("mr", verb="denoise", flat=True).name == "planes"


@pytest.mark.usefixtures("shelf")
def test_samples_come_from_a_model_that_draws_them(tmp_path):
    """Where there is one; the refusal of another says what to do."""
    assert zoo.best("mr", verb="denoise", draws=True).name == "volumes"
    fast = json.loads((tmp_path / "fast.json").read_text())
    (tmp_path / "fast.json").write_text(json.dumps({**fast, "residual": {"flow_blocks": 1}}))
    assert zoo.best("mr", verb="denoise", draws=True).name == "fast"
    assert zoo.best("mr", verb="denoise").name == "volumes"


@pytest.mark.usefixtures("shelf")
def test_on_a_cpu_a_huge_scan_gets_a_faster_model():
    assert zoo.best("mr", verb="denoise", megavoxels=120).name == "planes"
    assert zoo.best("mr", verb="denoise", megavoxels=1000).name == "fast"
    assert zoo.best("mr", verb="denoise", megavoxels=1000, patience_s=0).name == "volumes"
    assert zoo.best("mr", verb="denoise", megavoxels=1e6).name == "fast"  # the fastest, when none ends in time


@pytest.mark.usefixtures("shelf")
def test_a_model_whose_pace_nobody_measured_is_not_taken_for_fast(tmp_path):
    untimed = {**json.loads((tmp_path / "volumes.json").read_text()), "name": "untimed", "pace": 0.0}
    poor = {**untimed, "use": {"denoise": {"psnr": 20.0}}}
    (tmp_path / "untimed.json").write_text(json.dumps(poor))
    assert zoo.best("mr", verb="denoise", megavoxels=1000).name == "fast"
    assert zoo.best("mr", verb="denoise", megavoxels=1e6).name == "fast"
    (tmp_path / "untimed.json").write_text(json.dumps({**untimed, "use": {"denoise": {"psnr": 35.0}}}))
    assert zoo.best("mr", verb="denoise", megavoxels=1000).name == "untimed"  # the best, and nobody says it is slow


@pytest.mark.usefixtures("shelf")
def test_a_task_that_no_card_names_is_refused_with_a_message():
    assert zoo.best("ct", verb="denoise").name == "ct"
    with pytest.raises(ModelError, match="can inpaint CT"):
        zoo.best("ct", verb="inpaint")


def test_what_a_card_says_about_use_changes_the_image_and_the_identity(tmp_path):
    """One orientation is another image than three, and a batch must know the difference."""
    path = phantoms.tiny_model(tmp_path)
    scan = phantoms.phantom((32, 36, 20)).with_voxels(
        phantoms.rician(phantoms.phantom((32, 36, 20)).voxels, 10, 0).astype(np.float32)
    )
    averaged = medldm.denoise(scan, noise=0.05, model=str(path))
    one = zoo.card(str(path))
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "use": {"denoise": {"refines": False, "looks": 1}}}))
    other = zoo.card(str(path))
    plain = medldm.denoise(scan, noise=0.05, model=str(path))
    assert one.identity != other.identity
    assert one.sha256 == other.sha256
    assert averaged.history[-1].facts["networks"] == {"drawn": 0, "looks": 3}
    assert plain.history[-1].facts["networks"] == {"drawn": 0, "looks": 1}
    assert not np.array_equal(averaged.voxels, plain.voxels)
    drawn = medldm.denoise(scan, noise=0.05, model=str(path), fidelity=0.5)
    assert drawn.history[-1].facts["networks"] == {"drawn": 1, "looks": 1}


def test_a_task_outside_of_the_card_is_refused(tmp_path):
    path = phantoms.tiny_model(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "verbs": ["denoise"]}))
    with pytest.raises(ModelError, match="cannot fill-slices"):
        medldm.fill_slices(phantoms.phantom((32, 36, 20)), missing="4", model=str(path))


def test_a_set_and_its_baseline_share_one_file(tmp_path):
    """A card may name the networks that are its own; what is another's is neither loaded nor taken for the same."""
    from medldm.inference.networks import load_networks

    path = phantoms.tiny_model(tmp_path)
    stored = json.loads(path.read_text())
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps({**stored, "name": "baseline", "role": "baseline", "parts": ["unet"]}))
    whole, part = zoo.card(str(path)), zoo.card(str(baseline))
    assert (whole.path, whole.sha256) == (part.path, part.sha256)
    assert whole.identity != part.identity
    assert load_networks(whole).residual_flow is not None
    assert load_networks(part).residual_flow is None
    assert load_networks(part).spread is None
    scan = phantoms.phantom((32, 36, 20))
    alone = medldm.denoise(scan, noise=0.05, model=str(baseline))
    assert np.array_equal(alone.voxels, medldm.denoise(scan, noise=0.05, model=str(path)).voxels)


def test_a_card_of_an_earlier_version_is_read(tmp_path):
    """It names the role and the out-of-distribution detector otherwise."""
    path = phantoms.tiny_model(tmp_path)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "role": "rival", "guard": {"residual": {}}}))
    old = zoo.read_card(path)
    assert (old.role, old.ood) == ("baseline", {"residual": {}})
    for text in ("[]", json.dumps({name: value for name, value in stored.items() if name != "role"})):
        path.write_text(text)
        with pytest.raises(ModelError, match="is not a model card"):
            zoo.read_card(path)


def test_weights_of_a_trained_set_may_be_read_by_everybody_whom_the_umask_allows(tmp_path):
    """On a cluster one user trains and others restore; also over a file that only its owner could read."""
    weights, checkpoint = tmp_path / "tiny-2d.safetensors", tmp_path / "checkpoint.safetensors"
    for old in (weights, checkpoint, checkpoint.with_suffix(".partial")):
        old.touch(mode=0o600)
    before = os.umask(0o027)
    try:
        card = phantoms.tiny_model(tmp_path)
        save_atomically({"a": torch.zeros(1)}, checkpoint, {})
    finally:
        os.umask(before)
    assert card.with_suffix(".safetensors") == weights
    for path in (card, weights, checkpoint):
        assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([card.name, weights.name, checkpoint.name])


def test_a_disk_that_fills_up_leaves_the_last_set_whole(tmp_path, monkeypatch):
    card = phantoms.tiny_model(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ResourceError):
        phantoms.tiny_model(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    zoo.check_weights(zoo.card(str(card)))
