"""Training on phantoms for seconds: it packs, learns, stops, resumes, and leaves a model that the verbs take."""

import json
import shutil
from dataclasses import replace

import numpy as np
import phantoms
import pytest
import torch

import medldm
from medldm.errors import InputError, UsageError
from medldm.modality import CT
from medldm.settings import Architecture
from medldm.training import train
from medldm.training.augment import piecewise_linear
from medldm.training.data import balance, load_cache, pack
from medldm.training.examples import draw_damage, draw_example, measure, shares
from medldm.training.run import covered
from medldm.training.splits import read_split
from medldm.training.state import read_metadata
from medldm.training.trainer import Plan, Trainer
from medldm.zoo import card

SMALL = Architecture(latent_channels=4, unet=(8, 8, 8, 8), unet_units=1, vae=(8, 8), flow=(8, 8, 8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four subjects, one of them for validation."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["split,file,subject,modality,licence,source"]
    for number in range(4):
        voxels = np.roll(phantoms.brain((72, 76, 70)), number, axis=0) * (1 + number / 10)
        phantoms.save(folder / f"s{number}_T1w.nii.gz", voxels, dtype=np.int16)
        rows.append(f"{'val' if number == 3 else 'train'},s{number}_T1w.nii.gz,s{number},MR T1w,CC0,drawn")
    rows.append("test,s9_T1w.nii.gz,s9,MR T1w,CC0,drawn")
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def scans(data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    pack(data, cache)
    return load_cache(cache, "train")


def test_the_split_table_decides_and_the_test_split_is_never_touched(data):
    splits = {row["file"]: row["split"] for row in read_split(data)}
    assert splits == {
        "s0_T1w.nii.gz": "train",
        "s1_T1w.nii.gz": "train",
        "s2_T1w.nii.gz": "train",
        "s3_T1w.nii.gz": "val",
    }


def test_without_a_table_subjects_are_kept_together(tmp_path):
    for name in ("a_T1w", "a_T2w", "b_T1w"):
        phantoms.save(tmp_path / f"{name}.nii.gz", phantoms.brain((16, 16, 16)))
    splits = {}
    for row in read_split(tmp_path):
        splits.setdefault(row["subject"], set()).add(row["split"])
    assert all(len(split) == 1 for split in splits.values())
    with pytest.raises(InputError, match="no NIfTI"):
        read_split(tmp_path / "nothing")


def test_scans_of_every_format_are_packed_alike(tmp_path):
    for suffix in (".nii.gz", ".nrrd", ".mha", ".mgz"):
        medldm.write(phantoms.phantom((20, 18, 12)), tmp_path / "in" / f"{suffix[1:4]}_T1w{suffix}")
    pack(tmp_path / "in", tmp_path / "cache")
    first, *others = [*load_cache(tmp_path / "cache", "train"), *load_cache(tmp_path / "cache", "val")]
    assert len(others) == 3
    for scan in others:
        assert np.array_equal(scan.voxels, first.voxels)
        assert scan.spacing == pytest.approx(first.spacing)


def test_a_small_folder_without_a_table_has_somebody_to_validate_on(tmp_path):
    for count in range(2, 6):
        for number in range(count):
            folder = tmp_path / str(count) / f"sub-{number:02d}" / "anat"
            folder.mkdir(parents=True)
            phantoms.save(folder / f"sub-{number:02d}_T1w.nii.gz", phantoms.brain((16, 16, 16)))
        assert {row["split"] for row in read_split(tmp_path / str(count))} == {"train", "val"}


def test_files_of_one_name_are_distinguished_by_their_folders(tmp_path):
    for name in ("anna", "bert", "cleo"):
        (tmp_path / name).mkdir()
        phantoms.save(tmp_path / name / "T1w.nii.gz", phantoms.brain((16, 16, 16)))
    assert {row["subject"] for row in read_split(tmp_path)} == {"anna", "bert", "cleo"}
    lines = ["split,file,subject", "train,anna/T1w.nii.gz,anna", "val, bert/T1w.nii.gz ,bert"]
    (tmp_path / "split.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    scan = {row["subject"]: (row["split"], row["path"]) for row in read_split(tmp_path)}
    assert scan == {
        name: (split, str(tmp_path / name / "T1w.nii.gz")) for split, name in (("train", "anna"), ("val", "bert"))
    }
    (tmp_path / "split.csv").write_text("split,file\ntrain,T1w.nii.gz\n")
    with pytest.raises(InputError, match="several scans"):
        read_split(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("file,subject\na_T1w.nii.gz,a\n", "columns split and file"),
        ("split,file,weight\ntrain,a_T1w.nii.gz,much\n", "weight of a_T1w"),
        ("split,file,subject\ntrain,a_T1w.nii.gz,a\nval,a_T2w.nii.gz,a\n", "Split by subject"),
        ("split,file\nval,a_T1w.nii.gz\n", "none of the scans"),
    ],
)
def test_a_split_table_that_cannot_be_meant_is_refused_with_a_message(lines, message, tmp_path):
    for name in ("a_T1w", "a_T2w"):
        phantoms.save(tmp_path / f"{name}.nii.gz", phantoms.brain((16, 16, 16)))
    (tmp_path / "split.csv").write_text(lines)
    with pytest.raises(InputError, match=message):
        read_split(tmp_path)


def test_packed_scans_are_scaled_to_their_foreground(scans):
    values = scans[0].scaled((slice(None),) * 3, None)
    assert 0.9 < float(values.max()) < 1.3
    assert scans[0].isotropic


def test_sources_are_weighed_by_their_subjects(scans):
    weighed = balance(scans)
    assert sum(scan.weight for scan in weighed) == pytest.approx(3**0.5)


@pytest.mark.slow
def test_ct_is_packed_in_hounsfield_units_with_the_noise_of_a_quarter_dose(tmp_path):
    """Air is black, bone beyond the window is kept, and the level of the noise that is added is given."""
    ball = sum((axis / 24) ** 2 for axis in np.indices((56, 56, 20)) - np.array([28, 28, 10])[:, None, None, None])
    hounsfield = np.where(ball < 1, 40, -1000).astype(np.int16)
    hounsfield[26:30, 26:30] = 1800
    phantoms.save(tmp_path / "ct.nii.gz", hounsfield, dtype=np.int16)
    (tmp_path / "split.csv").write_text("split,file,subject,modality\ntrain,ct.nii.gz,a,CT chest\n")
    pack(tmp_path, tmp_path / "cache", "CT")
    (scan,) = load_cache(tmp_path / "cache", "train")
    values = scan.scaled((slice(None),) * 3, None)
    assert float(values.min()) == pytest.approx(0)
    assert float(values.max()) == pytest.approx(1.4)
    assert scan.noise.shape == (2, *scan.voxels.shape)
    soft, sharp = (np.abs(noise).mean() for noise in scan.noise.astype(float))
    assert 1 < soft < sharp
    seen = {}
    for seed in range(40):
        example = draw_example([scan], SMALL, 32, torch.Generator().manual_seed(seed))
        change = float((example.inputs[2] - example.clean[0]).std())
        level = float(example.inputs[10].mean()) / 10
        seen.setdefault(example.task, []).append((change, level))
    noisy = np.array(seen["noise"])
    assert np.corrcoef(noisy.T)[0, 1] > 0.8
    assert {"noise", "thick", "gap", "region"} == set(seen)


def test_what_a_table_does_not_say_of_a_scan_is_what_it_was_packed_as(tmp_path):
    """A table without a word on modality, or with an empty cell, leaves nobody out; CT is CT."""
    ramp = np.linspace(-1000, 1000, 24**3).reshape(24, 24, 24)
    for name in ("a", "b"):
        phantoms.save(tmp_path / f"{name}.nii.gz", ramp, dtype=np.int16)
    (tmp_path / "split.csv").write_text("split,file,modality\ntrain,a.nii.gz,CT chest\ntrain,b.nii.gz\n")
    pack(tmp_path, tmp_path / "cache", "CT")
    assert [scan.modality for scan in load_cache(tmp_path / "cache", "train")] == ["CT chest", "CT"]
    assert all(scan.kind is CT for scan in load_cache(tmp_path / "cache", "train"))


@pytest.mark.parametrize("task", shares("mr"))
def test_every_family_of_damage_can_be_learned_from(task, monkeypatch, scans):
    monkeypatch.setattr("medldm.training.examples.draw_task", lambda *_: task)
    for seed in range(3):
        for shape in (SMALL, Architecture(spatial_dims=3, context=1)):
            size = 32
            example = draw_example(scans, shape, size, torch.Generator().manual_seed(seed))
            assert example.inputs.shape == (shape.measured_channels, *(size,) * shape.spatial_dims)
            assert example.clean.shape == (1, *(size,) * shape.spatial_dims)
            assert torch.isfinite(example.inputs).all()


@pytest.mark.parametrize("task", shares("mr"))
def test_damage_is_seen_on_the_grid_of_the_clean_block(task):
    clean = torch.rand(40, 32, 5)
    generator = torch.Generator().manual_seed(0)
    observation, sigma = measure(clean, draw_damage(task, tuple(clean.shape), generator), generator)
    assert observation.y.shape == clean.shape
    assert sigma.expand_as(clean).shape == clean.shape


def test_contrast_curves_go_through_their_knots():
    knots, values = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.8, 0.4])
    assert torch.allclose(
        piecewise_linear(torch.tensor([0.0, 0.25, 0.75, 1.5]), knots, values), torch.tensor([0, 0.4, 0.6, 0.0])
    )


@pytest.mark.slow
def test_the_whole_pipeline_trains_resumes_and_restores(data, tmp_path):
    out = tmp_path / "mine"
    path = train("all", data, out, minutes=0.12, config=SMALL, name="mine", validate_s=600)
    record = json.loads(path.read_text())
    assert record["training"]["subjects"] == {"MR T1w | drawn": 3}
    assert set(record["validation"]) == {"unet", "vae", "flow", "fusion"}
    assert (out / "unet" / "curve.csv").read_text().startswith("minutes,step,loss,skipped,noise3")
    restored = medldm.denoise(phantoms.phantom(), noise=0.05, model=str(path))
    assert restored.history[-1].facts["model"] == "mine"
    with pytest.raises(UsageError, match="--resume"):
        train("unet", data, out, minutes=0.1, config=SMALL)
    steps = json.loads(read_metadata(out / "unet" / "checkpoint.safetensors")["state"])["step"]
    train("unet", data, out, minutes=0.14, config=SMALL, resume=True, validate_s=600)
    assert json.loads(read_metadata(out / "unet" / "checkpoint.safetensors")["state"])["step"] > steps


def make_trainer(folder, **plan):
    network = torch.nn.Linear(1, 1)
    return Trainer(network, Plan(minutes=10, warm_up=1, **plan), folder, lambda network: {"row": 1.0})


def test_a_step_that_explodes_is_skipped_and_counted(tmp_path):
    trainer = make_trainer(tmp_path)
    for _ in range(30):
        trainer.step((trainer.network(torch.ones(1, 1)) ** 2).mean() + 1)
    before = [weights.clone() for weights in trainer.network.parameters()]
    trainer.step((trainer.network(torch.ones(1, 1)) ** 2).mean() * 1e3 + 1e3)
    trainer.step(trainer.network(torch.ones(1, 1)).mean() * float("nan"))
    assert trainer.skipped == 2
    assert all(torch.equal(*pair) for pair in zip(before, trainer.network.parameters(), strict=True))


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path)
    for _ in range(5):
        trainer.step((trainer.network(torch.ones(1, 1)) ** 2).mean())
    trainer.save()
    (tmp_path / "checkpoint.partial").write_bytes(b"a kill in the middle of the next save")
    network = torch.nn.Linear(1, 1)
    again = Trainer(network, trainer.plan, tmp_path, trainer.score, resume=True)
    assert again.step_number == 5
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), trainer.network.parameters(), strict=True))
    assert again.optimizer.state_dict()["state"][0]["exp_avg"].abs().sum() > 0
    assert all(torch.equal(again.averaged[name], value) for name, value in trainer.averaged.items())


