"""One image: its file read, its pixels decoded and in the unit of the modality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medldm.data.volume import Voxels
from medldm.errors import InputError, NotRestorable
from medldm.io.dicom.header.files import is_dicom, no_values_on_screen, read_dataset, reason_of
from medldm.io.dicom.header.frames import MAPPING, Frame, flat_frame, is_enhanced
from medldm.io.dicom.header.values import UNREADABLE, careful
from medldm.io.dicom.pixels.codecs import Undecoded, check_stream, frame_of, plugins_for
from medldm.io.dicom.pixels.decode_worker import needs_worker, worker

GREY = ("MONOCHROME1", "MONOCHROME2")
NEEDED = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "PixelRepresentation",
)  # fmt: skip
CODECS = {
    "1.2.840.10008.1.2.4.50": "python-gdcm", "1.2.840.10008.1.2.4.51": "python-gdcm",
    "1.2.840.10008.1.2.4.57": "python-gdcm", "1.2.840.10008.1.2.4.70": "python-gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg pylibjpeg-openjpeg", "1.2.840.10008.1.2.4.91": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}  # fmt: skip


class Files:
    """Data sets by path; the last one is kept, since the frames of an enhanced image come from one file.

    Parameters
    ----------
    pixels : whether the pixels are read too
    """

    def __init__(self, *, pixels: bool = True) -> None:
        self._pixels = pixels
        self._last: tuple[Path, Any] | None = None

    def frame(self, image: Frame) -> tuple[Any, Any]:
        """The data set that holds an image, and the image's own header, flat."""
        if self._last is None or self._last[0] != image.path:
            self._last = image.path, load(image.path, pixels=self._pixels)
        dataset = self._last[1]
        try:
            return dataset, flat_frame(dataset, image.number)
        except UNREADABLE as problem:
            raise InputError(
                f"{image.path} has no frame {image.number + 1} that can be read: {reason_of(problem)}."
            ) from problem


def read_slice(image: Frame, shape: tuple[int, ...], files: Files) -> Voxels:
    """One image in its unit (HU for CT): integers when the rescale keeps them whole.

    Parameters
    ----------
    image : which one
    shape : (rows, columns) that it must have
    files : where it is read from

    Returns
    -------
    (rows, columns)

    Raises
    ------
    InputError, NotRestorable
    """
    path = image.path
    dataset, header = files.frame(image)
    stored = decode(dataset, path, image.number)
    if stored.shape != tuple(shape):
        raise InputError(f"{path} has {stored.shape} pixels, its series has {tuple(shape)}.")
    slope, intercept = rescale(header, path)
    if slope == round(slope) and intercept == round(intercept) and max(abs(slope), abs(intercept)) < 2**31:
        wide = stored.astype(np.int64) * int(slope) + int(intercept)
        for kind in (np.int16, np.uint16, np.int32):
            if wide.min() >= np.iinfo(kind).min and wide.max() <= np.iinfo(kind).max:
                whole: Voxels = wide.astype(kind)
                return whole
    scaled: Voxels = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    return scaled


def decode(dataset: Any, path: Path, number: int = 0) -> Voxels:
    """Stored values of one image, decompressed.

    Parameters
    ----------
    dataset : from `load`
    path : for messages
    number : of the frame, counted from 0

    Returns
    -------
    (rows, columns) integers
    """
    if "PixelData" not in dataset:
        raise InputError(f"{path} has no pixels (its PixelData is missing). Export the series again.")
    try:
        index = number if is_enhanced(dataset) else None
        stored = _right_aligned(dataset, index, _unpacked(dataset, index))
    except Exception as problem:
        # pydicom passes on whatever its codecs raise; any of it means that this file has no usable pixels.
        raise InputError(_undecoded(dataset, path, problem)) from problem
    return stored


def _unpacked(dataset: Any, index: int | None) -> Voxels:
    """Stored values of one image, as its header describes them now."""
    # pydicom repeats what it does not know, and a damaged length puts the patient's name there.
    if dataset.PhotometricInterpretation not in GREY:
        raise Undecoded("its PhotometricInterpretation is not one of grey values.")
    syntax = dataset.file_meta.TransferSyntaxUID
    if not needs_worker(syntax):
        _check_length(dataset)
        array: Voxels = pixel_array(dataset, index=index)
        return array
    plugins = plugins_for(syntax)
    if not plugins:
        raise Undecoded("no codec for it is installed.")
    frame = frame_of(dataset, index)
    check_stream(dataset, frame)
    problems: list[ValueError] = []
    for plugin in plugins:
        try:
            return worker.decode(dataset, frame, plugin)
        except ValueError as problem:
            problems.append(problem)
    ended = [problem for problem in problems if isinstance(problem, Undecoded)]
    if len(ended) == len(problems):
        raise ended[0]
    tried = f"none of the codecs that are installed decodes them ({', '.join(plugins)})"
    raise Undecoded(f"its pixels are damaged or cut short: {tried}.") from problems[0]


