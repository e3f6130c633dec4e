"""Weights, settings and card together: safetensors, no pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medldm.errors import ModelError
from medldm.models.chain import Chain
from medldm.models.flow import build_flow
from medldm.models.fusion import build_fusion, build_unet
from medldm.models.latent import LatentSpace
from medldm.models.vae import build_vae
from medldm.settings import Architecture
from medldm.zoo import Card, check_weights


def save_model(parts: dict[str, dict[str, Tensor]], card: dict[str, Any], folder: Path) -> Path:
    """Write ``<name>.safetensors`` (half precision, card in its header) and ``<name>.json``.

    Parameters
    ----------
    parts : ``vae`` (with ``scale``), ``flow`` and ``fusion``, or ``unet`` alone: name to weights
    card : fields of `zoo.Card` but for weights and sha256, which are filled in here
    folder : where to

    Returns
    -------
    path of the card
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = card["name"]
    tensors = {
        f"{part}.{key}": value.half().contiguous() for part, weights in parts.items() for key, value in weights.items()
    }
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"card": json.dumps(card)})
    told = {**card, "weights": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    target = folder / f"{name}.json"
    target.write_text(json.dumps(told, indent=1) + "\n")
    return target


def architecture(card: Card) -> Architecture:
    """Widths of a card's networks.

    Raises
    ------
    ModelError
    """
    widths: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in card.architecture.items()}
    try:
        return Architecture(**widths)
    except TypeError as problem:
        raise ModelError(
            f"The card of {card.name} describes networks this version does not know: {problem}"
        ) from problem


_loaded: dict[tuple[str, str, str], Chain] = {}


def load_chain(card: Card, device: str = "cpu") -> Chain:
    """The networks of a card on a device, checked against the card's SHA-256; the last one loaded is kept.

    Parameters
    ----------
    card : from `medldm.zoo`
    device : torch device

    Raises
    ------
    ModelError
    """
    key = (str(card.path), card.sha256, device)
    if key not in _loaded:
        check_weights(card)
        unload()
        _loaded[key] = _build(card, device)
    return _loaded[key]


def unload() -> None:
    """Forget the loaded model, so that its memory is free."""
    _loaded.clear()


def _build(card: Card, device: str) -> Chain:
    shape = architecture(card)
    try:
        tensors = load_file(card.path)
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"The weights of {card.name} cannot be read: {problem}") from problem
    try:
        if card.role == "rival":
            return Chain(shape, _filled(build_unet(shape), _part(tensors, "unet"), device))
        vae_weights = _part(tensors, "vae")
        scale = vae_weights.pop("scale")
        latent = LatentSpace(_filled(build_vae(shape), vae_weights, device), scale.to(device))
        flow = _filled(build_flow(shape), _part(tensors, "flow"), device)
        fusion = _filled(build_fusion(shape), _part(tensors, "fusion"), device)
    except (RuntimeError, KeyError) as problem:
        raise ModelError(f"The weights of {card.name} do not fit its card: {str(problem).splitlines()[0]}") from problem
    return Chain(shape, fusion, latent, flow)


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value.float() for key, value in tensors.items() if key.startswith(f"{name}.")}


def _filled(network: Any, weights: dict[str, Tensor], device: str) -> Any:
    network.load_state_dict(weights)
    network.to(device).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return network
