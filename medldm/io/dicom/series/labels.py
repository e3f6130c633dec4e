"""Short labels that distinguish several series of one SeriesInstanceUID, for the descriptions of their results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from medldm.io.dicom.series.grouping import Group

if TYPE_CHECKING:
    from medldm.io.dicom.series.stack import Series

LONGEST = 22  # characters of a label; SeriesDescription holds at most 64, and says more than the label
SYMBOLS = {"EchoTime": "TE", "DiffusionBValue": "b", "InversionTime": "TI", "RepetitionTime": "TR", "FlipAngle": "flip"}
# What stands before the value of other attributes; empty where the value says enough.
PREFIXES = {
    "EchoNumbers": "echo", "ComplexImageComponent": "", "ReceiveCoilName": "coil", "ConvolutionKernel": "kernel",
    "StackID": "stack", "RescaleType": "", "units": "", "range of values": "", "AcquisitionContrast": "",
    "SeriesDescription": "", "ProtocolName": "", "ScanningSequence": "",
}  # fmt: skip


def with_labels(pairs: list[tuple[Group, Series]]) -> list[Series]:
    """The series, with `label` and `part` set: they tell those of the same SeriesInstanceUID apart.

    Parameters
    ----------
    pairs : images with their series, in final order
    """
    sharing: dict[str, list[int]] = defaultdict(list)
    for number, (_, series) in enumerate(pairs):
        # Only those that can be restored, whole or a volume of them, have results to tell apart.
        if series.verdict != "not a volume" or series.volumes:
            sharing[series.uid].append(number)
    labelled = [series for _, series in pairs]
    for numbers in sharing.values():
        part = 0
        labels = _labels([pairs[number][0] for number in numbers]) if len(numbers) > 1 else [""]
        for number, label in zip(numbers, labels, strict=True):
            labelled[number] = replace(labelled[number], label=label, part=part)
            part += max(1, len(labelled[number].volumes))
    return labelled


def _labels(groups: list[Group]) -> list[str]:
    """A label for each group; those that no attribute distinguishes are numbered."""
    common = set.intersection(*(set(group.first.image_type) for group in groups))
    differing = _differing(groups)
    texts = [[_text(name, group, common) for name in differing] for group in groups]
    labels = [" ".join(filter(None, parts))[:LONGEST].strip() for parts in texts]
    if len(set(labels)) < len(labels) or "" in labels:
        room = len(" part 99")
        labels = [f"{label[: LONGEST - room]} part {number}".strip() for number, label in enumerate(labels, 1)]
    return labels


def _differing(groups: list[Group]) -> list[str]:
    """Names of the attributes that differ, the most informative first."""
    names = [*SYMBOLS, *PREFIXES, "ImageType"]
    return [name for name in names if len({_text(name, group) for group in groups}) > 1]


def _text(name: str, group: Group, common: Collection[str] = ()) -> str:
    """An attribute of a group as a label says it, ``"TE 80"``; of ImageType without the words in `common`."""
    first = group.first
    if name in SYMBOLS:
        value = first.contrasts.get(name)
        return "" if value is None else f"{SYMBOLS[name]} {value:g}"
    if name == "ImageType":
        return " ".join(word for word in first.image_type if word not in common)
    coil = first.coil if name == "ReceiveCoilName" else ""
    text = str(first.kinds.get(name) or first.distinguishing.get(name) or coil)
    return f"{PREFIXES[name]} {text}".strip() if text else ""
