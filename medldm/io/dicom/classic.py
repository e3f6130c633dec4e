"""A frame of an enhanced image as the header of a classic single-frame image, which every PACS takes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage

from medldm.io.dicom.frames import is_enhanced

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
SEQUENCES = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}


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
    header.SOPClassUID = CTImageStorage if str(dataset.get("Modality", "")) == "CT" else MRImageStorage
    if header.SOPClassUID == MRImageStorage:
        _mr_words(dataset, header)
    for name in ENHANCED_ONLY:
        if name in header:
            del header[name]
    for name in ("StudyID", "PositionReferenceIndicator", "ReferringPhysicianName", "AccessionNumber"):
        if name not in header:
            setattr(header, name, "")
    return header


def _mr_words(dataset: Any, header: Dataset) -> None:
    """What the MR Image module asks for, said with what enhanced images know."""
    echo = str(dataset.get("EchoPulseSequence", "") or "")
    planar = str(dataset.get("EchoPlanarPulseSequence", "NO")) == "YES"
    header.ScanningSequence = [*SEQUENCES.get(echo, ["RM"]), *(["EP"] if planar else [])]
    header.SequenceVariant = "NONE"
    header.ScanOptions = ""
    for name in ("EchoTime", "RepetitionTime", "EchoTrainLength", "MRAcquisitionType"):
        if name not in header:
            setattr(header, name, None)
    if header.MRAcquisitionType not in ("2D", "3D"):
        header.MRAcquisitionType = None
    words = [str(word) for word in header.get("ImageType") or ("ORIGINAL", "PRIMARY")]
    header.ImageType = [*words[:2], "OTHER"]
