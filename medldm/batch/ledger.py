"""What is known of a result: its record, and by it whether the run that is asked for was done before."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medldm.batch import bids
from medldm.batch.options import Options, Run
from medldm.data.volume import Step, Volume
from medldm.errors import InputError, OutputError
from medldm.io import guess_modality, is_image_name
from medldm.io.atomic import whole_file
from medldm.io.discovery import Case
from medldm.io.formats import result_files, result_format, stem
from medldm.io.sidecars import (
    BIDS_MAPS,
    PREVIEW,
    SENT,
    companion_path,
    in_derivatives,
    read_record,
    record_path,
    records_in,
)
from medldm.provenance.record import RunRecord, Source, json_text, package_version, package_versions
from medldm.qc.inspection import Plan
from medldm.settings import Settings
from medldm.zoo import card, cards

# InstanceCreationDate and Time of a slice of ours, explicit little endian.
CREATED = re.compile(rb"\x08\x00\x12\x00DA\x08\x00.{8}\x08\x00\x13\x00TM\x02\x00.{2}", re.DOTALL)
ENOUGH = 20  # finished cases to judge a pace by
STD, HALF_WIDTH = "_std", "_halfwidth"


@dataclass(frozen=True)
class Result:
    """A result and the files that belong to it.

    Parameters
    ----------
    image : NIfTI file or DICOM folder
    home : where its record and pictures lie, as a path without an ending; beside the result when not given
    """

    image: Path
    home: Path | None = None

    @property
    def relative(self) -> str:
        """The result as its record names it, seen from the record's folder."""
        return Path(os.path.relpath(self.image, self.record_path.parent)).as_posix()

    @property
    def record_path(self) -> Path:
        """``scan_medldm.json`` beside ``scan.nii.gz``; in BIDS derivatives ``scan.json``."""
        return record_path(self.image, self.home)

    @property
    def preview_path(self) -> Path:
        """``scan_preview.png``."""
        return companion_path(self.image, PREVIEW, self.home)

    def map_path(self, kind: str = STD) -> Path:
        """``scan_std.nii.gz``; for a DICOM series ``series-003_std.dcm``, beside the record.

        Not in the folder that is sent: many archives take no Parametric Map, and `storescu` does not offer it by
        itself. In BIDS a map has a desc- of its own.

        Parameters
        ----------
        kind : `STD` or `HALF_WIDTH`
        """
        form = result_format(self.image)
        return companion_path(self.image, f"{kind}{form.written[0] if form else '.dcm'}", self.home)

    @cached_property
    def record(self) -> RunRecord | None:
        """The record, read once; None when there is none that can be read."""
        return read_record(self.image)

    def status(self, key: str) -> str:
        """What lies there, by its record.

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
            return "foreign" if any(there) and not self.record_path.exists() else "nothing"
        if not all(there):  # a detached header whose data somebody took away
            return "foreign"
        if self.record is None or self.record.result_sha256 != hash_image(self.image):
            return "foreign"
        return "done" if self.record.key == key else "changed"


def result_of(case: Case, target: Path) -> Result:
    """The result of a case; the record of a derived series lies outside the folder that is sent.

    Parameters
    ----------
    case : scan
    target : where its result goes, from `output_path`
    """
    sent = Path(SENT, case.place).parts
    if is_image_name(target) or target.parts[-len(sent) :] != sent:
        return Result(target)
    return Result(target, target.parents[len(sent) - 1] / case.place)


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
    extra : anything else that changes the image, from `image_options`
    """
    parts = {"verb": verb, "settings": settings.asdict(), "inputs": inputs, "weights": weights, "extra": extra}
    parts["medldm"] = package_version("medldm")
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def weights_for(volume: Volume, settings: Settings) -> str:
    """What identifies the networks that a scan will be restored with; with ``auto`` all that might be chosen."""
    if settings.model != "auto":
        return card(settings.model).identity
    modality = guess_modality(volume, settings.modality)[0]
    fitting = (model for model in cards() if (model.modality, model.role) == (modality, "restorer"))
    return "+".join(model.identity for model in fitting)


def image_options(options: Options) -> dict[str, Any]:
    """Options, besides the settings, that change the image."""
    return {"volume": options.volume, "format": options.format, "fix": options.fix}


def source_of(case: Case, digest: str = "", run: Run | None = None) -> Source:
    """Where a case comes from, so that a rerun finds it again; absolute, since a rerun may start anywhere.

    Parameters
    ----------
    case : scan
    digest : SHA-256 of its files (and the mask)
    run : what was asked; without it only what tells this scan from others
    """
    common: dict[str, Any] = {
        "place": case.place.as_posix(),
        "count": len(case.files),
        "sha256": digest,
    }
    if run:
        common |= {"mask": str(run.mask) if run.mask else None, **image_options(run.options)}
    if case.keep is not None:
        member = case.files[0].relative_to(case.keep.folder).as_posix()
        return Source(root=str(case.keep.archive.absolute()), member=member, **common)
    files = tuple(str(path.absolute()) for path in case.files[:1])
    return Source(root=str(case.source.absolute()), files=files, **common)


