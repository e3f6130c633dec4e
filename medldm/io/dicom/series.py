"""DICOM series: found by content, grouped by what belongs together, sorted by position, judged by geometry."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from medldm.volume import Affine

log = logging.getLogger(__name__)

TOLERANCE_MM = 0.02  # scanners round positions; 1 % of the spacing where that is more
LONGEST_GAP = 10  # slices; beyond that a stray slice is likelier than a hole
FEWEST_MEASURED = 0.5  # at least this share of a stack must have been measured
HEADER_TAGS = [
    "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "SeriesNumber", "Modality", "ImageOrientationPatient",
    "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns", "EchoTime",
    "EchoNumbers", "ImageType", "RepetitionTime", "InversionTime", "FlipAngle", "TriggerTime",
    "TemporalPositionIdentifier", "DiffusionBValue", "NumberOfFrames", "SamplesPerPixel", "InstanceNumber",
    "PhotometricInterpretation", "GantryDetectorTilt", "AcquisitionNumber", "ConvolutionKernel",
    "DiffusionGradientOrientation", "BitsAllocated", "PixelData",
]  # fmt: skip
NOT_A_SCAN = {"LOCALIZER": "a localizer", "SCOUT": "a scout view", "PHASE": "a phase image", "P": "a phase image",
              "ADC": "a parameter map", "FA": "a parameter map", "MOSAIC": "a mosaic of many slices",
              "SCREEN SAVE": "a screenshot", "PROJECTION IMAGE": "a projection"}  # fmt: skip


@dataclass(frozen=True)
class Series:
    """Images that form one stack, and what its geometry allows.

    Parameters
    ----------
    paths : files in order of position along the slice normal; None where a slice is missing
    number : SeriesNumber, None where the header has none
    name : safe name for files and messages, never taken from a patient
    modality : ``"mr"``, ``"ct"`` or the DICOM word in lower case
    verdict : regular, missing, duplicate, irregular, tilted, single, or not a volume
    reason : a sentence when it cannot be restored as it is
    shape : columns, rows, slices (gaps counted)
    spacing : mm along columns, rows, slices
    affine : (4, 4) stored index (column, row, slice) to RAS mm; None without a geometry
    thickness_mm : SliceThickness
    missing : slices that were not found, counted from 0
    """

    paths: tuple[Path | None, ...]
    number: int | None = None
    name: str = "series"
    modality: str = ""
    verdict: str = "regular"
    reason: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    affine: Affine | None = None
    thickness_mm: float | None = None
    missing: tuple[int, ...] = field(default=())

    @property
    def restorable(self) -> bool:
        """Whether it can be read as one volume."""
        return self.verdict in ("regular", "missing", "single")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are there."""
        return tuple(path for path in self.paths if path is not None)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content: DICM after the preamble, or a data set that starts at once."""
    try:
        with path.open("rb") as file:
            head = file.read(140)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return True
    # Without preamble the first element is of group 0002 or 0008, little endian, with a plausible element number.
    return len(head) > 12 and head[:2] in (b"\x02\x00", b"\x08\x00") and head[3] == 0 and head[4:6].isalpha()


def read_header(path: Path) -> Any | None:
    """The tags that grouping needs, or None when the file is not a DICOM image."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, force=False, specific_tags=HEADER_TAGS[:-1])
    except (InvalidDicomError, OSError, ValueError, AttributeError, EOFError, KeyError, TypeError) as problem:
        log.debug("%s is not read as DICOM: %s", path, problem)
        return None


def find_series(source: Path | Iterable[Path]) -> list[Series]:
    """All stacks in a folder or among some files; headers only.

    Parameters
    ----------
    source : folder, walked to any depth, or files

    Returns
    -------
    series in order of number; a SeriesNumber that repeats gets ``-2``, ``-3`` in its name
    """
    if isinstance(source, Path):
        source = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    groups: dict[tuple[Any, ...], list[tuple[Path, Any]]] = {}
    for path in source:
        if path.name.upper() == "DICOMDIR" or not is_dicom(path):
            continue
        header = read_header(path)
        if header is None or "Rows" not in header:
            log.info("%s holds no image", path)
            continue
        groups.setdefault(_belongs_to(header), []).append((path, header))
    found = [judge(members) for members in groups.values()]
    found.sort(key=lambda s: (s.number is None, s.number or 0, str(s.files[0])))
    return _named(found)


