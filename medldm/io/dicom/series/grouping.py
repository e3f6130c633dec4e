"""Which images belong together: one stack of one kind, never a localizer or a second echo inside a volume.

Images of one family (series, size, orientation) could form a stack. In a family, a group is the images of one kind:
equal echo time, b-value, ImageType, coil and so on. The other modules of this package judge one group at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np

from medldm.io.dicom.header.content import HINTS
from medldm.io.dicom.header.parse import Header
from medldm.io.dicom.series.geometry import Array, same_position_mm, unit_axes

SAME_CONTRAST = 0.01  # echo times, b-values etc. that differ by less than this share are equal; scanners round them
SAME_DIRECTION = 0.005  # cosines that differ by less are one orientation (0.3 degrees)
FEWEST_OF_A_SCAN = 6  # fewer images than that, in a series of several orientations, are a localizer
OBLIQUE = 0.9  # planes of a localizer have normals with a cosine below this; slices that merely fan out do not
MOST_OF_A_LOCALIZER = 40  # more images than that are a scan, even when its series holds three orientations


class Family(NamedTuple):
    """What images that could form one stack share.

    Parameters
    ----------
    series_uid, study_uid, modality, rows, columns, samples : as in the header
    orientation, spacing : numbers of `_ToleranceClasses`; None where the header has no orientation or spacing
    multi_frame_uid : of a multi-frame image that cannot be taken apart, so that each is alone; else empty
    frame_of_reference : UID; empty in a series where it says nothing
    """

    series_uid: str
    orientation: int | None
    study_uid: str
    modality: str
    rows: int
    columns: int
    samples: int
    spacing: int | None
    multi_frame_uid: str
    frame_of_reference: str


@dataclass
class Group:
    """Images of one family and one kind.

    Parameters
    ----------
    family : what images that could form one stack share
    kind : what splits a family, by attribute: text as it is, numbers as numbers of `_ToleranceClasses`
    members : the images
    """

    family: Family
    kind: dict[str, object]
    members: list[Header] = field(default_factory=list)

    @cached_property
    def along(self) -> Array | None:
        """`positions_mm` of its images; computed once, so only after all have been added."""
        return positions_mm(self.members)

    @property
    def first(self) -> Header:
        """The image that stands for all where they agree."""
        return self.members[0]


class _ToleranceClasses:
    """Gives vectors a number that can be a part of a key: the same one where they agree up to rounding."""

    def __init__(self) -> None:
        self.representatives: dict[tuple[object, ...], list[tuple[float, ...]]] = {}

    def number(self, scope: tuple[object, ...], values: Iterable[float], relative: float, absolute: float) -> int:
        """Number of the first earlier vector of the same scope within the tolerance, else a new number."""
        vector = tuple(float(value) for value in values)
        earlier = self.representatives.setdefault(scope, [])
        for number, other in enumerate(earlier):  # not by NumPy: most differ in the first component already
            if all(abs(a - b) <= absolute + relative * abs(b) for a, b in zip(vector, other, strict=True)):
                return number
        earlier.append(vector)
        return len(earlier) - 1


def group_images(headers: Iterable[Header]) -> list[Group]:
    """Images by series, then by everything that makes two images different in kind.

    Parameters
    ----------
    headers : images, in any order

    Returns
    -------
    groups in order of their first image
    """
    classes = _ToleranceClasses()
    groups: dict[tuple[object, ...], Group] = {}
    headers = list(headers)
    without_common_frame = _without_common_frame(headers)
    for header in headers:
        family = _family(header, classes, without_common_frame)
        kind = _kind(header, classes)
        key = (*family, *kind.values())
        groups.setdefault(key, Group(family, kind)).members.append(header)
    return [part for group in groups.values() for part in _by_coil(group)]


def _without_common_frame(headers: list[Header]) -> set[str]:
    """UIDs of series with more than one frame of reference for every two images."""
    images = Counter(header.series_uid for header in headers)
    frames = Counter(uid for uid, _ in {(header.series_uid, header.frame_of_reference) for header in headers})
    return {uid for uid, count in frames.items() if 2 * count > images[uid]}


def _family(header: Header, classes: _ToleranceClasses, without_common_frame: set[str]) -> Family:
    uid = header.series_uid
    orientation = spacing = None
    if header.orientation is not None and header.position is not None:
        orientation = classes.number((uid, "orientation"), header.orientation, 0.0, SAME_DIRECTION)
    if header.pixel_spacing is not None:
        spacing = classes.number((uid, "spacing"), header.pixel_spacing, 1e-3, 0.0)
    return Family(
        series_uid=uid,
        orientation=orientation,
        study_uid=header.study_uid,
        modality=header.modality,
        rows=header.rows,
        columns=header.columns,
        samples=header.samples,
        spacing=spacing,
        multi_frame_uid=header.image_uid if header.frames > 1 else "",
        # Positions of two frames of reference cannot be compared. Some anonymizers give every image its own, though.
        frame_of_reference="" if uid in without_common_frame else header.frame_of_reference,
    )


def _kind(header: Header, classes: _ToleranceClasses) -> dict[str, object]:
    kind: dict[str, object] = dict(header.kinds)
    for name, value in header.contrasts.items():
        scope = (header.series_uid, name)
        kind[name] = None if value is None else classes.number(scope, (value,), SAME_CONTRAST, 1e-3)
    return kind


def _by_coil(group: Group) -> Iterator[Group]:
    """One group for each coil, where all coils measured every position; not where they cover different parts."""
    coils = {header.coil for header in group.members}
    if len(coils) < 2 or repetitions(group.members) < 2:
        yield group
        return
    for coil in sorted(coils):
        kind = {**group.kind, "ReceiveCoilName": coil}
        yield Group(group.family, kind, [header for header in group.members if header.coil == coil])


def positions_mm(members: list[Header]) -> Array | None:
    """(N,) mm along the slice normal, in the order of the images; None where some have no position or orientation."""
    if any(header.position is None or header.orientation is None for header in members):
        return None
    axes = unit_axes([header.orientation for header in members if header.orientation is not None])
    if axes is None:
        return None
    along: Array = np.array([header.position for header in members]) @ axes[2]
    return along


def group_by_position(members: list[Header]) -> list[list[Header]]:
    """For each position along the slice normal, the images there; empty where `positions_mm` is None.

    One image at each position is a volume; two are copies, volumes of a 4D series, or images of different kinds.
    """
    along = positions_mm(members)
    if along is None:
        return []
    order = np.argsort(along, kind="stable")
    ordered = along[order]
    starts = np.flatnonzero(np.diff(ordered) > same_position_mm(ordered)) + 1
    return [[members[number] for number in numbers] for numbers in np.split(order, starts)]


def repetitions(members: list[Header]) -> int:
    """How many images every position holds; 0 where positions hold different numbers of them."""
    counts = {len(images) for images in group_by_position(members)}
    return counts.pop() if len(counts) == 1 else 0


def split_by_tags(group: Group, *, hints: bool = False) -> list[Group]:
    """Split a group by the first attribute whose values share out the images of each position.

    An attribute that changes from slice to slice is not one: each of its values would hold a part of the stack only.

    Parameters
    ----------
    group : images that repeat positions and differ
    hints : use the attributes `HINTS`, which may also change between volumes of one kind; else all others

    Returns
    -------
    groups whose kinds name the attribute; the group itself where there is none
    """
    most_repeats = max((len(images) for images in group_by_position(group.members)), default=1)
    for name in group.first.distinguishing:
        if (name in HINTS) != hints:
            continue
        parts: dict[str, list[Header]] = {}
        for header in group.members:
            parts.setdefault(header.distinguishing[name], []).append(header)
        repeats = [max(len(images) for images in group_by_position(part)) for part in parts.values()]
        if len(parts) > 1 and sum(repeats) <= most_repeats:
            return [Group(group.family, {**group.kind, name: value}, part) for value, part in parts.items()]
    return [group]


def slice_normals(groups: list[Group]) -> dict[str, list[Array]]:
    """Slice normals of each series, by its UID; one for each orientation."""
    by_series: dict[str, dict[object, Array]] = {}
    for group in groups:
        if group.first.orientation is not None and group.family.orientation is not None:
            normal = np.cross(group.first.orientation[:3], group.first.orientation[3:])
            by_series.setdefault(group.first.series_uid, {})[group.family.orientation] = normal
    return {uid: list(normals.values()) for uid, normals in by_series.items()}


def is_localizer(normals: list[Array], count: int) -> bool:
    """Whether a stack is part of a localizer: its series has three perpendicular planes, or it is short
    and its series has two oblique ones.

    Parameters
    ----------
    normals : slice normals of its series, one for each orientation
    count : images of the stack
    """
    if len(normals) < 2 or count > MOST_OF_A_LOCALIZER:
        return False
    some = normals[:12]
    perpendicular = any(all(abs(a @ b) < 0.5 for a, b in combinations(three, 2)) for three in combinations(some, 3))
    oblique = any(abs(a @ b) < OBLIQUE for a, b in combinations(some, 2))
    return perpendicular or (count < FEWEST_OF_A_SCAN and oblique)


def between(inner: Group, outer: Group) -> bool:
    """Whether images of the inner group lie between those of the outer, rather than at the same positions."""
    # Asked first, since a series may hold thousands of kinds: positions take longer.
    if inner.family != outer.family or len(outer.members) < 2:
        return False
    inner_mm, outer_mm = inner.along, outer.along
    if inner_mm is None or outer_mm is None:
        return False
    close = same_position_mm(np.sort(outer_mm))
    inside = inner_mm[(inner_mm > outer_mm.min() + close) & (inner_mm < outer_mm.max() - close)]
    shared = sum(bool((np.abs(outer_mm - mm) <= close).any()) for mm in inside)
    # A second echo shares the positions, also where one slice of the first was lost.
    return len(inside) > 0 and shared < len(inside) / 2


def differences(one: Group, other: Group) -> str:
    """Names of what makes two groups different."""
    names = {*one.kind, *other.kind}
    return ", ".join(sorted(name for name in names if one.kind.get(name) != other.kind.get(name)))
