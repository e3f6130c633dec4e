"""Words as vectors: our own encoder, and OpenCLIP's by path."""

import importlib.util
import json

import pytest
import torch
import toy_generator
from safetensors.torch import save_file

from medldm.errors import ModelError, UsageError
from medldm.models.open_clip_text import OpenClipText, text_encoder
from medldm.models.text_encoder import Captions, HashedTextEncoder, ngrams


def test_our_encoder_is_small_and_its_vectors_have_length_one():
    encoder = HashedTextEncoder()
    assert 2 * sum(p.numel() for p in encoder.parameters()) < 1e6  # bytes, in half precision
    vectors = encoder.encode(["T1w brain", "female, 34 years", ""])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


def test_spellings_share_n_grams_and_numbers_do_not():
    assert len({*ngrams("T1-weighted")} & {*ngrams("t1 weighted")}) > 8
    assert len({*ngrams("34")} & {*ngrams("43")}) == 0
    assert len({*ngrams("34")} & {*ngrams("35")}) == 1  # their decade
    assert ngrams("MPRAGE") == ngrams("mprage")


def test_descriptions_are_told_apart_after_a_little_training():
    torch.default_generator.manual_seed(0)
    network = Captions(toy_generator.toy_config()).train()
    texts = ["T1w brain, female", "T1w brain, male"]
    latents = torch.randn(2, 4, 8, 8, 8)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(network(latents, texts), torch.arange(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network.eval()(latents, texts).argmax(1).tolist() == [0, 1]


def test_a_folder_that_is_no_open_clip_model_is_a_sentence(tmp_path):
    with pytest.raises(UsageError, match="holds no open_clip_config"):
        OpenClipText(tmp_path)
    with pytest.raises(ModelError, match="no text encoder of its own"):
        text_encoder("own")


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is not None, reason="open_clip is installed")
def test_without_the_package_its_models_are_a_sentence(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UsageError, match="need the package open_clip_torch"):
        OpenClipText(tmp_path)


@pytest.fixture
def tiny_open_clip(tmp_path):
    """Folder of an OpenCLIP model of that architecture with random weights."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.default_generator.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return tmp_path


def test_an_open_clip_model_gives_vectors_of_length_one(tiny_open_clip):
    encoder = text_encoder(tiny_open_clip)
    vectors = encoder.encode(["T1w brain, female", "a dog", "word " * 200])
    assert vectors.shape == (3, 16)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)


def test_damaged_weights_are_a_sentence(tiny_open_clip):
    (tiny_open_clip / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded"):
        text_encoder(tiny_open_clip)
