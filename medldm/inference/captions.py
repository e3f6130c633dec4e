"""How well scans fit descriptions: a CLIP score of our own kind, from the encoders of a generator's model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medldm.data.description import Description
from medldm.inference.generation import config_of, encoded, load_generator
from medldm.models.checkpoint import read_weights
from medldm.models.text_encoder import Captions
from medldm.zoo import Card

PART = "captions"


def load_captions(card: Card, device: str = "cpu") -> Captions | None:
    """Text and latent encoder of a generator; None where its model has none.

    Parameters
    ----------
    card : of a generator
    device : torch device
    """
    prefix = f"{PART}."
    weights = {k.removeprefix(prefix): v.float() for k, v in read_weights(card).items() if k.startswith(prefix)}
    if not weights:
        return None
    network = Captions(config_of(card))
    network.load_state_dict(weights)
    return network.to(device).eval().requires_grad_(False)


def caption_scores(
    card: Card, voxels: Tensor, descriptions: Sequence[Description], device: str = "cpu"
) -> Tensor | None:
    """Cosine of each scan's vector and that of its description (CLIP score: Hessel et al., EMNLP 2021, unscaled).

    Parameters
    ----------
    card : of a generator
    voxels : (N, 1, X, Y, Z) scaled intensity on its grid
    descriptions : of each
    device : torch device

    Returns
    -------
    (N,) in [-1, 1]; None where the model has no text encoder
    """
    network = load_captions(card, device)
    if network is None:
        return None
    generator = load_generator(card, device)
    latents = torch.cat([encoded(generator, volume[0]) for volume in voxels])
    with torch.no_grad():
        texts = network.text([description.text for description in descriptions])
        scores: Tensor = (network.image(latents) * texts).sum(1).cpu()
    return scores
