"""Pixels that fill the image around what was measured: PixelPaddingValue and PixelPaddingRangeLimit."""

from __future__ import annotations

from typing import Any

from medldm.data.volume import Volume, Voxels
from medldm.io.dicom.header.values import careful, number
from medldm.io.dicom.pixels.image import Files

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


def without_padding(values: Voxels, header: Any) -> Voxels:
    """The values that were measured; padding tells nothing about what an image shows.

    Parameters
    ----------
    values : of an image or of several, in its unit
    header : of the image, flat

    Returns
    -------
    (N,) values; all of them where there is no padding
    """
    ends = padding_range(header)
    if ends is None:
        return values.reshape(-1)
    slope, intercept = number(header, "RescaleSlope") or 1.0, number(header, "RescaleIntercept") or 0.0
    low, high = sorted(end * slope + intercept for end in ends)
    near = abs(slope) / 2  # float32 rounds
    return values[(values < low - near) | (values > high + near)]


def measured(volume: Volume) -> Voxels:
    """The voxels of a series that are no padding, by the header of its first image.

    Parameters
    ----------
    volume : from `read_series`

    Returns
    -------
    (N,) values

    Raises
    ------
    InputError
        The file is gone.
    """
    first = next(image for image in volume.stored.header if image is not None)
    return without_padding(volume.voxels, Files(pixels=False).frame(first)[1])


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
