"""Networks from one code path for planes and volumes; nothing in them makes a tile feel what lies far away."""

import dataclasses
import hashlib
import json
import shutil

import phantoms
import pytest
import torch
from safetensors.torch import load_file, save_file

from medldm.degradations import Observation
from medldm.errors import ModelError
from medldm.inference.conditioning import centre_channel, measured_channels, neighbours, pick_orientations
from medldm.inference.networks import load_networks, unload
from medldm.inference.tiling import Tiling, estimate
from medldm.models.blocks import depth_to_space, space_to_depth
from medldm.models.unet import build_unet
from medldm.settings import Architecture
from medldm.zoo import card

SMALL = {"unet": (8, 8, 8, 8), "unet_units": 1}
SHAPES = {2: Architecture(**SMALL), 3: Architecture(spatial_dims=3, context=1, **SMALL)}


@pytest.mark.parametrize("dims", [2, 3])
def test_networks_give_an_image_and_its_spread_on_the_grid_they_were_shown(dims, tmp_path):
    networks = load_networks(card(str(phantoms.tiny_model(tmp_path, dims))))
    batch = 2 if dims == 2 else 1  # the planes of a stack, or one volume
    inputs = torch.rand(batch, networks.config.measured_channels, *(32,) * dims)
    answer = networks.estimate_with_spread(inputs)
    assert answer.shape == (batch, 2, *(32,) * dims)
    assert torch.isfinite(answer).all()
    assert torch.equal(answer[:, :1], networks.estimate(inputs))


@pytest.mark.parametrize("dims", [2, 3])
def test_space_to_depth_and_back(dims):
    image = torch.rand(1, 3, *(8,) * dims)
    folded = space_to_depth(image, 2)
    assert folded.shape == (1, 3 * 2**dims, *(4,) * dims)
    assert torch.equal(depth_to_space(folded, 2), image)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_what_lies_far_away_changes_nothing(dims):
    """No normalisation, no attention: beyond the receptive field a voxel does not know what another holds."""
    size = 128 if dims == 2 else 96
    unet = build_unet(SHAPES[dims])
    torch.nn.init.normal_(unet.head.weight)
    inputs = torch.rand(1, SHAPES[dims].measured_channels, *(size,) * dims)
    other = inputs.clone()
    other[..., -8:] += 5
    with torch.inference_mode():
        near = (unet(inputs) - unet(other)).abs()
    assert float(near[..., :16].max()) < 1e-4
    assert float(near[..., -8:].max()) > 1e-2


@pytest.mark.parametrize("dims", [2, 3])
def test_orientations_are_turned_back_to_where_they_came_from(dims, tmp_path):
    """Of a correction by nothing the measurement is left."""
    networks = load_networks(card(str(phantoms.tiny_model(tmp_path, dims))))
    torch.nn.init.normal_(networks.unet.head.weight, std=0.1)
    y = torch.rand(32, 48, 16, generator=torch.Generator().manual_seed(0))
    seen, sigma, orientations = (
        Observation(y, torch.ones_like(y)),
        torch.zeros(1, 1, 1),
        pick_orientations((), (), y.shape, (1, 1, 1)),
    )
    average = estimate(networks, seen, sigma, orientations, Tiling.whole())
    assert float((average - y).abs().max()) > 0.01
    torch.nn.init.zeros_(networks.unet.head.weight)
    assert torch.allclose(estimate(networks, seen, sigma, orientations, Tiling.whole()), y, atol=1e-6)


def test_neighbouring_planes_become_channels():
    stack = torch.arange(4.0).expand(2, 2, 4)
    seen = neighbours(stack, 3)[:, :, 0, 0]
    assert seen.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    shape = dataclasses.replace(SHAPES[2], context=3)
    channels = measured_channels(stack, torch.ones_like(stack), torch.full((1, 1, 1), 0.05), 4.0, shape)
    assert channels.shape == (4, 8, 2, 2)
    assert channels[2, centre_channel(shape), 0, 0] == 2
    assert channels[0, 6, 0, 0] == pytest.approx(0.5)


def test_damaged_and_unknown_weights_are_refused_with_a_message(tmp_path):
    tiny = card(str(phantoms.tiny_model(tmp_path)))
    tiny.path.write_bytes(tiny.path.read_bytes()[:-10] + b"0123456789")
    with pytest.raises(ModelError, match="damaged"):
        load_networks(tiny)
    with pytest.raises(ModelError, match="no model 'nope'"):
        card("nope")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler (apt-get install g++)")
def test_compiled_networks_say_the_same(tmp_path, monkeypatch):
    tiny = card(str(phantoms.tiny_model(tmp_path)))
    inputs = torch.rand(1, load_networks(tiny).config.measured_channels, 32, 32)
    with torch.inference_mode():
        plain = load_networks(tiny).estimate(inputs)
        unload()
        monkeypatch.setenv("MEDLDM_COMPILE", "1")
        compiled = load_networks(tiny)
        assert torch.allclose(compiled.estimate(inputs), plain, atol=1e-5)
        assert compiled.parts[0]._compiled_call_impl is not None
    unload()


@pytest.mark.parametrize("change", ["spread", "latent", "flow", "tile", "channels"])
def test_a_card_whose_parts_do_not_fit_is_a_sentence(change, tmp_path):
    """A part is missing from the weights, or the card describes another one."""
    path = phantoms.tiny_model(tmp_path)
    stored, weights = json.loads(path.read_text()), load_file(tmp_path / "tiny-2d.safetensors")
    if change in ("spread", "latent", "flow"):
        weights = {name: value for name, value in weights.items() if not name.startswith(f"{change}.")}
        save_file(weights, tmp_path / "tiny-2d.safetensors")
        stored["sha256"] = hashlib.sha256((tmp_path / "tiny-2d.safetensors").read_bytes()).hexdigest()
    elif change == "tile":
        del stored["residual"]["tile"]
    else:
        stored["residual"]["latent_channels"] = 8
    path.write_text(json.dumps(stored))
    with pytest.raises(ModelError, match="do not fit its card"):
        load_networks(card(str(path)))
