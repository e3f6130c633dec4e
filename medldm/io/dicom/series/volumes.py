"""The volumes of a series that holds several at the same positions: times, heart phases, diffusion directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from medldm.io.dicom.header.parse import MOMENTS, Header
from medldm.io.dicom.series.grouping import by_position

# What is the same all over one volume, the surest first, and what such a series is called.
PER_VOLUME = {
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


class Volumes(NamedTuple):
    """The volumes that share the positions of a series.

    Parameters
    ----------
    what : for a sentence, ``"a time series"``
    attribute : name of the one that distinguishes the volumes
    members : images of each volume, in order; empty where it is not known which image belongs to which
    """

    what: str
    attribute: str
    members: tuple[tuple[Header, ...], ...]


def split_volumes(members: Sequence[Header]) -> Volumes | None:
    """The volumes that images at repeated positions form, None where nothing distinguishes them.

    Parameters
    ----------
    members : images of one kind, of which most positions hold several that differ
    """
    places = by_position(list(members))
    counts = sorted(len(place) for place in places)
    most = counts[-1] if counts else 0
    if most < 2 or counts[len(counts) // 2] < 2:
        return None  # one slice that was taken again makes no series of volumes
    trusted = [name for name in PER_VOLUME if name != "ContentTime" or not any(_moments("AcquisitionTime", members))]
    for name in trusted:
        if volumes := _partition(members, lambda header, name=name: _moment(name, header), most):  # type: ignore[misc]
            return Volumes(PER_VOLUME[name], name, _ordered(volumes, name))
    for name, key in _further_keys(members):
        if volumes := _partition(members, key, most):
            return Volumes("several volumes", name, _ordered(volumes, ""))
    for name in ORDERING:
        if name in trusted and all(
            len({_moment(name, header) for header in place} - {""}) == len(place) for place in places
        ):
            what = PER_VOLUME[name]
            if counts[0] != most:
                return Volumes(f"{what} whose volumes are not complete", name, ())
            rows = [sorted(place, key=lambda header: _sortable(_moment(name, header))) for place in places]
            return Volumes(what, name, tuple(zip(*rows, strict=True)))
    numbered = _numbered(places) if counts[0] == most else ()
    return Volumes("several volumes", "InstanceNumber", numbered) if numbered else None


def _numbered(places: list[list[Header]]) -> tuple[tuple[Header, ...], ...]:
    """Volumes that InstanceNumber counts one after the other, or slice by slice; none where it does neither."""
    count, most = len(places), len(places[0])
    numbered = [(header.instance, place, header) for place, images in enumerate(places) for header in images]
    if len({number for number, _, _ in numbered} - {None}) < len(numbered):
        return ()
    order = [(place, header) for _, place, header in sorted(numbered, key=lambda row: row[0] or 0)]
    positions = [place for place, _ in order]
    runs = [{*positions[first : first + count]} for first in range(0, len(positions), count)]
    volume_by_volume = all(len(run) == count for run in runs)
    slice_by_slice = all(len({*positions[first : first + most]}) == 1 for first in range(0, len(positions), most))
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
    keys.append(("several attributes", lambda header: tuple(_moment(name, header) for name in both)))
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
    whole = all(len(place) == 1 for volume in volumes.values() for place in by_position(volume))
    return list(volumes.values()) if whole else []


def _ordered(volumes: list[list[Header]], name: str) -> tuple[tuple[Header, ...], ...]:
    """By value where values have an order, else by time of acquisition, else by number."""
    if name and name != "DiffusionGradientOrientation":
        return tuple(map(tuple, sorted(volumes, key=lambda volume: _sortable(_moment(name, volume[0])))))
    return tuple(map(tuple, sorted(volumes, key=_first_taken)))


def _first_taken(volume: list[Header]) -> tuple[object, ...]:
    return min(
        (
            *(_sortable(_moment(name, header)) for name in ORDERING),
            header.instance or 0,
            _sortable("\\".join(_index(header))),
            header.source,
        )
        for header in volume
    )


def _moment(name: str, header: Header) -> str:
    return header.moment[MOMENTS.index(name)]


def _moments(name: str, members: Sequence[Header]) -> list[str]:
    return [_moment(name, header) for header in members]


def _index(header: Header) -> tuple[str, ...]:
    index = _moment("DimensionIndexValues", header)
    return tuple(index.split("\\")) if index else ()


def _sortable(value: str) -> tuple[tuple[float, str], ...]:
    """Numbers by size, also inside a list of them, words by spelling."""
    parts = []
    for part in value.split("\\"):
        try:
            parts.append((float(part), ""))
        except ValueError:
            parts.append((float("inf"), part))
    return tuple(parts)
