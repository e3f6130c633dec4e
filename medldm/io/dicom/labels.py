"""What tells several results of one SeriesInstanceUID apart, in a few words for their descriptions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from medldm.io.dicom.grouping import Group

if TYPE_CHECKING:
    from medldm.io.dicom.series import Series

LONGEST = 22  # characters; SeriesDescription has 64 for all
NUMBERS = {"EchoTime": "TE", "DiffusionBValue": "b", "InversionTime": "TI", "RepetitionTime": "TR", "FlipAngle": "flip"}
WORDS = {
    "EchoNumbers": "echo", "ComplexImageComponent": "", "ReceiveCoilName": "coil", "ConvolutionKernel": "kernel",
    "StackID": "stack", "RescaleType": "", "units": "", "range of values": "", "AcquisitionContrast": "",
    "SeriesDescription": "", "ProtocolName": "", "ScanningSequence": "",
}  # fmt: skip


def told_apart(found: list[tuple[Group, Series]]) -> list[Series]:
    """Series of which those that share a SeriesInstanceUID and may have results are labelled and counted.

    Parameters
    ----------
    found : images with their verdict, in final order
    """
    sharing: dict[str, list[int]] = defaultdict(list)
    for number, (_, series) in enumerate(found):
        if series.verdict != "not a volume" or series.volumes:
            sharing[series.uid].append(number)
    labelled = [series for _, series in found]
    for numbers in sharing.values():
        part = 0
        labels = _labels([found[number][0] for number in numbers]) if len(numbers) > 1 else [""]
        for number, label in zip(numbers, labels, strict=True):
            labelled[number] = replace(labelled[number], apart=label, part=part)
            part += max(1, len(labelled[number].volumes))
    return labelled


def _labels(groups: list[Group]) -> list[str]:
    """A label for each; those that no word tells apart are numbered."""
    common = set.intersection(*(set(each.first.image_type) for each in groups))
    differing = _differing(groups)
    words = [[_word(name, each, common) for name in differing] for each in groups]
    labels = [" ".join(filter(None, each))[:LONGEST].strip() for each in words]
    if len(set(labels)) < len(labels) or "" in labels:
        labels = [f"{label[: LONGEST - 8]} part {number}".strip() for number, label in enumerate(labels, 1)]
    return labels


def _differing(groups: list[Group]) -> list[str]:
    """Names of what differs, the most telling first."""
    names = [*NUMBERS, *WORDS, "ImageType"]
    return [name for name in names if len({_word(name, each) for each in groups}) > 1]


def _word(name: str, each: Group, common: Collection[str] = ()) -> str:
    first = each.first
    if name in NUMBERS:
        value = first.contrasts.get(name)
        return "" if value is None else f"{NUMBERS[name]} {value:g}"
    if name == "ImageType":
        return " ".join(word for word in first.image_type if word not in common)
    said = str(first.kinds.get(name) or first.telling.get(name) or (first.coil if name == "ReceiveCoilName" else ""))
    return f"{WORDS[name]} {said}".strip() if said else ""
