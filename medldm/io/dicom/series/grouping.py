"""Which images belong together: one stack of one kind, never a localizer or a second echo inside a volume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from medldm.io.dicom.header.content import HINTS
from medldm.io.dicom.header.parse import Header
from medldm.io.dicom.series.geometry import Array, same_place_mm, unit_axes

SAME_CONTRAST = 0.01  # contrasts that differ by less are one; scanners round, and b-values wander
SAME_DIRECTION = 0.005  # cosines that differ by less are one orientation (0.3 degrees)
FEWEST_OF_A_SCAN = 6  # fewer images than that, in a series of several directions, are a localizer
OBLIQUE = 0.9  # cosine between directions of a localizer; a fan of slices or a turned one is none
MOST_OF_A_LOCALIZER = 40  # more images than that are a scan, even when its series holds three planes


@dataclass
class Group:
    """Images of one kind in one place.

    Parameters
    ----------
    family : what images that could form one stack share: series, size, orientation, pixel spacing
    kind : by name, what splits them further: contrasts and kinds
    members : the images
    """

    family: tuple[object, ...]
    kind: dict[str, object]
    members: list[Header] = field(default_factory=list)

    @cached_property
    def along(self) -> Array | None:
        """Positions of its images, computed once all are there."""
        return positions(self.members)

    @property
    def first(self) -> Header:
        """The image that stands for all where they agree."""
        return self.members[0]


class _Classes:
    """Numbers for vectors: the same where they agree up to rounding."""

    def __init__(self) -> None:
        self.known: dict[tuple[object, ...], list[tuple[float, ...]]] = {}

    def number(self, about: tuple[object, ...], values: Iterable[float], relative: float, absolute: float) -> int:
        vector = tuple(float(value) for value in values)
        seen = self.known.setdefault(about, [])
        for number, other in enumerate(seen):  # not by NumPy: most differ in the first number already
            if all(abs(a - b) <= absolute + relative * abs(b) for a, b in zip(vector, other, strict=True)):
                return number
        seen.append(vector)
        return len(seen) - 1


def group_images(headers: Iterable[Header]) -> list[Group]:
    """Images by series, then by everything that makes two images different in kind.

    Parameters
    ----------
    headers : images, in any order

    Returns
    -------
    groups in order of their first image
    """
    classes = _Classes()
    groups: dict[tuple[object, ...], Group] = {}
    headers = list(headers)
    without_common_frame = _without_common_frame(headers)
    for header in headers:
        family = _family(header, classes)
        # Positions of two frames of reference cannot be compared. Some anonymizers give every image its own, though.
        family = (*family, "" if header.series_uid in without_common_frame else header.frame_of_reference)
        kind = _kind(header, classes)
        key = (*family, *kind.values())
        groups.setdefault(key, Group(family, kind)).members.append(header)
    return [part for group in groups.values() for part in _by_coil(group)]


def _without_common_frame(headers: list[Header]) -> set[str]:
    """Series whose images each have a frame of reference of their own, by UID."""
    images = Counter(header.series_uid for header in headers)
    frames = Counter(uid for uid, _ in {(header.series_uid, header.frame_of_reference) for header in headers})
    return {uid for uid, count in frames.items() if 2 * count > images[uid]}


def _family(header: Header, classes: _Classes) -> tuple[object, ...]:
    uid = header.series_uid
    facing: object = None
    if header.orientation is not None and header.position is not None:
        facing = classes.number((uid, "orientation"), header.orientation, 0.0, SAME_DIRECTION)
    spacing: object = None
    if header.pixel_spacing is not None:
        spacing = classes.number((uid, "spacing"), header.pixel_spacing, 1e-3, 0.0)
    many = header.image_uid if header.frames > 1 else ""
    return uid, facing, header.study_uid, header.modality, header.rows, header.columns, header.samples, spacing, many


def _kind(header: Header, classes: _Classes) -> dict[str, object]:
    kind: dict[str, object] = dict(header.kinds)
    for name, value in header.contrasts.items():
        about = (header.series_uid, name)
        kind[name] = None if value is None else classes.number(about, (value,), SAME_CONTRAST, 1e-3)
    return kind


def _by_coil(group: Group) -> Iterator[Group]:
    """One group for each coil, where coils repeat the positions; not where a coil covers another part."""
    coils = {header.coil for header in group.members}
    if len(coils) < 2 or repetitions(group.members) < 2:
        yield group
        return
    for coil in sorted(coils):
        kind = {**group.kind, "ReceiveCoilName": coil}
        yield Group(group.family, kind, [header for header in group.members if header.coil == coil])


def positions(members: list[Header]) -> Array | None:
    """(N,) mm along the slice normal, in the order of the images; None when some have no place."""
    if any(header.position is None or header.orientation is None for header in members):
        return None
    axes = unit_axes([header.orientation for header in members if header.orientation is not None])
    if axes is None:
        return None
    along: Array = np.array([header.position for header in members]) @ axes[2]
    return along


def by_position(members: list[Header]) -> list[list[Header]]:
    """The images at each position along the slice normal; empty when some have no place."""
    along = positions(members)
    if along is None:
        return []
    order = np.argsort(along, kind="stable")
    ordered = along[order]
    starts = np.flatnonzero(np.diff(ordered) > same_place_mm(ordered)) + 1
    return [[members[number] for number in place] for place in np.split(order, starts)]


def repetitions(members: list[Header]) -> int:
    """How many images every position holds; 0 when positions hold different numbers of them."""
    counts = {len(place) for place in by_position(members)}
    return counts.pop() if len(counts) == 1 else 0


def split_by_tags(group: Group, *, hints: bool = False) -> list[Group]:
    """One group for each kind of image, where an attribute distinguishes images of one position.

    Parameters
    ----------
    group : images that repeat positions and differ
    hints : whether to use attributes that may change between volumes of one kind

    Returns
    -------
    groups whose kinds name the attribute; the group itself where none distinguishes
    """
    most = max((len(place) for place in by_position(group.members)), default=1)
    for name in group.first.distinguishing:
        if (name in HINTS) != hints:
            continue
        parts: dict[str, list[Header]] = {}
        for header in group.members:
            parts.setdefault(header.distinguishing[name], []).append(header)
        repeats = [max(len(place) for place in by_position(part)) for part in parts.values()]
        if len(parts) > 1 and sum(repeats) <= most:
            return [Group(group.family, {**group.kind, name: value}, part) for value, part in parts.items()]
    return [group]


def slice_normals(groups: list[Group]) -> dict[str, list[Array]]:
    """Slice normals of each series, by its UID; one for each orientation."""
    by_series: dict[str, dict[object, Array]] = {}
    for group in groups:
        facing = group.family[1]
        if group.first.orientation is not None and facing is not None:
            normal = np.cross(group.first.orientation[:3], group.first.orientation[3:])
            by_series.setdefault(group.first.series_uid, {})[facing] = normal
    return {uid: list(normals.values()) for uid, normals in by_series.items()}


def is_localizer(normals: list[Array], count: int) -> bool:
    """Whether a stack is part of a localizer, by the slice normals of its series.

    Parameters
    ----------
    normals : slice normals of its series
    count : images of the stack
    """
    if len(normals) < 2 or count > MOST_OF_A_LOCALIZER:
        return False
    square = sum(all(abs(a @ b) < 0.5 for a, b in combinations(three, 2)) for three in combinations(normals[:12], 3))
    oblique = any(abs(a @ b) < OBLIQUE for a, b in combinations(normals[:12], 2))
    return square > 0 or (count < FEWEST_OF_A_SCAN and oblique)


def between(inner: Group, outer: Group) -> bool:
    """Whether images of one group lie between those of another, rather than at the same positions."""
    if inner.family != outer.family or len(outer.members) < 2:  # first: a series may hold thousands of kinds
        return False
    here, there = inner.along, outer.along
    if here is None or there is None:
        return False
    close = same_place_mm(np.sort(there))
    inside = here[(here > there.min() + close) & (here < there.max() - close)]
    shared = sum(bool((np.abs(there - place) <= close).any()) for place in inside)
    # A second echo shares the positions, also where one slice of the first was lost.
    return len(inside) > 0 and shared < len(inside) / 2


def differences(one: Group, other: Group) -> str:
    """Names of what makes two groups different."""
    names = {*one.kind, *other.kind}
    return ", ".join(sorted(name for name in names if one.kind.get(name) != other.kind.get(name)))
