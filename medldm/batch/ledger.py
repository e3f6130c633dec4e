"""The record beside each result: what was done, with what, to what; enough to do it again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medldm.batch.bids import sidecar
from medldm.batch.options import Run
from medldm.data.volume import Volume
from medldm.errors import InputError
from medldm.io import is_image_name
from medldm.io.atomic import whole_file
from medldm.io.discovery import Case
from medldm.io.formats import result_files, stem
from medldm.io.sidecars import (
    BIDS_MAPS,
    SENT,
    companion_path,
    in_derivatives,
    read_record,
    record_path,
    records_in,
)
from medldm.settings import Settings

PACKAGES = ("medldm", "torch", "monai", "numpy", "nibabel", "pydicom", "SimpleITK", "scikit-image")
TIMINGS = ("seconds", "peak_memory_mb")
# InstanceCreationDate and Time of a slice of ours, explicit little endian.
CREATED = re.compile(rb"\x08\x00\x12\x00DA\x08\x00.{8}\x08\x00\x13\x00TM\x02\x00.{2}", re.DOTALL)
ENOUGH = 20  # finished cases to judge a pace by


@dataclass(frozen=True)
class Record:
    """Where the record of a result lies, and what identifies the run.

    Parameters
    ----------
    image : result, a NIfTI file or a DICOM folder
    home : where its record and pictures lie, as a path without an ending; beside the result when not given
    """

    image: Path
    home: Path | None = None

    @property
    def result(self) -> str:
        """The result as its record names it, seen from the record's folder."""
        return Path(os.path.relpath(self.image, self.path.parent)).as_posix()

    @property
    def path(self) -> Path:
        """``scan_medldm.json`` beside ``scan.nii.gz``; in BIDS derivatives ``scan.json``."""
        return record_path(self.image, self.home)

    def companion(self, ending: str) -> Path:
        """``scan_std.nii.gz`` and other files beside the result; in BIDS a spread has a desc- of its own."""
        return companion_path(self.image, ending, self.home)

    def read(self) -> dict[str, Any]:
        """The record, empty when there is none that can be read."""
        return read_record(self.image)

    def status(self, key: str) -> str:
        """What lies there, by the ledger.

        Parameters
        ----------
        key : of the run that is asked for

        Returns
        -------
        ``"done"``: what this run would give; ``"changed"``: a result of another input, other settings or weights;
        ``"nothing"``: no result, or a run was killed before it showed one; ``"foreign"``: something else, or a result
        that somebody changed
        """
        there = [path.exists() for path in result_files(self.image)]
        if not self.image.exists():
            return "foreign" if any(there) and not self.path.exists() else "nothing"
        if not all(there):  # a detached header whose data somebody took away
            return "foreign"
        told = self.read()
        if told.get("result_sha256") != hash_image(self.image):
            return "foreign"
        return "done" if told.get("key") == key else "changed"


def record_of(case: Case, target: Path) -> Record:
    """The record of a result; of a derived series it lies outside the folder that is sent.

    Parameters
    ----------
    case : scan
    target : where its result goes, from `output_path`
    """
    sent = Path(SENT, case.place).parts
    if is_image_name(target) or target.parts[-len(sent) :] != sent:
        return Record(target)
    return Record(target, target.parents[len(sent) - 1] / case.place)


def hash_image(image: Path) -> str:
    """SHA-256 of a result as it lies there, an image or a DICOM folder; when a slice was created does not count."""
    if not image.is_dir():
        return hash_files(result_files(image))
    digest = hashlib.sha256()
    for path in sorted(image.glob("*.dcm")):
        try:
            digest.update(CREATED.sub(b"", path.read_bytes(), count=1))
        except OSError as problem:
            raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    return digest.hexdigest()


def seconds_per_voxel(folder: Path, verb: str) -> float | None:
    """Pace of the finished cases of a folder, None where none is.

    Parameters
    ----------
    folder : of results, from `medldm.io.sidecars.results_folder`
    verb : task
    """
    found: list[float] = []
    for told in records_in(folder):
        if len(found) == ENOUGH:
            break
        seconds, voxels = _timings(told).get("seconds"), told.get("voxels")
        if told.get("task") == verb and seconds and voxels:
            found.append(seconds / voxels)
    return statistics.median(found) if found else None


