"""Pixels that are no measurement, but fill the image around it: PixelPaddingValue and PixelPaddingRangeLimit."""

from __future__ import annotations

from typing import Any

from medldm.io.dicom.classic import Source
from medldm.io.dicom.slices import Files, decode
from medldm.io.dicom.values import careful
from medldm.volume import Voxels

ATTRIBUTES = ("PixelPaddingValue", "PixelPaddingRangeLimit")


def padding_range(header: Any) -> tuple[int, int] | None:
    """Lowest and highest stored value that is padding, None where there is none.

    Parameters
    ----------
    header : of an image
    """
    value = _stored(header, "PixelPaddingValue")
    if value is None:
        return None
    limit = _stored(header, "PixelPaddingRangeLimit")
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def keep_padding(stored: Voxels, source: Source, files: Files, *, put_back: bool = True) -> bool:
    """Put the padding of a source back into a slice that lies where it lies; in place.

    Parameters
    ----------
    stored : (rows, columns) stored values of the slice
    source : the image that it comes from
    files : where its pixels are read from
    put_back : False only asks

    Returns
    -------
    whether the slice holds padding now, so that its attributes go on being true
    """
    ends = padding_range(source.header)
    dataset, _ = files.frame(source.image)
    if ends is None or (int(dataset.Rows), int(dataset.Columns)) != stored.shape:
        return False
    before = decode(dataset, source.image.path, source.image.number)
    padded = (before >= ends[0]) & (before <= ends[1])
    if put_back:
        stored[padded] = before[padded]
    return bool((stored[padded] == before[padded]).any())


def _stored(header: Any, name: str) -> int | None:
    """A stored value; for signed pixels some files hold it as if they were not."""

    def get() -> int | None:
        value = header[name].value if name in header else None
        if value is None:
            return None
        if isinstance(value, bytes):
            value = int.from_bytes(value[:2], "little")
        signed, bits = int(header.PixelRepresentation) == 1, int(header.BitsAllocated)
        return int(value) - 2**bits if signed and int(value) >= 2 ** (bits - 1) else int(value)

    return careful(get, None)
