"""The figures that gates judge, on ensembles and latents whose answer is known."""

import functools
import importlib.util
import math
from pathlib import Path

import numpy as np
import phantoms
import pytest
import torch

from medldm.benchmark import gate_cases, gates, gates_realism
from medldm.inference.networks import Networks, load_networks
from medldm.inference.residual import Regression
from medldm.models.residual import PrincipalBlocks
from medldm.models.unet import build_unet
from medldm.settings import Architecture
from medldm.training.data import Packed
from medldm.zoo import card

ROOT = Path(__file__).parents[2]
CLEAN = torch.from_numpy((phantoms.brain((64, 64, 64)) / 1000).astype(np.float32))
SPREAD = 0.05


def packed(spacing=(1.0, 1.0, 1.0), shape=(72, 80, 70)):
    isotropic = max(spacing) < 2
    voxels = phantoms.brain(shape).astype(np.float32) / 1000
    return Packed(voxels, 1.0, spacing, int(np.argmax(spacing)), isotropic, 1.0, "scan_T1w.nii.gz", "s1")


def networks(channels=64):
    """A latent of some of a block's voxels, and a regression network that nobody asks."""
    shape = Architecture(unet=(8, 8), unet_strides=(1,))
    latent = PrincipalBlocks(torch.eye(64)[:, :channels], torch.ones(channels), 4)
    return Networks(shape, build_unet(shape), latent_blocks=latent)


def measured(case, samples, spread=SPREAD):
    """Figures where b is wrong by `SPREAD`, and these samples were drawn."""
    noise = torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(0))
    b = case.project(case.clean + SPREAD * noise)
    regression = Regression(b, torch.full(b.shape, math.log(spread)))
    drawn = torch.stack([case.project(b + one) for one in samples])
    return gates.averaged([gates.figures(networks(), case, gates.Answer(regression, b, drawn, drawn.mean(0)))])


def independent(spread, count=8):
    return spread * torch.randn((count, *CLEAN.shape), generator=torch.Generator().manual_seed(1))


def test_independent_gaussian_samples_score_as_the_gaussian():
    figures = measured(gate_cases.case("gap4", "here", CLEAN), independent(SPREAD))
    assert figures["crps ratio"] == pytest.approx(1, abs=0.02)
    assert figures["energy ratio"] == pytest.approx(1, abs=0.02)
    assert figures["spread / error"] == pytest.approx(1, abs=0.02)
    assert figures["s / error"] == pytest.approx(1, abs=0.02)
    assert figures["in 90 % of s"] == pytest.approx(0.9, abs=0.01)
    # A posterior sample has twice the squared error; the mean of eight an eighth more.
    assert figures["sample gain"] == pytest.approx(-10 * math.log10(2), abs=0.1)
    assert figures["mean gain"] == pytest.approx(-10 * math.log10(9 / 8), abs=0.1)


def test_samples_that_hardly_differ_fail():
    figures = measured(gate_cases.case("gap4", "here", CLEAN), independent(SPREAD / 10))
    judged = {gate.key: gate.passed(figure) for gate, figure in gates.judged("gap4", figures)}
    assert not judged["spread / error"]
    assert not judged["crps ratio"]
    assert judged["sample gain"]


@pytest.mark.parametrize("row", gates.LOSSY)
def test_a_latent_of_all_voxels_obeys_and_an_empty_one_does_not(row):
    case = gate_cases.case(row, "here", CLEAN)
    b = case.project(CLEAN + SPREAD * torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(0)))
    regression = Regression(b, torch.full(b.shape, math.log(SPREAD)))
    true, principal = gates.true_latents(networks(), case, regression)
    torch.testing.assert_close(true, CLEAN, atol=1e-5, rtol=0)
    torch.testing.assert_close(principal, true)
    deaf, _ = gates.true_latents(networks(1), case, regression)
    where = torch.from_numpy(case.scored)
    assert (deaf - CLEAN)[where].std() > 0.95 * (b - CLEAN)[where].std()


def test_gates_have_limits_for_people():
    obedience, seeds, ratio = gates.GATES[0], gates.GATES[4], gates.Gate("", "", "", (), high=1.05)
    assert (obedience.limit, seeds.limit, ratio.limit) == ("at least 5.5", "0.7 to 1.3", "at most 1.05")
    assert obedience.passed(5.5 - 1e-6)  # of a number as long as it is printed
    assert not seeds.passed(1.31)
    assert not ratio.passed(math.nan)


def test_ratios_are_those_of_means():
    figures = gates.averaged(
        [{"false lesions": 1.0, "false lesions b": 3.0}, {"false lesions": 2.0, "false lesions b": 0.0}]
    )
    assert figures["false lesions ratio"] == 1.0
    assert gates.ratio(0.0, 0.0) == 1.0
    assert gates.ratio(1.0, 0.0) == math.inf


