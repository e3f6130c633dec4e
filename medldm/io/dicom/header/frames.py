"""Enhanced multi-frame images: every frame as if it were a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.dataset import Dataset

PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
# Groups whose attributes mean, for one frame, what they mean in a classic image. Others reuse the same names for
# something else (the thickness of a saturation slab, the UID of a referenced image) and stay where they are.
GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "FrameContentSequence",
    "PixelValueTransformationSequence", "FrameVOILUTSequence", "CardiacSynchronizationSequence",
    "TemporalPositionSequence", "MRImageFrameTypeSequence", "MREchoSequence", "MRTimingAndRelatedParametersSequence",
    "MRModifierSequence", "MRImagingModifierSequence", "MRReceiveCoilSequence", "MRAveragesSequence",
    "MRFOVGeometrySequence", "MRDiffusionSequence", "DiffusionGradientDirectionSequence", "CTImageFrameTypeSequence",
    "CTReconstructionSequence", "CTAcquisitionTypeSequence", "CTAcquisitionDetailsSequence", "CTXRayDetailsSequence",
    "CTGeometrySequence",
)  # fmt: skip
RENAMED = {
    "FrameType": "ImageType",
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
}
ABOUT_ALL = (PER_FRAME, SHARED, "NumberOfFrames", "PixelData")
MAPPING = "RealWorldValueMappingSequence"  # classic images have it under the same name, as a sequence


class Frame(NamedTuple):
    """One image: a file, or one frame of a file.

    Parameters
    ----------
    path : the file
    number : of the frame, counted from 0
    """

    path: Path
    number: int = 0


def is_enhanced(dataset: Any) -> bool:
    """Whether a data set keeps what classic images say in functional groups, one for each frame."""
    return PER_FRAME in dataset


def flat_frames(dataset: Any) -> Iterator[Dataset]:
    """Every frame as a flat data set, in stored order; the frame's own word counts before the shared one.

    Parameters
    ----------
    dataset : enhanced image
    """
    common = _common(dataset)
    for item in dataset[PER_FRAME].value:
        yield _with_groups(common, item)


def flat_frame(dataset: Any, number: int) -> Any:
    """One frame as a flat data set; a classic image is flat already.

    Parameters
    ----------
    dataset : classic or enhanced
    number : of the frame, counted from 0
    """
    return _with_groups(_common(dataset), dataset[PER_FRAME].value[number]) if is_enhanced(dataset) else dataset


def _common(dataset: Any) -> Dataset:
    common = Dataset()
    common.update({tag: dataset.get_item(tag) for tag in dataset.keys()})  # noqa: SIM118
    for name in ABOUT_ALL:
        if name in common:
            del common[name]
    if len(dataset[PER_FRAME].value or ()) > 1 and "ImagePositionPatient" in common:
        del common["ImagePositionPatient"]  # where each of several frames lies, only its own group can say
    shared = dataset.get(SHARED)
    return _with_groups(common, shared[0]) if shared else common


def _with_groups(common: Dataset, item: Dataset) -> Dataset:
    flat = Dataset()
    flat.update(common)
    _pour(item, flat)
    return flat


def _pour(item: Dataset, flat: Dataset) -> None:
    """Elements of the groups in an item, under the names that classic images give them."""
    if item.get(MAPPING):
        flat[MAPPING] = item[MAPPING]
    for name in GROUPS:
        group = item.get(name)
        if not group:
            continue
        for element in group[0]:
            if element.keyword in RENAMED:
                setattr(flat, RENAMED[element.keyword], element.value)
            elif element.VR != "SQ":
                flat[element.tag] = element
        _pour(group[0], flat)  # diffusion directions lie one level deeper
