"""Networks from one code path for planes and volumes; nothing in them makes a tile feel what lies far away."""

import dataclasses
import shutil

import phantoms
import pytest
import torch

from medldm.degradations import Observation
from medldm.errors import ModelError
from medldm.inference.conditioning import centre_channel, centre_plane, measured_channels, neighbours, pick_orientations
from medldm.inference.networks import Networks, load_networks, unload
from medldm.inference.tiling import SamplerConfig, estimate, restore
from medldm.models.blocks import depth_to_space, grow_inputs, space_to_depth
from medldm.models.latent_space import LatentSpace, latent_scale
from medldm.models.unet import build_fusion, build_unet
from medldm.models.vae import build_vae
from medldm.settings import Architecture
from medldm.zoo import card

SMALL = {"latent_channels": 4, "unet": (8, 8, 8, 8), "unet_units": 1, "vae": (8, 8), "flow": (8, 8, 8)}
SHAPES = {2: Architecture(**SMALL), 3: Architecture(spatial_dims=3, context=1, **SMALL)}


@pytest.mark.parametrize("dims", [2, 3])
def test_a_pipeline_gives_an_image_on_the_grid_it_was_shown(dims, tmp_path):
    networks = load_networks(card(str(phantoms.tiny_model(tmp_path, dims))))
    batch = 2 if dims == 2 else 1  # the planes of a stack, or one volume
    inputs = torch.rand(batch, networks.config.measured_channels, *(32,) * dims)
    noise = torch.randn(batch, 1, *(32,) * dims)
    for answer in (networks.restore(inputs), networks.restore(inputs, noise, steps=2, fidelity=0.0)):
        assert answer.shape == (batch, 1, *(32,) * dims)
        assert torch.isfinite(answer).all()


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


def test_weights_grow_into_a_network_that_reads_more():
    shape = SHAPES[2]
    # In double precision: outputs reach 20, where single precision alone differs by more than 1e-5.
    baseline, fusion = build_unet(shape).double(), build_fusion(shape).double()
    torch.nn.init.normal_(baseline.head.weight)
    fusion.load_state_dict(grow_inputs(baseline.state_dict(), fusion))
    inputs, extra = torch.rand(1, shape.measured_channels, 32, 32), torch.rand(1, 2 + shape.context, 32, 32)
    inputs, extra = inputs.double(), extra.double()
    assert torch.allclose(fusion(torch.cat([inputs, extra], 1)), baseline(inputs), rtol=0, atol=1e-9)


def test_flow_and_decoder_start_from_the_supervised_estimate(tmp_path):
    """A decoder that corrects nothing yet gives what the baseline gives."""
    networks = load_networks(card(str(phantoms.tiny_model(tmp_path))))
    torch.nn.init.zeros_(networks.fusion.head.weight)
    torch.nn.init.normal_(networks.unet.head.weight, std=0.1)
    inputs = torch.rand(2, networks.config.measured_channels, 32, 32)
    baseline = Networks(networks.config, networks.unet)
    assert torch.equal(networks.restore(inputs), baseline.restore(inputs))
    assert float((networks.restore(inputs) - centre_plane(inputs, networks.config)).abs().max()) > 0.01


@pytest.mark.parametrize("dims", [2, 3])
def test_a_decoder_that_corrects_nothing_gives_the_average_over_orientations(dims, tmp_path):
    """And orientations are turned back to where they came from: of a correction by nothing the measurement is left."""
    networks = load_networks(card(str(phantoms.tiny_model(tmp_path, dims))))
    torch.nn.init.zeros_(networks.fusion.head.weight)
    torch.nn.init.normal_(networks.unet.head.weight, std=0.1)
    y = torch.rand(32, 48, 16, generator=torch.Generator().manual_seed(0))
    seen, sigma, orientations = (
        Observation(y, torch.ones_like(y)),
        torch.zeros(1, 1, 1),
        pick_orientations((), (), y.shape, (1, 1, 1)),
    )
    average = estimate(networks, seen, sigma, orientations, SamplerConfig.whole())
    assert torch.allclose(restore(networks, seen, sigma, orientations, SamplerConfig.whole()), average, atol=1e-6)
    assert float((average - y).abs().max()) > 0.01
    torch.nn.init.zeros_(networks.unet.head.weight)
    assert torch.allclose(restore(networks, seen, sigma, orientations, SamplerConfig.whole()), y, atol=1e-6)


def test_the_decoder_sees_what_other_orientations_made_of_the_planes_beside(tmp_path):
    networks = load_networks(card(str(phantoms.tiny_model(tmp_path))))
    inputs = torch.rand(1, networks.config.measured_channels, 32, 32)
    regression_planes = torch.rand(1, networks.config.context, 32, 32)
    beside = regression_planes.clone()
    beside[:, 0] += 1
    assert not torch.equal(networks.refine(inputs, regression_planes), networks.refine(inputs, beside))


def test_latents_have_unit_variance():
    vae = build_vae(SHAPES[2])
    images = torch.rand(8, 1, 32, 32)
    latent = LatentSpace(vae, latent_scale(vae, images)).encode(images)
    assert torch.allclose(latent.transpose(0, 1).flatten(1).std(1), torch.ones(4), atol=0.01)


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
