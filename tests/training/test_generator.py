"""Scans on one grid, an autoencoder that begins as principal components, a flow that listens."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_generator
from phantoms import phantom
from safetensors.torch import load_file

import medldm
from medldm.data import template
from medldm.data.description import Description
from medldm.data.volume import Volume
from medldm.errors import InputError, UsageError
from medldm.models.generator import Autoencoder, Conditions, GeneratorFlow
from medldm.training.generation import scans
from medldm.training.generation.captions import paraphrase
from medldm.training.generation.decoder import LEARNED, Judged, same_encoder
from medldm.training.generation.run import train_generator
from medldm.training.generation.stages import forgotten, latent_statistics
from medldm.training.stages.stage import WEIGHTS


def test_cut_outs_lie_in_the_middle_of_one_grid(tmp_path):
    corpus = scans.load(toy_generator.write_organs(tmp_path / "data"), tmp_path / "cache", "hippocampus")
    assert corpus.shape == toy_generator.SHAPE
    assert corpus.small
    assert int(corpus.train.sum()) == 6
    assert corpus.descriptions_of(train=True)[0] == Description(
        contrast="T1w", region="hippocampus", sex="female", age=20
    )
    again = scans.load(tmp_path / "data", tmp_path / "cache", "hippocampus")
    assert torch.equal(again.voxels, corpus.voxels)


def test_a_short_scan_is_continued_at_its_ends_and_a_long_one_cut():
    scan = Volume(np.broadcast_to(np.arange(10, dtype=np.float32)[:, None, None], (10, 40, 32)).copy(), np.eye(4))
    placed = template.centred(scan, (16, 32, 32), 1.0)
    assert placed.shape == (16, 32, 32)
    assert placed[:, 5, 5].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9]


def test_registration_finds_a_head_that_was_moved():
    head = template.scaled_intensity(phantom())
    still = Volume(head.voxels, template.centred_affine(head.shape, 1.0))
    angle = np.deg2rad(8)
    moved = np.array(
        [[np.cos(angle), -np.sin(angle), 0, 6], [np.sin(angle), np.cos(angle), 0, -4], [0, 0, 1, 3], [0] * 3 + [1.0]]
    )
    scan = Volume(head.voxels, moved @ still.affine)
    mapping = template.registered(scan, still)
    corners = np.array([[x, y, z, 1.0] for x in (-15, 15) for y in (-15, 15) for z in (-12, 12)])
    away = np.linalg.norm((corners @ mapping.T - corners @ moved.T)[:, :3], axis=1)
    assert away.max() < 2.5  # mm; the drawn head is nearly round, so its turn is hard to tell
    placed = template.on_template(scan, mapping, still.shape, 1.0)
    assert np.corrcoef(placed.ravel(), still.voxels.ravel())[0, 1] > 0.97


def test_the_autoencoder_begins_as_principal_components_and_its_latents_at_unit_scale():
    volumes = torch.stack([torch.from_numpy(toy_generator.organ(seed)).float()[None] / 255 for seed in range(6)])
    network = Autoencoder(toy_generator.toy_config()).eval()
    network.start_from_blocks(volumes)
    with torch.no_grad():
        decoded = network.decode(network.encode(volumes)[0])
        own = {k: v for k, v in network.state_dict().items() if k not in ("mean", "scale")}
        network.load_state_dict({**own, **latent_statistics(network, volumes)})
        latent = network.normalised(volumes)
        again = network.image(latent)
    assert float(((decoded - volumes) ** 2).mean()) < 0.2 * float(volumes.var())
    assert torch.allclose(latent.std((0, 2, 3, 4)), torch.ones(4), atol=0.05)
    assert torch.allclose(again, decoded, atol=1e-4)


def test_augmentation_keeps_the_organ_and_mirrors_left_to_right():
    volume = torch.from_numpy(toy_generator.organ(0)).float()[None, None] / 255
    still = scans.augmented(volume.repeat(32, 1, 1, 1, 1), torch.Generator().manual_seed(0), strength=0.0)
    same = [bool(torch.allclose(one, volume[0], atol=1e-4)) for one in still]
    mirrored = [bool(torch.allclose(one, volume[0].flip(1), atol=1e-4)) for one in still]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_what_is_not_told_has_a_token_of_its_own():
    conditions = Conditions(toy_generator.toy_config())
    rows = conditions.indices([Description(), Description(contrast="T1w", sex="male", age=0)])
    assert rows.tolist() == [[0, 0, 0, -1], [1, 0, 2, 0]]
    forgot = forgotten(rows[1:].repeat(500, 1), torch.Generator().manual_seed(0))
    empty = (forgot == torch.tensor([0.0, 0.0, 0.0, -1.0])).float().mean(0)
    assert 0.2 < float(empty[0]) < 0.36  # 15 % of the examples, and 15 % of the words of the others


def test_the_flow_takes_grids_that_are_no_multiple_of_its_strides():
    flow = GeneratorFlow(replace(toy_generator.toy_config(), shape=(28, 32, 20)))
    z = torch.randn(2, 4, 7, 8, 5)
    velocity = flow(z, torch.rand(2), flow.conditions.indices([Description()] * 2))
    assert velocity.shape == z.shape


def test_texts_say_a_description_in_many_ways():
    import random

    said = Description(contrast="T1w", region="brain", sex="female", age=34)
    texts = {paraphrase(said, random.Random(seed)) for seed in range(40)}
    assert len(texts) > 20
    from medldm.data.description import parse

    assert all(parse(text).description == said for text in texts)


@pytest.mark.slow
def test_training_leaves_a_model_with_a_card_and_goes_on(tmp_path):
    path = toy_generator.train_toy(tmp_path)
    said = json.loads(path.read_text())
    assert said["role"] == "generator"
    assert said["generator"]["shape"] == list(toy_generator.SHAPE)
    assert said["generator"]["ages"] == [20, 45]
    assert said["training"]["sexes"] == {"female": 3, "male": 3}
    assert said["training"]["licences"] == {"CC0": 6}
    with pytest.raises(UsageError, match="--resume"):
        toy_generator.train_toy(tmp_path)


@pytest.mark.slow
def test_the_decoder_learns_from_a_critic_and_the_encoder_stays(tmp_path):
    toy_generator.train_toy(tmp_path)
    first, tuned = (load_file(tmp_path / "toy-generator" / stage / WEIGHTS) for stage in ("autoencoder", "decoder"))
    assert first.keys() == tuned.keys()  # the critic is left behind
    changed = {key for key in first if not torch.equal(first[key], tuned[key])}
    assert changed  # the decoder learned
    assert all(key.startswith(LEARNED) for key in changed - {"mean", "scale"})  # so the flow still fits
    assert torch.allclose(first["scale"], tuned["scale"], rtol=1e-3)
    shipped = load_file(tmp_path / "toy-generator" / "toy-generator.safetensors")
    assert torch.allclose(shipped["autoencoder.synthesis.bias"].float(), tuned["synthesis.bias"], atol=1e-3)
    assert same_encoder(first, tuned)
    other = first | {"analysis.bias": first["analysis.bias"] + 1}  # as after the autoencoder was trained on
    assert not same_encoder(other, tuned)


def test_the_opinion_of_a_critic_teaches_the_decoder_alone():
    config = toy_generator.toy_config()
    network = Judged(Autoencoder(config))
    image = network.autoencoder.image(torch.randn(1, config.latent_channels, *config.latent_shape))
    network.opinion(image)[-1].mean().backward()
    taught = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert taught
    assert all(name.removeprefix("autoencoder.").startswith(LEARNED) for name in taught)


def test_a_box_lies_in_the_grid_and_reaches_its_ends():
    generator = torch.Generator().manual_seed(0)
    starts = [[at.start for at in scans.box((6, 8, 10), generator, 0.5)] for _ in range(200)]
    assert np.min(starts, 0).tolist() == [0, 0, 0]
    assert np.max(starts, 0).tolist() == [3, 4, 5]
    assert scans.box((6, 8, 10), generator, 1.0) == (slice(0, 6), slice(0, 8), slice(0, 10))


def test_a_cache_serves_a_folder_that_was_moved(tmp_path):
    organs = toy_generator.write_organs(tmp_path / "organs")
    scans.load(organs, tmp_path / "cache", "hippocampus")
    before = (tmp_path / "cache" / "generation.npz").stat().st_mtime_ns
    moved = organs.rename(tmp_path / "elsewhere")
    scans.load(moved, tmp_path / "cache", "hippocampus")
    assert (tmp_path / "cache" / "generation.npz").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_large_grid_is_learned_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(scans, "LARGE", 1000)
    path = toy_generator.train_toy(tmp_path, config=replace(toy_generator.toy_config(), by_place=True))
    assert json.loads(path.read_text())["training"]["steps"]["decoder"] > 0
    scan = medldm.generate("T1w hippocampus", model=str(path), steps=2)
    assert scan.shape == toy_generator.SHAPE


def test_latents_have_unit_variance_at_each_place_where_they_vary():
    random = torch.Generator().manual_seed(0)
    volumes = 0.5 + 0.1 * torch.randn((40, 1, *toy_generator.SHAPE), generator=random)
    volumes[:, :, :, :16] = 0.0  # as outside of a head
    network = Autoencoder(replace(toy_generator.toy_config(), by_place=True))
    network.start_from_blocks(volumes)
    network.load_state_dict(network.state_dict() | latent_statistics(network, volumes))
    with torch.no_grad():
        latents = network.normalised(volumes)
        assert torch.allclose(network.latent(latents), network.encode(volumes)[0], atol=1e-4)
    spread = latents.std(0)
    assert float(spread[:, :, 5:].mean()) == pytest.approx(1, abs=0.1)
    assert float(spread[:, :, :3].max()) < 0.01


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"minutes": 0}, "leaves no time"), ({"minutes": 1, "region": "liver"}, "--region is one of")],
)
def test_options_that_make_no_sense_are_a_sentence(tmp_path, options, sentence):
    with pytest.raises(UsageError, match=sentence):
        train_generator(tmp_path, tmp_path / "out", **options)


def test_two_scans_are_too_few(tmp_path):
    with pytest.raises(InputError, match="too few"):
        scans.load(toy_generator.write_organs(tmp_path / "data", count=2), tmp_path / "cache", "hippocampus")


def test_the_velocity_of_a_gaussian_leads_noise_to_that_gaussian():
    from medldm.diffusion.samplers import euler
    from medldm.models.generator import GaussianVelocity, _cosines

    config = toy_generator.toy_config()
    gaussian = GaussianVelocity(config)
    random = torch.Generator().manual_seed(0)
    fall = torch.exp(-0.4 * torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij")).sum(0))
    waves = torch.randn((800, 4, 8, 8, 8), generator=random) * 4 * fall
    waves[:, 1] = 0.8 * waves[:, 0] + 0.2 * waves[:, 1]
    mean = torch.linspace(-1, 1, 8).expand(4, 8, 8, 8)
    gaussian.fit(mean + _cosines(waves, inverse=True))
    drawn = euler(gaussian, torch.randn((800, 4, 8, 8, 8), generator=random), 64)
    assert torch.allclose(drawn.mean(0), mean, atol=0.3)
    ours = _cosines(drawn - mean)
    for at in ((0, 0, 0), (1, 0, 0), (0, 2, 1)):
        place = (slice(None), slice(None), *at)
        want = torch.cov(waves[place].T)
        assert torch.allclose(torch.cov(ours[place].T), want, atol=0.2 * float(want.diag().max()))


def test_a_network_that_adds_nothing_leaves_the_gaussian():
    flow = GeneratorFlow(toy_generator.toy_config())
    z, time = torch.randn(2, 4, 8, 8, 8), torch.tensor([0.2, 0.7])
    assert torch.allclose(
        flow(z, time, flow.conditions.indices([Description()] * 2)), flow.gaussian(z, time), atol=1e-5
    )


def test_samples_that_vary_too_little_get_the_power_of_latents_at_each_frequency():
    from medldm.models.generator import GaussianVelocity, _cosines

    gaussian = GaussianVelocity(toy_generator.toy_config())
    random = torch.Generator().manual_seed(0)
    low = torch.stack(torch.meshgrid(*[torch.arange(8.0)] * 3, indexing="ij")).sum(0) < 9
    latents = 3 + _cosines(torch.randn((400, 4, 8, 8, 8), generator=random), inverse=True)
    gaussian.fit(latents)
    narrow = _cosines(torch.where(low, 0.7, 1.25) * torch.randn((400, 4, 8, 8, 8), generator=random), inverse=True) + 3
    assert torch.allclose(gaussian.matched(narrow), narrow, atol=1e-4)  # nothing is known of samples yet
    gaussian.match(narrow)
    power = (_cosines(gaussian.matched(narrow) - gaussian.mean) ** 2).mean((0, 1))
    inner = torch.nn.functional.max_pool3d((~low).float()[None], 3, 1, 1)[0] == 0  # away from where the power jumps
    assert float(power[inner].mean()) == pytest.approx(1, abs=0.05)
    assert float(power.mean()) == pytest.approx(1, abs=0.1)
    half = (_cosines(gaussian.matched(narrow, 0.5) - gaussian.mean) ** 2).mean((0, 1))
    assert float(half[inner].mean()) == pytest.approx(0.7, abs=0.05)
    assert torch.allclose(gaussian.matched(narrow, 0.0), narrow, atol=1e-4)