def _named(found: list[Series]) -> list[Series]:
    seen: dict[str, int] = {}
    named = []
    for series in found:
        base = f"series-{series.number:03d}" if series.number is not None and series.number >= 0 else "series"
        seen[base] = seen.get(base, 0) + 1
        name = base if seen[base] == 1 else f"{base}-{seen[base]}"
        named.append(Series(**{**series.__dict__, "name": name}))
    return named


def _belongs_to(header: Any) -> tuple[Any, ...]:
    """What must be equal for two images to lie in one stack."""

    def number(name: str, digits: int = 3) -> Any:
        value = header.get(name)
        try:
            return None if value in (None, "") else round(float(value), digits)
        except (TypeError, ValueError):
            return str(value)

    orientation = header.get("ImageOrientationPatient")
    # Rounded to about half a degree, so that jitter in the last digits does not split a stack.
    facing = tuple(round(float(c), 2) + 0.0 for c in orientation) if orientation else None
    kind = tuple(str(word) for word in header.get("ImageType", ()))
    multi = int(header.get("NumberOfFrames", 1) or 1) > 1
    return (
        str(header.get("SeriesInstanceUID", "")), facing, header.get("Rows"), header.get("Columns"),
        number("EchoTime"), str(header.get("EchoNumbers", "")), kind, number("RepetitionTime"), number("InversionTime"),
        number("FlipAngle"), number("TemporalPositionIdentifier"), number("DiffusionBValue"),
        str(header.get("DiffusionGradientOrientation", "")), str(header.get("ConvolutionKernel", "")),
        str(header.get("SOPInstanceUID")) if multi else "",
    )  # fmt: skip


def judge(members: list[tuple[Path, Any]]) -> Series:
    """The verdict on one group of images.

    Parameters
    ----------
    members : (path, header) of each image
    """
    first = members[0][1]
    base: dict[str, Any] = {
        "number": int(first.SeriesNumber) if str(first.get("SeriesNumber", "")).lstrip("-").isdigit() else None,
        "modality": str(first.get("Modality", "")).lower(),
        "paths": tuple(path for path, _ in members),
        "shape": (int(first.Columns or 0), int(first.Rows or 0), len(members)),
        "thickness_mm": _positive(first.get("SliceThickness")),
    }
    refusal = _refusal(first, base["modality"])
    if refusal:
        return Series(**base, verdict="not a volume", reason=refusal)
    spacing = [float(value) for value in first.PixelSpacing]
    if any(list(map(float, header.get("PixelSpacing", ()))) != spacing for _, header in members):
        return Series(
            **base, verdict="mixed", reason="its images differ in pixel spacing; export them as separate series."
        )
    across, down = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    if abs(across @ down) > 0.01 or not 0.99 < np.linalg.norm(across) < 1.01 or not 0.99 < np.linalg.norm(down) < 1.01:
        return Series(**base, verdict="mixed", reason="its ImageOrientationPatient is not a pair of unit vectors.")
    normal = np.cross(across, down)
    places = np.array([[float(v) for v in header.ImagePositionPatient] for _, header in members])
    order = np.argsort(places @ normal, kind="stable")
    base["paths"] = tuple(members[i][0] for i in order)
    return _judge_positions(base, places[order], (across, down, normal), spacing)


