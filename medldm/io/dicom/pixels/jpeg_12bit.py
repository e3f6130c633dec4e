"""JPEG Extended with 12 bits a sample by GDCM: pydicom's own way to GDCM refuses it, GDCM itself decodes it.

A decoder plugin of pydicom (see its `Decoder.add_plugin`), registered only in the process that unpacks.
"""

from __future__ import annotations

from typing import Any

from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit

NAME = "gdcm, 12 bits"
DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("gdcm>=3.0.10",)}


def register() -> None:
    """Let pydicom know of it."""
    get_decoder(JPEGExtended12Bit).add_plugin(NAME, (__name__, "decode_frame"))


def is_available(uid: str) -> bool:
    """Whether GDCM is installed; pydicom asks.

    Parameters
    ----------
    uid : transfer syntax
    """
    from pydicom.pixels.decoders import gdcm

    return uid == JPEGExtended12Bit and bool(gdcm.is_available(uid))


def decode_frame(frame: bytes, runner: Any) -> bytes:
    """One image, unpacked.

    Parameters
    ----------
    frame : packed pixels, one sample a pixel
    runner : pydicom's, which knows what the header says

    Returns
    -------
    words of ``runner.bits_allocated`` bits
    """
    import gdcm  # type: ignore[import-untyped]

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str.__str__(runner.transfer_syntax))))
    stored = runner.bits_stored
    image.SetPixelFormat(gdcm.PixelFormat(1, runner.bits_allocated, stored, stored - 1, runner.pixel_representation))
    # GDCM gives bytes as text.
    return bytes(image.GetBuffer().encode("utf-8", "surrogateescape"))
