"""DICOM series: found by content, grouped by what belongs together, sorted by position, judged by geometry."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medldm.io.dicom.copies import are_copies
from medldm.io.dicom.frames import Frame
from medldm.io.dicom.geometry import Array, affine_ras, judge_positions, unit_axes
from medldm.io.dicom.grouping import Group, between, by_position, differences, directions, group, is_4d, looks_around
from medldm.io.dicom.header import Header, is_dicom, read_headers
from medldm.volume import Affine

NOT_A_SCAN = {
    "LOCALIZER": "a localizer", "SCOUT": "a scout view", "PHASE": "a phase image", "PHASE MAP": "a phase image",
    "VELOCITY": "a phase image", "ADC": "a parameter map", "EADC": "a parameter map", "FA": "a parameter map",
    "T1 MAP": "a parameter map", "T2 MAP": "a parameter map", "T2_STAR MAP": "a parameter map",
    "RELCBF": "a parameter map", "RELCBV": "a parameter map", "RELMTT": "a parameter map", "TTP": "a parameter map",
    "TTEST": "a statistical map", "FIELD_MAP": "a field map", "SCREEN SAVE": "a screenshot",
    "MOSAIC": "a mosaic of many slices; convert it with dcm2niix and name one volume with --volume",
    "PROJECTION IMAGE": "a projection", "MIP": "a projection", "REAL": "part of a complex image",
    "IMAGINARY": "part of a complex image",
}  # fmt: skip
# Modality (0008,0060), those that a sentence may name.
MODALITIES = (
    "cr", "dx", "ecg", "es", "ivus", "ko", "mg", "nm", "oct", "op", "pr", "pt", "px", "reg", "rf", "rtdose", "rtimage",
    "rtplan", "rtstruct", "rwv", "sc", "seg", "sm", "sr", "us", "xa", "xc",
)  # fmt: skip
# Single letters mean this only in MR, and only after the first two words (ORIGINAL, PRIMARY).
MR_LETTERS = {"P": "a phase image", "R": "part of a complex image", "I": "part of a complex image"}
MULTI_FRAME = (
    "it is a multi-frame image without functional groups for each of its frames, so nobody knows where they lie. "
    "Convert it with dcm2niix first."
)
COLOUR = "it is a colour image. Name the grey-valued series that it was made from."
CONTRADICTION = (
    "its DimensionIndexValues order the frames otherwise than their positions do. Export it again, or convert it with "
    "dcm2niix."
)


@dataclass(frozen=True)
class Series:
    """Images that form one stack, and what its geometry allows.

    Parameters
    ----------
    images : in order of position along the slice normal; None where a slice is missing
    number : SeriesNumber, None where the header has none
    name : safe name for files and messages, never taken from a patient
    modality : ``"mr"``, ``"ct"`` or the DICOM word in lower case
    verdict : regular, missing, duplicate, irregular, tilted, mixed, single, or not a volume
    reason : a sentence when it cannot be restored as it is
    shape : columns, rows, slices (gaps counted)
    spacing : mm along columns, rows, slices; 0 where it is not known
    affine : (4, 4) stored index (column, row, slice) to RAS mm; None without a geometry
    thickness_mm : SliceThickness
    missing : slices that were not found, counted from 0
    note : a sentence about what was assumed; empty where nothing was
    uid : SeriesInstanceUID
    image_type : words of ImageType, in upper case
    is_derived_by_medldm : whether medldm wrote it
    """

    images: tuple[Frame | None, ...]
    number: int | None = None
    name: str = "series"
    modality: str = ""
    verdict: str = "regular"
    reason: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    affine: Affine | None = None
    thickness_mm: float | None = None
    missing: tuple[int, ...] = ()
    note: str = ""
    uid: str = ""
    image_type: tuple[str, ...] = ()
    is_derived_by_medldm: bool = False

    @property
    def restorable(self) -> bool:
        """Whether it can be read as one volume."""
        return self.verdict in ("regular", "missing", "single")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold its images, each once."""
        return tuple(dict.fromkeys(image.path for image in self.images if image is not None))


def find_series(source: Path | Iterable[Path], *, log: logging.Logger | None = None) -> list[Series]:
    """All stacks in a folder or among some files; headers only.

    Parameters
    ----------
    source : folder, walked to any depth, or files
    log : told about DICOM files that hold no image; this module's own logger when not given

    Returns
    -------
    series in order of number; a SeriesNumber that repeats gets ``-2``, ``-3`` in its name
    """
    told = log or logging.getLogger(__name__)
    if isinstance(source, Path):
        source = sorted(p for p in source.rglob("*") if p.is_file()) if source.is_dir() else [source]
    headers: list[Header] = []
    for path in source:
        if not is_dicom(path):
            continue
        # A DICOMDIR lists what the other files hold.
        images = [] if path.name.upper() == "DICOMDIR" else read_headers(path)
        headers += images
        if not images:
            told.info("%s holds no image", path)
    found = _judged(group(headers))
    found.sort(key=lambda s: (s.number is None, s.number or 0, str(s.files[0])))
    return _named(found)


def _named(found: list[Series]) -> list[Series]:
    seen: dict[str, int] = {}
    named = []
    for series in found:
        base = f"series-{series.number:03d}" if series.number is not None and series.number >= 0 else "series"
        seen[base] = seen.get(base, 0) + 1
        named.append(replace(series, name=base if seen[base] == 1 else f"{base}-{seen[base]}"))
    return named


