"""Whether images that repeat positions are copies, pixel by pixel, and what differs between them where they are not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from medldm.data.volume import Voxels
from medldm.errors import InputError
from medldm.io.dicom.header.content import far_below
from medldm.io.dicom.header.files import no_values_on_screen
from medldm.io.dicom.header.parse import MOMENTS, Header
from medldm.io.dicom.pixels.image import Files, decode, read_slice
from medldm.io.dicom.pixels.padding import without_padding

FEW = 8  # images of a position that stand for all
NAMED = 5  # attributes in one sentence; the rest is counted
NOT_COMPARED = ("ContentTime", "DimensionIndexValues")  # an export may write a new one


@no_values_on_screen()
def same_pixels(places: Sequence[Sequence[Header]]) -> bool:
    """Whether all images at each position show the same values; pixels are read only until two differ.

    Parameters
    ----------
    places : images by position
    """
    middle = len(places) // 2  # the outermost slices may be empty in every volume
    inside_first = sorted(range(len(places)), key=lambda number: abs(number - middle))
    files = Files()
    return all(_same_digest(places[number], files) for number in inside_first)


def same_time(places: Sequence[Sequence[Header]]) -> bool:
    """Whether all images at each position were measured at one time, by their headers.

    Parameters
    ----------
    places : images by position
    """
    return all(len({_acquired(header) for header in place}) == 1 for place in places)


@no_values_on_screen()
def differing_attributes(place: Sequence[Header]) -> str:
    """What differs between the images of one position, for a sentence: their pixels or values, and attributes.

    Parameters
    ----------
    place : images at one position
    """
    attributes = [_attributes(header) for header in place]
    names = [name for name in attributes[0] if len({values.get(name) for values in attributes}) > 1]
    ranges = sorted({_range(header) for header in place})  # "" where pixels cannot be read
    pixels = "their pixels"
    if "" in ranges:
        pixels = "their pixels, of which some cannot be read"
    elif len(ranges) > 1:
        pixels = f"their values ({', '.join(ranges[:NAMED])})"
    more = f" and {len(names) - NAMED} more attributes" if len(names) > NAMED else ""
    return ", ".join([pixels, *names[:NAMED]]) + more


@no_values_on_screen()
def one_quantity(place: Sequence[Header]) -> bool:
    """Whether images of one position may be times of one thing: a magnitude and a map of both signs never are.

    Parameters
    ----------
    place : images at one position
    """
    files, some = Files(), [place[number] for number in sorted({*np.linspace(0, len(place) - 1, FEW).astype(int)})]
    signs = set()
    for header in some:
        try:
            pixels = without_padding(_values(header, files), files.frame(header.source)[1])
        except InputError:
            continue
        if not pixels.size:
            continue
        low, high = (float(end) for end in np.percentile(pixels, (1, 99)))
        signs.add(far_below(low, high))
    return len(signs) < 2


def _same_digest(place: Sequence[Header], files: Files) -> bool:
    if len(place) == 1:
        return True
    first = _digest(place[0], files)
    return bool(first) and all(_digest(header, files) == first for header in place[1:])


def _digest(header: Header, files: Files) -> str:
    """A hash of the values, however they are compressed; empty where they cannot be read."""
    try:
        pixels = _values(header, files)
    except InputError:
        return ""
    return hashlib.sha256(
        np.ascontiguousarray(pixels).tobytes() + str((pixels.dtype, pixels.shape)).encode()
    ).hexdigest()


def _values(header: Header, files: Files) -> Voxels:
    """Values in the unit of the image; the stored ones where a table takes the place of a slope."""
    try:
        return read_slice(header.source, (header.rows, header.columns), files)
    except InputError:
        dataset, _ = files.frame(header.source)
        return decode(dataset, header.source.path, header.source.number)


def _range(header: Header) -> str:
    try:
        pixels = _values(header, Files())
    except InputError:
        return ""
    return f"{float(pixels.min()):g} to {float(pixels.max()):g}"


def _acquired(header: Header) -> tuple[str, ...]:
    return tuple(value for name, value in zip(MOMENTS, header.moment, strict=True) if name not in NOT_COMPARED)


def _attributes(header: Header) -> dict[str, object]:
    """Values that may differ between images of a position; no names, dates or identifiers of people."""
    return {
        **header.kinds,
        **header.contrasts,
        **header.distinguishing,
        **dict(zip(MOMENTS, header.moment, strict=True)),
        "InstanceNumber": header.instance,
        "SliceThickness": header.thickness_mm,
    }
