"""What a setting is: default, unit, range and meaning in one place; and what every task shares.

Command-line flags, napari rows and run reports are made from these dataclasses, so a setting is declared once. Those of
a task are declared beside it, in `medldm.tasks`; this module offers them by name too.
"""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from medldm.errors import UsageError
from medldm.modality import MODALITIES

if TYPE_CHECKING:
    from medldm.tasks import Denoise, Edit, FillSlices, Generate, Inpaint, Restore, SuperResolve

DEVICES = "auto, cpu, cuda, cuda:N or mps"
Progress = Callable[[int, int, str], None]  # called with (done, total, what); may raise to stop


def silent(done: int, total: int, what: str) -> None:
    """Progress that is not shown."""


def knob(
    default: Any,
    meaning: str,
    *,
    unit: str | NoiseUnits = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    metavar: str = "",
    pattern: str = "",
    whole: bool = False,
    title: str = "",
) -> Any:
    """A dataclass field that explains itself.

    Parameters
    ----------
    default : value when the user says nothing
    meaning : one line for help texts
    unit : of the value
    low, high : smallest and largest value that can be meant
    choices : texts that are allowed
    metavar : how help texts call the value
    pattern : regular expression of the texts that can be meant
    whole : whether only whole numbers can be meant
    title : what a form writes beside it, in whole words; its name where that says it
    """
    metadata = {
        "title": title,
        "meaning": meaning,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "metavar": metavar,
    }
    return field(default=default, metadata={**metadata, "pattern": pattern, "whole": whole})


def unused(default: Any) -> Any:
    """A field that all settings share and a task has no use for: no flag, no row of a form, nothing but its default.

    Parameters
    ----------
    default : that stays
    """
    return field(default=default, metadata={"unused": True})


class NoiseUnits:
    """What a noise level is in each modality, as they are at the time: members may join later."""

    def __str__(self) -> str:
        return "; ".join(f"{kind.title}: {kind.noise.meaning}" for kind in MODALITIES.values())


class Choices(Sequence[str]):
    """A word of its own and the names in a registry, as they are at the time: members may join later.

    Parameters
    ----------
    first : word that is no name
    registry : whose names can be meant
    """

    def __init__(self, first: str, registry: Collection[str]) -> None:
        self.first, self.registry = first, registry

    def __getitem__(self, index: Any) -> Any:
        """As of the tuple of all words."""
        return (self.first, *self.registry)[index]

    def __len__(self) -> int:
        """How many words there are."""
        return 1 + len(self.registry)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every restoring verb understands.

    Raises
    ------
    UsageError
        If a value lies outside its range.
    """

    model: str = knob("auto", "model card name, or path of a trained model", metavar="NAME|PATH", title="Model")
    device: str = knob(
        "auto", "where to compute", unit=DEVICES, pattern=r"auto|cpu|mps|cuda(:\d+)?", title="Compute on"
    )
    modality: str = knob("auto", "what kind of scan this is", choices=Choices("auto", MODALITIES), title="Kind of scan")
    fidelity: float = knob(
        1.0,
        "1 is the regression mean, 0 one sample of a model with a flow; between them a blend",
        low=0,
        high=1,
        title="Fidelity",
    )
    samples: int = knob(
        1,
        "samples of a model with a flow; more than one gives their mean and standard deviation",
        low=1,
        high=64,
        whole=True,
        title="Samples",
    )
    steps: int = knob(
        4,
        "flow steps a sample; more draw finer detail and take longer",
        low=1,
        high=100,
        whole=True,
        title="Steps per sample",
    )
    seed: int = knob(0, "seed of everything random", low=0, high=2**31 - 1, whole=True, title="Random seed")
    tile: int | None = knob(
        None,
        "edge of a tile; fitted to free memory when not given",
        unit="voxels",
        low=32,
        high=4096,
        whole=True,
        title="Tile edge",
    )
    precision: str = knob(
        "auto", "number format of the network", choices=("auto", "fp32", "bf16", "fp16"), title="Number format"
    )
    axis: int = knob(
        2, "stored array axis that slices are counted along", low=0, high=2, whole=True, title="Slice axis"
    )

    def __post_init__(self) -> None:
        for knob_field in fields(self):
            check(knob_field.name, getattr(self, knob_field.name), knob_field.metadata)

    @property
    def draws(self) -> int:
        """How many samples the flow draws: none for the regression mean alone."""
        return self.samples if self.samples > 1 or self.fidelity < 1 else 0

    def asdict(self) -> dict[str, Any]:
        """The settings as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Thresholds(Settings):
    """When `restore` super-resolves and denoises."""

    thick_from: float = knob(
        1.5,
        "super-resolve when slices are farther apart than this",
        unit="mm",
        low=0.1,
        high=20,
        title="Thick from",
    )
    thick_ratio: float = knob(
        1.5,
        "and than this many times the in-plane spacing",
        low=1,
        high=20,
        title="Thick from a ratio of",
    )
    finest: float = knob(
        1.0, "never ask for thinner slices than this", unit="mm", low=0.3, high=10, title="Thinnest new slices"
    )
    noisy_from_mr: float = knob(
        0.02, "denoise MRI above this noise level", unit="fraction of p99.5", low=0, high=1, title="Denoise from"
    )
    noisy_from_ct: float = knob(
        15.0, "denoise CT above this noise level", unit="HU", low=0, high=500, title="Denoise from"
    )