def _judged(groups: list[Group]) -> list[Series]:
    """Each group with its verdict, seen beside the groups of the same series."""
    images = [each for each in groups if not _refusal(each.first)]
    looking = directions(images)
    families: dict[tuple[object, ...], list[Group]] = {}
    for each in images:
        families.setdefault(each.family, []).append(each)
    return [
        _refused(each, _refusal(each.first))
        or _beside(each, families[each.family], looking.get(each.first.series_uid, []))
        for each in groups
    ]


def _refused(each: Group, reason: str) -> Series | None:
    return replace(_described(each), verdict="not a volume", reason=reason) if reason else None


def _beside(each: Group, family: list[Group], normals: list[Array]) -> Series:
    series = _described(each)
    if looks_around(normals, len(each.members)):
        reason = f"it is a localizer: its series looks in {len(normals)} directions."
        return replace(series, verdict="not a volume", reason=reason)
    if (volumes := is_4d(each.members)) and not are_copies(by_position(each.members)):
        reason = (
            f"it is 4D: {volumes} volumes at the same positions (times, or diffusion directions). Convert it with "
            "dcm2niix and name one with --volume."
        )
        return replace(series, verdict="not a volume", reason=reason)
    for other in family:
        if other is not each and (between(other, each) or between(each, other)):
            reason = f"images of another kind lie between its slices (they differ in {differences(each, other)})."
            return replace(series, verdict="mixed", reason=f"{reason} Export the kinds as separate series.")
    return judge_members(series, each.members)


def _described(each: Group) -> Series:
    first = each.first
    thicknesses = [header.thickness_mm for header in each.members if header.thickness_mm is not None]
    return Series(
        images=tuple(header.source for header in each.members),
        number=first.number,
        modality=first.modality,
        shape=(first.columns, first.rows, len(each.members)),
        thickness_mm=float(np.median(thicknesses)) if thicknesses else None,
        uid=first.series_uid,
        image_type=first.image_type,
        is_derived_by_medldm=all(header.by_medldm for header in each.members),
    )


def judge_members(series: Series, members: list[Header]) -> Series:
    """A series with the verdict of its geometry: on a grid with its affine, or refused in words.

    Parameters
    ----------
    series : what is known without geometry
    members : its images, in any order
    """
    first = members[0]
    axes = axes_of(members)
    if axes is None or first.pixel_spacing is None:
        reason = "its ImageOrientationPatient is not a pair of perpendicular unit vectors."
        return replace(series, verdict="not a volume", reason=reason)
    places = np.array([header.position for header in members])
    alone = first.between_mm or series.thickness_mm  # positions tell the spacing of all stacks but a single image
    stack = judge_positions(
        places,
        axes[2],
        # Frames of one file share its InstanceNumber.
        instances=[header.instance if header.stack_place is None else header.stack_place for header in members],
        thicknesses=[header.thickness_mm for header in members],
        thickness_mm=alone or 1.0,
    )
    ordered = [members[number] for number in stack.order]
    if _contradicted(ordered) and stack.verdict not in ("not a volume", "duplicate"):
        return replace(series, verdict="mixed", reason=CONTRADICTION)
    series = replace(
        series, verdict=stack.verdict, reason=stack.reason, images=tuple(header.source for header in ordered)
    )
    if not stack.index:
        return series
    if stack.verdict == "single" and alone is None:
        series = replace(series, note="it tells neither its thickness nor a spacing; 1 mm is assumed.")
    images: list[Frame | None] = [None] * (stack.index[-1] + 1)
    for place, header in zip(stack.index, ordered, strict=True):
        images[place] = header.source
    rows_mm, columns_mm = first.pixel_spacing  # between rows, between columns; the first index runs along a row
    spacing = (columns_mm, rows_mm, stack.step_mm)
    return replace(
        series,
        images=tuple(images),
        shape=(first.columns, first.rows, len(images)),
        spacing=spacing,
        affine=affine_ras(axes, places[stack.order[0]], spacing),
        missing=stack.missing,
    )


def axes_of(members: list[Header]) -> tuple[Array, Array, Array] | None:
    """Directions along a row, along a column, and of the slice normal, that some images share; LPS."""
    return unit_axes([header.orientation for header in members if header.orientation is not None])


def _contradicted(ordered: list[Header]) -> bool:
    """Whether an enhanced image numbers its frames in another order than their positions have."""
    for path in {header.source.path for header in ordered}:
        places = [header.stack_place for header in ordered if header.source.path == path]
        steps = np.diff([place for place in places if place is not None])
        if len(steps) + 1 == len(places) and not ((steps > 0).all() or (steps < 0).all()):
            return True
    return False


def _refusal(header: Header) -> str:
    """Why an image is none that medldm restores; empty when it may be one."""
    if header.frames > 1:
        return MULTI_FRAME
    if header.samples > 1:
        return COLOUR
    if header.modality not in ("mr", "ct"):
        # A damaged header may hold anything here, the patient's name too.
        said = (
            header.modality.upper() if header.modality in MODALITIES else "unknown" if header.modality else "not stated"
        )
        return f"its modality is {said}, not MR or CT."
    if what := _what_it_is(header):
        return f"it is {what}."
    for tag, value in (
        ("ImageOrientationPatient", header.orientation),
        ("ImagePositionPatient", header.position),
        ("PixelSpacing", header.pixel_spacing),
    ):
        if value is None:
            return f"its {tag} is missing or damaged, so its place in space is unknown."
    return ""


def _what_it_is(header: Header) -> str:
    if header.mosaic > 1:
        return NOT_A_SCAN["MOSAIC"]
    letters = MR_LETTERS if header.modality == "mr" else {}
    words = [header.kinds["ComplexImageComponent"], *header.image_type]
    known = [NOT_A_SCAN[word] for word in words if word in NOT_A_SCAN]
    known += [letters[word] for word in header.image_type[2:] if word in letters]
    return known[0] if known else ""
