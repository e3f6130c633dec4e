"""What regression leaves open: scenes, their latent, and the flow that draws it."""

import math

import numpy as np
import phantoms
import pytest
import torch
from torch import nn
from toy_training import LATENT, PLANES, VOLUMES, numbered, scan, seeded

from medldm.degradations import Observation
from medldm.inference.conditioning import pick_orientations
from medldm.inference.networks import Networks
from medldm.inference.tiling import Tiling, estimate
from medldm.models.residual import (
    Conditions,
    PrincipalBlocks,
    ResidualFlow,
    SpreadHead,
    features_and_correction,
)
from medldm.models.unet import build_unet
from medldm.training import batches, scenes
from medldm.training.batches import MARGIN
from medldm.training.corpus import Blocks, Corpus, augment
from medldm.training.damage import family_shares
from medldm.training.residual_scores import Case, residual_cases, spread_scores
from medldm.training.validation import cubes, damages

TASK = {name: number for number, name in enumerate(family_shares())}


# --- regression in all orientations -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    """A regression network of two levels that has something to say."""
    generator, network = seeded(3), build_unet(PLANES)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def test_the_mean_over_orientations_is_that_of_the_verbs(network):
    names = ["noise", "thick", "noise", "in-plane", "region", "gap"]
    isotropic = torch.tensor([True, True, False, True, True, True])
    clean = torch.rand(6, 16, 32, 48, generator=seeded())
    tasks = torch.tensor([TASK[name] for name in names])
    measured = batches.measure(Blocks(clean, isotropic, torch.zeros(6).long()), seeded(), tasks)
    b, _ = scenes.regress(network, measured, isotropic, PLANES)
    networks = Networks(PLANES, network)
    for result, name in enumerate(names):
        spacing = (1.0, 1.0, 1.0 if isotropic[result] else 3.0)
        damaged, in_plane = (0,) if name in ("thick", "gap") else (), (0, 1) if name == "in-plane" else ()
        orientations = pick_orientations(damaged, in_plane, (16, 32, 48), spacing)
        assert len(orientations) == (2 if damaged else 3 if name in ("noise", "region") and isotropic[result] else 1)
        observation = Observation(measured.y[result], measured.observed[result], float(measured.thickness[result]))
        wanted = estimate(networks, observation, measured.sigma[result], orientations, Tiling.whole())
        assert (wanted - measured.y[result]).abs().max() > 0.01  # it says something
        torch.testing.assert_close(b[result], wanted, atol=1e-4, rtol=0)


def test_volumes_are_regressed_in_their_first_orientation():
    generator, network = seeded(3), build_unet(VOLUMES).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    clean, isotropic = torch.rand(3, 16, 32, 48, generator=seeded()), torch.ones(3, dtype=torch.bool)
    tasks = torch.tensor([TASK["noise"], TASK["thick"], TASK["region"]])
    measured = batches.measure(Blocks(clean, isotropic, torch.zeros(3).long()), seeded(), tasks)
    b, kept = scenes.regress(network, measured, isotropic, VOLUMES)
    for item in range(3):
        observation = Observation(measured.y[item], measured.observed[item], float(measured.thickness[item]))
        orientations = pick_orientations((0,) if item == 1 else (), (), (16, 32, 48), (1.0, 1.0, 1.0))
        networks = Networks(VOLUMES, network)
        wanted = estimate(networks, observation, measured.sigma[item], orientations, Tiling.whole())
        torch.testing.assert_close(b[item], wanted, atol=1e-4, rtol=0)
    log_s = scenes.spread_of(SpreadHead(3, VOLUMES.unet[0]), kept, b)
    torch.testing.assert_close(log_s, torch.full_like(log_s, math.log(0.03)))


def drawn(network, head, count, generator):
    corpus = Corpus([scan(numbered((40, 36, 38)), scale=2e-5)])
    blocks, measured = scenes.draw_measured(corpus, count, 16, generator)
    return scenes.make_scenes(blocks, measured, network, head, PLANES)


def test_scenes_are_cut_and_the_spread_can_learn_from_them(network):
    head = SpreadHead(2, PLANES.unet[0])
    result = drawn(network, head, 3, seeded())
    log_s = result.conditions.log_s
    assert result.residual.shape == (3, 16, 16, 16)
    assert all(field.shape == (3, 1, 16, 16, 16) for field in result.conditions[:5])
    torch.testing.assert_close(log_s, torch.full_like(log_s, math.log(0.03)))  # where it starts
    assert not result.conditions.b.requires_grad
    log_s.mean().backward()
    assert head.last.bias.grad.item() == pytest.approx(1.0, rel=1e-4)
    inner, generator = slice(MARGIN, MARGIN + 16), seeded()
    blocks = Corpus([scan(numbered((40, 36, 38)), scale=2e-5)]).draw(3, (16 + 2 * MARGIN, 16, 16), generator)
    clean = augment(blocks.clean, generator)[:, inner]  # the same numbers are drawn first
    torch.testing.assert_close(result.residual + result.conditions.b[:, 0], clean)


