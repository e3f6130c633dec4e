"""Whether images that repeat positions are copies: a series that was exported twice, under new UIDs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from medldm.io.dicom.header import MOMENTS, UNREADABLE, Header, no_values_on_screen, read_dataset

# What makes stored bytes a picture; equal bytes under another slope are another image.
PICTURE = (
    "PixelData", "RescaleSlope", "RescaleIntercept", "BitsAllocated", "BitsStored", "PixelRepresentation",
    "PhotometricInterpretation",
)  # fmt: skip


@no_values_on_screen()
def are_copies(places: Sequence[Sequence[Header]]) -> bool:
    """Whether all images at a position are one picture of one moment, at every position.

    Times of a 4D series never are. Pixels are read last, and only where everything else agrees.

    Parameters
    ----------
    places : images by position
    """
    if any(header.source.number for place in places for header in place):
        return False  # frames of one file
    if any(len({_acquired(header) for header in place}) > 1 for place in places):
        return False
    middle = len(places) // 2  # the outermost slices may be empty in every volume
    inside_first = sorted(range(len(places)), key=lambda number: abs(number - middle))
    return all(len({_picture(header) for header in places[number]}) == 1 for number in inside_first)


def _acquired(header: Header) -> tuple[str, ...]:
    """When an image was measured; an export may write a new ContentTime."""
    return tuple(said for name, said in zip(MOMENTS, header.moment, strict=True) if name != "ContentTime")


def _picture(header: Header) -> str:
    """What tells one picture from another; what cannot be read is like nothing else."""
    try:
        dataset = read_dataset(header.source.path, specific_tags=list(PICTURE))
        words = [str(dataset.get(name)) for name in PICTURE[1:]]
        return hashlib.sha256(dataset.PixelData + "\n".join(words).encode()).hexdigest()
    except UNREADABLE:
        return header.image_uid
