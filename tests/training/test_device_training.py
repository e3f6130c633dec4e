"""Training from packed scans on one device: what is drawn and damaged in batches is what one volume at a time gives."""

import dataclasses
import json
import math
import types
import zipfile

import numpy as np
import phantoms
import pytest
import torch
import toy_training
from safetensors.torch import load_file
from torch import nn

from medldm.degradations import DEGRADATIONS, InPlane, MissingSlices, Observation, ThickSlices
from medldm.degradations.regions import fill_smoothly
from medldm.degradations.sampling import interpolation_matrix, observation_weights, profile_matrix, slice_centres
from medldm.errors import InputError
from medldm.inference.conditioning import measured_channels, pick_orientations
from medldm.inference.networks import Networks
from medldm.inference.tiling import SamplerConfig, estimate
from medldm.models.residual import (
    Conditions,
    PrincipalBlocks,
    ResidualAutoencoder,
    ResidualFlow,
    SpreadHead,
    features_and_correction,
    flow_loss,
    sample,
)
from medldm.models.unet import build_unet
from medldm.training import batches, device_trainer, scenes
from medldm.training.archive import INDEX, read_archive, write_archive
from medldm.training.corpus import Blocks, Corpus, augment
from medldm.training.corpus import piecewise_linear as piecewise_linear_of_a_batch
from medldm.training.data import Packed, load_cache, pack
from medldm.training.device_trainer import DeviceTrainer
from medldm.training.examples import MARGIN
from medldm.training.state import read_metadata
from medldm.training.validation import damages

PLANES, LATENT = toy_training.PLANES, toy_training.LATENT
TASK = {name: number for number, name in enumerate(batches.family_shares())}
VOXELS = 40


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def scan(voxels, spacing=(1.0, 1.0, 1.0), weight=1.0, scale=1.0):
    thick = max(spacing) > 1.6 * min(spacing)
    return Packed(voxels, scale, spacing, int(np.argmax(spacing)), not thick, weight, "s_T1w.nii.gz", "s")


def numbered(shape, first=1):
    """A volume in which every voxel has a value of its own."""
    return np.arange(first, first + math.prod(shape), dtype=np.uint16).reshape(shape)


def test_batches_are_not_drawn_of_ct():
    ct = dataclasses.replace(scan(numbered((4, 4, 4))), modality="CT chest")
    with pytest.raises(InputError, match="1 of 2 packed scans are CT"):
        Corpus([scan(numbered((4, 4, 4))), ct])


# --- packed scans in one file -----------------------------------------------------------------------------------------


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


def assert_same(scans, wanted):
    assert [scan.file for scan in scans] == [scan.file for scan in wanted]
    for one, other in zip(scans, wanted, strict=True):
        assert one.voxels.dtype == other.voxels.dtype
        np.testing.assert_array_equal(one.voxels, other.voxels)
        for name in Packed.__dataclass_fields__:
            assert name == "voxels" or getattr(one, name) == getattr(other, name), name


def test_an_archive_gives_the_packed_scans_back_bit_for_bit(cache, tmp_path):
    size = write_archive(cache, tmp_path / "all.zip")
    assert size == (tmp_path / "all.zip").stat().st_size
    scans = read_archive(tmp_path / "all.zip")
    assert {scan.voxels.dtype.name for scan in scans["train"]} == {"uint8", "uint16"}
    assert_same(scans["train"], [scan for scan in load_cache(cache, "train") if scan.weight])
    assert_same(scans["val"], load_cache(cache, "val"))
    write_archive(cache, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "all.zip").read_bytes()


def test_parts_of_an_archive_are_the_whole(cache, tmp_path):
    files = [tmp_path / f"{part}.zip" for part in (1, 2)]
    for part, file in enumerate(files, 1):
        write_archive(cache, file, splits=("train",), part=part, parts=2)
    assert [len(read_archive(file)["train"]) for file in files] == [1, 1]
    scans = read_archive(*files)
    assert set(scans) == {"train"}
    assert_same(scans["train"], [scan for scan in load_cache(cache, "train") if scan.weight])


def test_the_largest_steps_between_voxels_come_back(cache, tmp_path):
    index = json.loads((cache / INDEX).read_text())
    index["scans"] = index["scans"][:1]
    index["scans"][0]["name"] = "0000.npy"
    (tmp_path / INDEX).write_text(json.dumps(index))
    wild = np.random.default_rng(0).choice(np.array([0, 1, 32768, 65535], np.uint16), (5, 6, 7))
    np.save(tmp_path / "0000.npy", wild)
    write_archive(tmp_path, tmp_path / "wild.zip")
    np.testing.assert_array_equal(read_archive(tmp_path / "wild.zip")["train"][0].voxels, wild)


