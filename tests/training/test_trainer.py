"""The training loop, on networks of one weight: clock, steps, averages, checkpoints, processes."""

import json
import logging
import math
import types

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medldm.errors import ModelError, UsageError
from medldm.training import trainer
from medldm.training.distributed import Distributed
from medldm.training.state import CHECKPOINT
from medldm.training.trainer import Plan, Trainer


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by a second at every look, so that steps can be counted."""
    now = iter(range(1_000_000))
    monkeypatch.setattr(trainer, "time", types.SimpleNamespace(monotonic=lambda: float(next(now))))


def line(folder, minutes=10, *, score=lambda network: {"weight": network.weight.item()}, network=None, **options):
    """A loop that learns y = 2 x with one weight, which starts at 0; the rates it took."""
    network = network or nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    plan = {"minutes": minutes, "learning_rate": 0.1, "warm_up": 5, "average": 0.9, "validate_s": 100, "seed": 7}
    own = {name: options.pop(name) for name in list(options) if name in Plan.__dataclass_fields__}
    made, rates = Trainer(network, Plan(**plan | own), folder, score, **options), []

    def draw(generator):
        return torch.rand(8, 1, generator=generator)

    def loss_of(network, x):
        rates.append(made.optimizer.param_groups[0]["lr"])
        return ((network(x) - 2 * x) ** 2).mean()

    return made, lambda: made.run(draw, loss_of, 8), rates


def test_the_loop_warms_up_anneals_and_learns(clock, tmp_path):
    made, run, rates = line(tmp_path)
    weights = run()
    assert len(rates) == made.step_number > 80
    peak = rates.index(max(rates[1:]))
    assert rates[1] == pytest.approx(0.1 / 5, rel=0.05)  # that of the first step
    assert peak == 5
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.0015  # a hundredth
    assert weights["weight"].item() == pytest.approx(2, abs=0.05)
    header, *lines = (tmp_path / "curve.csv").read_text().splitlines()
    assert header == "minutes,step,loss,skipped,weight"
    curve = [dict(zip(header.split(","), map(float, text.split(",")), strict=True)) for text in lines]
    assert len(curve) > 3
    assert [row["step"] for row in curve] == sorted(row["step"] for row in curve)
    assert curve[-1]["step"] == made.step_number
    assert curve[-1]["weight"] == pytest.approx(weights["weight"].item(), abs=1e-3)
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_the_loop_says_how_fast_it_is_and_how_long_it_waited(clock, tmp_path, caplog):
    caplog.set_level(logging.INFO, "medldm")
    line(tmp_path, 3)[1]()
    text = next(message for message in caplog.messages if "examples/s" in message)
    assert "data " in text
    assert text.endswith(" % of the time")


def test_the_loop_goes_on_from_its_checkpoint(clock, tmp_path):
    first, run, _ = line(tmp_path, 5)
    weights = run()
    (tmp_path / "checkpoint.partial").write_bytes(b"a kill in the middle of the next save")
    with pytest.raises(UsageError, match="--resume"):
        line(tmp_path, 10)
    again, run_again, rates = line(tmp_path, 10, resume=True)
    assert again.step_number == first.step_number > 40
    assert again.before_s == pytest.approx(first.seconds, abs=10)
    assert again.network.weight.item() == first.network.weight.item()
    torch.testing.assert_close(again.averaged, weights)
    moments, earlier = (item.optimizer.state_dict()["state"][0] for item in (again, first))
    assert all((moments[name] == earlier[name]).all() for name in ("exp_avg", "exp_avg_sq", "step"))
    run_again()
    assert again.step_number == first.step_number + len(rates)
    assert len(rates) > 40
    assert rates[1] == pytest.approx(0.05, rel=0.15)  # half of the minutes are over: no second warm-up
    assert rates[-1] < 0.0015
    assert {first.step_number, again.step_number} <= {row["step"] for row in again.rows}
    over, run_over, none = line(tmp_path, 10, resume=True)  # the minutes are spent
    weights = over.averaged
    torch.testing.assert_close(run_over(), weights)
    assert none == []
    assert over.step_number == again.step_number
    assert over.rows == again.rows


def test_a_checkpoint_of_another_network_is_refused(clock, tmp_path):
    line(tmp_path, 1)[1]()
    with pytest.raises(ModelError, match="another shape"):
        line(tmp_path, 2, network=nn.Linear(1, 2), resume=True)


def test_checkpoints_move_between_devices(clock, tmp_path):
    """What a fused optimiser of a GPU keeps is loaded on a CPU, and back; all tensors lie on the CPU in the file."""
    on_gpu, run, _ = line(tmp_path, 3)
    on_gpu.optimizer = torch.optim.AdamW(on_gpu.network.parameters(), lr=0.1, betas=(0.9, 0.99), fused=True)
    run()
    assert {value.device.type for value in load_file(tmp_path / CHECKPOINT).values()} == {"cpu"}
    on_cpu, run_on_cpu, rates = line(tmp_path, 6, resume=True)
    assert on_cpu.optimizer.param_groups[0]["fused"] is False
    run_on_cpu()
    assert len(rates) > 20
    back, run_back, rates = line(tmp_path, 9, resume=True)
    back.optimizer = torch.optim.AdamW(back.network.parameters(), lr=0.1, betas=(0.9, 0.99), fused=True)
    back.load()
    assert back.step_number == on_cpu.step_number
    assert run_back()["weight"].item() == pytest.approx(2, abs=0.2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_checkpoints_go_from_a_gpu_to_a_cpu_and_back(tmp_path):
    steps = 0
    for minutes, device in ((0.01, "cuda"), (0.02, "cpu"), (0.03, "cuda")):
        network = nn.Linear(1, 1, bias=False)
        made = Trainer(network, Plan(minutes=minutes), tmp_path, lambda network: {}, resume=True, device=device)
        assert made.step_number == steps
        made.run(
            lambda g, d=device: torch.rand(8, 1, generator=g, device=d), lambda net, x: (net(x) - 2 * x).square().mean()
        )
        assert made.step_number > steps
        steps = made.step_number


def test_a_step_that_explodes_is_not_learned_and_counted(tmp_path):
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    made = Trainer(network, Plan(learning_rate=0.01, warm_up=1), tmp_path, lambda network: {})
    weights = []
    for kind in ["good"] * 30 + ["nan", "huge"] + ["good"] * 100:
        weights.append(network.weight.item())
        factor = {"good": 1.0, "nan": math.nan, "huge": -1e9}[kind]
        made.step(factor * (network(torch.ones(8, 1)) - 2).square().mean())
    assert all(map(math.isfinite, weights))
    assert weights == sorted(weights)  # towards 2 all the time, where the huge step would have turned it round
    assert int(made.skipped) == 2
    made.save()
    assert Trainer(network, made.plan, tmp_path, made.score, resume=True).skipped == 2


def test_gradients_that_stay_larger_become_usual(tmp_path):
    made = Trainer(nn.Linear(1, 1), Plan(), tmp_path, lambda network: {})
    for step in range(400):
        made.step(made.network(torch.ones(1, 1)).mean() * (1 if step < 50 else 30))
    assert 0 < int(made.skipped) < 250


def test_the_average_forgets_slowly_and_is_what_is_scored_and_kept(tmp_path):
    made = Trainer(nn.Linear(1, 1), Plan(average=0.5, warm_up=1), tmp_path, lambda network: {})
    weight = made.network.weight
    averaged, seen = weight.detach().clone(), []
    for step in range(12):
        made.step((made.network(torch.ones(1, 1)) ** 2).mean())
        averaged.lerp_(weight.detach(), 1 - min(0.5, (1 + step) / (10 + step)))
    made.score = lambda network: {"weight": seen.append(network.weight.clone()) or 1.0}
    made.validate()
    assert torch.equal(made.averaged["weight"], averaged)
    assert torch.equal(seen[0], averaged)
    assert not torch.equal(weight, averaged)
    assert made.network.training


def test_no_two_batches_of_any_process_begin_with_the_same_seed(tmp_path):
    seeds = []
    for rank in range(3):
        distributed = Distributed()
        distributed.rank, distributed.world_size = rank, 3
        made = line(tmp_path / str(rank), seed=5, distributed=distributed)[0]
        for step, seed in enumerate(made.batches(lambda generator: generator.initial_seed())):
            seeds.append(seed)
            made.step_number += 1
            if step == 49:
                break
    assert len(set(seeds)) == len(seeds) == 150
    assert 5 * 1_000_003 in seeds


def test_processes_take_the_mean_step(tmp_path):
    """Two processes that see half of the batch each learn what one learns of the whole."""

    class Pair(Distributed):
        world_size = 2

        def average_gradients(self, parameters):
            for parameter, other in zip(parameters, self.others, strict=True):
                parameter.grad = (parameter.grad + other) / 2

    x = torch.rand(8, 1, generator=torch.Generator().manual_seed(0))
    alone, pair = line(tmp_path / "alone")[0], line(tmp_path / "pair", distributed=(pair_of := Pair()))[0]
    halves = [((pair.network(part) - 2 * part) ** 2).mean() for part in (x[:4], x[4:])]
    pair_of.others = [g.clone() for g in torch.autograd.grad(halves[1], list(pair.network.parameters()))]
    pair.step(halves[0])
    alone.step(((alone.network(x) - 2 * x) ** 2).mean())
    torch.testing.assert_close(pair.network.weight, alone.network.weight)


def test_a_curve_may_gain_rows(tmp_path):
    rows = [{"minutes": 1.0, "step": 1.0, "loss": 1.0, "skipped": 0.0}]
    rows += [{**rows[0], "thick4": 20.0}]
    trainer.write_curve(tmp_path / "curve.csv", rows)
    assert (tmp_path / "curve.csv").read_text().splitlines()[-1].endswith(",20")
    assert json.loads(json.dumps(rows)) == rows
