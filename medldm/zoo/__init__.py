"""Model cards and where their weights lie; answers without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medldm.errors import ModelError

ROOM = Path(__file__).parent


@dataclass(frozen=True)
class Card:
    """What a model is, what it was made of, and how good it was found to be.

    Parameters
    ----------
    name : as ``--model`` takes it
    title : one line
    modality : ``"mr"`` or ``"ct"``
    spatial_dims : 2 works in planes, 3 in volumes
    role : ``"restorer"`` (VAE, flow, fusion) or ``"rival"`` (supervised U-Net, for benchmarks)
    verbs : what it does
    architecture : widths of its networks
    weights : file beside the card
    sha256 : of that file
    licence : of the weights
    spacing_mm : smallest and largest voxel it has seen, mm
    training : subjects, sources, licences, minutes, hardware
    validation : rows and PSNR in dB on validation subjects
    limits : what it must not be used for
    guard : what its training scans look like, see `medldm.guard.fit`; empty when nobody measured it
    calibration : how its intervals are scaled, see `medldm.tasks.uncertainty`; empty when nobody measured it
    """

    name: str
    title: str
    modality: str
    spatial_dims: int
    role: str
    verbs: tuple[str, ...]
    architecture: dict[str, Any]
    weights: str
    sha256: str
    licence: str
    spacing_mm: tuple[float, float] = (0.4, 7.0)
    training: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    guard: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def path(self) -> Path:
        """The weights."""
        return Path(self.folder) / self.weights

    def asdict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def read_card(path: Path) -> Card:
    """A card from its JSON file.

    Raises
    ------
    ModelError
    """
    try:
        words: dict[str, Any] = json.loads(path.read_text())
        known = {each.name for each in fields(Card)}
        lists = {"verbs", "spacing_mm", "limits"}
        told: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in words.items() if k in known}
        return Card(**told, folder=str(path.parent))
    except (OSError, ValueError, TypeError) as problem:
        raise ModelError(f"{path} is not a model card: {problem}") from problem


def cards() -> list[Card]:
    """All shipped models."""
    return [read_card(path) for path in sorted(ROOM.glob("*.json"))]


def card(name: str) -> Card:
    """A shipped model by name, or a trained one by the path of its card, weights or folder.

    Raises
    ------
    ModelError
        Neither a known name nor a model on disk.
    """
    for each in cards():
        if each.name == name:
            return each
    path = Path(name)
    if path.is_dir():
        found = sorted(path.glob("*.json"))
        found = [each for each in found if '"architecture"' in each.read_text(errors="replace")]
        if found:
            return read_card(found[0])
    if path.suffix == ".safetensors":
        path = path.with_suffix(".json")
    if path.is_file():
        return read_card(path)
    known = ", ".join(each.name for each in cards())
    raise ModelError(f"There is no model {name!r}. Shipped models: {known}; or give the path of a trained one.")


def best(modality: str, *, flat: bool = False) -> Card:
    """The shipped restorer that suits a scan.

    Parameters
    ----------
    modality : ``"mr"`` or ``"ct"``
    flat : whether the scan is a single slice, which needs a plane model

    Raises
    ------
    ModelError
    """
    fit = [each for each in cards() if each.modality == modality and each.role == "restorer"]
    fit = [each for each in fit if each.spatial_dims == 2] if flat else fit
    if not fit:
        raise ModelError(
            f"No shipped model restores {modality.upper()} yet. Give one of your own with --model PATH, or train "
            "it with `medldm train`."
        )
    return fit[0]


def check_weights(found: Card) -> None:
    """Compare the weights with the card's SHA-256.

    Raises
    ------
    ModelError
        Missing or damaged.
    """
    if not found.path.is_file():
        raise ModelError(f"The weights of {found.name} are missing: {found.path} does not exist. Install medldm again.")
    digest = hashlib.sha256(found.path.read_bytes()).hexdigest()
    if digest != found.sha256:
        raise ModelError(
            f"The weights of {found.name} are damaged: {found.path} has SHA-256 {digest[:16]}, its card says "
            f"{found.sha256[:16]}. Install medldm again."
        )
