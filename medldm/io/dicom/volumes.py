"""The volumes of a series that holds several at the same positions: times, heart phases, diffusion directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from medldm.io.dicom.grouping import by_position
from medldm.io.dicom.header import MOMENTS, Header

# What is the same all over one volume, the surest first, and what such a series is called.
OF_A_VOLUME = {
    "TemporalPositionIdentifier": "a time series",
    "DiffusionGradientOrientation": "diffusion directions",
    "TriggerTime": "phases of a heartbeat, or a time series",
    "AcquisitionNumber": "a time series",
    "FrameAcquisitionDateTime": "a time series",
    "AcquisitionTime": "a time series",
    "ContentTime": "a time series",
}
# What may change from slice to slice, and still orders the images of each position.
ORDERING = ("TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "FrameAcquisitionDateTime",
            "AcquisitionTime", "ContentTime")  # fmt: skip
Key = Callable[[Header], object]


class Several(NamedTuple):
    """What a series of several volumes is.

    Parameters
    ----------
    what : in words, ``"a time series"``
    name : of the attribute that tells the volumes apart
    volumes : images of each, in order; empty where nobody can tell which image belongs to which
    """

    what: str
    name: str
    volumes: tuple[tuple[Header, ...], ...]


def several_volumes(members: Sequence[Header]) -> Several | None:
    """The volumes that images at repeated positions form, None where nothing tells one from another.

    Parameters
    ----------
    members : images of one kind, of which most positions hold several that are no copies
    """
    places = by_position(list(members))
    counts = sorted(len(place) for place in places)
    most = counts[-1] if counts else 0
    if most < 2 or counts[len(counts) // 2] < 2:
        return None  # one slice that was taken again makes no series of volumes
    trusted = [name for name in OF_A_VOLUME if name != "ContentTime" or not any(_said("AcquisitionTime", members))]
    for name in trusted:
        if volumes := _partition(members, lambda header, name=name: _of(name, header), most):  # type: ignore[misc]
            return Several(OF_A_VOLUME[name], name, _ordered(volumes, name))
    for name, key in _further_keys(members):
        if volumes := _partition(members, key, most):
            return Several("several volumes", name, _ordered(volumes, ""))
    for name in ORDERING:
        if name in trusted and all(
            len({_of(name, header) for header in place} - {""}) == len(place) for place in places
        ):
            what = OF_A_VOLUME[name]
            if counts[0] != most:
                return Several(f"{what} whose volumes are not complete", name, ())
            rows = [sorted(place, key=lambda header: _sortable(_of(name, header))) for place in places]
            return Several(what, name, tuple(zip(*rows, strict=True)))
    numbered = _numbered(places) if counts[0] == most else ()
    return Several("several volumes", "InstanceNumber", numbered) if numbered else None


def _numbered(places: list[list[Header]]) -> tuple[tuple[Header, ...], ...]:
    """Volumes that InstanceNumber counts one after the other, or slice by slice; none where it does neither."""
    count, most = len(places), len(places[0])
    numbered = [(header.instance, place, header) for place, images in enumerate(places) for header in images]
    if len({number for number, _, _ in numbered} - {None}) < len(numbered):
        return ()
    order = [(place, header) for _, place, header in sorted(numbered, key=lambda each: each[0] or 0)]
    found = [place for place, _ in order]
    volume_by_volume = all(len({*found[first : first + count]}) == count for first in range(0, len(found), count))
    slice_by_slice = all(len({*found[first : first + most]}) == 1 for first in range(0, len(found), most))
    if not (volume_by_volume or slice_by_slice):
        return ()
    rows: list[list[Header]] = [[] for _ in range(count)]
    for place, header in order:
        rows[place].append(header)
    return tuple(zip(*rows, strict=True))


def _further_keys(members: Sequence[Header]) -> list[tuple[str, Key]]:
    """Dimensions of enhanced images, files that hold a volume each, and several attributes together."""
    dimensions = max((len(_index(header)) for header in members), default=0)
    keys: list[tuple[str, Key]] = [
        ("DimensionIndexValues", lambda header, place=place: (_index(header) + ("",) * dimensions)[place])  # type: ignore[misc]
        for place in range(dimensions)
    ]
    paths = {header.source.path for header in members}
    if len(paths) < len(members):
        keys.append(("its files", lambda header: str(header.source.path)))
    both = ("TemporalPositionIdentifier", "DiffusionGradientOrientation", "TriggerTime", "AcquisitionNumber")
    keys.append(("several attributes", lambda header: tuple(_of(name, header) for name in both)))
    if dimensions:
        keys.append(("DimensionIndexValues", lambda header: _index(header)[:-1]))
    return keys


def _partition(members: Sequence[Header], key: Key, most: int) -> list[list[Header]]:
    """Images by a value, where each value makes one volume without repeats; empty otherwise."""
    volumes: dict[object, list[Header]] = {}
    for header in members:
        volumes.setdefault(key(header), []).append(header)
    if len(volumes) != most or "" in volumes or None in volumes:
        return []
    whole = all(len(place) == 1 for each in volumes.values() for place in by_position(each))
    return list(volumes.values()) if whole else []


def _ordered(volumes: list[list[Header]], name: str) -> tuple[tuple[Header, ...], ...]:
    """By value where values have an order, else as they were taken, else by number."""
    if name and name != "DiffusionGradientOrientation":
        return tuple(map(tuple, sorted(volumes, key=lambda each: _sortable(_of(name, each[0])))))
    return tuple(map(tuple, sorted(volumes, key=_first_taken)))


def _first_taken(volume: list[Header]) -> tuple[object, ...]:
    return min(
        (
            *(_sortable(_of(name, header)) for name in ORDERING),
            header.instance or 0,
            _sortable("\\".join(_index(header))),
            header.source,
        )
        for header in volume
    )


def _of(name: str, header: Header) -> str:
    return header.moment[MOMENTS.index(name)]


def _said(name: str, members: Sequence[Header]) -> list[str]:
    return [_of(name, header) for header in members]


def _index(header: Header) -> tuple[str, ...]:
    said = _of("DimensionIndexValues", header)
    return tuple(said.split("\\")) if said else ()


def _sortable(value: str) -> tuple[tuple[float, str], ...]:
    """Numbers by size, also inside a list of them, words by spelling."""
    parts = []
    for part in value.split("\\"):
        try:
            parts.append((float(part), ""))
        except ValueError:
            parts.append((float("inf"), part))
    return tuple(parts)