def check_source(result: Result, case: Case, digest: str) -> None:
    """Refuse to replace the result of another scan that only has the same name.

    Parameters
    ----------
    result : that lies there
    case, digest : scan that is to be restored, and SHA-256 of its files

    Raises
    ------
    OutputError
    """
    record = result.record
    if record is None or record.source.sha256 == digest:
        return
    earlier, ours = record.source, source_of(case)
    if earlier.files:
        same, name = earlier.files == ours.files, earlier.files[0]
    else:
        same, name = earlier.member in ("", ours.member), f"{earlier.member} in {earlier.root}"
    if not same:
        raise OutputError(
            f"{result.image} is the result of {name}, not of {case.source}. Say --overwrite, or choose another OUT."
        )


def make_record(
    result: Result, key: str, run: Run, source: Source, before: Volume, after: Volume, plan: Plan | None, clipped: int
) -> RunRecord:
    """The record of a finished run, without the hash of the result.

    Parameters
    ----------
    result : where it goes
    key : from `run_key`
    run : what was asked
    source : input
    before, after : scan and restored volume; the same where there was nothing to do
    plan : of `restore`
    clipped : number of voxels clipped to the range of the stored integers
    """
    steps = tuple({"verb": step.verb, "reason": step.reason} for step in plan.steps) if plan else None
    return RunRecord.of_step(
        after.history[-1] if after.history else Step(run.verb),
        task=run.verb,
        medldm=package_version("medldm"),
        settings=run.settings.asdict(),
        clipped_voxels=clipped,
        status="unchanged" if after is before else "done",
        plan=steps,
        said=plan.text() if plan else "",
        voxels=int(np.prod(after.shape)),
        source=source,
        result=result.relative,
        history=tuple(step.task for step in after.history),
        versions=package_versions(),
        machine=f"{platform.system()} {platform.machine()}",
        command=tuple(command(run, source.root)),
        key=key,
    )


def write_record(
    result: Result, record: RunRecord, spacing: tuple[float, ...], *, before: Callable[[], None] = lambda: None
) -> None:
    """Write a record; in BIDS derivatives what BIDS wants to read stands in front.

    Parameters
    ----------
    result : that it is about
    record : with the hash of the result
    spacing : of the result, mm, stored axis order
    before : called when the record is written and not yet shown
    """
    in_front = bids_facts(result, record.task, record.source, spacing)
    with whole_file(result.record_path) as temporary:
        temporary.write_text(record.text(in_front))
        before()


def map_sidecar(path: Path) -> Path:
    """Sidecar of a map of uncertainty; in BIDS derivatives only."""
    return path.with_name(f"{stem(path)}.json")


def write_map_sidecar(result: Result, path: Path, record: RunRecord, spacing: tuple[float, ...]) -> None:
    """Sidecar of a map of uncertainty, which BIDS wants of every image; elsewhere the record says it all.

    Parameters
    ----------
    result : that the map belongs to
    path : of the map
    record : of the run
    spacing : of the result, mm, stored axis order
    """
    facts = bids_facts(result, record.task, record.source, spacing)
    if facts:
        half = BIDS_MAPS["_halfwidth.nii.gz"] in path.name
        kind = "half the width of a calibrated 90 % interval" if half else "standard deviation of several restorations"
        facts["Description"] = f"{kind}, in the unit of the scan; for research only"
        with whole_file(map_sidecar(path)) as temporary:
            temporary.write_text(json_text(facts))


def bids_facts(result: Result, verb: str, source: Source, spacing: tuple[float, ...]) -> dict[str, Any]:
    """What BIDS wants in front of the record; nothing outside a BIDS dataset."""
    if not in_derivatives(result.image):
        return {}
    return bids.sidecar(result.image, Path(source.files[0]) if source.files else None, verb, spacing)


def command(run: Run, root: str = "IN") -> list[str]:
    """The command line that does the same, from wherever the run was started; OUT is left open.

    Parameters
    ----------
    run : what was asked
    root : where this scan comes from, which stands for IN where several paths were named
    """
    arguments = ["medldm", run.verb, str(run.sources[0]) if len(run.sources) == 1 else root, "OUT"]
    for knob in fields(run.settings):
        value = getattr(run.settings, knob.name)
        if value != knob.default:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            arguments += ["--" + knob.name.replace("_", "-"), text]
    options = run.options
    for name in ("volume", "format"):
        if getattr(options, name) is not None:
            arguments += [f"--{name}", str(getattr(options, name))]
    return arguments + [f"--{name}" for name in ("fix", "uncertainty", "preview") if getattr(options, name)]


def seconds_per_voxel(folder: Path, verb: str) -> float | None:
    """Pace of the finished cases of a folder, None where none is.

    Parameters
    ----------
    folder : of results, from `medldm.io.sidecars.results_folder`
    verb : task
    """
    paces: list[float] = []
    for record in records_in(folder):
        if len(paces) == ENOUGH:
            break
        if record.task == verb and record.seconds and record.voxels:
            paces.append(record.seconds / record.voxels)
    return statistics.median(paces) if paces else None