def test_a_scan_serves_the_rows_that_its_slices_allow():
    isotropic = list(gate_cases.cases(packed(), "here", list(gate_cases.ROWS), cubes=2))
    assert [case.row for case in isotropic] == 2 * list(gate_cases.ROWS)
    assert not torch.equal(isotropic[0].clean, isotropic[5].clean)
    thick = packed((1.0, 4.0, 1.0), (72, 20, 70))
    cases = list(gate_cases.cases(thick, "here", list(gate_cases.ROWS)))
    assert [case.row for case in cases] == ["region", "noise7"]
    assert cases[0].clean.shape == (64, 64, 16)
    assert cases[0].spacing == (1.0, 1.0, 4.0)


def test_gaps_are_three_slices_wide_and_scored_alone():
    case = gate_cases.case("gap3", "here", CLEAN)
    assert case.lost is not None
    lost = case.lost.any((1, 2))
    runs = np.diff(np.flatnonzero(np.diff(lost.astype(int), prepend=0, append=0)))[::2]
    assert set(runs.tolist()) == {3}
    assert not case.scored[~lost].any()


def test_lesions_are_put_in_before_the_damage():
    case = gate_cases.case("thick4", "here", CLEAN, lesions=True)
    assert case.lesions
    assert case.healthy is CLEAN
    torch.testing.assert_close(case.sampling.degrade(case.clean), case.measured)


def test_answers_of_a_set_come_from_its_own_networks(tmp_path):
    tiny = load_networks(card(str(phantoms.tiny_model(tmp_path))))
    case = gate_cases.case("thick4", "here", CLEAN[:32, :32, :32].contiguous())
    given = gates.answer(tiny, case, samples=4, options=gates.SamplingOptions(steps=2))
    assert given.samples.shape == (4, 32, 32, 32)
    noise = [(one - given.b).flatten() for one in given.samples]
    assert float(torch.corrcoef(torch.stack(noise))[0, 1]) > -0.5  # no pairs of opposite noise
    torch.testing.assert_close(case.sampling.degrade(given.samples[0]), case.measured, atol=1e-3, rtol=0)
    figures = gates.averaged([gates.figures(tiny, case, given)])
    assert all(math.isfinite(figure) for figure in figures.values())
    assert {gate.name for gate, _ in gates.judged("thick4", figures)} == {"obedience", "seeds", "mean", "price"}


def test_noise_without_a_flow_is_as_good_as_the_gaussian_where_errors_are_independent():
    case = gate_cases.case("gap4", "here", CLEAN)
    regression = Regression(
        CLEAN + SPREAD * torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(0)),
        torch.full(CLEAN.shape, math.log(SPREAD)),
    )
    b = case.project(regression.mean)
    given = gates.Answer(regression, b, torch.stack([b] * 8), b)
    figures = gates.figures(networks(), case, given) | gates_realism.noise_alone(networks(), case, given)
    assert figures["crps noise"] == pytest.approx(figures["crps gaussian"], rel=0.02)
    assert figures["energy score noise"] == pytest.approx(figures["energy score gaussian"], rel=0.02)


@pytest.mark.slow
def test_the_script_writes_a_table(tmp_path, monkeypatch, capsys):
    script = ROOT / "docs" / "benchmarks" / "gates.py"
    spec = importlib.util.spec_from_file_location("gates_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = tmp_path / "data"
    data.mkdir()
    noisy = phantoms.rician(phantoms.phantom((44, 42, 40)).voxels, 20)
    phantoms.save(data / "siemens_T1w.nii.gz", noisy, np.eye(4), dtype=np.int16)
    (data / "manifest.csv").write_text("split,file,subject,modality,source\nval,siemens_T1w.nii.gz,s1,MR T1w,here\n")
    model = phantoms.tiny_model(tmp_path / "model")
    out = tmp_path / "out"
    monkeypatch.setattr(gates_realism, "SEEDS", 1)
    monkeypatch.setattr(gates_realism, "PATCHES", 100)
    monkeypatch.setattr(module, "TIMED", (32, 32, 32))
    quick = functools.partial(gates_realism.two_sample_classifier, steps=3)
    monkeypatch.setattr(gates_realism, "two_sample_classifier", quick)
    monkeypatch.setattr(
        "sys.argv",
        ["gates.py", str(data), "--model", str(model), "--samples", "2", "--steps", "1", "--quick", "--out", str(out)],
    )
    module.main()
    table = (out / "table.md").read_text()
    assert table.strip() in capsys.readouterr().out
    for gate in gates.GATES:
        assert f"| {gate.name} | {gate.figure} | {gate.limit} |" in table
    assert "- cost: " in table
    known = {(line["row"], line["figure"]): line for line in module.read(out)}
    assert known["thick4", "classifier"]["gate"] == "realism"
    assert known["thick4", "classifier b"]["gate"] == ""
    assert "--quick" in table
    assert known["thick4", "time ratio"]["scanner"] == "all"