def _judge_positions(base: dict[str, Any], places: Any, axes: tuple[Any, Any, Any], spacing: list[float]) -> Series:
    normal = axes[2]
    along = places @ normal
    count = len(along)
    if count == 1:
        step = base["thickness_mm"] or 1.0
        return Series(**_placed(base, places[0], axes, spacing, step, 1), verdict="single")
    gaps = np.diff(along)
    step = float(np.median(gaps[gaps > TOLERANCE_MM])) if (gaps > TOLERANCE_MM).any() else 0.0
    if step == 0:
        return Series(**base, verdict="not a volume", reason=f"its {count} images lie at one position.")
    if (gaps < TOLERANCE_MM).any():
        twice = int((gaps < TOLERANCE_MM).sum())
        return Series(
            **base,
            verdict="duplicate",
            reason=(
                f"{twice} of its positions hold more than one image; remove the copies, or a second acquisition, first."
            ),
        )
    # Medians lie between two spacings when half the slices are missing: the smallest gap is the spacing then.
    step = float(np.mean(gaps[gaps < 1.5 * gaps.min()]))
    tolerance = max(TOLERANCE_MM, 0.01 * step)
    shift = places - places[0] - np.outer(along - along[0], normal)
    if np.abs(shift).max() > max(0.1, 2 * tolerance):
        angle = float(np.degrees(np.arctan2(np.linalg.norm(shift[-1]), along[-1] - along[0])))
        return Series(
            **base,
            verdict="tilted",
            reason=(
                f"its slices are sheared by {angle:.1f} degrees (gantry tilt); straighten it (for instance "
                "with dcm2niix) first."
            ),
        )
    index = np.rint((along - along[0]) / step).astype(int)
    # The spacing once more over the whole stack: a mean of gaps adds up its rounding errors.
    step = float((along[-1] - along[0]) / index[-1])
    index = np.rint((along - along[0]) / step).astype(int)
    off = np.abs(along - along[0] - index * step).max()
    if off > tolerance or len(set(index.tolist())) != count:
        return Series(
            **base,
            verdict="irregular",
            reason=(
                f"its slice spacing varies ({gaps.min():.2f} to {gaps.max():.2f} mm) and no regular grid holds "
                "all slices."
            ),
        )
    total = int(index[-1]) + 1
    if int(np.diff(index).max()) - 1 > LONGEST_GAP or count < FEWEST_MEASURED * total:
        return Series(
            **base,
            verdict="irregular",
            reason=(
                f"it has a hole of {np.diff(index).max() - 1} slices ({gaps.max():.1f} mm at {step:.2f} mm "
                "spacing): a stray slice, or too much to fill."
            ),
        )
    missing = tuple(sorted(set(range(total)) - set(index.tolist())))
    paths: list[Path | None] = [None] * total
    for place, path in zip(index, base["paths"], strict=True):
        paths[int(place)] = path
    placed = _placed({**base, "paths": tuple(paths)}, places[0], axes, spacing, step, total)
    return Series(**placed, verdict="missing" if missing else "regular", missing=missing)


def _placed(
    base: dict[str, Any], origin: Any, axes: tuple[Any, Any, Any], spacing: list[float], step: float, total: int
) -> dict[str, Any]:
    across, down, normal = axes
    lps = np.eye(4)
    # PixelSpacing is (between rows, between columns); the first array index runs along a row.
    lps[:3, 0], lps[:3, 1], lps[:3, 2], lps[:3, 3] = across * spacing[1], down * spacing[0], normal * step, origin
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    columns, rows, _ = base["shape"]
    return {**base, "affine": affine, "spacing": (spacing[1], spacing[0], step), "shape": (columns, rows, total)}


def _refusal(header: Any, modality: str) -> str:
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        return "it is a multi-frame (enhanced) image, which medldm does not read yet; convert it with dcm2niix first."
    if int(header.get("SamplesPerPixel", 1) or 1) > 1:
        return "it is a colour image."
    if modality not in ("mr", "ct"):
        return f"its modality is {modality.upper() or 'not stated'}, not MR or CT."
    for word in header.get("ImageType", ()):
        if str(word).upper() in NOT_A_SCAN:
            return f"it is {NOT_A_SCAN[str(word).upper()]}."
    for tag in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        if not header.get(tag):
            return f"its {tag} is missing, so its place in space is unknown."
    return ""


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number > 0 else None


def fingerprint(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of all files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
