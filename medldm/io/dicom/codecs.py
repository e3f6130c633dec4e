"""Which codec decodes which transfer syntax, and what it must be told first: GDCM ends the process on some files."""

from __future__ import annotations

import struct
from typing import Any

from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

# GDCM stays for what nothing else decodes: where a stream is smaller than the header says, it throws through Python.
FIRST = {
    **dict.fromkeys(map(str, JPEGLSTransferSyntaxes), "pyjpegls"),
    **dict.fromkeys(map(str, JPEG2000TransferSyntaxes), "pylibjpeg"),
}
# Start of frame, ITU-T T.81 table B.1, and T.87 for JPEG-LS (F7); C4, C8 and CC mean other things.
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def plugin_for(syntax: str) -> str:
    """Name that pydicom has for the codec to prefer; empty to leave the choice to pydicom.

    Parameters
    ----------
    syntax : transfer syntax UID
    """
    wanted = FIRST.get(str(syntax), "")
    return wanted if wanted and wanted in get_decoder(syntax).available_plugins else ""


def check_stream(dataset: Any, number: int | None) -> None:
    """Refuse a JPEG or JPEG-LS image of another size, or of fewer bytes a pixel, than its header says.

    Parameters
    ----------
    dataset : with pixels
    number : of the frame, counted from 0; None for the only one

    Raises
    ------
    ValueError
        In words.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in JPEGTransferSyntaxes and syntax not in JPEGLSTransferSyntaxes:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    frame = get_frame(dataset.PixelData, number or 0, number_of_frames=count)
    (bits, *found), said = _start(frame), [int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)]
    if found != said:
        raise ValueError(f"its pixels are {found[1]} x {found[0]} x {found[2]}, its header says {said[1]} x {said[0]}.")
    if bits <= 8 < int(dataset.BitsAllocated) and syntax in JPEGTransferSyntaxes:
        raise ValueError(f"its pixels have {bits} bits, its header says {dataset.BitsAllocated}.")


def _start(frame: bytes) -> tuple[int, int, int, int]:
    """Bits, rows, columns and components of a JPEG or JPEG-LS stream, by its start of frame.

    Raises
    ------
    ValueError
    """
    at = 2  # behind the start of the image
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == 0xFF:  # padding
            at += 1
            continue
        length, bits, rows, columns, components = struct.unpack(">HBHHB", frame[at + 2 : at + 10])
        if frame[at + 1] in START_OF_FRAME:
            return bits, rows, columns, components
        at += 2 + length
    raise ValueError("its pixels do not start as JPEG does.")
