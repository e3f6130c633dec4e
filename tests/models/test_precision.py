"""bf16 where the machine computes in it, fp32 where it only imitates it; in training as in use."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from medldm.models import precision


@pytest.fixture(params=[True, False], ids=["computes", "imitates"])
def able(request, monkeypatch):
    """A CPU that computes in bf16, and one that does not."""
    monkeypatch.setattr(precision, "cpu_abilities", lambda: {"architecture": "x86_64", "avx512_bf16": request.param})
    return request.param


def test_restoring_and_training_decide_alike(able):
    assert precision.pick_precision("auto", "cpu") == (torch.bfloat16 if able else torch.float32)
    with precision.autocast("cpu"):
        assert nn.Conv2d(1, 1, 3)(torch.ones(1, 1, 8, 8)).dtype == (torch.bfloat16 if able else torch.float32)


def test_a_named_precision_is_obeyed(able):
    assert [precision.pick_precision(name, "cpu") for name in ("fp32", "bf16", "fp16")] == [
        torch.float32, torch.bfloat16, torch.float16,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True}, False),  # most clusters
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
    ],
)
def test_an_x86_cpu_says_what_it_can_and_is_not_measured(monkeypatch, abilities, expected):
    monkeypatch.setattr(precision, "cpu_abilities", lambda: abilities)
    monkeypatch.setattr(precision, "bf16_to_fp32", lambda: pytest.fail("measured"))
    assert precision.computes_in_bf16("cpu") is expected


@pytest.mark.parametrize("abilities", [{}, {"architecture": "arm64", "bf16": True}])
@pytest.mark.parametrize(("ratio", "expected"), [(0.7, True), (1.0, True), (2.1, False), (40.0, False)])
def test_other_cpus_are_measured(monkeypatch, abilities, ratio, expected):
    monkeypatch.setattr(precision, "cpu_abilities", lambda: abilities)
    monkeypatch.setattr(precision, "bf16_to_fp32", lambda: ratio)
    assert precision.computes_in_bf16("cpu") is expected


@pytest.mark.parametrize(("slow", "low", "high"), [(torch.bfloat16, 10, 1e4), (torch.float32, 0, 0.1)])
def test_the_measurement_sees_which_is_slower(monkeypatch, slow, low, high):
    clock = [0.0]

    def conv2d(image, kernel, padding):
        clock[0] += 20.0 if image.dtype == slow else 1.0

    monkeypatch.setattr(precision, "F", SimpleNamespace(conv2d=conv2d))
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    ratio = precision.bf16_to_fp32.__wrapped__()
    assert low < ratio < high
    # Where the ratio is plain, the slow format is not run more often than needed.
    assert clock[0] <= (4 if slow == torch.bfloat16 else 9) * 21


def test_a_measurement_on_this_machine_is_a_ratio():
    assert 0 < precision.bf16_to_fp32.__wrapped__() < 1e4


def test_graphics_cards_by_generation(monkeypatch):
    for capability, expected in (((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None, is_=capability: is_)
        assert precision.pick_precision("auto", "cuda:0") == expected
    assert precision.pick_precision("auto", "mps") == torch.float32


@pytest.mark.slow
def test_a_cpu_that_imitates_trains_in_single_precision(monkeypatch, tmp_path):
    """A whole training run, and the type of what its layers saw."""
    import phantoms

    from medldm.training import train

    monkeypatch.setattr(precision, "cpu_abilities", lambda: {"architecture": "x86_64"})
    seen = set()
    forward = nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward", lambda self, image: (seen.add((out := forward(self, image)).dtype), out)[1]
    )
    (tmp_path / "data").mkdir()
    for number in range(2):
        phantom = phantoms.phantom((40, 40, 24))
        phantoms.save(tmp_path / "data" / f"{number}.nii.gz", phantom.voxels, phantom.affine)
    train("unet", tmp_path / "data", tmp_path / "out", minutes=0.002, device="cpu")
    assert seen == {torch.float32}


def test_nobody_asks_torch_in_private():
    process = subprocess.run(
        ["grep", "-rnE", r"torch\.cpu\._|torch\.autocast\(", "medldm"], capture_output=True, text=True, check=False,
        cwd=str(sys.modules["medldm"].__path__[0]) + "/..",
    ).stdout.splitlines()  # fmt: skip
    assert {line.split(":")[0] for line in process if ".py:" in line} == {"medldm/models/precision.py"}