def _check_length(dataset: Any) -> None:
    """Refuse pixels that are not packed and shorter than their header says."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    lacking = [name for name in NEEDED if name not in dataset]
    if lacking:
        raise Undecoded(f"its header lacks {', '.join(lacking)}.")
    frames = int(dataset.get("NumberOfFrames") or 1)
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * frames
    wanted, available = (pixels * int(dataset.BitsAllocated) + 7) // 8, len(dataset.PixelData)
    if available < wanted:
        raise Undecoded(f"its pixels are cut short ({available} of {wanted} bytes are there).")


def _right_aligned(dataset: Any, index: int | None, stored: Voxels) -> Voxels:
    """Values whose bits lie at the top of their words, as old scanners wrote them and a HighBit tells, moved down.

    A HighBit that is merely wrong is common, too: there the bits below the value are not all empty.
    """
    bits, high = dataset.BitsStored, dataset.get("HighBit")
    below = high + 1 - bits if isinstance(high, int) else 0  # some leave it empty
    if below <= 0 or high >= int(dataset.BitsAllocated):
        return stored
    dataset.BitsStored = high + 1  # for a moment: a copy of a data set shares its elements
    try:
        whole = _unpacked(dataset, index)
    finally:
        dataset.BitsStored = bits
    return whole >> below if whole.any() and not (whole & ((1 << below) - 1)).any() else stored


def _undecoded(dataset: Any, path: Path, problem: Exception) -> str:
    syntax = dataset.file_meta.TransferSyntaxUID
    if str(syntax) not in UID_dictionary:  # a damaged one holds whatever stood behind it, the patient's name perhaps
        return f"{path} has no pixels that can be decoded: its transfer syntax is unknown. Export the series again."
    try:
        package = "" if get_decoder(syntax).is_available else CODECS.get(str(syntax))
        reason = (
            "its pixels are damaged or cut short." if syntax.is_encapsulated else "its pixels do not fit its header."
        )
        reason = str(problem) if isinstance(problem, Undecoded) else reason
    except NotImplementedError:  # one that no program decodes
        package, reason = "", "no codec for it is known."
    remedy = f"pip install {package}." if package else "Export the series again."
    return f"{path} has no pixels that can be decoded (transfer syntax {syntax.name}): {reason} {remedy}"


def rescale(dataset: Any, path: Path) -> tuple[float, float]:
    """Slope and intercept of one image: RescaleSlope and RescaleIntercept, else those of a RealWorldValueMapping.

    Returns
    -------
    1 and 0 where it has none

    Raises
    ------
    InputError
        They are no numbers.
    NotRestorable
        A table stands in their place.
    """
    try:
        by_table = bool(dataset.get("ModalityLUTSequence"))
        slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    except UNREADABLE as problem:
        raise InputError(f"{path} has a RescaleSlope or RescaleIntercept that is no number.") from problem
    if by_table:
        raise NotRestorable(f"{path} maps its values through a table (Modality LUT), which has no way back.")
    if not says_slope(dataset) and (real := _real_world(dataset)):
        slope, intercept = real
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise InputError(f"{path} has a rescale of {slope} and {intercept}.")
    return slope, intercept


def says_slope(dataset: Any) -> bool:
    """Whether a header holds a RescaleSlope, and not an empty one.

    Parameters
    ----------
    dataset : header of one image, flat
    """
    return careful(lambda: dataset.get("RescaleSlope") not in (None, ""), False)


def mapped(dataset: Any) -> str:
    """What was done about a RealWorldValueMapping, in a sentence; empty where there is none, or a RescaleSlope counts.

    Parameters
    ----------
    dataset : header of one image, flat
    """
    if says_slope(dataset) or not dataset.get(MAPPING):
        return ""
    if real := _real_world(dataset):
        return (
            f"it has no RescaleSlope; its RealWorldValueMapping was applied (slope {real[0]:g}, intercept {real[1]:g})."
        )
    return (
        "it has no RescaleSlope, and its RealWorldValueMapping was not applied, since it is no straight line; "
        "its values are the stored ones."
    )


def _real_world(dataset: Any) -> tuple[float, float] | None:
    """Slope and intercept of a RealWorldValueMapping; None where it has none, or several that differ."""

    def get() -> tuple[float, float] | None:
        lines = {
            (float(item.RealWorldValueSlope), float(item.RealWorldValueIntercept))
            for item in dataset.get(MAPPING) or ()
        }
        line = lines.pop() if len(lines) == 1 else None
        return line if line and np.isfinite(line).all() and line[0] != 0 else None

    return careful(get, None)


@no_values_on_screen()
def load(path: Path, *, pixels: bool = True) -> Any:
    """A whole data set.

    Parameters
    ----------
    path : file, with or without preamble
    pixels : whether to read them too

    Raises
    ------
    InputError
    """
    try:
        if not is_dicom(path):
            raise ValueError("it does not start as DICOM files do" if path.is_file() else "no such file")
        dataset = read_dataset(path, stop_before_pixels=not pixels)
    except UNREADABLE as problem:
        raise InputError(f"{path} cannot be read as DICOM: {reason_of(problem)}.") from problem
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset
