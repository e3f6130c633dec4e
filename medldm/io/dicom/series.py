"""DICOM series: found by content, grouped by what belongs together, sorted by position, judged by geometry."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medldm.data.volume import Affine
from medldm.errors import GeometryError, UsageError
from medldm.io.dicom.display import what_it_shows
from medldm.io.dicom.duplicates import one_quantity, same_moment, same_pixels, what_differs
from medldm.io.dicom.frames import Frame
from medldm.io.dicom.geometry import Array, affine_ras, judge_positions, unit_axes
from medldm.io.dicom.grouping import (
    Group,
    between,
    by_position,
    differences,
    directions,
    group,
    looks_around,
    split_by_tags,
)
from medldm.io.dicom.header import Header, is_dicom, read_headers
from medldm.io.dicom.labels import told_apart
from medldm.io.dicom.volumes import Several, several_volumes
from medldm.modality import MODALITIES

# Modality (0008,0060), those that a sentence may name.
DICOM_MODALITIES = (
    "cr", "dx", "ecg", "es", "ivus", "ko", "mg", "nm", "oct", "op", "pr", "pt", "px", "reg", "rf", "rtdose", "rtimage",
    "rtplan", "rtstruct", "rwv", "sc", "seg", "sm", "sr", "us", "xa", "xc",
)  # fmt: skip
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
    modality : the DICOM word in lower case
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
    volumes : images of each volume, where it holds several at the same positions; `volume_of` takes one
    apart : what tells it from other results of one SeriesInstanceUID, ``"TE 80"``; empty where it is the only one
    part : counts those results, from 0
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
    volumes: tuple[tuple[Frame, ...], ...] = ()
    apart: str = ""
    part: int = 0

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
    found = _judged([part for whole in group(headers) for part in _parts(whole)])
    found.sort(key=lambda pair: (pair[1].number is None, pair[1].number or 0, str(pair[1].files[0])))
    return _named(told_apart(found))


def _named(found: list[Series]) -> list[Series]:
    seen: dict[str, int] = {}
    named = []
    for series in found:
        base = f"series-{series.number:03d}" if series.number is not None and series.number >= 0 else "series"
        seen[base] = seen.get(base, 0) + 1
        named.append(replace(series, name=base if seen[base] == 1 else f"{base}-{seen[base]}"))
    return named


def _parts(whole: Group) -> list[Group]:
    """A group, or one for each kind of image in it, where positions hold several that are no copies."""
    if _refusal(whole.first):
        return [whole]
    places = by_position(whole.members)
    if all(len(place) == 1 for place in places) or same_pixels(places):
        return [whole]
    parts = split_by_tags(whole)
    if len(parts) > 1 or (several_volumes(whole.members) and one_quantity(max(places, key=len))):
        return parts
    return split_by_tags(whole, hints=True)


def _judged(groups: list[Group]) -> list[tuple[Group, Series]]:
    """Each group with its verdict, seen beside the groups of the same series."""
    images = [each for each in groups if not _refusal(each.first)]
    looking = directions(images)
    families: dict[tuple[object, ...], list[Group]] = {}
    for each in images:
        families.setdefault(each.family, []).append(each)
    return [
        (
            each,
            _refused(each, _refusal(each.first))
            or _beside(each, families[each.family], looking.get(each.first.series_uid, [])),
        )
        for each in groups
    ]


def _refused(each: Group, reason: str) -> Series | None:
    return replace(_described(each), verdict="not a volume", reason=reason) if reason else None


def _beside(each: Group, family: list[Group], normals: list[Array]) -> Series:
    series = _described(each)
    if looks_around(normals, len(each.members)):
        reason = f"it is a localizer: its series looks in {len(normals)} directions."
        return replace(series, verdict="not a volume", reason=reason)
    if repeated := _repeated(series, each):
        return repeated
    for other in family:
        if other is not each and (between(other, each) or between(each, other)):
            reason = f"images of another kind lie between its slices (they differ in {differences(each, other)})."
            return replace(series, verdict="mixed", reason=f"{reason} Export the kinds as separate series.")
    return judge_members(series, each.members)


def _repeated(series: Series, each: Group) -> Series | None:
    """The verdict on images that repeat positions: several volumes, or images of different kinds; None for copies."""
    places = by_position(each.members)
    again = [place for place in places if len(place) > 1]
    if not again:
        return None
    several = several_volumes(each.members)
    if (several is None or same_moment(places)) and same_pixels(places):
        return None
    middle = max(again, key=len) if len(again) < len(places) else again[len(again) // 2]
    if several and one_quantity(middle):
        return _of_several(series, several, len(places))
    differ = what_differs(middle)
    if len(places) == 1:
        reason = f"its {len(middle)} images all name one position and are no copies: they differ in {differ}."
        return replace(series, verdict="not a volume", reason=f"{reason} Where each of them lies is not known.")
    hold = "1 of its positions holds" if len(again) == 1 else f"{len(again)} of its positions hold"
    reason = f"{hold} more than one image, and they are no copies: they differ in {differ}."
    return replace(series, verdict="mixed", reason=f"{reason} Export the kinds as separate series, or remove one.")


def _of_several(series: Series, several: Several, positions: int) -> Series:
    """A series of several volumes, of which one may be chosen where it is known which image belongs to which."""
    count = len(several.volumes)
    what = f"({several.what}, by {several.name})"
    if not count:
        reason = f"it is 4D {what}. Nobody can tell which of its images form one volume; export it again, as a whole."
        return replace(series, verdict="not a volume", reason=reason)
    reason = f"it is 4D: {count} volumes at the same positions {what}. Choose one with --volume 0 to {count - 1}."
    if positions == 1:
        reason = f"it is {count} images of one position {what}. Choose one with --volume 0 to {count - 1}."
    return replace(
        series,
        verdict="not a volume",
        reason=reason,
        shape=(*series.shape[:2], positions),
        volumes=tuple(tuple(header.source for header in volume) for volume in several.volumes),
    )


def volume_of(series: Series, index: int | None) -> Series:
    """One volume of a series of several, judged by its geometry; a series of one volume is left as it is.

    Parameters
    ----------
    series : from `find_series`
    index : which volume, counted from 0; None where none is asked for

    Raises
    ------
    UsageError
        It has no such volume.
    GeometryError
        Its files have changed.
    """
    count = max(1, len(series.volumes))
    if index is not None and not 0 <= index < count:
        raise UsageError(f"{series.name} has no volume {index}: it holds {count}, counted from 0.")
    if index is None or not series.volumes:
        return series
    chosen = replace(
        series,
        images=series.volumes[index],
        volumes=(),
        reason="",
        apart=f"{series.apart} volume {index}".strip(),
        part=series.part + index,
    )
    return judge_members(chosen, members_of(chosen))


def members_of(series: Series) -> list[Header]:
    """Headers of the images of a series, in their order.

    Raises
    ------
    GeometryError
        A file has changed.
    """
    wanted = {image: None for image in series.images if image is not None}
    found = {header.source: header for path in series.files for header in read_headers(path)}
    if missing := [image for image in wanted if image not in found]:
        raise GeometryError(f"{missing[0].path} has changed since its folder was looked at. Try again.")
    return [found[image] for image in wanted]


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
    if header.modality not in MODALITIES:
        # A damaged header may hold anything here, the patient's name too.
        known = header.modality in DICOM_MODALITIES
        said = header.modality.upper() if known else "unknown" if header.modality else "not stated"
        return f"its modality is {said}, not {' or '.join(kind.title for kind in MODALITIES.values())}."
    if what := what_it_shows(header):
        return f"it is {what}."
    for tag, value in (
        ("ImageOrientationPatient", header.orientation),
        ("ImagePositionPatient", header.position),
        ("PixelSpacing", header.pixel_spacing),
    ):
        if value is None:
            return f"its {tag} is missing or damaged, so its place in space is unknown."
    return ""
