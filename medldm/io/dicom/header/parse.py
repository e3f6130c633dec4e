"""The header of each image in a file, in plain values; what is malformed counts as absent."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medldm.io.dicom.header.content import QUANTITY_TAGS, distinguishing, foreign_quantity
from medldm.io.dicom.header.files import no_values_on_screen, read_dataset, reason_of
from medldm.io.dicom.header.frames import PER_FRAME, SHARED, Frame, flat_frames, is_enhanced
from medldm.io.dicom.header.values import UNREADABLE, careful, millimetres, number, numbers, whole, word

log = logging.getLogger(__name__)

MOSAIC_SIZES = (0x0019100A, 0x00651050)  # Siemens, United Imaging: number of slices in a mosaic
GE_PART = 0x0043102F  # GE: 0 magnitude, 1 phase, 2 real, 3 imaginary
OWN_B = {"GE": 0x00431039, "SIEMENS": 0x0019100C, "PHILIPS": 0x20011003}  # where each maker keeps the b-value
HEADER_TAGS: list[Any] = [
    "SpecificCharacterSet", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID",
    "SeriesNumber", "InstanceNumber", "Modality", "Manufacturer", "FrameOfReferenceUID",
    "PhotometricInterpretation", "ImageType", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "EchoTime", "EchoNumbers",
    "RepetitionTime", "InversionTime", "FlipAngle", "DiffusionBValue", "DiffusionGradientOrientation",
    "ConvolutionKernel", "ComplexImageComponent", "ReceiveCoilName", "TemporalPositionIdentifier", "TriggerTime",
    "AcquisitionNumber", "AcquisitionTime", "ContentTime", "ContributingEquipmentSequence",
    "DimensionIndexSequence", PER_FRAME, SHARED, *MOSAIC_SIZES, GE_PART, *OWN_B.values(),
    *QUANTITY_TAGS,
]  # fmt: skip
POSITION_POINTERS = (0x00209057, 0x00200032)  # InStackPositionNumber, ImagePositionPatient
CONTRASTS = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")
MOMENTS = (
    "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "AcquisitionTime", "ContentTime",
    "DiffusionGradientOrientation", "FrameAcquisitionDateTime", "DimensionIndexValues",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Header:
    """One image, by its header.

    Parameters
    ----------
    source : the file, and the frame in it
    series_uid, study_uid : SeriesInstanceUID, StudyInstanceUID
    image_uid : SOPInstanceUID and number of the frame
    frame_of_reference : FrameOfReferenceUID; positions are comparable inside one only
    number, instance : SeriesNumber, InstanceNumber; None where absent
    modality : in lower case
    image_type : words in upper case
    rows, columns, samples : of the pixels; samples are 3 for colour
    frames : of an image that has several, but no functional groups for each; else 1
    orientation : (6,) ImageOrientationPatient, LPS; None where absent
    position : (3,) mm, LPS; None where absent
    pixel_spacing : mm between rows, between columns; None where absent
    thickness_mm, between_mm : SliceThickness, SpacingBetweenSlices; None where absent, or not positive
    contrasts : numbers that distinguish contrasts, by attribute (ms, degrees, s/mm2)
    kinds : text that distinguishes kinds of images, by attribute
    coil : ReceiveCoilName
    acquisition : AcquisitionNumber, as written
    moment : values of `MOMENTS`, which distinguish repetitions at one position
    stack_place : where an enhanced image says that the frame lies in its stack; None where it does not
    mosaic : slices in a mosaic; 0 for an ordinary image
    distinguishing : further values that distinguish two images of one position, by attribute
    quantity : what its values are, in words, where they are no grey values of a scan; empty for a scan
    by_medldm : whether medldm wrote it
    """

    source: Frame
    series_uid: str
    study_uid: str
    image_uid: str
    frame_of_reference: str
    number: int | None
    instance: int | None
    modality: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    frames: int
    samples: int
    orientation: npt.NDArray[np.float64] | None
    position: npt.NDArray[np.float64] | None
    pixel_spacing: tuple[float, float] | None
    thickness_mm: float | None
    between_mm: float | None
    contrasts: dict[str, float | None]
    kinds: dict[str, str]
    coil: str
    acquisition: str
    moment: tuple[str, ...]
    stack_place: int | None
    mosaic: int
    distinguishing: dict[str, str]
    quantity: str
    by_medldm: bool


@no_values_on_screen()
def read_headers(path: Path) -> list[Header]:
    """What grouping and geometry need of every image in a file, without the pixels; empty when it holds none."""
    try:
        dataset = read_dataset(path, stop_before_pixels=True, specific_tags=HEADER_TAGS)
        headers = _parsed_frames(path, dataset) if is_enhanced(dataset) else [_parsed(Frame(path), dataset)]
    except UNREADABLE as problem:
        log.debug("%s is not read as DICOM: %s", path, reason_of(problem))
        return []
    return headers if headers and headers[0].rows > 0 and headers[0].columns > 0 else []


def _parsed_frames(path: Path, dataset: Any) -> list[Header]:
    promised = whole(dataset, "NumberOfFrames") or 1
    headers = [_parsed(Frame(path, number), flat) for number, flat in enumerate(flat_frames(dataset))]
    if len(headers) == promised:
        return headers
    # Which frame a group is about is not known: the whole file is refused, as one without groups is.
    return [replace(headers[0], frames=max(promised, 2))] if headers else []


def _parsed(source: Frame, dataset: Any) -> Header:
    spacing = numbers(dataset, "PixelSpacing", 2)
    positive = spacing is not None and (spacing > 0).all()
    return Header(
        source=source,
        # Without a series UID only the folder shows what belongs together.
        series_uid=word(dataset, "SeriesInstanceUID") or str(source.path.parent),
        study_uid=word(dataset, "StudyInstanceUID"),
        image_uid=f"{word(dataset, 'SOPInstanceUID')} {source.number}",
        frame_of_reference=word(dataset, "FrameOfReferenceUID"),
        number=whole(dataset, "SeriesNumber"),
        instance=whole(dataset, "InstanceNumber"),
        modality=word(dataset, "Modality").lower(),
        image_type=tuple(word.strip().upper() for word in word(dataset, "ImageType").split("\\") if word),
        rows=whole(dataset, "Rows") or 0,
        columns=whole(dataset, "Columns") or 0,
        frames=whole(dataset, "NumberOfFrames") or 1,
        samples=3
        if "PALETTE" in word(dataset, "PhotometricInterpretation")
        else whole(dataset, "SamplesPerPixel") or 1,
        orientation=numbers(dataset, "ImageOrientationPatient", 6),
        position=numbers(dataset, "ImagePositionPatient", 3),
        pixel_spacing=(float(spacing[0]), float(spacing[1])) if spacing is not None and positive else None,
        thickness_mm=millimetres(dataset, "SliceThickness"),
        between_mm=millimetres(dataset, "SpacingBetweenSlices"),
        contrasts={**{name: number(dataset, name) for name in CONTRASTS}, "DiffusionBValue": _b_value(dataset)},
        kinds={
            "ImageType": word(dataset, "ImageType"),
            "EchoNumbers": word(dataset, "EchoNumbers"),
            "ConvolutionKernel": word(dataset, "ConvolutionKernel"),
            "ComplexImageComponent": _complex_part(dataset),
            "StackID": word(dataset, "StackID"),
        },
        coil=word(dataset, "ReceiveCoilName"),
        acquisition=word(dataset, "AcquisitionNumber"),
        moment=tuple(word(dataset, name) for name in MOMENTS),
        stack_place=_stack_place(dataset),
        mosaic=_mosaic(dataset),
        distinguishing=distinguishing(dataset),
        quantity=foreign_quantity(dataset),
        by_medldm=_by_medldm(dataset),
    )


def _b_value(dataset: Any) -> float | None:
    """Diffusion weighting, s/mm2; vendors kept it in places of their own before the standard had one."""
    b_value = number(dataset, "DiffusionBValue")
    if b_value is not None:
        return b_value
    maker = word(dataset, "Manufacturer").upper()
    own = [tag for name, tag in OWN_B.items() if maker.startswith(name)]
    value = number(dataset, own[0]) if own else None
    return None if value is None else value % 1e9  # GE adds 1e9 to some


def _complex_part(dataset: Any) -> str:
    part = word(dataset, "ComplexImageComponent").upper()
    if not part and word(dataset, "Manufacturer").upper().startswith("GE"):
        part = {1: "PHASE", 2: "REAL", 3: "IMAGINARY"}.get(whole(dataset, GE_PART) or 0, "")
    return part


def _stack_place(dataset: Any) -> int | None:
    """Place of a frame in its stack, by the dimension that orders positions, else by InStackPositionNumber."""

    def get() -> int | None:
        pointers = [int(item.DimensionIndexPointer) for item in dataset.get("DimensionIndexSequence") or ()]
        values = dataset.get("DimensionIndexValues") or ()
        values = [values] if isinstance(values, int) else list(values)
        indices = [pointers.index(tag) for tag in POSITION_POINTERS if tag in pointers]
        return int(values[indices[0]]) if indices else whole(dataset, "InStackPositionNumber")

    return careful(get, None)


def _mosaic(dataset: Any) -> int:
    """Slices in one image; both vendors keep the number in private elements."""
    maker = word(dataset, "Manufacturer").upper()
    siemens, united = (whole(dataset, tag) or 0 for tag in MOSAIC_SIZES)
    return united if maker.startswith(("UIH", "UNITED IMAGING")) else siemens


def _by_medldm(dataset: Any) -> bool:
    def get() -> bool:
        items = dataset.get("ContributingEquipmentSequence") or ()
        return any(str(item.get("ManufacturerModelName", "")) == "medldm" for item in items)

    return careful(get, False)