def test_what_is_no_archive_is_reported(cache, tmp_path):
    (tmp_path / "text.zip").write_text("no zip at all")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("a.txt", "a")
    for name in ("text.zip", "other.zip", "nothing.zip"):
        with pytest.raises(InputError, match=rf"{name} is no archive of packed scans\. Make one with"):
            read_archive(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "later.zip", "w") as later:
        later.writestr(INDEX, json.dumps({"version": 2, "scans": []}))
    with pytest.raises(InputError, match=r"later\.zip has layout 2, this medldm reads 1\. Pack it again\."):
        read_archive(tmp_path / "later.zip")


def test_a_damaged_archive_is_one_sentence(cache, tmp_path):
    """Cut short at any place, or with a few bits flipped: never a traceback, and never other voxels."""
    write_archive(cache, tmp_path / "whole.zip")
    wanted = read_archive(tmp_path / "whole.zip")
    whole, damaged = (tmp_path / "whole.zip").read_bytes(), tmp_path / "damaged.zip"
    for size in np.linspace(80, len(whole) - 1, 12).astype(int):
        damaged.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"damaged\.zip is damaged or cut short\. Copy it again"):
            read_archive(damaged)
    complaints = 0
    draw = np.random.default_rng(0)
    # Most of the file is voxels; its end says where they are.
    for at in (*draw.integers(64, len(whole), 20), *range(len(whole) - 120, len(whole), 2)):
        content = bytearray(whole)
        content[at] ^= 1 << draw.integers(8)
        damaged.write_bytes(content)
        try:
            scans = read_archive(damaged)
        except InputError:
            complaints += 1
        else:  # a date or a permission of the zip file
            assert_same(scans["train"], wanted["train"])
    assert complaints > 30


# --- blocks of scans --------------------------------------------------------------------------------------------------


def test_blocks_are_pieces_of_their_scan_and_air_lies_around_it():
    shapes, size = [(9, 14, 11), (16, 7, 12)], (10, 8, 6)
    scans = [scan(numbered(shapes[0])), scan(numbered(shapes[1], first=2000))]
    firsts = [1, 2000]
    blocks = Corpus(scans).draw(64, size, seeded())
    assert blocks.clean.shape == (64, *size)
    assert blocks.isotropic.all()
    assert set(blocks.scan.tolist()) == {0, 1}
    orders = set()
    for clean, which in zip(blocks.clean.numpy(), blocks.scan.tolist(), strict=True):
        inside = clean > 0
        box = tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(inside))
        assert inside[box].all()  # what is not air is one box
        at = np.stack(np.unravel_index(clean[box].astype(int) - firsts[which], shapes[which]))  # where each came from
        order = []
        for place in range(3):
            steps = np.diff(at, axis=place + 1)
            moved = [axis for axis in range(3) if steps[axis].any()]
            assert len(moved) == 1
            assert len(np.unique(steps[moved[0]])) == 1
            assert abs(steps[moved[0]].flat[0]) == 1
            order += moved
            assert inside[box].shape[place] == min(size[place], shapes[which][moved[0]])
        assert sorted(order) == [0, 1, 2]
        orders.add(tuple(order))
    assert len(orders) == 6


@pytest.mark.parametrize("axis", range(3))
def test_thick_slices_lie_across_the_last_axis(axis):
    shape, spacing = (8, 9, 10), tuple(4.0 if a == axis else 1.0 for a in range(3))
    blocks = Corpus([scan(numbered(shape), spacing)]).draw(16, (4, 4, 3), seeded())
    assert not blocks.isotropic.any()
    for clean in blocks.clean.numpy():
        at = np.unravel_index(clean.astype(int) - 1, shape)[axis]
        assert (np.abs(np.diff(at, axis=2)) == 1).all()
        assert (at == at[:1, :1]).all()


def test_scans_are_drawn_by_weight_and_scaled_and_8_bit_ones_are_dithered():
    flat = np.full((8, 8, 8), 200, np.uint8)
    flat[0] = 0
    scans = [
        scan(flat, scale=0.005),
        scan(numbered((8, 8, 8), 60000), weight=0.0),
        scan(numbered((8, 8, 8)), scale=0.5),
    ]
    blocks = Corpus(scans).draw(32, (8, 8, 8), seeded())
    assert set(blocks.scan.tolist()) == {0, 2}
    eight, sixteen = blocks.clean[blocks.scan == 0], blocks.clean[blocks.scan == 2]
    assert (sixteen.flatten(1).sort(1).values == torch.arange(1, 513) * 0.5).all()
    assert ((eight == 0).flatten(1).sum(1) == 64).all()
    signal = eight[eight > 0] / 0.005
    assert 199.5 - 1e-3 <= float(signal.min()) < 199.6
    assert 200.4 < float(signal.max()) <= 200.5 + 1e-3
    only = Corpus(scans[:1]).draw(4, (8, 8, 8), seeded())  # a buffer of bytes
    assert ((only.clean == 0).flatten(1).sum(1) == 64).all()


