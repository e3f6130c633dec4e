"""Weights, settings and card together: safetensors, no pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medldm.errors import ModelError, reason_of
from medldm.io.atomic import whole_file
from medldm.settings import Architecture
from medldm.zoo import Card

EARLIER = {"vae_entry", "vae", "staged"}  # what cards of 0.1.0 say of networks that are gone


def save_model(parts: dict[str, dict[str, Tensor]], card: dict[str, Any], folder: Path) -> Path:
    """Write ``<name>.safetensors`` (half precision, card in its header) and ``<name>.json``.

    Parameters
    ----------
    parts : ``unet``, and what the set has of ``spread``, ``latent`` and ``flow``: name to weights
    card : fields of `zoo.Card` but for weights and sha256, which are filled in here
    folder : where to

    Returns
    -------
    path of the card

    Raises
    ------
    OutputError, ResourceError
        See `medldm.io.atomic.whole_file`.
    """
    name = card["name"]
    tensors = {
        f"{part}.{key}": value.half().contiguous() for part, weights in parts.items() for key, value in weights.items()
    }
    path = folder / f"{name}.safetensors"
    with whole_file(path) as temporary:
        # Not `save_file`, whose files nobody but their owner may read.
        temporary.write_bytes(save(tensors, {"card": json.dumps(card)}))
    fields = {**card, "weights": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    target = folder / f"{name}.json"
    with whole_file(target) as temporary:
        temporary.write_text(json.dumps(fields, indent=1) + "\n")
    return target


def architecture(card: Card) -> Architecture:
    """Widths of a card's regression network.

    Raises
    ------
    ModelError
    """
    widths: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in card.architecture.items() if key not in EARLIER
    }
    try:
        return Architecture(**widths)
    except TypeError as problem:
        raise ModelError(
            f"The card of {card.name} describes networks that this version does not know. Install the version of "
            "medldm that trained it, or choose another --model."
        ) from problem


def read_weights(card: Card) -> dict[str, Tensor]:
    """The tensors of a card's networks, ``<network>.<name>``, as they are stored.

    Raises
    ------
    ModelError
    """
    try:
        tensors = load_file(card.path)
    except (SafetensorError, OSError) as problem:
        raise ModelError(
            f"The weights of {card.name} cannot be read: {reason_of(problem)} ({card.path}). Copy or "
            "install them again."
        ) from problem
    return {key: value for key, value in tensors.items() if not card.parts or key.split(".")[0] in card.parts}