def test_the_average_forgets_slowly_and_is_what_is_scored_and_kept(tmp_path):
    trainer = make_trainer(tmp_path, average=0.5)
    weight = trainer.network.weight
    averaged = weight.detach().clone()
    for step in range(12):
        trainer.step((trainer.network(torch.ones(1, 1)) ** 2).mean())
        averaged.lerp_(weight.detach(), 1 - min(0.5, (1 + step) / (10 + step)))
    seen = []
    trainer.score = lambda network: {"weight": seen.append(network.weight.clone()) or 1.0}
    kept = trainer.finish()
    assert torch.equal(kept["weight"], averaged)
    assert torch.equal(seen[0], averaged)
    assert not torch.equal(weight, averaged)
    assert trainer.network.training


@pytest.mark.parametrize(("kind", "minutes"), [("song", 1), ("unet", 0)])
def test_what_cannot_be_trained_is_refused(kind, minutes, data, tmp_path):
    with pytest.raises(UsageError):
        train(kind, data, tmp_path / "x", minutes=minutes)


@pytest.mark.slow
def test_the_command_line_trains_too(data, tmp_path, capsys):
    from medldm.cli import main

    assert main(["train", "unet", str(data), str(tmp_path / "run"), "--minutes", "0.05", "-q"]) == 0
    assert capsys.readouterr().out.strip().endswith("run-unet.json")
    assert main(["train", "unet", str(data), str(tmp_path / "run"), "--minutes", "0.05", "-q"]) == 2
    assert main(["train", "unet", str(tmp_path / "nowhere"), str(tmp_path / "x"), "--minutes", "1", "-q"]) == 2


