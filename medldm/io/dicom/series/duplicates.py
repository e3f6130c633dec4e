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

MOST_COMPARED = 8  # images of a position whose values are looked at; they stand for all
MOST_NAMED = 5  # attributes in one sentence; the rest is counted
NOT_MEASURED = ("ContentTime", "DimensionIndexValues")  # not about the measurement: an export may write new ones


@no_values_on_screen()
def same_pixels(by_position: Sequence[Sequence[Header]]) -> bool:
    """Whether all images at each position show the same values; pixels are read only until two differ.

    Parameters
    ----------
    by_position : for each position the images there
    """
    middle = len(by_position) // 2
    # From the middle outwards, to find a difference early: the outermost slices may be empty in every volume.
    middle_first = sorted(range(len(by_position)), key=lambda number: abs(number - middle))
    files = Files()
    return all(_same_digest(by_position[number], files) for number in middle_first)


def same_time(by_position: Sequence[Sequence[Header]]) -> bool:
    """Whether all images at each position were measured at one time, by their headers.

    Parameters
    ----------
    by_position : for each position the images there
    """
    return all(len({_measured_when(header) for header in images}) == 1 for images in by_position)


@no_values_on_screen()
def differing_attributes(images: Sequence[Header]) -> str:
    """What differs between the images of one position, for a sentence: their pixels or values, and attributes.

    Parameters
    ----------
    images : at one position
    """
    attributes = [_attributes(header) for header in images]
    names = [name for name in attributes[0] if len({values.get(name) for values in attributes}) > 1]
    ranges = sorted({_range(header) for header in images})  # "" where pixels cannot be read
    pixels = "their pixels"
    if "" in ranges:
        pixels = "their pixels, of which some cannot be read"
    elif len(ranges) > 1:
        pixels = f"their values ({', '.join(ranges[:MOST_NAMED])})"
    more = f" and {len(names) - MOST_NAMED} more attributes" if len(names) > MOST_NAMED else ""
    return ", ".join([pixels, *names[:MOST_NAMED]]) + more


@no_values_on_screen()
def one_quantity(images: Sequence[Header]) -> bool:
    """Whether images of one position may be volumes of one 4D series, by their values.

    They are not where some are never negative, as a magnitude is, and others are, as a phase or a field map is.

    Parameters
    ----------
    images : at one position
    """
    files = Files()
    compared = sorted({*np.linspace(0, len(images) - 1, MOST_COMPARED).astype(int)})
    signs = set()
    for header in (images[number] for number in compared):
        try:
            pixels = without_padding(_values(header, files), files.frame(header.source)[1])
        except InputError:
            continue
        if not pixels.size:
            continue
        low, high = (float(end) for end in np.percentile(pixels, (1, 99)))
        signs.add(far_below(low, high))  # whether they reach far below zero
    return len(signs) < 2


def _same_digest(images: Sequence[Header], files: Files) -> bool:
    """Whether all images have the same values; not where some cannot be read."""
    if len(images) == 1:
        return True
    first = _digest(images[0], files)
    return bool(first) and all(_digest(header, files) == first for header in images[1:])


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
    """(rows, columns) in the unit of the image; stored values where `read_slice` refuses their lookup table."""
    try:
        return read_slice(header.source, (header.rows, header.columns), files)
    except InputError:
        dataset, _ = files.frame(header.source)
        return decode(dataset, header.source.path, header.source.number)


def _range(header: Header) -> str:
    """Lowest and highest value, as text; empty where they cannot be read."""
    try:
        pixels = _values(header, Files())
    except InputError:
        return ""
    return f"{float(pixels.min()):g} to {float(pixels.max()):g}"


def _measured_when(header: Header) -> tuple[str, ...]:
    """What the header says about when and along which gradient the image was measured."""
    return tuple(value for name, value in zip(MOMENTS, header.moment, strict=True) if name not in NOT_MEASURED)


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
