"""A smaller network begins with the best channels of a larger one, and learns its answers."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from toy_training import PLANES, SIZES, folder, seeded

from medldm.cli import main
from medldm.errors import UsageError
from medldm.models.checkpoint import architecture, read_weights
from medldm.models.unet import build_unet
from medldm.settings import Architecture
from medldm.training import train
from medldm.training.distillation import layers_of, pruned_unet, read_power, smaller, width_of
from medldm.training.stages.stage import WEIGHTS
from medldm.training.state import part
from medldm.zoo import card


def lively(shape):
    """A network whose answer is not zero."""
    network = build_unet(shape).eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    return network


def operations(shape):
    """Multiplications a voxel of a network for planes."""
    network, counted = build_unet(shape).eval(), []

    def count(module, given, answer):
        places = max(given[0][0, 0].numel(), answer[0, 0].numel()) if "Transpose" in type(module).__name__ else 0
        counted.append(module.weight.numel() * (given[0][0, 0].numel() if places else answer[0, 0].numel()))

    for layer in layers_of(shape):
        network.get_submodule(layer.name).register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, shape.measured_channels, 16, 16))
    return sum(counted) / 256


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_network_that_keeps_all_channels_stays_as_it_is(spatial_dims):
    shape = Architecture(spatial_dims=spatial_dims, context=9 if spatial_dims == 2 else 1, unet=(8, 16, 24, 32))
    network = lively(shape)
    inputs = torch.rand(1, shape.measured_channels, *(16,) * spatial_dims, generator=seeded())
    pruned = pruned_unet(network, shape, shape, inputs)
    assert all(torch.equal(value, pruned[name]) for name, value in network.state_dict().items())


def test_channels_that_nobody_needs_are_left_out_first():
    """Where the channels that go are silent, the answer stays."""
    shape = Architecture(context=5, unet=(16, 24, 32, 40))
    small = replace(shape, unet=(8, 16, 24, 32))
    network, inputs = lively(shape), torch.rand(2, shape.measured_channels, 32, 32, generator=seeded())
    for layer in layers_of(shape)[:-1]:
        module, keep = network.get_submodule(layer.name), width_of(layer.writes, small)
        gone = torch.randperm(width_of(layer.writes, shape), generator=seeded(layer.writes[1]))[keep:]
        module.bias.data[gone] = 0
        kernel = module.weight.data if "Transpose" not in type(module).__name__ else module.weight.data.transpose(0, 1)
        kernel[gone] = 0
    pruned = build_unet(small).eval()
    pruned.load_state_dict(pruned_unet(network, shape, small, inputs))
    with torch.inference_mode():
        assert network(inputs).std() > 1e-3
        assert torch.allclose(pruned(inputs), network(inputs), atol=1e-5)


def test_the_smaller_network_has_less_than_half_the_operations():
    shape = architecture(card("brain-mri-2d"))
    assert operations(smaller(shape)) < operations(shape) / 2
    assert smaller(smaller(Architecture(unet=(8, 8, 8, 8)))).unet == (8, 8, 8, 8)


def test_power_is_that_of_what_a_layer_reads():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 1, 1))
    inputs = torch.stack([torch.full((4, 4), 2.0), torch.full((4, 4), -3.0)])[None]
    with read_power(network, ["0"]) as power:
        network(inputs)
    assert power["0"].tolist() == [4, 9]
    assert not network[0]._forward_pre_hooks


def test_a_model_teaches_a_smaller_one(tmp_path):
    """The card says who taught; the student starts near its teacher and is a model of its own."""
    data = folder(tmp_path / "data")
    wide = replace(PLANES, unet=(24, 32), unet_units=2)
    train("unet", data, tmp_path / "large", minutes=0.05, config=wide, sizes=SIZES, name="large")
    teacher = tmp_path / "large" / "large-unet.json"
    made = train("unet", data, tmp_path / "small", minutes=0.05, distil=str(teacher), sizes=SIZES, name="small")
    student = card(str(made))
    assert student.training["distilled_from"] == "large-unet"
    assert architecture(student).unet == smaller(wide).unet == (16, 24)
    learned = load_file(tmp_path / "small" / "unet" / WEIGHTS)
    assert learned["unet.model.0.conv.unit0.conv.weight"].shape[0] == 16
    assert part(read_weights(student), "unet.").keys() == learned.keys()


def test_what_cannot_be_made_smaller_is_a_sentence(tmp_path):
    shape = Architecture(unet=(8, 16, 24, 32), unet_units=1)
    with pytest.raises(UsageError, match="two units"):
        pruned_unet(build_unet(shape), shape, shape, torch.zeros(1, shape.measured_channels, 16, 16))
    (tmp_path / "data").mkdir()
    for wrong in ({"kind": "spread"}, {"init": "brain-mri-2d"}, {"spatial_dims": 2}):
        asked = {"kind": "unet", "distil": "brain-mri-2d"} | wrong
        with pytest.raises(UsageError, match="--distil goes with unet"):
            train(data=tmp_path / "data", out=tmp_path / "run", minutes=1, **asked)
    with pytest.raises(UsageError, match="brain-mri-2d knows MR"):
        train("unet", tmp_path / "data", tmp_path / "run", minutes=1, distil="brain-mri-2d", modality="CT")
    assert not (tmp_path / "run").exists()


def test_the_command_line_distils(tmp_path):
    """With the model that was named: the card of what is left of it says so."""
    data = folder(tmp_path / "data")
    wide = replace(PLANES, unet=(24, 32), unet_units=2)
    train("unet", data, tmp_path / "large", minutes=0.05, config=wide, sizes=SIZES, name="large")
    teacher = tmp_path / "large" / "large-unet.json"
    out = tmp_path / "small"
    assert main(["train", "unet", str(data), str(out), "--distil", str(teacher), "--minutes", "0.01", "-q"]) == 0
    student = card(str(out / "small-unet.json"))
    assert student.training["distilled_from"] == "large-unet"
    assert architecture(student).unet == (16, 24)
