"""Model cards and where their weights lie; answers without torch."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medldm.errors import ModelError, UnfitModel, reason_of

ROOM = Path(__file__).parent
IN_PLANE = "in-plane"  # super-resolution of planes alone, which a card may do in another way than that of slices
# Keys and roles that cards of earlier versions name otherwise.
FIELDS = {"guard": "ood", "looks": "orientations"}
ROLES = {"rival": "baseline"}
PATIENCE_S = 1800.0  # for one scan on a CPU


@dataclass(frozen=True)
class Use:
    """How one verb uses the networks of a model, as its validation table advises.

    Parameters
    ----------
    orientations : planes that are averaged over, at most
    sampler : of the flow, a name in `medldm.diffusion.SAMPLERS`
    psnr : on validation subjects, dB
    """

    orientations: int = 3
    sampler: str = "euler"
    psnr: float = -math.inf


@dataclass(frozen=True)
class Card:
    """What a model is, what it was made of, and how good it was found to be.

    Parameters
    ----------
    name : as ``--model`` takes it
    title : one line
    modality : name in `medldm.modality.MODALITIES`
    spatial_dims : 2 works in planes, 3 in volumes
    role : ``"restorer"``, ``"generator"``, or ``"baseline"`` (a regression network alone, for benchmarks)
    verbs : what it does
    architecture : widths of its networks
    weights : file beside the card
    sha256 : of that file
    parts : which networks of that file are its own, so that a set and its baseline share one file; all when empty
    licence : of the weights
    spacing_mm : smallest and largest voxel it has seen, mm
    training : subjects, sources, licences, minutes, hardware
    validation : rows and PSNR in dB on validation subjects
    limits : what it must not be used for
    ood : reference of the out-of-distribution detector, see `medldm.qc.ood.fit`; empty for none
    calibration : how its intervals are scaled, see `medldm.inference.uncertainty`; empty where not measured
    use : verb to fields of `Use`, chosen on validation subjects
    spread : whether one answer comes with its standard deviation, from a spread head
    residual : latent and flow of the residual, fields of `Architecture`, ``flow_blocks`` and ``tile`` (latents along
        the edge of what the flow runs on); empty where there are none
    generator : shape of the networks that draw scans, fields of `medldm.models.generator.GeneratorConfig`, and the
        ``ages`` and ``sexes`` they were trained on; empty for models that restore
    pace : seconds per million voxels and verb on two CPU cores, 0 where not measured
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
    ood: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    use: dict[str, dict[str, Any]] = field(default_factory=dict)
    pace: float = 0.0
    parts: tuple[str, ...] = ()
    spread: bool = False
    residual: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def path(self) -> Path:
        """The weights."""
        return Path(self.folder) / self.weights

    @property
    def identity(self) -> str:
        """Changes with whatever changes results: weights, and how they are used."""
        if not self.use and not self.parts:
            return self.sha256
        text = f"{self.sha256}{'+'.join(self.parts)}{json.dumps(self.use, sort_keys=True)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def used(self, verb: str) -> Use:
        """How a verb uses the networks.

        Parameters
        ----------
        verb : as on the command line
        """
        known = {one.name for one in fields(Use)}
        named = {FIELDS.get(key, key): value for key, value in self.use.get(verb, {}).items()}
        return Use(**{key: value for key, value in named.items() if key in known})

    def expected(self, verb: str) -> float:
        """PSNR on validation subjects in dB, the mean over the rows of a verb, or over all verbs when it is empty.

        Parameters
        ----------
        verb : as on the command line, or empty

        Returns
        -------
        minus infinity where not measured
        """
        verbs = [name for name in self.use if name != IN_PLANE]
        known = [self.used(name).psnr for name in ([verb] if verb in verbs else verbs)]
        return sum(known) / len(known) if known else -math.inf

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
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {one.name for one in fields(Card)}
        lists = {"verbs", "spacing_mm", "limits", "parts"}
        named = {FIELDS.get(key, key): value for key, value in stored.items()}
        named["role"] = ROLES.get(named["role"], named["role"])
        values: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in named.items() if k in known}
        return Card(**values, folder=str(path.parent))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as problem:
        why = "what a card says is missing" if isinstance(problem, TypeError | LookupError) else reason_of(problem)
        raise ModelError(
            f"{path} is not a model card: {why}. Name the .json or the folder that `medldm train` has written."
        ) from problem


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
    for shipped in cards():
        if shipped.name == name:
            return shipped
    path = Path(name)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        files = [file for file in files if '"architecture"' in file.read_text(encoding="utf-8", errors="replace")]
        if files:
            return read_card(files[0])
    if path.suffix == ".safetensors":
        path = path.with_suffix(".json")
    if path.is_file():
        return read_card(path)
    known = ", ".join(shipped.name for shipped in cards())
    raise ModelError(f"There is no model {name!r}. Shipped models: {known}; or give the path of a trained one.")


def best(
    modality: str,
    *,
    flat: bool = False,
    verb: str = "",
    megavoxels: float = 0.0,
    patience_s: float = PATIENCE_S,
    draws: bool = False,
) -> Card:
    """The shipped restorer that suits a scan: the best on validation subjects of those that end in time.

    Parameters
    ----------
    modality : name in `medldm.modality.MODALITIES`
    flat : whether the scan is a single slice, which needs a plane model
    verb : what is to be done; any when empty
    megavoxels : of the result, in millions
    patience_s : on a CPU a model that takes longer gives way to a faster one; 0 where time does not matter
    draws : whether samples are asked for, which takes a model with a flow, where there is one

    Raises
    ------
    ModelError
    """
    fit = [model for model in cards() if model.modality == modality and model.role == "restorer"]
    if not fit:
        raise UnfitModel(
            f"No shipped model restores {modality.upper()} yet. Give one of your own with --model PATH, or train "
            "it with `medldm train`."
        )
    able = [model for model in fit if (not verb or verb in model.verbs) and not (flat and model.spatial_dims == 3)]
    if not able:
        raise UnfitModel(
            f"No shipped model can {verb or 'restore'} {modality.upper()} scans{' of one slice' if flat else ''}; "
            f"{fit[0].name} was found fit to {', '.join(fit[0].verbs)}. Give one of your own with --model PATH."
        )
    able = [model for model in able if draws and model.residual] or able
    able.sort(key=lambda model: (-model.expected(verb), model.name))
    timed = [model for model in able if model.pace]
    # One whose pace was not measured may be the best, but is not taken for fast.
    in_time = [model for model in able if not patience_s or model.pace * megavoxels <= patience_s]
    in_time = [model for model in in_time if model.pace or model is able[0] or not timed]
    return in_time[0] if in_time else min(timed, key=lambda model: model.pace)


def check_weights(card: Card) -> None:
    """Compare the weights with the card's SHA-256.

    Raises
    ------
    ModelError
        Missing or damaged.
    """
    if not card.path.is_file():
        raise ModelError(f"The weights of {card.name} are missing: {card.path} does not exist. Install medldm again.")
    digest = hashlib.sha256(card.path.read_bytes()).hexdigest()
    if digest != card.sha256:
        raise ModelError(
            f"The weights of {card.name} are damaged: {card.path} has SHA-256 {digest[:16]}, its card says "
            f"{card.sha256[:16]}. Install medldm again."
        )
