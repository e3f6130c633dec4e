"""What a DICOM header says about one image, in plain values; what is malformed counts as not said."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pydicom.filereader
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from medldm.io.dicom.frames import PER_FRAME, SHARED, Frame, flat_frames, is_enhanced
from medldm.io.dicom.quantity import QUANTITY_TAGS, foreign_quantity, telling
from medldm.io.dicom.values import UNREADABLE as UNREADABLE
from medldm.io.dicom.values import careful, millimetres, number, numbers, whole, word
from medldm.system import free_bytes

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
VALUE_TYPES = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
CONTRASTS = ("EchoTime", "RepetitionTime", "InversionTime", "FlipAngle")
MOMENTS = (
    "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "AcquisitionTime", "ContentTime",
    "DiffusionGradientOrientation", "FrameAcquisitionDateTime", "DimensionIndexValues",
)  # fmt: skip
DEFLATED = b"1.2.840.10008.1.2.1.99"
LARGEST_INFLATED = 4 * 2**30  # bytes; the longest enhanced series have one or two GiB
OUR_WORDS = ("it does not start", "it unpacks to", "no such file")


@dataclass(frozen=True, eq=False)
class Header:
    """One image, by its header.

    Parameters
    ----------
    source : the file, and the frame in it
    series_uid, study_uid : SeriesInstanceUID, StudyInstanceUID
    image_uid : SOPInstanceUID and number of the frame
    frame_of_reference : FrameOfReferenceUID; positions are comparable inside one only
    number, instance : SeriesNumber, InstanceNumber; None where not said
    modality : in lower case
    image_type : words in upper case
    rows, columns, samples : of the pixels; samples are 3 for colour
    frames : of an image that has several, but no functional groups that tell them apart; else 1
    orientation : (6,) ImageOrientationPatient, LPS; None where not said
    position : (3,) mm, LPS; None where not said
    pixel_spacing : mm between rows, between columns; None where not said
    thickness_mm, between_mm : SliceThickness, SpacingBetweenSlices; None where not said, or not positive
    contrasts : numbers that tell one contrast from another, by name (ms, degrees, s/mm2)
    kinds : words that tell one kind of image from another, by name
    coil : ReceiveCoilName
    acquisition : AcquisitionNumber, as written
    moment : what tells repetitions at one position apart
    stack_place : where an enhanced image says that the frame lies in its stack; None where it does not
    mosaic : slices in a mosaic; 0 for an ordinary image
    telling : further words that tell two images of one position apart, by name
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
    telling: dict[str, str]
    quantity: str
    by_medldm: bool


@contextmanager
def no_values_on_screen() -> Iterator[None]:
    """Without warnings of pydicom: those about odd values repeat them, and names of patients belong in no log.

    It says each of them twice, as a warning and to its own logger.
    """

    def silence(record: logging.LogRecord) -> bool:
        return False

    theirs = logging.getLogger("pydicom")
    theirs.addFilter(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.removeFilter(silence)


class Bounded(io.BufferedReader):
    """A file that is never asked for more bytes than it has: a damaged length would reserve gigabytes for nothing.

    Parameters
    ----------
    path : of the file
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most the bytes that are left."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def read_dataset(path: Path, **options: Any) -> Any:
    """A data set by pydicom, within the bytes that the file has and the memory that is free.

    Parameters
    ----------
    path : of the file, which `is_dicom`
    **options : of `pydicom.dcmread`

    Raises
    ------
    one of `UNREADABLE`
    """
    _check_inflated(path)
    with Bounded(path) as file:
        # Forced, because is_dicom has looked already and pydicom wants a preamble otherwise.
        return pydicom.dcmread(file, force=True, **options)


def _check_inflated(path: Path) -> None:
    """Refuse a deflated data set that unpacks to more than memory holds; pydicom would unpack all of it at once."""
    with Bounded(path) as file:
        if DEFLATED not in file.read(4096):
            return
        file.seek(0)
        pydicom.filereader.read_preamble(file, force=True)
        if pydicom.filereader._read_file_meta_info(file).get("TransferSyntaxUID") != DEFLATED.decode():
            return
        limit = min(LARGEST_INFLATED, free_bytes() // 4)
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not unpacker.eof and (packed := unpacker.unconsumed_tail or file.read(2**16)):
            size += len(unpacker.decompress(packed, 2**22))
            if size > limit:
                raise ValueError(f"it unpacks to more than {limit / 2**30:.1f} GiB")


def said_by(problem: BaseException) -> str:
    """What a reader said about a file, without values of its header: they may name a patient."""
    if isinstance(problem, OSError):
        return problem.strerror or type(problem).__name__
    if str(problem).startswith(OUR_WORDS):
        return str(problem)
    if isinstance(problem, EOFError):
        return "it is cut short"
    if isinstance(problem, InvalidDicomError):
        return "it does not start as DICOM files do"
    return f"its header is damaged ({type(problem).__name__})"


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content: DICM after the preamble, or a data set that starts at once."""
    try:
        with path.open("rb") as file:
            head = file.read(140)
    except OSError:
        return False
    return head[128:132] == b"DICM" or _starts_at_once(head)


def _starts_at_once(head: bytes) -> bool:
    """Whether bytes begin with an element of group 0002 or 0008, little endian, as files without preamble do."""
    if len(head) < 12 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    # Explicit: a known value type. Implicit: a four-byte length; nothing that comes first in a header is long.
    length = int.from_bytes(head[4:8], "little")
    return head[4:6] in VALUE_TYPES or (0 < length <= 512 and length % 2 == 0)


@no_values_on_screen()
def read_headers(path: Path) -> list[Header]:
    """What grouping and geometry need of every image in a file, without the pixels; empty when it holds none."""
    try:
        dataset = read_dataset(path, stop_before_pixels=True, specific_tags=HEADER_TAGS)
        headers = _parsed_frames(path, dataset) if is_enhanced(dataset) else [_parsed(Frame(path), dataset)]
    except UNREADABLE as problem:
        log.debug("%s is not read as DICOM: %s", path, said_by(problem))
        return []
    return headers if headers and headers[0].rows > 0 and headers[0].columns > 0 else []


@no_values_on_screen()
def damage(path: Path) -> str:
    """Why a DICOM file without an image should have held one, in words; empty for reports, plans, presentation states.

    Parameters
    ----------
    path : file that `read_headers` found no image in
    """
    try:
        dataset = read_dataset(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except UNREADABLE as problem:
        return said_by(problem)
    kind = word(dataset.file_meta, "MediaStorageSOPClassUID") or word(dataset, "SOPClassUID")
    words = UID(kind).name
    # A file that ends before it says what it is may have been anything.
    image = not kind or ("Image Storage" in words and "Non-Image" not in words)
    return "its header is damaged or cut short" if image else ""


def _parsed_frames(path: Path, dataset: Any) -> list[Header]:
    promised = whole(dataset, "NumberOfFrames") or 1
    headers = [_parsed(Frame(path, number), flat) for number, flat in enumerate(flat_frames(dataset))]
    if len(headers) == promised:
        return headers
    # Nobody knows which frame a group is about: the file as a whole is refused, as one without groups is.
    return [replace(headers[0], frames=max(promised, 2))] if headers else []


def _parsed(source: Frame, dataset: Any) -> Header:
    spacing = numbers(dataset, "PixelSpacing", 2)
    positive = spacing is not None and (spacing > 0).all()
    return Header(
        source=source,
        # Without a series UID nothing but the folder tells what belongs together.
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
        telling=telling(dataset),
        quantity=foreign_quantity(dataset),
        by_medldm=_by_medldm(dataset),
    )


def _b_value(dataset: Any) -> float | None:
    """Diffusion weighting, s/mm2; vendors kept it in places of their own before the standard had one."""
    said = number(dataset, "DiffusionBValue")
    if said is not None:
        return said
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
        found = [pointers.index(tag) for tag in POSITION_POINTERS if tag in pointers]
        return int(values[found[0]]) if found else whole(dataset, "InStackPositionNumber")

    return careful(get, None)


def _mosaic(dataset: Any) -> int:
    """Slices in one image; both makers keep the number in private elements."""
    maker = word(dataset, "Manufacturer").upper()
    siemens, united = (whole(dataset, tag) or 0 for tag in MOSAIC_SIZES)
    return united if maker.startswith(("UIH", "UNITED IMAGING")) else siemens


def _by_medldm(dataset: Any) -> bool:
    def get() -> bool:
        items = dataset.get("ContributingEquipmentSequence") or ()
        return any(str(item.get("ManufacturerModelName", "")) == "medldm" for item in items)

    return careful(get, False)