def noise_knob() -> Any:
    """The noise level of a scan."""
    return knob(None, "noise level; estimated when not given", unit=NoiseUnits(), low=0, title="Noise level")


def thickness_knob() -> Any:
    """The thickness of the slices of a scan."""
    meaning = "slice thickness; the file's, else the slice spacing, when not given"
    return knob(None, meaning, unit="mm", low=0.05, high=100, title="Slice thickness")


def profile_knob() -> Any:
    """The slice profile of a scan."""
    meaning = "shape of a slice; gaussian gives way to rect where the scan contradicts it"
    return knob("gaussian", meaning, choices=("gaussian", "rect"), title="Slice profile")


Any_Settings = TypeVar("Any_Settings", bound=Settings)


def make(kind: type[Any_Settings], options: Mapping[str, Any]) -> Any_Settings:
    """Settings of a verb from named options.

    Parameters
    ----------
    kind : one of the settings classes
    options : field name to value

    Raises
    ------
    UsageError
        Unknown name or impossible value.
    """
    known = {known_field.name for known_field in fields(kind)}
    for name in options:
        if name not in known:
            raise UsageError(f"{kind.__name__} has no option {name!r}; it has {', '.join(sorted(known))}.")
    hints = get_type_hints(kind)
    return kind(**{name: convert(name, value, hints[name]) for name, value in options.items()})


def convert(name: str, value: Any, hint: Any) -> Any:
    """A number or word given as text (or JSON) as the type that a knob declares."""
    if isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, str):
        return value
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    try:
        if float in kinds and any(get_origin(kind) is tuple for kind in kinds) and "," in value:
            return tuple(float(part) for part in value.split(","))
        if str in kinds:
            return value
        if bool in kinds:
            return {"true": True, "false": False}[value.lower()]
        return int(value) if int in kinds and float not in kinds else float(value)
    except (ValueError, KeyError) as problem:
        raise UsageError(f"--{name.replace('_', '-')} is a number, not {value!r}.") from problem


def check(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """One value against the range its knob declares.

    Raises
    ------
    UsageError
    """
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool) and not isinstance(metadata.get("low"), float | int):
        return
    if metadata.get("pattern") and not re.fullmatch(metadata["pattern"], str(value)):
        raise UsageError(f"{flag} is {metadata['unit']}, not {value!r}.")
    if name == "spacing" and isinstance(value, tuple) and len(value) != 3:
        raise UsageError(f"{flag} takes one number, or three in stored axis order, not {len(value)}.")
    if metadata.get("whole") and not isinstance(value, int | None):
        raise UsageError(f"{flag} is a whole number, not {value!r}.")
    if metadata.get("choices") and value not in metadata["choices"]:
        raise UsageError(f"{flag} is one of {', '.join(metadata['choices'])}, not {value!r}.")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        low, high = metadata.get("low"), metadata.get("high")
        # A unit of one word follows the number; one that has to be explained stands in brackets.
        unit = str(metadata.get("unit") or "")
        unit = f" ({unit})" if " " in unit else f" {unit}" if unit else ""
        if not abs(number) < float("inf") or (low is not None and number < low) or (high is not None and number > high):
            limits = " and ".join(
                part
                for part in (
                    f"at least {low:g}" if low is not None else "",
                    f"at most {high:g}" if high is not None else "",
                )
                if part
            )
            raise UsageError(f"{flag} {number:g} makes no sense: {limits or 'a finite number'}{unit}.")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of the networks of one model set; stored with the weights.

    Parameters
    ----------
    spatial_dims : 2 runs over planes with `context` neighbouring slices as channels, 3 over volumes
    context : slices a plane network sees (odd); 1 in volumes
    unet_entry : space-to-depth factor in front of the U-Net; 1 keeps its first and last layer at full resolution
    latent_channels : channels of the latent of the residual
    latent_factor : voxels per latent voxel along each axis
    unet, unet_strides, unet_units : channels, strides and residual units of the MONAI U-Net
    flow : channels of the MONAI DiffusionModelUNet
    """

    spatial_dims: int = 2
    context: int = 5
    unet_entry: int = 1
    latent_channels: int = 16
    latent_factor: int = 4
    unet: tuple[int, ...] = (24, 48, 96, 192)
    unet_strides: tuple[int, ...] = (1, 2, 2)
    unet_units: int = 2
    flow: tuple[int, ...] = (64, 128, 128)

    @property
    def measured_channels(self) -> int:
        """Channels that carry the measurement: y and m with their neighbours, noise level, slice thickness."""
        return 2 * self.context + 2


def __getattr__(name: str) -> Any:
    """The settings of a task, from the registry."""
    if name[:1].isupper():
        for task in importlib.import_module("medldm.tasks").TASKS.values():
            if task.settings.__name__ == name:
                return task.settings
    raise AttributeError(f"module 'medldm.settings' has no attribute {name!r}")


__all__ = [
    "Architecture",
    "Denoise",
    "Edit",
    "FillSlices",
    "Generate",
    "Inpaint",
    "Restore",
    "Settings",
    "SuperResolve",
    "Thresholds",
    "convert",
    "knob",
    "make",
]
