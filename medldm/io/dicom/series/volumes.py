"""The volumes of a 4D series, which has several at the same positions: times, heart phases, diffusion directions.

The attributes that may tell the volumes apart are those of `medldm.io.dicom.header.parse.MOMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from medldm.io.dicom.header.parse import MOMENTS, Header
from medldm.io.dicom.series.grouping import group_by_position

# Attributes that have one value all over a volume, the surest first, and what a series of such volumes is called.
PER_VOLUME = {
    "TemporalPositionIdentifier": "a time series",
    "DiffusionGradientOrientation": "diffusion directions",
    "TriggerTime": "phases of a heartbeat, or a time series",
    "AcquisitionNumber": "a time series",
    "FrameAcquisitionDateTime": "a time series",
    "AcquisitionTime": "a time series",
    "ContentTime": "a time series",
}
# Attributes that put the images of each position in order, even where they change from slice to slice as well.
ORDERING = ("TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "FrameAcquisitionDateTime",
            "AcquisitionTime", "ContentTime")  # fmt: skip
Key = Callable[[Header], object]  # images of which it is the same are one volume


class Volumes(NamedTuple):
    """The volumes that share the positions of a series.

    Parameters
    ----------
    what : for a sentence, ``"a time series"``
    attribute : name of the one that distinguishes the volumes
    members : images of each volume, in order; empty where it is not known which image belongs to which volume
    """

    what: str
    attribute: str
    members: tuple[tuple[Header, ...], ...]


def split_volumes(members: Sequence[Header]) -> Volumes | None:
    """The volumes that images at repeated positions form, None where nothing distinguishes them.

    Tried in turn: an attribute that has one value for each volume; several attributes together, or the file; an
    attribute that orders the images of every position, the first of which are then the first volume; InstanceNumber.

    Parameters
    ----------
    members : images of one kind, of which most positions hold several that differ
    """
    by_position = group_by_position(list(members))
    repeats = sorted(len(images) for images in by_position)
    count = repeats[-1] if repeats else 0  # of volumes, if that is what they are
    if count < 2 or repeats[len(repeats) // 2] < 2:
        return None  # one slice that was taken again makes no series of volumes
    # ContentTime is when an image was made, not measured: it counts where no AcquisitionTime does.
    measured_at = any(_value(header, "AcquisitionTime") for header in members)
    trusted = [name for name in PER_VOLUME if name != "ContentTime" or not measured_at]
    for name in trusted:
        if volumes := _partition(members, lambda header, name=name: _value(header, name), count):  # type: ignore[misc]
            return Volumes(PER_VOLUME[name], name, _ordered(volumes, name))
    for name, key in _further_keys(members):
        if volumes := _partition(members, key, count):
            return Volumes("several volumes", name, _ordered(volumes, ""))
    for name in ORDERING:
        if name in trusted and all(
            len({_value(header, name) for header in images} - {""}) == len(images) for images in by_position
        ):
            what = PER_VOLUME[name]
            if repeats[0] != count:
                return Volumes(f"{what} whose volumes are not complete", name, ())
            ordered = [sorted(images, key=lambda header: _sortable(_value(header, name))) for images in by_position]
            return Volumes(what, name, tuple(zip(*ordered, strict=True)))
    numbered = _numbered(by_position) if repeats[0] == count else ()
    return Volumes("several volumes", "InstanceNumber", numbered) if numbered else None


def _numbered(by_position: list[list[Header]]) -> tuple[tuple[Header, ...], ...]:
    """Volumes that InstanceNumber counts one after the other, or slice by slice; none where it does neither.

    Parameters
    ----------
    by_position : for each position the images there, as many at all of them
    """
    slices, count = len(by_position), len(by_position[0])
    numbered = [(header.instance, k, header) for k, images in enumerate(by_position) for header in images]
    if len({number for number, _, _ in numbered} - {None}) < len(numbered):
        return ()
    in_order = [(k, header) for _, k, header in sorted(numbered, key=lambda entry: entry[0] or 0)]
    visited = [k for k, _ in in_order]  # positions, in order of InstanceNumber
    volume_by_volume = all(len({*visited[i : i + slices]}) == slices for i in range(0, len(visited), slices))
    slice_by_slice = all(len({*visited[i : i + count]}) == 1 for i in range(0, len(visited), count))
    if not (volume_by_volume or slice_by_slice):
        return ()
    ordered: list[list[Header]] = [[] for _ in range(slices)]
    for k, header in in_order:
        ordered[k].append(header)
    return tuple(zip(*ordered, strict=True))


def _further_keys(members: Sequence[Header]) -> list[tuple[str, Key]]:
    """Single dimensions of enhanced images, files that hold a volume each, several attributes together.

    The last is all dimensions of enhanced images but the last one, which may count the slices.
    """
    dimensions = max((len(_dimension_index(header)) for header in members), default=0)
    keys: list[tuple[str, Key]] = [
        ("DimensionIndexValues", lambda header, d=d: (_dimension_index(header) + ("",) * dimensions)[d])  # type: ignore[misc]
        for d in range(dimensions)
    ]
    paths = {header.source.path for header in members}
    if len(paths) < len(members):
        keys.append(("its files", lambda header: str(header.source.path)))
    together = ("TemporalPositionIdentifier", "DiffusionGradientOrientation", "TriggerTime", "AcquisitionNumber")
    keys.append(("several attributes", lambda header: tuple(_value(header, name) for name in together)))
    if dimensions:
        keys.append(("DimensionIndexValues", lambda header: _dimension_index(header)[:-1]))
    return keys


def _partition(members: Sequence[Header], key: Key, count: int) -> list[list[Header]]:
    """Images by a key, where it has `count` values and no image of one value repeats a position; empty otherwise."""
    volumes: dict[object, list[Header]] = {}
    for header in members:
        volumes.setdefault(key(header), []).append(header)
    if len(volumes) != count or "" in volumes or None in volumes:
        return []
    without_repeats = all(len(images) == 1 for volume in volumes.values() for images in group_by_position(volume))
    return list(volumes.values()) if without_repeats else []


def _ordered(volumes: list[list[Header]], name: str) -> tuple[tuple[Header, ...], ...]:
    """Volumes in order of the attribute `name`, if it has an order; else as they were taken."""
    if name and name != "DiffusionGradientOrientation":
        return tuple(map(tuple, sorted(volumes, key=lambda volume: _sortable(_value(volume[0], name)))))
    return tuple(map(tuple, sorted(volumes, key=_first_taken)))


def _first_taken(volume: list[Header]) -> tuple[object, ...]:
    """Sorts volumes: times, InstanceNumber, dimensions and file of the image that was taken first."""
    return min(
        (
            *(_sortable(_value(header, name)) for name in ORDERING),
            header.instance or 0,
            _sortable("\\".join(_dimension_index(header))),
            header.source,
        )
        for header in volume
    )


def _value(header: Header, name: str) -> str:
    """Value of one of `MOMENTS`, empty where the header has none."""
    return header.moment[MOMENTS.index(name)]


def _dimension_index(header: Header) -> tuple[str, ...]:
    """DimensionIndexValues of a frame of an enhanced image: where it lies along each dimension, from 1."""
    index = _value(header, "DimensionIndexValues")
    return tuple(index.split("\\")) if index else ()


def _sortable(value: str) -> tuple[tuple[float, str], ...]:
    """Sorts values as headers write them: numbers by size, in lists (split by backslashes) too, text by spelling."""
    parts = []
    for part in value.split("\\"):
        try:
            parts.append((float(part), ""))
        except ValueError:
            parts.append((float("inf"), part))
    return tuple(parts)
