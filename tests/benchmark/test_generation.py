"""A generator is scored: copies are seen, sets of one kind are near, attributes that were drawn are read again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_generator
from PIL import Image
from scipy import ndimage

from medldm.benchmark.generation import attributes, copies, realism, run, run_generation, sets
from medldm.benchmark.generation.sets import ScanSet, Sets
from medldm.benchmark.scoring import Backbone, encoder_backbone
from medldm.cli import main
from medldm.data.description import Description
from medldm.errors import ModelError, UsageError
from medldm.zoo import Card

SHAPE = (20, 20, 20)
# The planes themselves: their mean and spread are the features.
PLAIN = Backbone("planes", lambda image, places: [np.moveaxis(image[:, places], 1, 0)[None]])
CARD = Card(
    name="drawn",
    title="",
    modality="mr",
    spatial_dims=3,
    role="generator",
    verbs=("generate",),
    architecture={},
    weights="",
    sha256="",
    licence="",
)


def person(age, sex, contrast, random):
    """A bright ball whose volume is the age, in tissue that is lighter in men; in T2w it is dark."""
    radius = 5 * (age / 50) ** (1 / 3)
    distance = np.linalg.norm(np.indices(SHAPE) - 9.5 - random.uniform(-1, 1, (3, 1, 1, 1)), axis=0)
    tissue = 0.5 if sex == "male" else 0.3
    image = np.where(distance < radius, 0.9, tissue) + 0.5 * ndimage.gaussian_filter(random.normal(size=SHAPE), 1.5)
    return torch.from_numpy(1.4 - image if contrast == "T2w" else image).float()


def people(count, seed, contrasts=("T1w",)):
    """Drawn people of 20 to 80 years."""
    random = np.random.default_rng(seed)
    who = [
        Description(
            contrast=contrasts[n % len(contrasts)],
            region="hippocampus",
            sex=("female", "male")[n // 2 % 2],
            age=float(random.uniform(20, 80)),
        )
        for n in range(count)
    ]
    voxels = [sets.in_bytes(person(d.age, d.sex, d.contrast, random)) for d in who]
    names = [f"person {seed}-{n}" for n in range(count)]
    return ScanSet(
        voxels=torch.stack(voxels), descriptions=who, subjects=names, files=names, features=np.zeros((count, 0))
    )


def sets_of(samples, contrasts=("T1w",)):
    """Samples beside 40 training people and 20 held-out ones, with an autoencoder that loses nothing."""
    training, held_out = people(40, 1, contrasts), people(20, 2, contrasts)
    named = {"training": training, "held_out": held_out, "samples": samples}
    named |= {"training_decoded": training, "held_out_decoded": held_out}
    latents = {name: some.voxels[:, None].float() for name, some in named.items()}
    latents["mirrored"] = latents["training"].flip(2)
    return Sets(
        **run.with_features(named, PLAIN),
        latents=latents,
        psnr=np.full(20, 40.0),
        mae=np.full(20, 0.01),
        card=CARD,
        spacing=1.0,
        small=True,
    )


def everything(samples):
    """Scores by name."""
    return {s.name: s for s in run.all_scores(sets_of(samples), lambda some: None, "planes")}


def one(score, samples, *more, contrasts=("T1w",)):
    """A single score, or several of one kind by name."""
    scores = score(sets_of(samples, contrasts), *more, np.random.default_rng(0))
    return {s.name: s for s in scores} if isinstance(scores, list) else scores


@pytest.fixture(scope="module")
def new_people():
    return everything(people(16, 3))


@pytest.fixture(scope="module")
def copied():
    """Training scans with a little noise."""
    training = people(40, 1).subset(range(16))
    noise = torch.randn(training.voxels.shape, generator=torch.Generator().manual_seed(0))
    voxels = (training.voxels + 4 * noise).round().clamp(0, 255).to(torch.uint8)
    samples = replace(training, voxels=voxels, subjects=[f"seed {n}" for n in range(16)])
    return one(copies.memorised, samples)


def test_samples_that_are_new_people_are_as_near_as_chance_and_no_copies(new_people):
    assert new_people["kernel_distance"].passed
    assert new_people["frechet_distance"].numbers["samples"]["value"] == pytest.approx(
        new_people["frechet_distance"].numbers["halves"]["value"], rel=0.8
    )
    assert new_people["copies"].passed
    assert new_people["copies_by_margin"].numbers["share"]["value"] < 0.2
    pairs = new_people["ms_ssim_of_pairs"].numbers
    assert pairs["samples"]["low"] < pairs["real"]["high"]
    assert pairs["real"]["low"] < pairs["samples"]["high"]


def test_training_scans_with_noise_are_copies(copied):
    assert copied["copies"].numbers["share"]["value"] == 1
    assert copied["copies"].passed is False
    assert copied["copies_by_margin"].numbers["share"]["value"] > 0.9
    assert copied["copies_in_latent_space"].numbers["share"]["value"] == 1
    assert [entry["number"] for entry in copied["copies"].numbers["nearest"]] == list(range(16))


def test_samples_of_one_person_are_far_from_people_and_alike():
    somebody = people(2, 4).subset([0] * 16)
    them = sets_of(replace(somebody, subjects=[f"seed {n}" for n in range(16)]))
    random = np.random.default_rng(0)
    distances = realism.distances(them, them.training, them.training_decoded, random, "planes")
    assert distances[0].passed is False
    similarity = realism.diversity(them, them.training, them.training_decoded, random)
    assert similarity.numbers["samples"]["value"] == pytest.approx(1)
    assert "more alike" in similarity.meaning


def test_the_size_that_is_the_age_and_the_grey_that_is_the_sex_are_read_from_samples(new_people):
    age, sex = new_people["age"].numbers, new_people["sex"].numbers
    assert age["samples"]["value"] < age["guessing_the_mean"] / 2
    assert age["samples"]["correlation"] > 0.8
    assert sex["held_out"]["value"] > 0.9
    assert sex["samples"]["value"] > 0.9


def test_samples_that_do_not_listen_are_wrong_about_age_and_sex():
    samples = people(16, 5)
    others = [*samples.descriptions[9:], *samples.descriptions[:9]]
    age = one(attributes.ages, replace(samples, descriptions=others)).numbers
    assert age["samples"]["value"] > 2 * age["held_out"]["value"]
    assert age["samples"]["correlation"] < 0.5


def test_volumes_of_tissue_are_those_of_the_ball(new_people):
    ball = np.mean([4 / 3 * np.pi * 5**3 * d.age / 50 / 1000 for d in people(16, 3).descriptions])
    assert new_people["tissue_brightest"].numbers["samples"]["mean"] == pytest.approx(ball, rel=0.4)
    assert "apart" in new_people["tissue_brightest"].meaning


def test_what_the_data_do_not_say_has_no_score(new_people):
    assert "one contrast (T1w)" in new_people["inception"].meaning
    assert "no text encoder" in new_people["caption_score"].meaning
    nobody = replace(people(16, 6), descriptions=[Description(contrast="T1w", region="hippocampus")] * 16)
    assert "not known" in one(attributes.ages, nobody).meaning
    assert "not known" in one(attributes.sexes, nobody).meaning


def test_two_contrasts_have_an_inception_score_and_descriptions_a_cosine():
    both = ("T1w", "T2w")
    samples = people(16, 7, both)
    inception = one(attributes.inception, samples, contrasts=both).numbers
    assert inception["samples"]["value"] == pytest.approx(2, abs=0.2)
    assert inception["samples"]["accuracy"] == 1
    captions = one(attributes.caption_score, samples, lambda some: np.full(len(some), 0.4), contrasts=both)
    assert captions.numbers["samples"]["value"] == pytest.approx(0.4)
    assert "somebody else" in captions.meaning


def test_real_scans_are_chosen_with_contrasts_as_common_as_among_samples():
    real, samples = people(20, 8, ("T1w", "T2w")), people(8, 9, ("T1w", "T1w", "T1w", "T2w"))
    chosen = real.subset(sets.matched(real, samples, np.random.default_rng(0)))
    contrasts = [d.contrast for d in chosen.descriptions]
    assert (contrasts.count("T1w"), contrasts.count("T2w")) == (10, 3)


def test_every_group_of_features_counts_the_same():
    raw = np.random.default_rng(0).normal(size=(50, 4)) * [1000, 0, 0.01, 0.01]
    scaled = sets.scaled(raw, np.array([0, 0, 1, 1]), raw)
    assert scaled[:, :2].var(0).mean() == pytest.approx(1)
    assert scaled[:, 2:].var(0).mean() == pytest.approx(1)
    assert np.abs(scaled[:, 1]).max() == 0  # what never varies is not blown up


def test_features_of_planes_are_those_of_whole_volumes():
    some, backbone = people(1, 10), encoder_backbone()
    cut, places = sets.slabs(np.moveaxis(some.volume(0), 2, 1))
    whole = backbone.features(np.moveaxis(some.volume(0), 2, 1), np.array([7, 10, 12]))
    for layer, expected in zip(backbone.features(cut, places), whole, strict=True):
        assert np.allclose(layer, expected, atol=1e-5)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    return folder / "organs", toy_generator.train_toy(folder)


@pytest.mark.slow
def test_a_generator_is_scored_in_one_command_and_again_without_drawing(toy, tmp_path, monkeypatch, capsys):
    data, card = toy
    command = ["benchmark", str(data), "--generation", "--model", str(card), "--count", "4", "--out", str(tmp_path)]
    assert main(command) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "generation.md"
    table = (tmp_path / "generation.md").read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "generation.json").read_text(encoding="utf-8"))
    assert "brain-mri-2d@" in facts["features"]
    assert all(score["title"] in table for score in facts["scores"].values())
    assert facts["scores"]["reconstruction"]["numbers"]["psnr_db"]["value"] > 10
    for name in ("samples.png", "neighbours.png"):
        with Image.open(tmp_path / name) as picture:
            assert np.asarray(picture).std() > 5
    monkeypatch.setattr(sets, "draw_latent", None)  # nothing is drawn twice
    assert main(command) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--generation", "--quick", "--tasks", "noise-3"],
            "--quick and --tasks belong to the benchmark",
        ),
        (["--generation", "--split", "val"], "--split belong"),
        (["--generation", "--count", "0"], "at least 4"),
        (["--count", "8"], "--count is for --generation"),
        (["--generation", "--model", "brain-mri-2d"], "cannot draw them"),
    ],
)
def test_options_that_make_no_sense_are_a_sentence(options, sentence, tmp_path, capsys):
    assert main(["benchmark", str(tmp_path), *options, "--out", str(tmp_path / "out")]) in (2, 4)
    assert sentence in capsys.readouterr().err


def test_scans_on_another_grid_are_refused(tmp_path):
    data = toy_generator.write_organs(tmp_path / "organs")
    card = replace(CARD, generator={"shape": [16, 16, 16], "regions": ["hippocampus"]})
    with pytest.raises(UsageError, match="32 x 32 x 32 voxels, drawn draws 16 x 16 x 16"):
        sets.real_scans(data, tmp_path / "cache", card)


def test_a_folder_that_is_none_and_a_model_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        run_generation(tmp_path / "nowhere", tmp_path)
    with pytest.raises(ModelError):
        run_generation(tmp_path, tmp_path, model="no-such-model")