def test_scenes_of_every_kind_are_made_under_autocast(network):
    """In bf16 only networks compute: blocks and damage are those of full precision."""
    head, made = SpreadHead(2, PLANES.unet[0]), []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            made.append(drawn(network, head, 24, seeded()))
    full, half = made
    assert set(full.task.tolist()) == set(TASK.values())
    assert full.task.tolist() == half.task.tolist()
    for name in ("y", "observed", "sigma", "thickness"):
        assert (getattr(full.conditions, name) == getattr(half.conditions, name)).all(), name
    assert half.residual.dtype == half.conditions.b.dtype == half.conditions.log_s.dtype == torch.float32
    assert (half.conditions.b != full.conditions.b).any()
    torch.testing.assert_close(half.conditions.b, full.conditions.b, atol=0.05, rtol=0.05)


def test_kept_scenes_come_back_and_are_drawn_as_they_are(network, tmp_path):
    made = [drawn(network, SpreadHead(2, PLANES.unet[0]), 2, seeded(number)).halved() for number in range(2)]
    scenes.save_scenes(made, tmp_path / "kept" / "0.safetensors")
    pool = scenes.Pool([scenes.load_scenes(tmp_path / "kept" / "0.safetensors", torch.device("cpu"))])
    assert pool.size == 4
    u, conditions = pool.draw(64, seeded())
    residual = (u * conditions.log_s.exp()).flatten(1).abs().mean(1)
    wanted = torch.cat([one.residual.float() for one in made]).flatten(1).abs().mean(1)
    nearest = (residual[:, None] - wanted).abs().min(1)
    assert (nearest.values < 1e-3 * wanted.mean()).all()
    assert set(nearest.indices.tolist()) == {0, 1, 2, 3}


def test_components_that_are_kept_get_a_scale_of_their_own(network):
    pool = scenes.Pool([drawn(network, SpreadHead(2, PLANES.unet[0]), 4, seeded())])
    first = scenes.principal_blocks(pool, LATENT, seeded())
    again = scenes.principal_blocks(pool, LATENT, seeded(), first.basis)
    torch.testing.assert_close(again.scale, first.scale)
    torch.testing.assert_close(again.decoder, first.decoder)
    torch.testing.assert_close(first.basis.T @ first.basis, torch.eye(LATENT.latent_channels), atol=1e-4, rtol=0)
    u, conditions = pool.draw(4, seeded())
    latent = first.latent(u, conditions.log_s).detach()
    assert 0.3 < float(latent.std()) < 3  # about unit scale
    assert (first.decode(latent) - u).square().mean() < u.square().mean()


def test_features_and_correction_are_those_of_the_network(network):
    inputs = torch.rand(2, PLANES.measured_channels, 16, 16, generator=seeded())
    features, correction = features_and_correction(network, inputs)
    assert features.shape == (2, PLANES.unet[0], 16, 16)
    torch.testing.assert_close(correction, network(inputs))


@pytest.mark.parametrize("row", ["gap4", "region", "thick4", "noise7"])
def test_projection_keeps_what_was_measured(row):
    clean, guess = torch.rand(16, 16, 16, generator=seeded()), torch.rand(16, 16, 16, generator=seeded(1))
    sampling = damages((16, 16, 16))[row].sampling
    held = clean if sampling is None else sampling.degrade(clean)
    result = Case(row, clean, None, sampling, held, None).project(guess)
    if sampling is None:
        assert (result == guess).all()
    elif row == "thick4":
        torch.testing.assert_close(sampling.degrade(result), held, atol=1e-4, rtol=0)
    else:
        seen = sampling.observe(held).observed == 1
        assert (result[seen] == clean[seen]).all()
        assert (result[~seen] == guess[~seen]).all()


def test_the_true_residual_at_unit_scale_leads_back_to_the_truth():
    voxels = (500 * phantoms.brain((40, 40, 40)) / phantoms.PEAK).astype(np.uint16)
    cases = cubes([scan(voxels, scale=1 / 500)], PLANES, per_task=1)
    networks = Networks(PLANES, build_unet(PLANES), spread=SpreadHead(2, PLANES.unet[0]))
    made = residual_cases(cases, networks, "cpu")
    assert [case.row for case in made] == [case.task for case in cases]
    for case in made:
        assert case.psnr(case.picture(case.u)) > 60
        assert case.psnr(case.picture(0.0)) < 45
        assert case.scored.any()
    assert all(0 <= value <= 100 for value in spread_scores(made).values())


# --- latent and flow --------------------------------------------------------------------------------------------------


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