@pytest.mark.slow
def test_two_processes_train_one_network(data, tmp_path):
    """Lightning Fabric starts them, gradients are averaged, one of them writes."""
    pytest.importorskip("lightning_fabric", reason="needs medldm[train]")
    out = tmp_path / "two"
    path = train("unet", data, out, minutes=0.1, config=SMALL, name="two", validate_s=600, device="cpu", devices=2)
    record = json.loads(path.read_text())
    assert record["training"]["hardware"].startswith("2 x cpu")
    assert record["training"]["steps"]["unet"] > 0
    steps = record["training"]["steps"]["unet"]
    train("unet", data, out, minutes=0.15, config=SMALL, name="two", resume=True, device="cpu", devices=2)
    assert json.loads(path.read_text())["training"]["steps"]["unet"] > steps


def test_more_devices_than_there_are_is_said(data, tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        train("unet", data, tmp_path, minutes=1, devices=0)


def test_a_broken_scan_is_left_out_of_the_cache(data, tmp_path, caplog):
    folder = tmp_path / "some"
    shutil.copytree(data, folder)
    whole = (data / "s0_T1w.nii.gz").read_bytes()
    labels = (phantoms.brain((40, 40, 40)) > 500).astype(np.int16)
    bad = {
        "empty": b"",
        "text": b"patient,age\n",
        "torn": whole[: len(whole) // 2],
        "label": phantoms.save(tmp_path / "labels.nii.gz", labels, dtype=np.int16).read_bytes(),
        "air": phantoms.save(tmp_path / "air.nii.gz", 0 * labels, dtype=np.int16).read_bytes(),
        "flat": phantoms.save(tmp_path / "flat.nii.gz", phantoms.brain((20, 20, 20))[:, :, :1]).read_bytes(),
        "4D": phantoms.save(tmp_path / "4d.nii.gz", np.stack([phantoms.brain((20, 20, 20))] * 2, -1)).read_bytes(),
    }
    with (folder / "split.csv").open("a") as table:
        for name, content in bad.items():
            (folder / f"{name}_T1w.nii.gz").write_bytes(content)
            table.write(f"train,{name}_T1w.nii.gz,{name},MR T1w,CC0,drawn\n")
        table.write("train,nowhere_T1w.nii.gz,nowhere,MR T1w,CC0,drawn\n")
    caplog.set_level("WARNING", "medldm")  # a test of --quiet may have run before
    pack(folder, tmp_path / "cache")
    assert len(load_cache(tmp_path / "cache", "train")) == 3
    for name in (*bad, "nowhere"):
        assert f"{name}_T1w.nii.gz" in caplog.text


def test_a_trained_card_says_what_it_covers(tmp_path):
    """Of six scans it can tell, of three it cannot; what training started from is covered still."""
    rows = ["split,file,subject"]
    for number in range(7):
        voxels = phantoms.rician(phantoms.brain((44 + number, 52, 40)) ** (1 + number / 50), 20, number)
        phantoms.save(tmp_path / f"s{number}_T1w.nii.gz", voxels, np.diag([3.0, 3, 3, 1]), dtype=np.float32)
        rows.append(f"{'train' if number < 6 else 'val'},s{number}_T1w.nii.gz,s{number}")
    (tmp_path / "split.csv").write_text("\n".join(rows))
    pack(tmp_path, tmp_path / "cache")
    covers = covered(tmp_path, None)
    assert {"intensity", "texture", "anatomy"} <= set(covers)
    more = covered(tmp_path, card("brain-mri-2d"))
    shipped = card("brain-mri-2d").ood
    assert len(more["anatomy"]["references"]) == len(shipped["anatomy"]["references"]) + 6
    assert more["anatomy"]["limit"] == shipped["anatomy"]["limit"]
    (tmp_path / "split.csv").write_text("\n".join([*rows[:4], rows[-1]]))
    pack(tmp_path, tmp_path / "cache")
    assert covered(tmp_path, None) == {}


def test_a_network_for_volumes_starts_as_one_for_planes():
    """Of a scan that is the same in all its planes, both make the same."""
    from medldm.inference.conditioning import measured_channels
    from medldm.models.unet import build_unet
    from medldm.training.transfer import inflated_unet

    volumes = replace(SMALL, spatial_dims=3, context=1)
    planes = build_unet(SMALL).eval()
    torch.nn.init.normal_(planes.head.weight, std=0.1)
    grown = build_unet(volumes).eval()
    grown.load_state_dict(inflated_unet(planes.state_dict(), SMALL, volumes))
    y = torch.rand(32, 32, 1, generator=torch.Generator().manual_seed(0)).expand(32, 32, 32)
    with torch.inference_mode():
        flat = planes(measured_channels(y, torch.ones_like(y), torch.full((1, 1, 1), 0.05), 1.0, SMALL))[16, 0]
        deep = grown(measured_channels(y, torch.ones_like(y), torch.full((1, 1, 1), 0.05), 1.0, volumes))[0, 0]
    assert flat.std() > 0.01
    assert torch.allclose(deep[..., 16], flat, atol=1e-4)


def test_what_kind_of_scans_a_folder_holds(tmp_path):
    """A table is believed; without one the values tell, and a file that is none does not decide."""
    from medldm.training.splits import modality_of_scans

    head = phantoms.phantom((20, 20, 12)).voxels
    phantoms.save(tmp_path / "a_1.nii.gz", head - 1000, np.eye(4), dtype=np.int16)
    assert modality_of_scans(tmp_path) == "CT"
    (tmp_path / "0_1.nii.gz").write_bytes(b"no image")
    assert modality_of_scans(tmp_path) == "CT"
    phantoms.save(tmp_path / "0_1.nii.gz", head, np.eye(4), dtype=np.int16)
    assert modality_of_scans(tmp_path) == "MR"
    (tmp_path / "split.csv").write_text("split,file,modality\ntrain,a_1.nii.gz,CT chest\n")
    assert modality_of_scans(tmp_path) == "CT"


SPLIT = "split,file,subject,modality,weight\n"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            f"{SPLIT}train,a_1.nii.gz,a,CT chest,\ntrain,b_1.nii.gz,b,MR T1w,\nval,c_1.nii.gz,c,MR T1w,\n",
            "holds CT and MR scans, and a network learns one modality",
        ),
        ("", "a_1.nii.gz are those of CT, other scans of the folder are MR; a network learns one modality"),
        (f"{SPLIT}train,b_1.nii.gz,b,,\ntrain,c_1.nii.gz,b,,\n", "holds scans of one subject only, b"),
        (f"{SPLIT}train,b_1.nii.gz,b,,0\nval,c_1.nii.gz,c,,1\n", "has the weight 0, so none would be drawn"),
        (f"{SPLIT}train,d_1.nii.gz,d,,\nval,c_1.nii.gz,c,,\n", "MR scans in .*: 0 to train on, 1 to validate"),
        (f"{SPLIT}train,c_1.nii.gz,c,T2w,\nval,b_1.nii.gz,b,T2w,\n", "MR scans in .*: 0 to train on, 0 to validate"),
    ],
)
def test_scans_that_nothing_can_be_learnt_from_are_one_sentence(table, message, tmp_path):
    """CT among MR, one subject, weights of zero, a broken scan, modalities that nobody knows."""
    scans = tmp_path / "scans"
    scans.mkdir()
    head = phantoms.phantom((20, 20, 12)).voxels
    for name, voxels in (("0", head), ("a", head - 1000), ("b", head), ("c", head)):
        phantoms.save(scans / f"{name}_1.nii.gz", voxels, np.eye(4), dtype=np.int16)
    (scans / "d_1.nii.gz").write_bytes(b"no image")
    if table:
        (scans / "split.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        train("unet", scans, tmp_path / "run", minutes=0.01)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_wider_network_begins_as_the_narrower_one(spatial_dims):
    """More channels and neighbouring slices change nothing until training makes use of them."""
    from medldm.models.flow import build_flow
    from medldm.models.unet import build_fusion, build_unet
    from medldm.training.transfer import input_positions, widened_flow, widened_unet

    context = 5 if spatial_dims == 2 else 1
    was = replace(SMALL, spatial_dims=spatial_dims, context=context)
    shape = replace(was, context=9 if spatial_dims == 2 else 1, unet=tuple(2 * width for width in was.unet))
    generator = torch.Generator().manual_seed(0)
    grid = (16,) * spatial_dims
    for build, extra in ((build_unet, 0), (build_fusion, 2 + context)):
        narrow, wide = build(was).eval(), build(shape).eval()
        torch.nn.init.normal_(narrow.head.weight, std=0.1)
        wide.load_state_dict(widened_unet(narrow.state_dict(), wide, was, shape))
        inputs = torch.rand(2, wide.unet.in_channels, *grid, generator=generator)
        seen = inputs[:, input_positions(was, shape, extra)]
        with torch.inference_mode():
            assert narrow(seen).std() > 1e-3
            assert torch.allclose(wide(inputs), narrow(seen), atol=1e-5)
    old, new = build_flow(was).eval(), build_flow(shape).eval()
    torch.nn.init.normal_(old.network.out[-1].conv.weight, std=0.1)
    new.load_state_dict(widened_flow(old.state_dict(), was, shape))
    inputs = torch.rand(1, shape.measured_channels + 1, *grid, generator=generator)
    latents = torch.randn(1, was.latent_channels, *(size // was.latent_factor for size in grid), generator=generator)
    with torch.inference_mode():
        then = old(latents, torch.tensor([0.5]), latents, inputs[:, input_positions(was, shape, 1)])
        assert torch.allclose(new(latents, torch.tensor([0.5]), latents, inputs), then, atol=1e-4)


def test_a_wider_network_does_not_begin_as_another_kind():
    """Fewer channels, fewer slices or other levels are refused in words."""
    from medldm.models.unet import build_unet
    from medldm.training.transfer import widened_unet

    weights = build_unet(SMALL).state_dict()
    for change in ({"unet": tuple(width // 2 for width in SMALL.unet)}, {"context": 1}, {"unet_units": 3}):
        with pytest.raises(UsageError, match="grow"):
            widened_unet(weights, build_unet(SMALL), SMALL, replace(SMALL, **change))


@pytest.fixture
def first_loss(scans, tmp_path, monkeypatch):
    """``first_loss(stage, rank)``: of one step of a stage on a batch that is always the same, in a process of two."""
    from medldm.models.flow import build_flow
    from medldm.models.latent_space import LatentSpace
    from medldm.models.unet import build_unet
    from medldm.models.vae import build_vae
    from medldm.training.distributed import Distributed
    from medldm.training.stages.decoder import train_fusion
    from medldm.training.stages.flow import train_flow
    from medldm.training.stages.stage import Stage
    from medldm.training.stages.vae import train_vae

    losses = []
    monkeypatch.setattr(Trainer, "batches", lambda self, draw: iter([draw(torch.Generator().manual_seed(0))]))
    monkeypatch.setattr(Trainer, "step", lambda self, loss: losses.append(float(loss.detach())))
    monkeypatch.setattr(Trainer, "finish", lambda self: self.averaged)

    def run(stage, rank, *, begun=0):
        distributed = Distributed()
        distributed.rank, distributed.world_size = rank, 2
        folder = tmp_path / f"{stage}{len(losses)}"
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(0)  # the same networks each time
            frozen = LatentSpace(build_vae(SMALL).eval(), torch.ones(4)), build_flow(SMALL), build_unet(SMALL)
        latent, flow, unet = frozen
        # What the caller drew before must not matter.
        torch.default_generator.manual_seed(begun)
        options = Stage(
            train=scans,
            val=scans[:1],
            config=SMALL,
            plan=Plan(batch=2, patch=32),
            out=folder,
            init=flow.state_dict() if stage == "flow" else None,
            distributed=distributed,
        )
        monkeypatch.setattr("medldm.training.stages.vae.build_vae", lambda config: latent.vae)
        if stage == "vae":
            train_vae(options)
        elif stage == "flow":
            train_flow(options, latent, unet)
        else:
            train_fusion(options, latent, flow, unet)
        return losses[-1]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vae", "flow", "fusion"])
def test_processes_of_a_run_draw_different_noise_and_nobody_draws_from_the_callers(stage, first_loss):
    first, second = first_loss(stage, 0), first_loss(stage, 1)
    assert first != second
    assert first_loss(stage, 0, begun=7) == first
    assert first_loss(stage, 1, begun=7) == second


def test_no_two_steps_of_any_process_begin_with_the_same_seed(tmp_path):
    seeds = []
    for rank in range(3):
        trainer = make_trainer(tmp_path / str(rank), seed=5)
        trainer.distributed.rank, trainer.distributed.world_size = rank, 3
        for step in range(50):
            trainer.step_number = step
            seeds.append(trainer.step_generator().initial_seed())
    assert len(set(seeds)) == len(seeds)
    # One process alone draws what it always drew.
    alone = make_trainer(tmp_path / "alone", seed=5)
    alone.step_number = 3
    assert alone.step_generator().initial_seed() == 5 + 3 * 7919
