"""Which codec decodes which transfer syntax, and the checks before it runs: GDCM ends the process on some files."""

from __future__ import annotations

import struct
from typing import Any

from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGExtended12Bit, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

from medldm.io.dicom.pixels import jpeg_12bit

# GDCM stays for what nothing else decodes: where a stream is smaller than the header says, it throws through Python.
FIRST = {
    **dict.fromkeys(map(str, JPEGLSTransferSyntaxes), "pyjpegls"),
    **dict.fromkeys(map(str, JPEG2000TransferSyntaxes), "pylibjpeg"),
}
J2K, JPEG = set(JPEG2000TransferSyntaxes), {*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes}
# Start of frame, ITU-T T.81 table B.1, and T.87 for JPEG-LS (F7); C4, C8 and CC mean other things.
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


class Undecoded(ValueError):
    """Why pixels could not be had, in a sentence of ours that a user may read."""


def plugins_for(syntax: str) -> list[str]:
    """Names that pydicom has for the codecs that are installed, the one to prefer first.

    Parameters
    ----------
    syntax : transfer syntax UID
    """
    plugins = list(get_decoder(syntax).available_plugins)
    if str(syntax) == JPEGExtended12Bit and "gdcm" in plugins:
        plugins.append(jpeg_12bit.NAME)
    return sorted(plugins, key=lambda name: name != FIRST.get(str(syntax)))


def frame_of(dataset: Any, number: int | None) -> bytes:
    """Packed pixels of one image.

    Parameters
    ----------
    dataset : with encapsulated pixels
    number : of the frame, counted from 0; None for the only one
    """
    offsets = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    frame: bytes = get_frame(
        dataset.PixelData,
        number or 0,
        number_of_frames=int(dataset.get("NumberOfFrames") or 1),
        extended_offsets=offsets if all(offsets) else None,
    )
    return frame


def check_stream(dataset: Any, frame: bytes) -> None:
    """Refuse packed pixels of another size, or of more or fewer bytes each, than their header says.

    Parameters
    ----------
    dataset : header
    frame : packed pixels

    Raises
    ------
    ValueError
        In words.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    start = _start_2000 if syntax in J2K else _start if syntax in JPEG else None
    if start is None:
        return
    bits, *size = start(frame)
    expected = [int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)]
    if size != expected:
        raise Undecoded(
            f"its pixels are {size[1]} x {size[0]} x {size[2]}, its header says {expected[1]} x {expected[0]}."
        )
    allocated = int(dataset.BitsAllocated)
    few = bits <= 8 < allocated and syntax in JPEGTransferSyntaxes  # GDCM reads beyond them
    if bits > allocated or few:
        raise Undecoded(f"its pixels have {bits} bits, its header says {allocated}.")


def _start_2000(frame: bytes) -> tuple[int, int, int, int]:
    """Bits, rows, columns and components of a JPEG 2000 stream, by its marker of sizes (ITU-T T.800 A.5.1).

    Raises
    ------
    ValueError
    """
    at = frame.find(b"\xff\x4f\xff\x51")  # some have the boxes of a file around them
    if at < 0 or len(frame) < at + 43:
        raise Undecoded("its pixels do not start as JPEG 2000 does.")
    right, bottom, left, top = struct.unpack(">4I", frame[at + 8 : at + 24])
    (components,) = struct.unpack(">H", frame[at + 40 : at + 42])
    return (frame[at + 42] & 0x7F) + 1, bottom - top, right - left, components


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
    raise Undecoded("its pixels do not start as JPEG does.")


def codec_message(problem: Exception) -> str:
    """What pydicom and its codecs said, in one line, for those who ask for details.

    Parameters
    ----------
    problem : what was raised
    """
    return "; ".join(line.strip() for line in str(problem).splitlines() if line.strip())[:300] or type(problem).__name__