def _timings(told: dict[str, Any]) -> dict[str, Any]:
    found = told.get("timings")
    return found if isinstance(found, dict) else {}


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


@functools.cache
def package_version(name: str) -> str:
    """Installed version, or ``"not installed"``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write_record(
    record: Record,
    key: str,
    run: Run,
    source: dict[str, Any],
    result: Volume,
    outcome: dict[str, Any],
    image: Path,
    *,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Write the record of a finished run.

    Parameters
    ----------
    record : of the result
    key : from `run_key`
    run : what was asked
    source : paths and hash of the input
    result : restored volume, with its history
    outcome : status, plan, clipped voxels
    image : the result where it lies now, if it is not shown yet
    before : called when the record is written and not yet shown
    """
    facts = dict(result.history[-1].facts) if result.history else {}
    words = {
        **bids_words(record, run, source, result),
        "task": run.verb,
        "medldm": package_version("medldm"),
        "restored_voxels_are_estimates": "research use only",
        "settings": run.settings.asdict(),
        **{name: value for name, value in facts.items() if name not in ("medldm", *TIMINGS)},
        **outcome,
        "input": source,
        "result": record.result,
        "result_sha256": hash_image(image),
        "history": [{"task": step.task} for step in result.history],
        "versions": {name: package_version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}",
        "command": command(run, source["root"]),
        "key": key,
        "timings": {name: facts[name] for name in TIMINGS if name in facts},
    }
    with whole_file(record.path) as temporary:
        temporary.write_text(compact(json.dumps(words, indent=1, default=str)) + "\n")
        before()


def map_words(path: Path) -> Path:
    """Sidecar of a map of uncertainty; in BIDS derivatives only."""
    return path.with_name(f"{stem(path)}.json")


def write_map_words(record: Record, path: Path, run: Run, source: dict[str, Any], result: Volume) -> None:
    """Sidecar of a map of uncertainty, which BIDS wants of every image; elsewhere the record tells it all.

    Parameters
    ----------
    record : of the result that the map belongs to
    path : of the map
    run : what was asked
    source : paths of the input
    result : restored volume
    """
    words = bids_words(record, run, source, result)
    if words:
        half = BIDS_MAPS["_halfwidth.nii.gz"] in path.name
        kind = "half the width of a calibrated 90 % interval" if half else "standard deviation of several restorations"
        words["Description"] = f"{kind}, in the unit of the scan; for research only"
        with whole_file(map_words(path)) as temporary:
            temporary.write_text(compact(json.dumps(words, indent=1, default=str)) + "\n")


def bids_words(record: Record, run: Run, source: dict[str, Any], result: Volume) -> dict[str, Any]:
    """What BIDS wants in front of the record; nothing outside a BIDS dataset."""
    if not in_derivatives(record.image):
        return {}
    scan = Path(source["files"][0]) if source.get("files") else None
    spacing = [result.spacing[axis] for axis in result.stored.axes]
    return sidecar(record.image, scan, run.verb, spacing)


def command(run: Run, root: str = "IN") -> list[str]:
    """The command line that does the same, whichever door the run came through; OUT is left open.

    Parameters
    ----------
    run : what was asked
    root : where this scan comes from, which stands for IN where several paths were named
    """
    words = ["medldm", run.verb, str(run.sources[0]) if len(run.sources) == 1 else root, "OUT"]
    for knob in fields(run.settings):
        value = getattr(run.settings, knob.name)
        if value != knob.default:
            told = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += ["--" + knob.name.replace("_", "-"), told]
    options = run.options
    for name in ("volume", "format"):
        if getattr(options, name) is not None:
            words += [f"--{name}", str(getattr(options, name))]
    return words + [f"--{name}" for name in ("fix", "uncertainty", "preview") if getattr(options, name)]


def compact(text: str) -> str:
    """JSON with each list of numbers on one line."""
    return re.sub(r"\[\s+([-\d.,eE\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
