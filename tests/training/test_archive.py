"""Packed scans in one file: bit for bit what the folder gives, small enough, and one sentence where it is damaged."""

import json
import zipfile

import numpy as np
import phantoms
import pytest
import torch
import toy_training

from medldm.cli import main
from medldm.errors import InputError, UsageError
from medldm.training import archive
from medldm.training.archive import pack_file, unpack, write_archive
from medldm.training.batches import measure
from medldm.training.corpus import Corpus
from medldm.training.data import INDEX, Packed, load_cache, pack


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Packed phantoms: 16 and 8 bits, thick slices, one that never counts, one for validation, one for the test."""
    data, cache = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cache")
    rows = ["split,file,subject,weight,source,licence"]
    for number, (split, kind, weight) in enumerate(
        [("train", np.int16, 1), ("train", np.uint8, 2), ("train", np.int16, 0), ("val", np.int16, 1)]
    ):
        brain = phantoms.rician(phantoms.brain((20, 24, 22)), 20, number)
        voxels = brain * 0.2 if kind is np.uint8 else brain
        spacing = np.diag([1.0, 1.0, 3.0 if number == 0 else 1.0, 1.0])
        phantoms.save(data / f"s{number}_T1w.nii.gz", voxels.clip(0, np.iinfo(kind).max), spacing, dtype=kind)
        rows.append(f"{split},s{number}_T1w.nii.gz,s{number},{weight},drawn,CC0")
    (data / "split.csv").write_text("\n".join(rows) + "\n")
    pack(data, cache)
    return cache


def assert_same(result, wanted):
    assert [item.file for item in result] == [item.file for item in wanted]
    for one, other in zip(result, wanted, strict=True):
        assert one.voxels.dtype == other.voxels.dtype
        np.testing.assert_array_equal(one.voxels, other.voxels)
        for name in Packed.__dataclass_fields__:
            assert name == "voxels" or getattr(one, name) == getattr(other, name), name


def read(file, cache):
    """Scans by split, through a cache."""
    unpack(file, cache)
    return {split: load_cache(cache, split) for split in ("train", "val")}


def test_a_file_gives_the_packed_scans_back_bit_for_bit(cache, tmp_path):
    size = write_archive(cache, tmp_path / "all.zip")
    assert size == (tmp_path / "all.zip").stat().st_size
    scans = read(tmp_path / "all.zip", tmp_path / "cache")
    assert_same(scans["train"], [scan for scan in load_cache(cache, "train") if scan.weight])
    assert_same(scans["val"], load_cache(cache, "val"))
    write_archive(cache, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "all.zip").read_bytes()


@pytest.mark.parametrize("make", [toy_training.folder, toy_training.ct_folder])
def test_training_from_the_file_sees_the_batches_of_the_folder(make, tmp_path, monkeypatch):
    monkeypatch.setattr("medldm.degradations.low_dose.VIEWS", 24)  # the whole sinogram takes half a minute
    data = make(tmp_path / "data", shape=(30, 26, 20))
    modality = "CT" if make is toy_training.ct_folder else "MR"
    pack(data, tmp_path / "of-folder", modality)
    unpack(pack_file(data, tmp_path / "scans.zip"), tmp_path / "of-file")
    batches = []
    for cache in ("of-folder", "of-file"):
        corpus = Corpus(load_cache(tmp_path / cache, "train"))
        generator = torch.Generator().manual_seed(0)
        blocks = corpus.draw(12, (16, 16, 3), generator)
        batches.append([blocks.clean, *measure(blocks, generator)])
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))
    assert (blocks.noise is not None) == (modality == "CT")


def test_a_file_that_would_be_too_large_holds_the_middles_of_its_largest_scans(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(archive, "SMALLEST", 8)
    caplog.set_level("WARNING", "medldm")
    data = toy_training.folder(tmp_path / "data", subjects=4, shape=(40, 40, 40))
    phantoms.save(data / "s0_T1w.nii.gz", phantoms.rician(phantoms.brain((24, 24, 24)), 10), dtype=np.int16)
    whole = pack_file(data, tmp_path / "whole.zip").stat().st_size
    assert "cropped" not in caplog.text
    megabytes = 0.6e-6 * whole
    size = pack_file(data, tmp_path / "small.zip", megabytes=megabytes).stat().st_size
    assert 0.7 * 1e6 * megabytes < size <= 1e6 * megabytes
    assert "3 of 4 scans are cropped around their content" in caplog.text
    scans, before = read(tmp_path / "small.zip", tmp_path / "a"), read(tmp_path / "whole.zip", tmp_path / "b")
    assert scans["train"][0].voxels.shape == before["train"][0].voxels.shape  # small enough as it was
    for part, scan in zip(scans["train"][1:] + scans["val"], before["train"][1:] + before["val"], strict=True):
        assert all(a < b for a, b in zip(part.voxels.shape, scan.voxels.shape, strict=True))
        middle = tuple(
            slice((b - a) // 2, (b - a) // 2 + a) for a, b in zip(part.voxels.shape, scan.voxels.shape, strict=True)
        )
        assert np.mean(part.voxels > 0) > np.mean(scan.voxels > 0)
        assert abs(float(part.voxels.mean()) / float(scan.voxels[middle].mean()) - 1) < 0.2
    with pytest.raises(UsageError, match=r"4 scans do not fit into 0\.001 MB"):
        pack_file(data, tmp_path / "tiny.zip", megabytes=0.001)
    with pytest.raises(UsageError, match="--megabytes 0 leaves no room"):
        pack_file(data, tmp_path / "tiny.zip", megabytes=0)


def test_the_command_line_packs(tmp_path, capsys):
    data = toy_training.folder(tmp_path / "data", shape=(24, 24, 24))
    assert main(["train", "pack", str(data), str(tmp_path / "new" / "scans.zip"), "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "scans.zip")
    assert main(["train", "pack", str(tmp_path / "nowhere"), str(tmp_path / "x.zip"), "-q"]) == 2
    assert "is not a folder of scans" in capsys.readouterr().err
    assert main(["train", "pack", str(data), str(tmp_path), "-q"]) == 2
    assert main(["train", "unet", str(data), str(tmp_path / "run"), "-q"]) == 2
    assert "--minutes" in capsys.readouterr().err


def test_the_largest_steps_between_voxels_come_back(cache, tmp_path):
    index = json.loads((cache / INDEX).read_text())
    index["scans"] = index["scans"][:1]
    index["scans"][0]["name"] = "0000.npy"
    (tmp_path / INDEX).write_text(json.dumps(index))
    wild = np.random.default_rng(0).choice(np.array([0, 1, 32768, 65535], np.uint16), (5, 6, 7))
    np.save(tmp_path / "0000.npy", wild)
    write_archive(tmp_path, tmp_path / "wild.zip")
    np.testing.assert_array_equal(read(tmp_path / "wild.zip", tmp_path / "wild")["train"][0].voxels, wild)


def test_what_is_no_file_of_scans_is_told(cache, tmp_path):
    (tmp_path / "text.zip").write_text("no zip at all")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("a.txt", "a")
    for name in ("text.zip", "other.zip", "nothing.zip"):
        with pytest.raises(InputError, match=rf"{name} is no file of packed scans\. Make one with `medldm train pack"):
            unpack(tmp_path / name, tmp_path / "cache")
    for version in (1, 3):
        with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_LZMA) as other:
            other.writestr(INDEX, json.dumps({"version": version, "scans": []}))
        with pytest.raises(
            InputError, match=rf"other\.zip has layout {version}, this medldm reads 2\. Pack it again\."
        ):
            unpack(tmp_path / "other.zip", tmp_path / "cache")


def test_a_damaged_file_is_one_sentence(cache, tmp_path):
    """Cut short at any place, or with a few bits flipped: never a traceback, and never other voxels."""
    write_archive(cache, tmp_path / "whole.zip")
    wanted = read(tmp_path / "whole.zip", tmp_path / "wanted")
    whole, damaged = (tmp_path / "whole.zip").read_bytes(), tmp_path / "damaged.zip"
    for size in np.linspace(80, len(whole) - 1, 12).astype(int):
        damaged.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"damaged\.zip is damaged or cut short\. Copy it again"):
            unpack(damaged, tmp_path / "cache")
    complaints = 0
    draw = np.random.default_rng(0)
    # Most of the file is voxels; its end says where they are.
    for at in (*draw.integers(64, len(whole), 20), *range(len(whole) - 120, len(whole), 2)):
        content = bytearray(whole)
        content[at] ^= 1 << draw.integers(8)
        damaged.write_bytes(content)
        try:
            scans = read(damaged, tmp_path / "cache")
        except InputError:
            complaints += 1
        else:  # a date or a permission of the zip file
            assert_same(scans["train"], wanted["train"])
    assert complaints > 30