def test_blocks_are_drawn_around_signal():
    voxels = np.zeros((40, 8, 8), np.uint16)
    voxels[:10] = 1
    blocks = Corpus([scan(voxels)]).draw(100, (4, 4, 4), seeded())
    assert ((blocks.clean > 0).flatten(1).any(1)).float().mean() > 0.95  # 1 in 32 by twelve tries without luck


def test_augmented_blocks_stay_finite_and_keep_air_dark():
    clean = torch.rand(64, 6, 7, 8, generator=seeded())
    clean[:, :2] = 0
    image = augment(clean, seeded(1))
    assert image.shape == clean.shape
    assert torch.isfinite(image).all()
    assert image[:, :2].abs().max() < 1e-6
    assert ((image - clean).flatten(1).abs().max(1).values > 0).all()
    curves = torch.tensor([[0.0, 1.0, 0.5], [0.0, 2.0, 4.0]])
    result = piecewise_linear_of_a_batch(torch.tensor([[0.25, 0.75], [0.5, 2.0]]), curves, 1.0)
    torch.testing.assert_close(result, torch.tensor([[0.5, 0.75], [2.0, 8.0]]))


# --- damage -----------------------------------------------------------------------------------------------------------


def sampled(centres, thickness, *, rect=False, fourier=False, beside=None):
    """`batches.sampling` of these centres, beside other slices in one batch, so that rows of nothing are there."""
    other = torch.arange(VOXELS, dtype=torch.float32) if beside is None else beside
    places, there = torch.zeros(2, VOXELS), torch.zeros(2, VOXELS, dtype=torch.bool)
    for row, positions in enumerate((centres, other)):
        places[row, : len(positions)] = positions.float()
        there[row, : len(positions)] = True
    sampling = batches.sampling(
        places,
        there,
        torch.tensor([thickness, 1e-3]),
        torch.tensor([rect, False]),
        torch.tensor([fourier, False]),
        VOXELS,
        torch.tensor([thickness, 1.0]),
        torch.tensor([True, False]),
    )
    # The other one selects voxels, whatever stands beside it.
    if beside is None:
        torch.testing.assert_close(sampling.measure[1], torch.eye(VOXELS))
        torch.testing.assert_close(sampling.interpolate[1], torch.eye(VOXELS))
    count = len(centres)
    assert not sampling.measure[0, count:].any()
    if not fourier:
        assert not sampling.interpolate[0, :, count:].any()
    assert sampling.thickness.tolist() == pytest.approx([thickness, 1.0])
    return sampling.measure[0, :count], sampling.interpolate[0, :, :count], sampling.observed[0]


