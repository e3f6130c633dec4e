"""The record of a run: what was done, with what, to what; enough to do it again.

Where the file lies and how it is called is known to `medldm.io.sidecars`; this module knows what it says.
"""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # the command line reads records before it needs NumPy
    from medldm.data.volume import Step

VERSION = 2  # records without a version are of the first one, which had the same keys
PACKAGES = ("medldm", "torch", "monai", "numpy", "nibabel", "pydicom", "SimpleITK", "scikit-image")
TEXTS = ("task", "medldm", "status", "said", "result", "result_sha256", "machine", "key")
TIMINGS = ("seconds", "peak_memory_mb")
STATEMENT = {"restored_voxels_are_estimates": "research use only"}
T = TypeVar("T")


def _as(value: object, kind: type[T]) -> T | None:
    return value if isinstance(value, kind) else None


def _tuple(value: object, kind: type[T]) -> tuple[T, ...] | None:
    """A list whose items are of one type; None for anything else."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, kind) for item in value):
        return None
    return tuple(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _interval(value: object) -> dict[str, Any] | None:
    """A calibrated interval: at least its coverage and its median half width; None without both."""
    interval = _as(value, dict) or {}
    numbers = [_number(interval.get(name)) for name in ("coverage", "median_half_width")]
    return None if None in numbers else interval


def _text(value: object) -> str:
    return _as(value, str) or ""


def _texts(value: object) -> tuple[str, ...]:
    return _tuple(value, str) or ()


class Fact(Generic[T]):
    """A fact of a task, read from the mapping of all facts; what has another type counts as not given.

    Parameters
    ----------
    name : key
    convert : from the value of the key, None where it is missing
    """

    def __init__(self, name: str, convert: Callable[[object], T]) -> None:
        self.name, self.convert = name, convert

    def __get__(self, record: RunRecord, owner: type[RunRecord]) -> T:
        return self.convert(record.facts.get(self.name))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The input of a run, so that a rerun finds it again.

    Parameters
    ----------
    root : file, folder or archive that was read, absolute
    files : the first file, absolute; empty where it lay in an archive
    member : its name in the archive
    place : of the result, below OUT, without suffix
    count : number of files
    sha256 : of the files (and the mask)
    mask : path of the mask
    volume, format, fix : options that change the image besides the settings
    """

    root: str = ""
    files: tuple[str, ...] = ()
    member: str = ""
    place: str = ""
    count: int = 0
    sha256: str = ""
    mask: str | None = None
    volume: int | None = None
    format: str | None = None
    fix: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; a member only where there is an archive."""
        return {name: value for name, value in asdict(self).items() if name != "member" or value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Source:
        """What some JSON says; values of another type count as not given."""
        return cls(
            files=_texts(data.get("files")),
            mask=_as(data.get("mask"), str),
            volume=_whole(data.get("volume")),
            format=_as(data.get("format"), str),
            fix=data.get("fix") is True,
            count=_whole(data.get("count")) or 0,
            **{name: _text(data.get(name)) for name in ("root", "member", "place", "sha256")},
        )


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run.

    Parameters
    ----------
    task : verb, as on the command line; also one that this medldm does not know
    medldm : version that ran
    settings : of the task
    facts : what the task found out and, of a record that was read, all that this version does not know
    clipped_voxels : clipped to the range of the stored integers
    status : ``"done"`` or ``"unchanged"``
    plan, said : verbs and reasons of `restore`, and the same as sentences
    voxels : number of voxels of the result
    source : input
    result : path of the result, seen from the folder of the record
    result_sha256 : of the result
    history : tasks, oldest first
    versions : of packages and Python
    machine : operating system and processor
    command : command line that does the same
    key : what identifies the run, from `medldm.batch.ledger.run_key`
    timings : seconds and peak memory, MB
    version : of the record
    """

    task: str = ""
    medldm: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    clipped_voxels: int = 0
    status: str = ""
    plan: tuple[Mapping[str, str], ...] | None = None
    said: str = ""
    voxels: int = 0
    source: Source = field(default_factory=Source)
    result: str = ""
    result_sha256: str = ""
    history: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    command: tuple[str, ...] = ()
    key: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    version: int = VERSION

    device = Fact("device", _text)
    model = Fact("model", _text)  # name of the card; empty where no network ran
    weights = Fact("sha256", _text)
    modality = Fact("modality", _text)
    noise_level = Fact("noise_level", _number)  # in the unit of the modality
    residual = Fact("consistency_residual", _number)  # what the result, measured again, differs from the scan
    invented_slices = Fact("invented_slices", lambda value: _tuple(value, int))  # None where it is not said
    filled_slices = Fact("filled_slices", lambda value: _tuple(value, int) or ())  # those that were missing
    invented_voxels = Fact("invented_voxels", lambda value: _whole(value) or 0)
    measured_slices_changed = Fact("measured_slices_bit_exact", lambda value: value is False)
    outside_of_card = Fact("outside_of_card", _texts)  # checks that the scan did not pass
    notes = Fact("notes", _texts)
    outliers = Fact("outliers", lambda value: _whole(value) or 0)  # voxels of absurd value
    synthetic = Fact("synthetic", bool)  # drawn from no scan
    description = Fact("description", _text)  # what a synthetic scan was asked to show
    without_spread = Fact("no_spread", bool)
    interval = Fact("interval", _interval)
    seed = Fact("seed", lambda value: _whole(value) or 0)
    steps = Fact("steps", lambda value: 1 if value is None else _whole(value) or 0)  # of the sampler
    old_spacing = Fact("old_spacing_mm", lambda value: _tuple(value, float))  # of the scan's grid; None where it stayed
    new_spacing = Fact("new_spacing_mm", lambda value: _tuple(value, float))

    @classmethod
    def of_step(cls, step: Step, **more: Any) -> RunRecord:
        """The record of what was done to a volume, as far as the volume knows it.

        Parameters
        ----------
        step : of its history
        more : other fields
        """
        own = {
            "task": step.task,
            "settings": dict(step.settings),
            "facts": {name: value for name, value in step.facts.items() if name not in ("medldm", "plan", *TIMINGS)},
            "medldm": str(step.facts.get("medldm", "")),
            "plan": _tuple(step.facts.get("plan"), dict),
            "timings": {name: step.facts[name] for name in TIMINGS if name in step.facts},
        }
        return cls(**{**own, **more})

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, in the order in which people read it."""
        return {
            "record_version": self.version,
            "task": self.task,
            "medldm": self.medldm,
            **STATEMENT,
            "settings": self.settings,
            **self.facts,
            "clipped_voxels": self.clipped_voxels,
            "status": self.status,
            **({} if self.plan is None else {"plan": self.plan, "said": self.said}),
            "voxels": self.voxels,
            "input": self.source.to_json(),
            "result": self.result,
            "result_sha256": self.result_sha256,
            "history": [{"task": task} for task in self.history],
            "versions": self.versions,
            "machine": self.machine,
            "command": self.command,
            "key": self.key,
            "timings": self.timings,
        }

    def text(self, before: Mapping[str, Any] | None = None) -> str:
        """The content of the file; each list of numbers on one line.

        Parameters
        ----------
        before : what goes in front, for readers that look for other keys (BIDS)
        """
        return json_text({**(before or {}), **self.to_json()})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunRecord:
        """What some JSON says: a record of this version, of an older or of a newer one.

        A value of another type than this version writes counts as not given. Keys that it does not know stay in
        ``facts``.
        """
        own: dict[str, Any] = {
            "clipped_voxels": _whole(data.get("clipped_voxels")) or 0,
            "voxels": _whole(data.get("voxels")) or 0,
            "plan": _tuple(data.get("plan"), dict),
            "history": tuple(str(step.get("task", "")) for step in _tuple(data.get("history"), dict) or ()),
            "command": _texts(data.get("command")),
            **{name: _text(data.get(name)) for name in TEXTS},
            **{name: _as(data.get(name), dict) or {} for name in ("settings", "versions", "timings")},
        }
        return cls(
            version=_whole(data.get("record_version")) or 1,
            source=Source.from_json(_as(data.get("input"), dict) or {}),
            facts={
                name: value for name, value in data.items() if name not in {*own, *STATEMENT, "record_version", "input"}
            },
            **own,
        )

    @property
    def repeatable(self) -> bool:
        """Whether it says enough to run the same again."""
        source = self.synthetic or (self.source.root and self.source.sha256)
        return bool(self.task and self.settings and source and self.result)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of its plan for ``restore``, else the one that ran."""
        return tuple(str(planned["verb"]) for planned in self.plan or ()) or (self.task,)

    @property
    def axis(self) -> int:
        """Stored axis along which slices were counted."""
        axis = _whole(self.settings.get("axis"))
        return 2 if axis is None else axis

    @property
    def unchanged(self) -> bool:
        """Whether nothing was to be done, so that the result is a copy of the input."""
        return self.status == "unchanged"

    @property
    def seconds(self) -> float | None:
        """Wall clock of the task."""
        return _number(self.timings.get("seconds"))

    @property
    def peak_memory_mb(self) -> float | None:
        """Largest memory of the process, MB."""
        return _number(self.timings.get("peak_memory_mb"))


def is_record(data: Mapping[str, Any]) -> bool:
    """Whether some JSON is the record of a run, rather than a sidecar of another program."""
    return "result_sha256" in data


def package_versions() -> dict[str, str]:
    """Of the packages that have a say in the result, and of Python."""
    return {name: package_version(name) for name in PACKAGES} | {"python": platform.python_version()}


@functools.cache
def package_version(name: str) -> str:
    """Installed version, or ``"not installed"``."""
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return "not installed"


def json_text(data: Mapping[str, Any]) -> str:
    """JSON with each list of numbers on one line, and a line end."""
    return re.sub(
        r"\[\s+([-\d.,eE\s]+?)\s+\]",
        lambda match: f"[{' '.join(match[1].split())}]",
        json.dumps(data, indent=1, default=str) + "\n",
    )
