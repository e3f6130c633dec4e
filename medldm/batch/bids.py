"""A BIDS dataset as IN gives a BIDS derivatives dataset as OUT: names, sidecars, description, participants.

Brain Imaging Data Structure 1.10, "Derivatives": https://bids-specification.readthedocs.io/en/stable/derivatives.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medldm.errors import InputError, UsageError
from medldm.io.atomic import whole_file
from medldm.io.discovery import Case
from medldm.io.formats import stem
from medldm.io.sidecars import DESCRIPTION, read_json
from medldm.settings import Settings
from medldm.tasks import TASKS

BIDS_VERSION = "1.10.0"
# Facts of the acquisition that still hold. Dates, places, serial numbers and names are not among them.
KEPT = (
    "SkullStripped", "MagneticFieldStrength", "EchoTime", "RepetitionTime", "InversionTime", "FlipAngle",
    "Manufacturer", "ManufacturersModelName", "PulseSequenceType", "MRAcquisitionType", "ScanningSequence",
    # Without these the validator refuses field maps and references of functional, diffusion and perfusion scans.
    "TotalReadoutTime", "EffectiveEchoSpacing", "PhaseEncodingDirection", "TaskName", "RepetitionTimePreparation",
    "Units",
)  # fmt: skip
# Pictures, tables and logs of ours that BIDS has no name for.
IGNORED = "logs/\n*_preview.png\nsummary*.csv\nsummary*.json\nreport.html\n*.dcm\n"
README = (
    "Made by medldm from the dataset named in dataset_description.json. Restored voxels are estimates, for research "
    "only. The JSON file beside each image says what was done and which slices hold voxels that nobody measured.\n"
)


def is_bids(source: Path) -> bool:
    """Whether a folder is the root of a BIDS dataset: it describes itself as one and holds subjects."""
    return "BIDSVersion" in read_json(source / DESCRIPTION) and any(source.glob("sub-*"))


def subjects(source: Path) -> list[str]:
    """Labels of the subjects of a dataset, without ``sub-``."""
    return sorted(path.name[4:] for path in source.glob("sub-*") if path.is_dir())


def derived(cases: Sequence[Case], verb: str, settings: Settings) -> list[Case]:
    """The cases of the raw dataset (no derivatives, source data or code), each with the name of its result.

    Parameters
    ----------
    cases : all scans below the root
    verb : task
    settings : of the task

    Raises
    ------
    InputError
        No subject has a scan.
    """
    raw = [case for case in cases if case.place.parts[0].startswith("sub-")]
    if not raw:
        raise InputError("This BIDS dataset has no scan below any sub- folder. Check BIDS_DIR.")
    return [
        case
        if case.skip or case.broken
        else replace(case, place=_renamed(case.place, verb, settings), result=None if case.series else "nifti")
        for case in raw
    ]


def _renamed(place: Path, verb: str, settings: Settings) -> Path:
    """``sub-1_T1w`` as ``sub-1_res-1mm_desc-thin_T1w``; res- and desc- come last, before the suffix."""
    *entities, suffix = place.name.split("_")
    before = next((entity[5:] for entity in entities if entity.startswith("desc-")), "")
    label = before + TASKS[verb].labels.desc.capitalize() if before else TASKS[verb].labels.desc
    spacing = getattr(settings, "spacing", None)
    gone = ("desc-", "res-") if spacing else ("desc-",)
    entities = [entity for entity in entities if not entity.startswith(gone)]
    if spacing:
        entities.append(f"res-{_resolution(spacing)}")
    return place.with_name("_".join([*entities, f"desc-{label}", suffix]))


def _resolution(spacing: float | tuple[float, float, float]) -> str:
    """1.5 as ``1p5mm``: labels hold letters and digits only."""
    sizes = spacing if isinstance(spacing, tuple) else (spacing,)
    return "x".join(f"{size:g}".replace(".", "p") for size in sizes) + "mm"


def write_dataset(source: Path, out: Path) -> None:
    """``dataset_description.json``, README and ``.bidsignore`` of the results, written before the first of them.

    Parameters
    ----------
    source : root of the raw dataset
    out : root of the derivatives
    """
    raw = read_json(source / DESCRIPTION)
    origin: dict[str, Any] = {"URL": source.resolve().as_uri()}
    if isinstance(raw.get("DatasetDOI"), str):
        origin["DOI"] = raw["DatasetDOI"]
    description: dict[str, Any] = {
        "Name": f"{raw.get('Name') or 'A BIDS dataset'}, restored by medldm",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "medldm",
                "Version": version("medldm"),
                "Description": "Restored voxels are estimates, for research only.",
            }
        ],
        "SourceDatasets": [origin],
        "DatasetLinks": {"raw": source.resolve().as_uri()},
    }
    if isinstance(raw.get("License"), str):
        description["License"] = raw["License"]
    _write(out / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    for name, text in (("README", README), (".bidsignore", IGNORED)):
        if not (out / name).exists():
            _write(out / name, text)


def check_place(source: Path, out: Path) -> None:
    """Refuse derivatives among the scans.

    Parameters
    ----------
    source : root of the raw dataset
    out : root of the derivatives

    Raises
    ------
    UsageError
        It lies in the folder of a subject.
    """
    if not out.resolve().is_relative_to(source.resolve()):
        return
    below = out.resolve().relative_to(source.resolve()).parts
    if below and below[0].startswith("sub-"):
        raise UsageError(
            f"{out} lies in {below[0]} of the raw dataset, where results would pass for scans. Choose "
            f"{source / 'derivatives' / 'medldm'}, or a folder outside the dataset."
        )


def write_participants(source: Path, out: Path) -> None:
    """Participants and sessions of those who have results, as the raw dataset has them.

    Parameters
    ----------
    source, out : roots
    """
    there = {f"sub-{label}" for label in subjects(out)}
    if (source / "participants.tsv").is_file():
        _keep_rows(source / "participants.tsv", out / "participants.tsv", there)
        if (source / "participants.json").is_file():
            _write(out / "participants.json", (source / "participants.json").read_text(encoding="utf-8"))
    for subject in sorted(there):
        table = source / subject / f"{subject}_sessions.tsv"
        if table.is_file():
            _keep_rows(table, out / subject / table.name, {path.name for path in (out / subject).glob("ses-*")})


def _keep_rows(table: Path, target: Path, wanted: set[str]) -> None:
    lines = list(csv.reader(table.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
    kept = [line for number, line in enumerate(lines) if number == 0 or (line and line[0] in wanted)]
    _write(target, "".join("\t".join(line) + "\n" for line in kept))


def sidecar(image: Path, scan: Path | None, verb: str, spacing: Sequence[float]) -> dict[str, Any]:
    """What BIDS wants to read beside a derived image, to go in front of the record.

    Parameters
    ----------
    image : result
    scan : file that the result was made from, if known
    verb : task
    spacing : of the result, mm, stored axis order
    """
    facts: dict[str, Any] = {"Description": f"medldm {verb}: restored voxels are estimates, for research only"}
    root = next((folder for folder in scan.absolute().parents if is_bids(folder)), None) if scan else None
    if scan is not None and root is not None:
        facts["Sources"] = [f"bids:raw:{scan.absolute().relative_to(root).as_posix()}"]
        facts |= {name: value for name, value in inherited(scan, root).items() if name in KEPT}
        if read_json(root / DESCRIPTION).get("DatasetType", "raw") == "raw":
            # Derivatives have to say it, and raw data are as the scanner gave them unless they say otherwise.
            facts.setdefault("SkullStripped", False)
    if "_res-" in image.name:
        facts["Resolution"] = " x ".join(f"{size:.4g}" for size in spacing) + " mm"
    return facts


def inherited(scan: Path, root: Path) -> dict[str, Any]:
    """Metadata of a raw scan, the nearest file counting most (BIDS inheritance principle).

    Parameters
    ----------
    scan : image below `root`
    root : of the dataset
    """
    *entities, suffix = stem(scan).split("_")
    metadata: dict[str, Any] = {}
    below = scan.absolute().relative_to(root.absolute()).parent
    for folder in (*reversed((root.absolute() / below).parents), root.absolute() / below):
        if not folder.is_relative_to(root.absolute()):
            continue
        fitting = [
            path
            for path in folder.glob(f"*{suffix}.json")
            if path.stem.split("_")[-1] == suffix and set(path.stem.split("_")[:-1]) <= set(entities)
        ]
        for path in sorted(fitting, key=lambda path: len(path.stem.split("_"))):
            metadata |= read_json(path)
    return metadata


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