def assert_near(value, wanted, tolerance=2e-5):
    torch.testing.assert_close(value.double(), wanted.double(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("profile", ["gaussian", "rect"])
@pytest.mark.parametrize(("spacing", "thickness"), [(3.7, 4.1), (1.3, 1.3), (8.0, 5.0), (4.0, 4.0)])
def test_thick_slices_are_those_of_one_volume(profile, spacing, thickness):
    wanted = ThickSlices(VOXELS, 0, spacing, thickness, profile, missing=(1,))
    centres = slice_centres(VOXELS, spacing)[wanted.kept]
    measure, interpolate, observed = sampled(centres, thickness, rect=profile == "rect")
    assert_near(measure, wanted.matrices[0])
    assert_near(measure, profile_matrix(centres, VOXELS, thickness, profile))
    assert_near(interpolate, interpolation_matrix(centres, VOXELS))
    assert_near(observed, observation_weights(centres, VOXELS))
    clean = torch.rand(VOXELS, 3, 2, generator=seeded())
    assert_near(torch.einsum("hs,st...->ht...", interpolate @ measure, clean), wanted.observe(wanted.degrade(clean)).y)


@pytest.mark.parametrize("kept", [[0, 3, 4, 9, 20, 39], [5], list(range(2, 40, 3))])
def test_missing_slices_are_those_of_one_volume(kept):
    wanted = MissingSlices(VOXELS, [k for k in range(VOXELS) if k not in kept], axis=0)
    measure, interpolate, observed = sampled(torch.tensor(kept), 1e-3)
    assert measure.argmax(1).tolist() == kept
    torch.testing.assert_close(measure, torch.eye(VOXELS)[kept])
    assert_near(interpolate, interpolation_matrix(torch.tensor(kept), VOXELS))
    assert observed.tolist() == wanted.measured.float().tolist()
    clean = torch.rand(VOXELS, 3, 2, generator=seeded())
    assert_near(torch.einsum("hs,st...->ht...", interpolate @ measure, clean), wanted.observe(wanted.degrade(clean)).y)


@pytest.mark.parametrize("profile", ["kspace", "rect"])
@pytest.mark.parametrize("factor", [1.3, 1.7, 2.0, 2.6])
def test_coarse_planes_are_those_of_one_volume(profile, factor):
    wanted = InPlane((VOXELS, 4, 4), (0,), factor, profile)
    centres = slice_centres(VOXELS, factor)
    measure, interpolate, observed = sampled(centres, factor, rect=profile == "rect", fourier=profile == "kspace")
    assert_near(measure, wanted.matrices[0], 1e-4)
    clean = torch.rand(VOXELS, 4, 4, generator=seeded())
    observation = wanted.observe(wanted.degrade(clean))
    assert_near(torch.einsum("hs,st...->ht...", interpolate @ measure, clean), observation.y, 1e-4)
    assert_near(observed, observation.observed[:, 0, 0])


def test_holes_are_filled_as_in_one_volume():
    image, known = torch.rand(3, 20, 24, 13, generator=seeded()), torch.rand(3, 20, 24, 13, generator=seeded(1)) > 0.3
    known[0, 5:15, 5:18] = False
    known[1] = True  # a block without holes beside blocks with them
    filled = fill_smoothly(image, known)
    for number in range(3):
        torch.testing.assert_close(filled[number], fill_smoothly(image[number], known[number]), atol=1e-6, rtol=1e-5)
    assert (filled[known] == image[known]).all()


@pytest.fixture
def clean_blocks():
    clean = phantoms.brain((24, 20, 18)) / phantoms.PEAK
    stack = torch.from_numpy(np.stack([np.roll(clean, k, axis=1) for k in range(10)]))
    return Blocks(stack, torch.ones(10, dtype=torch.bool), torch.zeros(10, dtype=torch.long))


@pytest.fixture
def no_noise(monkeypatch):
    for kind in DEGRADATIONS.values():
        monkeypatch.setattr(kind, "noise_on_top", kind.noise_on_top._replace(chance=0.0))


def test_what_was_measured_without_noise_stays(clean_blocks, no_noise):
    tasks = torch.tensor([TASK["noise"], TASK["gap"], TASK["region"]] * 3 + [TASK["region"]])
    measured = batches.measure(clean_blocks, seeded(), tasks)
    assert not measured.sigma.any()
    assert measured.thickness.tolist() == [1.0] * 10
    seen = measured.observed == 1
    assert ((measured.observed == 0) | seen).all()
    torch.testing.assert_close(measured.y[seen], clean_blocks.clean[seen], atol=1e-6, rtol=0)
    whole = seen.flatten(1).all(1)
    assert whole[tasks == TASK["noise"]].all()
    assert not whole[tasks == TASK["gap"]].all()
    assert not whole[tasks == TASK["region"]].any()


def test_a_damaged_block_is_what_one_volume_would_be(clean_blocks, monkeypatch):
    """With every draw at two fifths of its range: thick Gaussian slices, k-space planes, no noise."""
    monkeypatch.setattr(batches, "uniform", lambda count, low, high, _: torch.full((count,), low + 0.4 * (high - low)))
    measured = batches.measure(clean_blocks, seeded(), torch.tensor([TASK["thick"], TASK["in-plane"]] * 5))
    spacing = math.exp(math.log(1.3) + 0.4 * (math.log(8) - math.log(1.3)))
    centres = (torch.arange(30, dtype=torch.float64) + 0.1) * spacing - 0.5
    thick = ThickSlices(24, 0, spacing, centres=centres[centres < 23.5])
    plane = InPlane((24, 20, 18), (0, 1), 1.3 + 0.4 * 1.3)
    for item, degradation in enumerate((thick, plane) * 5):
        wanted = degradation.observe(degradation.degrade(clean_blocks.clean[item]))
        torch.testing.assert_close(measured.y[item], wanted.y, atol=1e-4, rtol=0)
        torch.testing.assert_close(measured.observed[item], wanted.observed.float(), atol=1e-5, rtol=0)
        assert measured.thickness[item].item() == pytest.approx(wanted.thickness, rel=1e-5)
    assert not measured.sigma.any()


def test_noise_has_the_given_level_but_for_the_doubt():
    flat = Blocks(torch.full((40, 16, 16, 16), 0.6), torch.ones(40, dtype=torch.bool), torch.zeros(40).long())
    measured = batches.measure(flat, seeded(), torch.full((40,), TASK["noise"]))
    spread = (measured.y - 0.6).flatten(1).std(1)
    level = measured.sigma.flatten(1).square().mean(1).sqrt()
    assert ((spread / level).log().abs() < 0.6).all()  # doubt: 0.15 of the logarithm
    assert 0.05 < float((spread / level).log().std()) < 0.3
    varying = measured.sigma.flatten(1).std(1) / level > 1e-3
    assert varying.any()
    assert not varying.all()


def test_thick_slices_are_not_thickened_again():
    isotropic = torch.arange(400) < 200
    tasks = batches.draw_tasks(isotropic, seeded())
    thin = (tasks == TASK["thick"]) | (tasks == TASK["gap"])
    assert thin[:200].any()
    assert not thin[200:].any()
    assert set(tasks[200:].tolist()) == {TASK["noise"], TASK["in-plane"], TASK["region"]}


def test_channels_of_a_plane_are_those_that_tasks_use(clean_blocks):
    context = PLANES.context
    measured = batches.measure(clean_blocks._replace(clean=clean_blocks.clean[..., 6 : 6 + context]), seeded())
    channels = batches.plane_channels(measured, context)
    for number in range(len(channels)):
        fields = (
            measured.y[number],
            measured.observed[number],
            measured.sigma[number],
            float(measured.thickness[number]),
        )
        torch.testing.assert_close(channels[number], measured_channels(*fields, PLANES)[context // 2])


# --- regression in all orientations -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    """A regression network of two levels that has something to say."""
    generator, network = seeded(3), build_unet(PLANES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def test_the_mean_over_orientations_is_that_of_the_tasks(network):
    names = ["noise", "thick", "noise", "in-plane", "region", "gap"]
    isotropic = torch.tensor([True, True, False, True, True, True])
    clean = torch.rand(6, 16, 32, 48, generator=seeded())
    tasks = torch.tensor([TASK[name] for name in names])
    measured = batches.measure(Blocks(clean, isotropic, torch.zeros(6).long()), seeded(), tasks)
    b, log_s = scenes.regress(network, None, measured, isotropic, PLANES.context)
    networks = Networks(PLANES, network)
    for number, name in enumerate(names):
        spacing = (1.0, 1.0, 1.0 if isotropic[number] else 3.0)
        damaged, in_plane = (0,) if name in ("thick", "gap") else (), (0, 1) if name == "in-plane" else ()
        orientations = pick_orientations(damaged, in_plane, (16, 32, 48), spacing)
        assert len(orientations) == (2 if damaged else 3 if name in ("noise", "region") and isotropic[number] else 1)
        observation = Observation(measured.y[number], measured.observed[number], float(measured.thickness[number]))
        wanted = estimate(networks, observation, measured.sigma[number], orientations, SamplerConfig.whole())
        assert (wanted - measured.y[number]).abs().max() > 0.01  # it says something
        torch.testing.assert_close(b[number], wanted, atol=1e-4, rtol=0)
    assert not log_s.any()


def test_scenes_are_cut_and_the_spread_can_learn_from_them(network):
    head, corpus = SpreadHead(2, PLANES.unet[0]), Corpus([scan(numbered((40, 36, 38)), scale=2e-5)])
    drawn, log_s = scenes.draw_scenes(corpus, network, head, 3, 16, PLANES.context, seeded())
    assert drawn.residual.shape == log_s.shape == (3, 16, 16, 16)
    assert all(field.shape == (3, 1, 16, 16, 16) for field in drawn.conditions[:5])
    torch.testing.assert_close(log_s, torch.full_like(log_s, math.log(0.03)))  # where it starts
    assert not drawn.conditions.b.requires_grad
    log_s.mean().backward()
    assert head.last.bias.grad.item() == pytest.approx(1.0, rel=1e-4)
    inner = slice(MARGIN, MARGIN + 16)
    blocks = corpus.draw(3, (16 + 2 * MARGIN, 16, 16), generator := seeded())
    clean = augment(blocks.clean, generator)[:, inner]  # the same numbers are drawn first
    torch.testing.assert_close(drawn.residual + drawn.conditions.b[:, 0], clean)


def test_scenes_of_every_kind_are_made_under_autocast(network):
    """In bf16 only networks compute: blocks and damage are those of full precision."""
    head, corpus = SpreadHead(2, PLANES.unet[0]), Corpus([scan(numbered((40, 36, 38)), scale=2e-5)])
    made = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            made.append(scenes.draw_scenes(corpus, network, head, 24, 16, PLANES.context, seeded())[0])
    full, half = made
    assert set(full.task.tolist()) == set(TASK.values())
    assert full.task.tolist() == half.task.tolist()
    for name in ("y", "observed", "sigma", "thickness"):
        assert (getattr(full.conditions, name) == getattr(half.conditions, name)).all(), name
    assert half.residual.dtype == half.conditions.b.dtype == half.conditions.log_s.dtype == torch.float32
    assert (half.conditions.b != full.conditions.b).any()
    torch.testing.assert_close(half.conditions.b, full.conditions.b, atol=0.05, rtol=0.05)


def test_features_and_correction_are_those_of_the_network(network):
    inputs = torch.rand(2, PLANES.measured_channels, 16, 16, generator=seeded())
    features, correction = features_and_correction(network, inputs)
    assert features.shape == (2, PLANES.unet[0], 16, 16)
    torch.testing.assert_close(correction, network(inputs))


@pytest.mark.parametrize("row", ["gap4", "region", "thick4", "noise7"])
def test_projection_keeps_what_was_measured(row):
    module = toy_training.script("residual")
    clean, guess = torch.rand(16, 16, 16, generator=seeded()), torch.rand(16, 16, 16, generator=seeded(1))
    sampling = damages((16, 16, 16))[row].sampling
    held = clean if sampling is None else sampling.degrade(clean)
    projected = module.Case(row, "s", clean, None, sampling, held, None).project(guess)
    if sampling is None:
        assert (projected == guess).all()
    elif row == "thick4":
        torch.testing.assert_close(sampling.degrade(projected), held, atol=1e-4, rtol=0)
    else:
        seen = sampling.observe(held).observed == 1
        assert (projected[seen] == clean[seen]).all()
        assert (projected[~seen] == guess[~seen]).all()


# --- residual, latent and flow ----------------------------------------------------------------------------------------


@pytest.fixture
def residual():
    """Residual of (2, 1, 16, 16, 16) with some structure, and log s beside it."""
    coarse = torch.randn(2, 1, 4, 4, 4, generator=seeded())
    u = nn.functional.interpolate(coarse, scale_factor=4, mode="trilinear")
    return u, torch.full_like(u, math.log(0.03))


@pytest.fixture
def principal():
    cells = LATENT.latent_factor**3
    basis, _ = torch.linalg.qr(torch.randn(cells, LATENT.latent_channels, generator=seeded(1)))
    return PrincipalBlocks(basis, torch.tensor([4.0, 2.0, 1.0, 0.5]), LATENT.latent_factor)


def test_principal_components_project(principal, residual):
    u, log_s = residual
    latent = principal.latent(u, log_s)
    assert latent.shape == (2, LATENT.latent_channels, 4, 4, 4)
    once = principal.decode(latent)
    torch.testing.assert_close(principal.decode(principal.latent(once, log_s)), once, atol=1e-5, rtol=0)
    torch.testing.assert_close(((u - once) * once).sum(), torch.zeros(()), atol=1e-3, rtol=0)


def test_the_autoencoder_starts_from_principal_components(principal, residual):
    u, log_s = residual
    with torch.no_grad():
        network = ResidualAutoencoder(LATENT)
        network.start_from(principal)
        wanted = principal.decode(principal.latent(u, log_s))
        near = network.decode(network.latent(u, log_s))
        assert (near - wanted).norm() < 0.2 * u.norm()  # networks that hardly speak yet stand beside
        for last in (network.vae.network.decoder.blocks[-1].conv, network.vae.network.quant_conv_mu.conv):
            last.weight.zero_()
        torch.testing.assert_close(network.decode(network.latent(u, log_s)), wanted, atol=1e-5, rtol=0)


def test_normalising_a_latent_changes_no_residual(principal, residual):
    u, log_s = residual
    network = ResidualAutoencoder(LATENT)
    network.start_from(principal)
    with torch.no_grad():
        raw, sigma = network.encode(u, log_s)
        network.mean.copy_(torch.tensor([0.3, -1.0, 2.0, 0.0]))
        network.scale.copy_(torch.tensor([0.5, 3.0, 1.5, 0.1]))
        latent = network.latent(u, log_s)
        torch.testing.assert_close(latent[:, 1], (raw[:, 1] + 1.0) / 3.0)
        torch.testing.assert_close(network.decode(latent), network.decode_raw(raw), atol=1e-5, rtol=1e-4)
    assert (sigma < 0.1).all()


def test_a_perfect_velocity_costs_nothing_and_leads_to_the_latent():
    latent, projected = torch.randn(4, 3, 4, 4, 4, generator=seeded()), torch.zeros(4, 1, 4, 4, 4)

    def perfect(z, time, projected):
        return (latent - z) / (1 - time).reshape(-1, 1, 1, 1, 1)

    assert flow_loss(perfect, latent, projected, seeded(1)) < 1e-8
    assert flow_loss(lambda z, time, projected: 0 * z, latent, projected, seeded(1)) > 1
    noise = torch.randn(latent.shape, generator=seeded(2))
    for steps in (1, 4, 7):
        torch.testing.assert_close(sample(perfect, noise, projected, steps), latent, atol=1e-5, rtol=0)


def test_the_flow_hears_its_conditions(residual):
    u, log_s = residual
    flow = ResidualFlow(LATENT, blocks=1)
    generator = seeded(4)
    with torch.no_grad():
        for parameter in flow.parameters():  # a fresh network says nothing
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        conditions = Conditions(u, u + 0.1, torch.ones_like(u), 0.05 + 0 * u, log_s, torch.tensor([1.0, 4.0]))
        projected = flow.condition(conditions)
        assert projected.shape == (2, LATENT.flow[0], 4, 4, 4)
        thicker = flow.condition(conditions._replace(thickness=torch.tensor([1.0, 8.0])))
        torch.testing.assert_close(thicker[0], projected[0])
        assert (thicker[1] != projected[1]).any()
        noisy, time = torch.randn(2, LATENT.latent_channels, 4, 4, 4, generator=generator), torch.tensor([0.2, 0.7])
        velocity = flow(noisy, time, projected)
        assert velocity.shape == noisy.shape
        assert (flow(noisy, time, 0 * projected) != velocity).any()
        assert (flow(noisy, 1 - time, projected) != velocity).any()


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by a second at every look, so that steps can be counted."""
    now = iter(range(1_000_000))
    monkeypatch.setattr(device_trainer, "time", types.SimpleNamespace(monotonic=lambda: float(next(now))))


def line(folder, minutes, **arguments):
    """A loop that learns y = 2 x with one weight, which starts at 0; the rates it took."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    made, rates = (
        DeviceTrainer(network, folder, minutes=minutes, learning_rate=0.1, warm_up=5, decay=0.9, **arguments),
        [],
    )

    def draw(generator):
        return torch.rand(8, 1, generator=generator)

    def loss_of(network, x):
        rates.append(made.optimizer.param_groups[0]["lr"])
        return ((network(x) - 2 * x) ** 2).mean()

    return made, lambda: made.run(draw, loss_of, 7), rates


def test_the_loop_warms_up_anneals_and_learns(clock, tmp_path):
    made, run, rates = line(tmp_path, 10, validate=lambda network: {"weight": network.weight.item()}, validate_s=100)
    weights = run()
    assert len(rates) == made.steps > 100
    assert rates[0] == pytest.approx(0.1 / 5, rel=0.01)
    peak = rates.index(max(rates))
    assert peak == 4
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.0012  # a hundredth
    assert weights["weight"].item() == pytest.approx(2, abs=0.05)
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert len(curve) > 3
    assert [row["step"] for row in curve] == sorted(row["step"] for row in curve)
    assert curve[-1]["step"] == made.steps
    assert curve[-1]["weight"] == pytest.approx(weights["weight"].item())
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_the_loop_goes_on_from_its_checkpoint(clock, tmp_path):
    first, run, _ = line(tmp_path, 5)
    weights = run()
    again, run_again, rates = line(tmp_path, 10)
    assert again.steps == first.steps > 50
    assert again.before_s == pytest.approx(first.seconds, abs=10)
    assert again.network.weight.item() == first.network.weight.item()
    torch.testing.assert_close(again.averaged(), weights)
    moments, earlier = (trainer.optimizer.state_dict()["state"][0] for trainer in (again, first))
    assert all((moments[name] == earlier[name]).all() for name in ("exp_avg", "exp_avg_sq", "step"))
    run_again()
    assert again.steps == first.steps + len(rates)
    assert len(rates) > 50
    assert rates[0] == pytest.approx(0.05, rel=0.1)  # half of the minutes are over: no second warm-up
    assert rates[-1] < 0.0012
    assert [row["step"] for row in again.rows] == [first.steps, again.steps]
    over, run_over, none = line(tmp_path, 10)  # the minutes are spent
    weights = over.averaged()
    torch.testing.assert_close(run_over(), weights)
    assert none == []
    assert over.steps == again.steps


def test_a_step_that_explodes_is_not_learned(clock, tmp_path):
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    made = DeviceTrainer(network, tmp_path, minutes=3, learning_rate=0.01, warm_up=1)
    kinds = iter(["good"] * 20 + ["nan", "huge"] + ["good"] * 1000)
    seen = []

    def loss_of(network, x):
        seen.append(network.weight.item())
        factor = {"good": 1.0, "nan": math.nan, "huge": -1e9}[next(kinds)]
        return factor * (network(x) - 2 * x).square().mean()

    made.run(lambda generator: torch.rand(8, 1, generator=generator), loss_of)
    assert all(map(math.isfinite, seen))
    assert seen == sorted(seen)  # towards 2 all the time, where the huge step would have turned it round
    assert seen[-1] > seen[20]


# --- the scripts ------------------------------------------------------------------------------------------------------


def spent(folder):
    """Minutes that a run has had, validation counted in."""
    path = folder / "checkpoint.safetensors"
    return json.loads(read_metadata(path)["state"])["seconds"] / 60 if path.exists() else 0.0


@pytest.mark.slow
def test_the_scripts_train_and_go_on(tmp_path, monkeypatch):
    archive, restorer, residual = toy_training.packed(tmp_path), tmp_path / "restorer", tmp_path / "residual"
    steps = []
    for _ in range(2):
        arguments = [restorer, "--archives", archive, "--minutes", spent(restorer) + 0.02, "--batch", 4, "--patch", 16]
        toy_training.run(toy_training.script("restorer"), monkeypatch, *arguments)
        steps.append(json.loads((restorer / "curve.json").read_text())[-1]["step"])
    assert 0 < steps[0] < steps[1]
    curve = json.loads((restorer / "curve.json").read_text())
    assert [row["step"] for row in curve] == [0, *steps]
    assert {"noise7 s1", "thick4 s1", "gap4 s1", "region s1", "plane2 s1", "mean"} <= set(curve[0])
    weights = load_file(restorer / "weights.safetensors")
    assert {f"unet.{name}" for name in build_unet(PLANES).state_dict()} == set(weights)
    assert all(torch.isfinite(value).all() for value in weights.values())

    arguments = [tmp_path / "more", "--archives", archive, "--minutes", 0.001, "--batch", 1, "--patch", 16]
    arguments += ["--init", restorer / "weights.safetensors"]
    toy_training.run(toy_training.script("restorer"), monkeypatch, *arguments)
    begun = json.loads((tmp_path / "more" / "curve.json").read_text())[0]
    assert begun["mean"] == pytest.approx(curve[-1]["mean"], abs=1e-3)  # it starts from the weights that were given

    small = ["--pool", 8, "--scenes", 2, "--batch", 2, "--batch-autoencoder", 2, "--size", 16, "--rows", "gap4,noise7"]
    done = []
    for _ in range(2):
        arguments = [residual, "--archives", archive, "--unet", restorer / "weights.safetensors", *small]
        for stage in ("spread", "autoencoder", "flow"):
            arguments += [f"--minutes-{stage}", spent(residual / stage) + 0.015]
        toy_training.run(toy_training.script("residual"), monkeypatch, *arguments)
        curves = {s: json.loads((residual / s / "curve.json").read_text()) for s in ("spread", "autoencoder", "flow")}
        done.append({stage: rows[-1]["step"] for stage, rows in curves.items()})
    assert all(0 < done[0][stage] < done[1][stage] for stage in done[0])
    assert any(name.startswith("mean - b gap4") for name in curves["flow"][-1])
    for stage in ("spread", "autoencoder", "principal", "flow"):
        weights = load_file(residual / f"{stage}.safetensors")
        assert weights
        assert all(name.startswith(f"{stage}.") and torch.isfinite(value).all() for name, value in weights.items())
    shapes = json.loads((residual / "architecture.json").read_text())
    assert shapes["planes"]["context"] == PLANES.context
    assert shapes["latent"]["latent_channels"] == LATENT.latent_channels
    (residual / "principal.safetensors").rename(tmp_path / "principal.safetensors")
    arguments = [residual, "--archives", archive, "--unet", restorer / "weights.safetensors", *small]
    arguments += ["--stages", "flow", "--latent", "principal", "--minutes-flow", spent(residual / "flow") + 0.015]
    toy_training.run(toy_training.script("residual"), monkeypatch, *arguments)
    last = json.loads((residual / "flow" / "curve.json").read_text())[-1]["step"]
    assert last > done[1]["flow"]  # on principal components, from the same checkpoint
    again, once = (load_file(folder / "principal.safetensors") for folder in (residual, tmp_path))
    torch.testing.assert_close(again, once)  # made anew of the same scenes
