"""Names of the files beside a result: record, maps, preview. No other module spells them.

What a record says is known to `medldm.provenance.record`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medldm.io.formats import stem, usual_suffixes
from medldm.provenance.record import RunRecord, is_record

SENT = "dicom"  # folder of OUT that holds series and nothing else; their records lie outside of it
RECORD, PREVIEW = "_medldm.json", "_preview.png"
DESCRIPTION = "dataset_description.json"  # of a BIDS dataset
BIDS_MAPS = {"_std.nii.gz": "Std", "_halfwidth.nii.gz": "HalfWidth"}  # what is added to a result's desc-
MAPS = ("_std", "_halfwidth")
RESULT = re.compile(r"sub-[A-Za-z0-9]+_(?:[a-z]+-[A-Za-z0-9+]+_)*desc-[A-Za-z0-9]+_[A-Za-z0-9]+")


def derivatives_root(image: Path) -> Path | None:
    """The BIDS derivatives dataset that medldm has described and a result lies in, under a BIDS name; else None.

    Parameters
    ----------
    image : result, which need not exist yet
    """
    if not RESULT.fullmatch(stem(image)):
        return None
    subject = stem(image).split("_")[0]
    root = next((folder.parent for folder in image.absolute().parents if folder.name == subject), None)
    return root if root and _is_described(root) else None


def in_derivatives(image: Path) -> bool:
    """Whether a result lies in a BIDS derivatives dataset that medldm has described, under a BIDS name."""
    return derivatives_root(image) is not None


def record_path(image: Path, home: Path | None = None) -> Path:
    """``scan_medldm.json`` beside ``scan.nii.gz``; in BIDS derivatives ``scan.json``.

    Parameters
    ----------
    image : result, a NIfTI file or a DICOM folder
    home : where its record and pictures lie, as a path without an ending; beside the result when not given
    """
    return image.with_name(f"{stem(image)}.json") if in_derivatives(image) else companion_path(image, RECORD, home)


def companion_path(image: Path, ending: str, home: Path | None = None) -> Path:
    """``scan_std.nii.gz`` and other files beside a result; in BIDS a map has a desc- of its own.

    Parameters
    ----------
    image : result
    ending : ``"_std.nii.gz"``, ``"_preview.png"``
    home : see `record_path`
    """
    if ending in BIDS_MAPS and in_derivatives(image):
        return image.with_name(re.sub(r"(_desc-[A-Za-z0-9]+)_", rf"\1{BIDS_MAPS[ending]}_", image.name, count=1))
    return home.with_name(f"{home.name}{ending}") if home else image.with_name(f"{stem(image)}{ending}")


def read_record(image: Path) -> RunRecord | None:
    """The record of a result under either of its names, so that one that was moved out of its dataset is found.

    Parameters
    ----------
    image : result

    Returns
    -------
    None where there is none
    """
    for home in _homes(image):
        if data := read_json(home.with_name(f"{stem(home)}{RECORD}")):
            return RunRecord.from_json(data)  # only medldm writes this name; scan.json may be of any program
    data = read_json(image.with_name(f"{stem(image)}.json"))
    return RunRecord.from_json(data) if is_record(data) and data.get("result") == image.name else None


def _homes(image: Path) -> list[Path]:
    """Where the record of a result may lie: beside it, or outside the folder that is sent."""
    image = image.absolute()
    sent = [folder for folder in image.parents if folder.name == SENT]
    return [image, *(folder.parent / image.relative_to(folder) for folder in sent)]


def find_companion(image: Path, ending: str) -> Path | None:
    """A file that belongs to a result, wherever it may lie; None where there is none.

    Parameters
    ----------
    image : result
    ending : ``"_preview.png"``
    """
    places = [companion_path(image, ending), *(home.with_name(f"{stem(home)}{ending}") for home in _homes(image))]
    return next(filter(Path.is_file, places), None)


def results_folder(image: Path) -> Path:
    """Where the results of a batch are looked for: the folder of one of them, in BIDS derivatives the whole dataset.

    Parameters
    ----------
    image : result, which need not exist yet
    """
    # The record of a derived series lies outside the folder that is sent, as the folder that holds it does.
    return derivatives_root(image) or _homes(image)[-1].parent


def records_in(folder: Path) -> Iterator[RunRecord]:
    """Records of the results in a folder, read one after another.

    Parameters
    ----------
    folder : from `results_folder`
    """
    below = "sub-*/**/*.json" if _is_described(folder) else "*.json"
    for path in sorted(folder.glob(below)):
        data = read_json(path)
        if path.name.endswith(RECORD) or is_record(data):
            yield RunRecord.from_json(data)


def is_companion(path: Path, present: set[str]) -> bool:
    """Whether a file is no scan but lies beside a result: record, picture, map.

    Parameters
    ----------
    path : file
    present : names in its folder; a map counts where its result has a record
    """
    name = path.name
    if name.endswith((RECORD, PREVIEW)):
        return True
    ends = [f"{kind}{suffix}" for kind in MAPS for suffix in (*usual_suffixes(), ".dcm")]
    of_map = next((name[: -len(end)] for end in ends if name.endswith(end)), None)
    if of_map is not None and f"{of_map}{RECORD}" in present:
        return True
    for label in BIDS_MAPS.values():
        result = re.sub(rf"(_desc-[A-Za-z0-9]+){label}_", r"\1_", name, count=1)
        if result != name and f"{stem(Path(result))}.json" in present:
            return in_derivatives(path)
    return False


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _is_described(root: Path) -> bool:
    """Whether a folder is the root of a dataset that medldm made."""
    made_by = read_json(root / DESCRIPTION).get("GeneratedBy")
    return isinstance(made_by, list) and any(
        isinstance(program, dict) and program.get("Name") == "medldm" for program in made_by
    )
