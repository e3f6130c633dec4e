"""A model set made of the parts that docs/training/residual.py leaves."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from medldm.inference.networks import load_networks
from medldm.models.residual import ResidualFlow, SpreadHead
from medldm.models.unet import build_unet
from medldm.training.state import CHECKPOINT, save_atomically
from medldm.zoo import card

SCRIPT = Path(__file__).parents[2] / "docs" / "training" / "residual_card.py"


def save_part(weights, path, name):
    path.parent.mkdir(exist_ok=True)
    save_atomically({f"{name}.{key}": value.half() for key, value in weights.items()}, path, {})


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("residual_card", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(script, tmp_path):
    """A finished run of untrained networks, and the regression network beside it."""
    folder = tmp_path / "run"
    save_part(build_unet(script.PLANES).state_dict(), tmp_path / "unet.safetensors", "unet")
    save_part(SpreadHead(2, script.PLANES.unet[0]).state_dict(), folder / "spread.safetensors", "spread")
    latent = {"basis": torch.eye(64)[:, :16], "scale": torch.ones(16), "decoder": torch.zeros(64, 16, 3, 3, 3)}
    save_part(latent, folder / "principal.safetensors", "principal")
    flow = ResidualFlow(script.LATENT, script.FLOW_BLOCKS)
    save_part(flow.state_dict(), folder / "flow.safetensors", "flow")
    return folder


def test_the_parts_of_a_run_are_a_set_with_a_flow(script, run, tmp_path):
    path = script.model_set(run, tmp_path / "unet.safetensors", tmp_path / "set", "tiny")
    made = card(str(path))
    assert made.spread
    networks = load_networks(made)
    assert networks.residual_flow is not None
    assert networks.latent_blocks.channels == 16


def test_a_flow_that_is_still_trained_comes_from_its_checkpoint(script, run, tmp_path):
    weights = {key.removeprefix("flow."): value for key, value in load_file(run / "flow.safetensors").items()}
    (run / "flow").mkdir()
    save_atomically({f"average.{k}": v + 1 for k, v in weights.items()}, run / "flow" / CHECKPOINT, {"state": "{}"})
    (run / "flow.safetensors").unlink()
    script.model_set(run, tmp_path / "unet.safetensors", tmp_path / "set", "tiny")
    kept = load_file(tmp_path / "set" / "tiny.safetensors")["flow.project.bias"]
    torch.testing.assert_close(kept, weights["project.bias"] + 1)


def test_a_run_without_a_flow_says_what_is_missing(script, run, tmp_path):
    (run / "flow.safetensors").unlink()
    with pytest.raises(SystemExit, match="lacks flow"):
        script.model_set(run, tmp_path / "unet.safetensors", tmp_path / "set")
