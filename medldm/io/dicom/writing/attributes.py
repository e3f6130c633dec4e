"""Attributes that are copied from a source: text as the bytes that it has, and nothing private."""

from __future__ import annotations

from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.filewriter import correct_ambiguous_vr

from medldm.io.dicom.header.values import UNREADABLE

TEXT = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
OVERLAY_GROUPS = (0x5000, 0x6000)  # curves and overlays, in repeating groups


def keep_encoded(dataset: Any) -> None:
    """Make a header ready for explicit little endian: text byte for byte, no private elements, overlays or curves.

    Text is not decoded, at any depth. A name whose bytes do not fit the character set that its file declares would come
    out as another name.

    Parameters
    ----------
    dataset : changed in place
    """
    _keep_elements(dataset)
    correct_ambiguous_vr(dataset, True)


def _keep_elements(dataset: Any) -> None:
    for tag in list(dataset.keys()):
        if tag.is_private or tag.group & 0xFF00 in OVERLAY_GROUPS:
            del dataset[tag]
            continue
        try:
            _keep_element(dataset, tag)
        except UNREADABLE:  # numbers cut short, say, that no reader could use
            del dataset[tag]
    # pydicom writes text undecoded only where it believes that nothing changes.
    dataset.set_original_encoding(False, True, dataset._character_set)


def _keep_element(dataset: Any, tag: Any) -> None:
    element = dataset.get_item(tag)
    vr = element.VR
    if vr in (None, "UN") and dictionary_has_tag(tag):
        vr = dictionary_VR(tag)
    if vr == "SQ":
        for item in dataset[tag].value or ():
            _keep_elements(item)
    elif isinstance(element, RawDataElement) and vr in TEXT and element.value is not None:
        value = element.value + (b"\0" if vr == "UI" else b" ") * (len(element.value) % 2)
        dataset[tag] = element._replace(
            VR=vr, length=len(value), value=value, is_implicit_VR=False, is_little_endian=True
        )
    elif isinstance(element, RawDataElement):
        dataset[tag]  # numbers are decoded, from the byte order that they were stored in
