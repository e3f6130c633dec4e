"""Find the DICOM series in a folder: which images form a volume, and why the others do not.

`find_series` works in four steps, on headers; pixels are read only to compare images that repeat a position.

1. Read the headers, and group the images by SeriesInstanceUID, size, orientation and kind (`grouping`).
2. Split groups further that mix kinds of images at the same positions (`_split_kinds`).
3. Give each group a verdict, which makes it a `Series` (`_verdict`): nothing that medldm restores, part of a localizer,
   4D (`volumes`), kinds mixed or copies (`duplicates`), or one stack, whose positions form a regular grid or not
   (`stack`, `geometry`).
4. Sort, label and name the series.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medldm.io.dicom.header.content import what_it_shows
from medldm.io.dicom.header.files import is_dicom
from medldm.io.dicom.header.parse import Header, read_headers
from medldm.io.dicom.series.duplicates import differing_attributes, one_quantity, same_pixels, same_time
from medldm.io.dicom.series.geometry import Array
from medldm.io.dicom.series.grouping import (
    Family,
    Group,
    between,
    differences,
    group_by_position,
    group_images,
    is_localizer,
    slice_normals,
    split_by_tags,
)
from medldm.io.dicom.series.labels import with_labels
from medldm.io.dicom.series.stack import Series, with_geometry
from medldm.io.dicom.series.volumes import Volumes, split_volumes
from medldm.modality import MODALITIES

# Values of Modality (0008,0060) that a message may repeat; a damaged header may hold anything, names of patients too.
DICOM_MODALITIES = (
    "cr", "dx", "ecg", "es", "ivus", "ko", "mg", "nm", "oct", "op", "pr", "pt", "px", "reg", "rf", "rtdose", "rtimage",
    "rtplan", "rtstruct", "rwv", "sc", "seg", "sm", "sr", "us", "xa", "xc",
)  # fmt: skip
MULTI_FRAME = (
    "it is a multi-frame image without functional groups for each of its frames, so nobody knows where they lie. "
    "Convert it with dcm2niix first."
)
COLOUR = "it is a colour image. Name the grey-valued series that it was made from."


def find_series(source: Path | Iterable[Path], *, log: logging.Logger | None = None) -> list[Series]:
    """All series in a folder or among some files, each with a verdict.

    Parameters
    ----------
    source : folder, walked to any depth, or files
    log : where DICOM files that hold no image are reported; this module's own logger when not given

    Returns
    -------
    in order of SeriesNumber; where that repeats, names end in ``-2``, ``-3``
    """
    log = log or logging.getLogger(__name__)
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
            log.info("%s holds no image", path)
    groups = [part for group in group_images(headers) for part in _split_kinds(group)]
    pairs = list(zip(groups, _with_verdicts(groups), strict=True))
    pairs.sort(key=lambda pair: (pair[1].number is None, pair[1].number or 0, str(pair[1].files[0])))
    return _named(with_labels(pairs))


def _named(series: list[Series]) -> list[Series]:
    """Series with names that are unique and safe for files."""
    count: dict[str, int] = {}
    named = []
    for one in series:
        base = f"series-{one.number:03d}" if one.number is not None and one.number >= 0 else "series"
        count[base] = count.get(base, 0) + 1
        named.append(replace(one, name=base if count[base] == 1 else f"{base}-{count[base]}"))
    return named


def _split_kinds(group: Group) -> list[Group]:
    """The group, or one for each kind of image in it where positions hold several that are no copies."""
    if _refusal(group.first):
        return [group]
    by_position = group_by_position(group.members)
    if all(len(images) == 1 for images in by_position) or same_pixels(by_position):
        return [group]
    parts = split_by_tags(group)
    if len(parts) > 1:
        return parts
    if split_volumes(group.members) and one_quantity(max(by_position, key=len)):
        return parts  # the group itself: volumes of one kind
    return split_by_tags(group, hints=True)


def _with_verdicts(groups: list[Group]) -> list[Series]:
    """A `Series` for each group, in order; the verdict depends on other groups of its SeriesInstanceUID, too."""
    candidates = [group for group in groups if not _refusal(group.first)]
    normals = slice_normals(candidates)
    families: dict[Family, list[Group]] = {}
    for group in candidates:
        families.setdefault(group.family, []).append(group)
    series = []
    for group in groups:
        if reason := _refusal(group.first):
            series.append(_not_a_volume(_described(group), reason))
        else:
            series.append(_verdict(group, families[group.family], normals.get(group.first.series_uid, [])))
    return series


def _verdict(group: Group, family: list[Group], normals: list[Array]) -> Series:
    """What a group of images is: the first verdict that applies.

    Parameters
    ----------
    group : the images
    family : groups of the same family, this one among them
    normals : of all slices of its SeriesInstanceUID, one for each orientation
    """
    series = _described(group)
    if is_localizer(normals, len(group.members)):
        return _not_a_volume(series, f"it is a localizer: its series looks in {len(normals)} directions.")
    if repeated := _repeated_positions(series, group):
        return repeated
    for other in family:
        if other is not group and (between(other, group) or between(group, other)):
            differ = differences(group, other)
            reason = f"images of another kind lie between its slices (they differ in {differ})."
            return replace(series, verdict="mixed", reason=f"{reason} Export the kinds as separate series.")
    return with_geometry(series, group.members)


def _repeated_positions(series: Series, group: Group) -> Series | None:
    """The verdict on images that repeat positions: several volumes, or images of different kinds; None for copies."""
    by_position = group_by_position(group.members)
    repeated = [images for images in by_position if len(images) > 1]
    if not repeated:
        return None
    volumes = split_volumes(group.members)
    if (volumes is None or same_time(by_position)) and same_pixels(by_position):
        return None  # copies; `with_geometry` says so
    # One position stands for all: the fullest; or the middle one, where all repeat and the outermost may be empty.
    example = max(repeated, key=len) if len(repeated) < len(by_position) else repeated[len(repeated) // 2]
    if volumes and one_quantity(example):
        return _four_dimensional(series, volumes, len(by_position))
    differ = differing_attributes(example)
    if len(by_position) == 1:
        reason = f"its {len(example)} images all name one position and are no copies: they differ in {differ}."
        return _not_a_volume(series, f"{reason} Where each of them lies is not known.")
    hold = "1 of its positions holds" if len(repeated) == 1 else f"{len(repeated)} of its positions hold"
    reason = f"{hold} more than one image, and they are no copies: they differ in {differ}."
    return replace(series, verdict="mixed", reason=f"{reason} Export the kinds as separate series, or remove one.")


def _four_dimensional(series: Series, volumes: Volumes, positions: int) -> Series:
    """A series of several volumes, of which `volume_of` takes one where it is known which images belong together."""
    count = len(volumes.members)
    what = f"({volumes.what}, by {volumes.attribute})"
    if not count:
        reason = f"it is 4D {what}. Nobody can tell which of its images form one volume; export it again, as a whole."
        return _not_a_volume(series, reason)
    reason = f"it is 4D: {count} volumes at the same positions {what}. Choose one with --volume 0 to {count - 1}."
    if positions == 1:
        reason = f"it is {count} images of one position {what}. Choose one with --volume 0 to {count - 1}."
    images = tuple(tuple(header.source for header in volume) for volume in volumes.members)
    return replace(_not_a_volume(series, reason), shape=(*series.shape[:2], positions), volumes=images)


def _not_a_volume(series: Series, reason: str) -> Series:
    return replace(series, verdict="not a volume", reason=reason)


def _described(group: Group) -> Series:
    """What is known of a group without its geometry; images are in no order yet."""
    first = group.first
    thicknesses = [header.thickness_mm for header in group.members if header.thickness_mm is not None]
    return Series(
        images=tuple(header.source for header in group.members),
        number=first.number,
        modality=first.modality,
        shape=(first.columns, first.rows, len(group.members)),
        thickness_mm=float(np.median(thicknesses)) if thicknesses else None,
        uid=first.series_uid,
        image_type=first.image_type,
        is_derived_by_medldm=all(header.by_medldm for header in group.members),
    )


def _refusal(header: Header) -> str:
    """Why this is no image that medldm restores, a sentence; empty where it may be one."""
    if header.frames > 1:
        return MULTI_FRAME
    if header.samples > 1:
        return COLOUR
    if header.modality not in MODALITIES:
        known = header.modality in DICOM_MODALITIES
        modality = header.modality.upper() if known else "unknown" if header.modality else "not stated"
        return f"its modality is {modality}, not {' or '.join(kind.title for kind in MODALITIES.values())}."
    if content := what_it_shows(header):
        return f"it is {content}."
    for tag, value in (
        ("ImageOrientationPatient", header.orientation),
        ("ImagePositionPatient", header.position),
        ("PixelSpacing", header.pixel_spacing),
    ):
        if value is None:
            return f"its {tag} is missing or damaged, so its place in space is unknown."
    return ""
