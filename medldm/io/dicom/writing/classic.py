"""A frame of an enhanced image as the header of a classic single-frame image, which every PACS takes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

from pydicom.dataset import Dataset
from pydicom.uid import UID, MRImageStorage
from pydicom.valuerep import DSfloat

from medldm.io.dicom.header.frames import Frame, is_enhanced
from medldm.io.dicom.pixels.image import Files
from medldm.modality import modality_of

# What only enhanced images say; classic ones have no place for it.
ENHANCED_ONLY = (
    "DimensionOrganizationSequence", "DimensionIndexSequence", "DimensionOrganizationType",
    "AcquisitionContextSequence",
    "DimensionIndexValues", "StackID", "InStackPositionNumber", "FrameAcquisitionDateTime", "FrameReferenceDateTime",
    "FrameAcquisitionDuration", "FrameComments", "FrameLabel", "PixelPresentation", "VolumetricProperties",
    "VolumeBasedCalculationTechnique", "ComplexImageComponent", "AcquisitionContrast", "ContentQualification",
    "ResonantNucleus", "KSpaceFiltering", "ApplicableSafetyStandardAgency", "ApplicableSafetyStandardDescription",
    "RescaleType", "TemporalPositionIdentifier", "BurnedInAnnotation", "RecognizableVisualFeatures", "LUTExplanation",
)  # fmt: skip
EMPTY = ("StudyID", "PositionReferenceIndicator", "ReferringPhysicianName", "AccessionNumber")
SEQUENCES = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}


class Source(NamedTuple):
    """An image that a result comes from.

    Parameters
    ----------
    image : where it is
    header : in classic terms
    enhanced : whether it is one frame of an enhanced image
    """

    image: Frame
    header: Any
    enhanced: bool


def source_of(image: Frame, files: Files) -> Source:
    """The header of an image, in classic terms.

    Parameters
    ----------
    image : which one
    files : where it is read from

    Raises
    ------
    InputError
    """
    dataset, frame = files.frame(image)
    return Source(image, classic(dataset, frame), is_enhanced(dataset))


def classic(dataset: Any, frame: Any) -> Any:
    """The header of one image in classic terms; a classic image is left as it is.

    Parameters
    ----------
    dataset : the file's data set
    frame : the image's own header, flat; `dataset` itself for a classic image
    """
    if not is_enhanced(dataset):
        return dataset
    header = deepcopy(frame)
    # Its file meta information still names the enhanced image, which is what a derived slice cites.
    header.file_meta = dataset.file_meta
    if not header.file_meta.get("MediaStorageSOPClassUID"):
        header.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    kind = modality_of(str(dataset.get("Modality", "")))
    header.SOPClassUID = UID(kind.sop_class)
    if header.SOPClassUID == MRImageStorage:
        _set_mr_attributes(dataset, header)
    for name in kind.dicom_empty:
        if name not in header:
            setattr(header, name, None)
    for name in ENHANCED_ONLY:
        if name in header:
            del header[name]
    # A side is asked for unless the body part is known to have none; enhanced images keep it in a group.
    for name in EMPTY if header.get("BodyPartExamined") else (*EMPTY, "Laterality"):
        if name not in header:
            setattr(header, name, "")
    return header


def _set_mr_attributes(dataset: Any, header: Dataset) -> None:
    """What the MR Image module requires, from the attributes of enhanced images."""
    echo, inverted, planar = (
        str(frame_or_all.get(name, "") or "")
        for frame_or_all, name in (
            (dataset, "EchoPulseSequence"),
            (header, "InversionRecovery"),
            (dataset, "EchoPlanarPulseSequence"),
        )
    )
    header.ScanningSequence = [
        *SEQUENCES.get(echo, ["RM"]),
        *(["IR"] if inverted == "YES" else []),
        *(["EP"] if planar == "YES" else []),
    ]
    header.SequenceVariant, header.ScanOptions = "NONE", ""
    for name in ("EchoTime", "RepetitionTime", "EchoTrainLength", "MRAcquisitionType"):
        if name not in header:
            setattr(header, name, None)
    if header.MRAcquisitionType not in ("2D", "3D"):
        header.MRAcquisitionType = None
    # Enhanced images spell it out.
    if str(header.get("InPlanePhaseEncodingDirection", "")) == "COLUMN":
        header.InPlanePhaseEncodingDirection = "COL"
    elif str(header.get("InPlanePhaseEncodingDirection", "ROW")) not in ("ROW", "COL"):
        del header.InPlanePhaseEncodingDirection
    if inverted != "YES" and "InversionTime" in header:
        del header.InversionTime
    for name in ("EchoTime", "InversionTime", "TriggerTime"):
        # Enhanced images keep them in binary, with more digits than a decimal string holds.
        if isinstance(value := header.get(name), float):
            setattr(header, name, DSfloat(value, auto_format=True))
    image_type = [str(word) for word in header.get("ImageType") or ("ORIGINAL", "PRIMARY")]
    header.ImageType = [*image_type[:2], "OTHER"]
