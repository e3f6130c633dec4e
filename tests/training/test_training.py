"""Training on phantoms for seconds: it packs, learns, stops, resumes, and leaves a model that the verbs take."""

import json
import shutil
from dataclasses import replace

import numpy as np
import phantoms
import pytest
import torch
from safetensors.torch import load_file as torch_file
from toy_training import LATENT, PLANES, SIZES, TOY, VOLUMES, ct_folder, folder

import medldm
from medldm.errors import InputError, ModelError, UsageError
from medldm.modality import CT
from medldm.models.checkpoint import save_model
from medldm.settings import Architecture
from medldm.training import train
from medldm.training.archive import pack_file
from medldm.training.data import balance, load_cache, pack
from medldm.training.publish import covered
from medldm.training.run import SHARES
from medldm.training.splits import read_split
from medldm.training.stages.stage import STAGES, WEIGHTS, Sizes, state_of
from medldm.training.validation import cubes, cubes_by_scanner
from medldm.zoo import card

SMALL = Architecture(unet=(8, 8, 8, 8), unet_units=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four subjects, one of them for validation, and one for the test."""
    place = folder(
        tmp_path_factory.mktemp("data"),
        subjects=4,
        shape=(72, 76, 70),
        head="split,file,subject,modality,licence,source",
        rest=",MR T1w,CC0,drawn",
    )
    with (place / "split.csv").open("a") as table:
        table.write("test,s9_T1w.nii.gz,s9,MR T1w,CC0,drawn\n")
    return place


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


def test_16_bit_scans_become_8_bit_ones_as_long_as_they_fit(scans, tmp_path):
    assert all(scan.voxels.dtype == np.uint8 for scan in scans)
    assert all(scan.scale == pytest.approx(1 / 200) and scan.coarse for scan in scans)
    assert not replace(scans[0], voxels=scans[0].voxels.astype(np.float32)).coarse  # nothing to dither
    head = phantoms.brain((40, 40, 40))
    head[20, 20, 20:24] = 5000  # a vessel
    phantoms.save(tmp_path / "s0_T1w.nii.gz", head, dtype=np.int16)
    (tmp_path / "split.csv").write_text("split,file\ntrain,s0_T1w.nii.gz\n")
    pack(tmp_path, tmp_path / "cache")
    (scan,) = load_cache(tmp_path / "cache", "train")
    assert scan.voxels.dtype == np.uint16
    values = scan.scaled((slice(None),) * 3, torch.Generator().manual_seed(0))
    assert float(values.max()) == pytest.approx(5000 / np.percentile(head[head > 0], 99.5), rel=0.05)
    assert len(values.unique()) > 10_000  # dithered


def test_ct_is_packed_in_hounsfield_units_with_the_noise_of_a_quarter_dose(tmp_path, monkeypatch):
    """Air is black, bone beyond the window is kept, and the level of the noise is that of the kernel."""
    monkeypatch.setattr("medldm.degradations.low_dose.VIEWS", 24)  # the whole sinogram takes half a minute
    ball = sum((axis / 24) ** 2 for axis in np.indices((56, 56, 20)) - np.array([28, 28, 10])[:, None, None, None])
    hounsfield = np.where(ball < 1, 40, -1000).astype(np.int16)
    hounsfield[26:30, 26:30] = 1800
    phantoms.save(tmp_path / "ct.nii.gz", hounsfield, dtype=np.int16)
    (tmp_path / "split.csv").write_text("split,file,subject,modality\ntrain,ct.nii.gz,a,CT chest\n")
    pack(tmp_path, tmp_path / "cache", "CT")
    (scan,) = load_cache(tmp_path / "cache", "train")
    values = scan.scaled((slice(None),) * 3, torch.Generator())
    assert float(values.min()) == pytest.approx(0)
    assert float(values.max()) == pytest.approx(1.4)
    assert scan.noise.shape == (2, *scan.voxels.shape)
    soft, sharp = (np.abs(noise).mean() for noise in scan.noise.astype(float))
    assert 1 < soft < sharp


def test_what_a_table_does_not_say_of_a_scan_is_what_it_was_packed_as(tmp_path):
    """A table without a word on modality, or with an empty cell, leaves nobody out; CT is CT."""
    ramp = np.linspace(-1000, 1000, 24**3).reshape(24, 24, 24)
    for name in ("a", "b"):
        phantoms.save(tmp_path / f"{name}.nii.gz", ramp, dtype=np.int16)
    (tmp_path / "split.csv").write_text("split,file,modality\ntrain,a.nii.gz,CT chest\ntrain,b.nii.gz\n")
    pack(tmp_path, tmp_path / "cache", "CT")
    assert [scan.modality for scan in load_cache(tmp_path / "cache", "train")] == ["CT chest", "CT"]
    assert all(scan.kind is CT for scan in load_cache(tmp_path / "cache", "train"))


def test_the_curve_names_scanners_where_there_are_several(scans):
    rows = [case.task for case in cubes_by_scanner(scans, PLANES)]
    assert rows == [case.task for case in cubes(scans, PLANES)]
    theirs = [replace(scan, source=source) for scan, source in zip(scans, ("x/one@1", "y/two", "y/two"), strict=True)]
    thick = [replace(scan, source="z/three", isotropic=False, slice_axis=2) for scan in scans[:1]]
    cases = cubes_by_scanner(theirs + thick, PLANES)
    named = {case.task for case in cases}
    assert {"thick4 one", "thick4 two", "region three", "noise7 three"} <= named
    assert "thick4 three" not in named  # nobody knows what thinner slices would show
    assert {case.damage for case in cases} == set(rows)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of all stages, and its card."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    return out, train("all", data, out, minutes=0.1, name="mine", **TOY)


def test_all_stages_leave_a_set_that_draws(whole):
    out, path = whole
    record = json.loads(path.read_text())
    assert record["name"] == "mine"
    assert record["spread"] is True
    assert record["residual"] == {
        "spatial_dims": 3, "context": 1, "latent_channels": 4, "latent_factor": 4, "flow": [16, 16], "flow_blocks": 1,
        "tile": 6,
    }  # fmt: skip
    facts = record["training"]
    assert facts["subjects"] == {"MR T1w | drawn": 3}
    assert facts["licences"] == {"CC0": 3}
    assert set(facts["minutes"]) == set(facts["steps"]) == set(record["validation"]) == set(STAGES)
    assert all(steps > 0 for steps in facts["steps"].values())
    assert facts["hardware"].startswith("c")
    for stage in STAGES:
        assert (out / stage / "curve.csv").read_text().startswith("minutes,step,loss,skipped,")
    assert (out / "unet" / "curve.csv").read_text().startswith("minutes,step,loss,skipped,noise3")
    baseline = json.loads((out / "mine-unet.json").read_text())
    assert baseline["role"] == "baseline"
    thick = phantoms.phantom((40, 44, 16), (1.0, 1.0, 3.0))
    mean = medldm.super_resolve(thick, model=str(path))
    drawn = medldm.super_resolve(thick, model=str(path), fidelity=0.0)
    assert drawn.history[-1].facts["model"] == "mine"
    assert np.abs(drawn.voxels - mean.voxels).max() > 1e-3 * mean.voxels.max()
    several = medldm.super_resolve(thick, model=str(path), samples=4)
    assert several.history[-1].settings["samples"] == 4


def test_a_run_goes_on_where_it_stopped_and_only_when_asked_to(whole, data):
    out, path = whole
    with pytest.raises(UsageError, match="--resume"):
        train("unet", data, out, minutes=0.1, **TOY)
    with pytest.raises(UsageError, match="--resume"):
        train("latent", data, out, minutes=0.1, **TOY)
    before, scenes = {stage: state_of(out / stage) for stage in STAGES}, list((out / "scenes").iterdir())
    # A busy machine may have taken longer than it was given.
    spent = max(before[stage]["seconds"] / SHARES[stage] for stage in ("unet", "flow"))
    train("all", data, out, minutes=spent / 60 + 0.1, name="mine", resume=True, **TOY)
    after = {stage: state_of(out / stage) for stage in STAGES}
    assert all(after[stage]["step"] > before[stage]["step"] for stage in ("unet", "flow"))
    assert all(after[stage]["seconds"] > before[stage]["seconds"] for stage in ("unet", "flow"))
    assert len(scenes) == 1
    assert set((out / "scenes").iterdir()).isdisjoint(scenes)  # of other networks: made anew
    assert json.loads(path.read_text())["residual"]
    # The time is up: nothing changes.
    train("unet", data, out, minutes=0.1, name="mine", resume=True, **TOY)
    assert [state_of(out / "unet")[key] for key in ("step", "rows")] == [after["unet"][key] for key in ("step", "rows")]


def test_a_stage_that_is_trained_again_leaves_behind_what_stands_on_it(whole, data, tmp_path, caplog):
    caplog.set_level("WARNING", "medldm")
    out = shutil.copytree(whole[0], tmp_path / "mine")
    (out / "mine.json").unlink()
    spent = state_of(out / "unet")["seconds"] / 60
    path = train("unet", data, out, minutes=spent + 0.02, name="mine", resume=True, **TOY)
    assert path.name == "mine-unet.json"
    assert not (out / "mine.json").exists()
    assert "spread was trained on another unet: train it again" in caplog.text


def test_a_run_keeps_the_shape_that_it_began_with(whole, data, tmp_path):
    """Later stages need no `--init`, and no `--spatial-dims`, to fit; what contradicts is refused."""
    out = tmp_path / "run"
    options = {name: TOY[name] for name in ("sizes", "validate_s")}
    train("unet", data, out, minutes=0.01, init=str(whole[0] / "mine-unet.json"), latent=LATENT, **options)
    path = train("spread", data, out, minutes=0.01, **options)
    assert json.loads(path.read_text())["architecture"]["unet"] == [8, 8]
    with pytest.raises(UsageError, match="holds a run with --spatial-dims 2, not 3"):
        train("spread", data, out, minutes=0.01, spatial_dims=3, resume=True, **options)
    with pytest.raises(ModelError, match=r"The weights of unet that .* goes on from are of another shape"):
        train("latent", data, out, minutes=0.01, **options | {"config": SMALL})


def test_volumes_and_stages_one_by_one(data, tmp_path):
    """In 3D, from a packed file; each stage asks for those before it."""
    file = pack_file(data, tmp_path / "scans.zip")
    options, out = TOY | {"config": VOLUMES, "sizes": replace(SIZES, patch=16)}, tmp_path / "run"
    with pytest.raises(ModelError, match="train unet first"):
        train("spread", file, out, minutes=0.01, **options)
    path = train("unet", file, out, minutes=0.02, **options)
    assert path.name == "run-unet.json"
    assert not json.loads(path.read_text()).get("spread")
    path = train("spread", file, out, minutes=0.02, **options)
    record = json.loads(path.read_text())
    assert (record["name"], record["spread"], record["residual"]) == ("run", True, {})
    answer = medldm.denoise(phantoms.phantom(), noise=0.05, model=str(path))
    assert answer.history[-1].facts["model"] == "run"
    with pytest.raises(ModelError, match="train latent first"):
        train("flow", file, out, minutes=0.01, **options)
    assert train("latent", file, out, minutes=0.01, **options) == path
    assert (out / "latent" / WEIGHTS).is_file()
    shutil.rmtree(out / "scenes")  # they are large; who carries a run elsewhere leaves them behind
    path = train("flow", file, out, minutes=0.02, **options)
    assert json.loads(path.read_text())["residual"]["flow"] == [16, 16]
    drawn = medldm.fill_slices(
        phantoms.with_missing_slices(phantoms.phantom(), (12, 13)), model=str(path), fidelity=0.0
    )
    assert drawn.history[-1].facts["model"] == "run"


def test_a_spread_on_top_of_a_set_and_a_set_that_goes_on(data, whole, tmp_path):
    """`--init` gives what the run itself does not have, and the card says where it came from."""
    out, _ = whole
    start = str(out / "mine-unet.json")
    options = {name: TOY[name] for name in ("sizes", "validate_s")}
    path = train("spread", data, tmp_path / "more", minutes=0.01, init=start, latent=LATENT, **options)
    record = json.loads(path.read_text())
    assert record["spread"] is True
    assert record["architecture"]["unet"] == [8, 8]
    assert record["training"]["started_from"] == "mine-unet"
    assert set(record["training"]["steps"]) == {"spread"}
    assert medldm.denoise(phantoms.phantom(), noise=0.05, model=str(path)).history[-1].facts["model"] == "more"
    whole_set = phantoms.tiny_model(tmp_path / "tiny")
    path = train("flow", data, tmp_path / "flow", minutes=0.01, init=str(whole_set), **options)
    before, after = (json.loads(card.read_text())["residual"] for card in (whole_set, path))
    # Samples are drawn in tiles of the size of the scenes that the flow was trained on, here toy ones.
    assert after == before | {"tile": TOY["sizes"].scene // before["latent_factor"]}
    path = train("unet", data, tmp_path / "tuned", minutes=0.01, init=str(whole_set), **options)
    assert path.name == "tuned-unet.json"  # what the set had beside it was not trained on this one


def test_sizes_suit_the_device(monkeypatch):
    assert Sizes.fitted("cpu", 2).batch > Sizes.fitted("cpu", 3).batch
    for gigabytes, share in ((80, 1), (24, 0.32)):
        memory = type("", (), {"total_memory": gigabytes * 1e9})
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, of=memory: of)
        large = Sizes.fitted("cuda", 2)
        assert (large.batch, large.flow, large.most) == (int(128 * share), int(32 * share), int(8192 * share))
        assert large.scene == Sizes().scene  # of which the tiles are that samples are drawn in


@pytest.mark.slow
def test_ct_goes_through_all_stages(tmp_path, monkeypatch):
    monkeypatch.setattr("medldm.degradations.low_dose.VIEWS", 24)
    path = train("all", ct_folder(tmp_path / "data"), tmp_path / "ct", minutes=0.1, **TOY)
    record = json.loads(path.read_text())
    assert record["modality"] == "ct"
    assert "dose1/4" in record["validation"]["unet"]
    assert medldm.denoise(phantoms.ct(), noise=30, model=str(path), fidelity=0.0).history[-1].facts["model"] == "ct"


@pytest.mark.parametrize(("kind", "minutes"), [("song", 1), ("unet", 0)])
def test_what_cannot_be_trained_is_refused(kind, minutes, data, tmp_path):
    with pytest.raises(UsageError):
        train(kind, data, tmp_path / "x", minutes=minutes)


def model(place, parts, **fields):
    """A set for `--init`, its card as it should not be."""
    about = {"name": "odd", "title": "t", "modality": "mr", "spatial_dims": 2, "role": "restorer", "verbs": [],
             "architecture": vars(PLANES), "licence": "none"}  # fmt: skip
    return str(save_model(parts, about | fields, place))


def test_a_model_that_does_not_fit_is_one_sentence(data, whole, tmp_path):
    out, _ = whole
    weights = {k.split(".", 1)[1]: v for k, v in torch_file(out / "mine-unet.safetensors").items()}
    for number, (parts, fields, message) in enumerate(
        (
            ({"vae": {"a": torch.zeros(1)}}, {}, "odd has no regression network to start from"),
            ({"unet": weights}, {"architecture": vars(replace(PLANES, unet=(8, 16)))}, "odd do not fit its card"),
            ({"unet": weights}, {"spread": True}, "odd do not fit its card"),
            ({"unet": weights}, {"architecture": {"depth": 3}}, "networks that this version does not know"),
        )
    ):
        start = model(tmp_path / str(number), parts, **fields)
        with pytest.raises(ModelError, match=message):
            train("spread", data, tmp_path / "run", minutes=0.01, init=start)
    with pytest.raises(ModelError, match="There is no model 'nobody'"):
        train("spread", data, tmp_path / "run", minutes=0.01, init="nobody")
    ct = model(tmp_path / "ct", {"unet": weights}, modality="ct")
    with pytest.raises(InputError, match=r"CT scans in .*: 0 to train on, 0 to validate"):
        train("unet", data, tmp_path / "run", minutes=0.01, init=ct)
    with pytest.raises(InputError, match="holds MR scans, and CT was to be learned"):
        train("unet", pack_file(data, tmp_path / "scans.zip"), tmp_path / "run", minutes=0.01, init=ct)


def test_a_folder_without_scans_and_a_file_that_is_none_are_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no scans")
    with pytest.raises(InputError, match=r"holds no NIfTI.* file to train on"):
        train("all", tmp_path / "empty", tmp_path / "run", minutes=1)
    with pytest.raises(InputError, match="text is no file of packed scans"):
        train("all", tmp_path / "text", tmp_path / "run", minutes=1)
    with pytest.raises(UsageError, match="neither a folder of scans nor a file"):
        train("all", tmp_path / "nowhere", tmp_path / "run", minutes=1)
    with pytest.raises(InputError, match=r"holds no NIfTI.* file to train on"):
        pack_file(tmp_path / "empty", tmp_path / "scans.zip")


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
    options = TOY | {"name": "two", "device": "cpu", "devices": 2}
    path = train("all", data, out, minutes=0.2, **options)
    record = json.loads(path.read_text())
    assert record["training"]["hardware"].startswith("2 x cpu")
    assert record["training"]["steps"]["unet"] > 0
    steps = record["training"]["steps"]["unet"]
    assert record["residual"]
    assert {path.name[0] for path in (out / "scenes").rglob("*.safetensors")} == {"0", "1"}
    path = train("unet", data, out, minutes=0.15, resume=True, **options)
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
    with pytest.raises(InputError, match=message):
        pack_file(scans, tmp_path / "scans.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_wider_network_begins_as_the_narrower_one(spatial_dims):
    """More channels and neighbouring slices change nothing until training makes use of them."""
    from medldm.models.unet import build_unet
    from medldm.training.transfer import input_positions, widened_unet

    context = 5 if spatial_dims == 2 else 1
    was = replace(SMALL, spatial_dims=spatial_dims, context=context)
    shape = replace(was, context=9 if spatial_dims == 2 else 1, unet=tuple(2 * width for width in was.unet))
    generator = torch.Generator().manual_seed(0)
    narrow, wide = build_unet(was).eval(), build_unet(shape).eval()
    torch.nn.init.normal_(narrow.head.weight, std=0.1)
    wide.load_state_dict(widened_unet(narrow.state_dict(), wide, was, shape))
    inputs = torch.rand(2, wide.unet.in_channels, *(16,) * spatial_dims, generator=generator)
    seen = inputs[:, input_positions(was, shape)]
    with torch.inference_mode():
        assert narrow(seen).std() > 1e-3
        assert torch.allclose(wide(inputs), narrow(seen), atol=1e-5)


def test_a_wider_network_does_not_begin_as_another_kind():
    """Fewer channels, fewer slices or other levels are refused in words."""
    from medldm.models.unet import build_unet
    from medldm.training.transfer import widened_unet

    weights = build_unet(SMALL).state_dict()
    for change in ({"unet": tuple(width // 2 for width in SMALL.unet)}, {"context": 1}, {"unet_units": 3}):
        with pytest.raises(UsageError, match="grow"):
            widened_unet(weights, build_unet(SMALL), SMALL, replace(SMALL, **change))
