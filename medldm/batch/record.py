"""The record beside each result: what was done, with what, to what; enough to do it again."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medldm.errors import InputError
from medldm.io.atomic import whole_file
from medldm.settings import Settings
from medldm.volume import Volume

PACKAGES = ("medldm", "torch", "monai", "numpy", "nibabel", "pydicom", "SimpleITK", "scikit-image")
TIMINGS = ("seconds", "peak_memory_mb")


@dataclass(frozen=True)
class Record:
    """Where the record of a result lies, and what identifies the run.

    Parameters
    ----------
    image : result, a NIfTI file or a DICOM folder
    """

    image: Path

    @property
    def path(self) -> Path:
        """``scan_medldm.json`` beside ``scan.nii.gz``."""
        return self.image.with_name(f"{result_stem(self.image)}_medldm.json")

    def companion(self, ending: str) -> Path:
        """``scan_std.nii.gz`` and other files beside the result."""
        return self.image.with_name(f"{result_stem(self.image)}{ending}")

    def read(self) -> dict[str, Any]:
        """The record, empty when there is none that can be read."""
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def knows(self, key: str) -> bool:
        """Whether the result that lies there is the one this run would give."""
        return self.image.exists() and self.read().get("key") == key


def result_stem(image: Path) -> str:
    """Name of a result without .nii or .nii.gz."""
    name = image.name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        except OSError as problem:
            raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    return digest.hexdigest()


def run_key(verb: str, settings: Settings, inputs: str, weights: str, extra: dict[str, Any]) -> str:
    """What identifies a run: input, settings, weights and version. Equal keys give equal images.

    Parameters
    ----------
    verb : task
    settings : of the task
    inputs : SHA-256 of the input files (and the mask)
    weights : SHA-256 of the weights
    extra : anything else that changes the image (volume of a 4D file, format)
    """
    words = {"verb": verb, "settings": settings.asdict(), "inputs": inputs, "weights": weights, "extra": extra}
    words["medldm"] = package_version("medldm")
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()


def package_version(name: str) -> str:
    """Installed version, or ``"not installed"``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write_record(
    record: Record, key: str, verb: str, settings: Settings, source: dict[str, Any], result: Volume, clipped: int
) -> None:
    """Write the record of a finished run.

    Parameters
    ----------
    record : of the result
    key : from `run_key`
    verb, settings : what was asked
    source : paths and hash of the input
    result : restored volume, with its history
    clipped : voxels clipped to the stored integer range
    """
    facts = dict(result.history[-1].facts) if result.history else {}
    words = {
        "task": verb,
        "medldm": package_version("medldm"),
        "restored_voxels_are_estimates": "research use only",
        "settings": settings.asdict(),
        **{name: value for name, value in facts.items() if name not in ("medldm", *TIMINGS)},
        "clipped_voxels": clipped,
        "input": source,
        "result": record.image.name,
        "history": [{"task": step.task} for step in result.history],
        "versions": {name: package_version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}",
        "command": ["medldm", *sys.argv[1:]],
        "key": key,
        "timings": {name: facts[name] for name in TIMINGS if name in facts},
    }
    with whole_file(record.path) as temporary:
        temporary.write_text(json.dumps(words, indent=1, default=str) + "\n")
