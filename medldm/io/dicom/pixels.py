"""Pixels of a series: decoded, rescaled slice by slice, stacked with gaps as NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from pydicom._uid_dict import UID_dictionary
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.dicom.apart import unpacker, wanted_apart
from medldm.io.dicom.codecs import check_stream, frame_of, plugin_for, said_by_codec
from medldm.io.dicom.frames import Frame, flat_frame, is_enhanced
from medldm.io.dicom.header import UNREADABLE, is_dicom, no_values_on_screen, read_dataset, said_by
from medldm.io.dicom.repair import REPAIRABLE, places_of, regular, without_duplicates
from medldm.io.dicom.series import Series
from medldm.volume import Affine, Stored, Volume, Voxels

GREY = ("MONOCHROME1", "MONOCHROME2")
MOST_PIXELS = 2**28  # in one slice; no scanner makes that many
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
                f"{image.path} has no frame {image.number + 1} that can be read: {said_by(problem)}."
            ) from problem


@no_values_on_screen()
def read_series(series: Series, *, fix: bool = False) -> Volume:
    """One volume of a series.

    Values are those of the modality (HU for CT), padding included: MONOCHROME1 and PixelPaddingValue are about display
    and change nothing, as in dcm2niix.

    Parameters
    ----------
    series : from `find_series`
    fix : leave out duplicates, shear tilted slices back, resample irregular ones; refused where nothing of it helps

    Returns
    -------
    volume, axes nearest to RAS; missing slices are NaN and named in ``stored.missing``; stored array order is
    (column, row, slice)

    Raises
    ------
    GeometryError, NotRestorable, InputError
    """
    notes: tuple[str, ...] = ()
    if fix and series.verdict == "duplicate":
        series, note = without_duplicates(series)
        notes = (note,)
    _check(series, fix)
    files = Files()
    slices = [None if image is None else read_slice(image, series.shape[1::-1], files) for image in series.images]
    stack, dtype = _stacked(slices, series.shape)
    missing, affine = series.missing, series.affine
    if affine is None:
        stack, affine, missing, note = regular(stack, places_of(series), series.name)
        stack = np.rint(stack).astype(dtype) if dtype.kind in "iu" and not missing else stack
        notes = (*notes, note)
    return _volume(series, stack, affine, missing, dtype, (*notes, *_notes(series)))


def _volume(
    series: Series,
    stack: Voxels,
    affine: Affine,
    missing: tuple[int, ...],
    dtype: np.dtype[Any],
    notes: tuple[str, ...],
) -> Volume:
    ornt = orientations.io_orientation(affine)
    inside = affine @ orientations.inv_ornt_aff(ornt, stack.shape)
    axes, flips = ornt[:, 0].astype(int), ornt[:, 1] < 0
    stored = Stored(
        axes=(int(axes[0]), int(axes[1]), int(axes[2])),
        flips=(bool(flips[0]), bool(flips[1]), bool(flips[2])),
        dtype=dtype,
        container="dicom",
        header=series.images,
        thickness_mm=series.thickness_mm,
        missing=missing,
        modality=series.modality,
        note=notes,
        restored_by="by its header" if series.is_derived_by_medldm else "",
    )
    return Volume(orientations.apply_orientation(stack, ornt), inside, name=series.name, stored=stored)


def _check(series: Series, fix: bool) -> None:
    if not series.restorable and not (fix and series.verdict in REPAIRABLE):
        refusal = NotRestorable if series.verdict == "not a volume" else GeometryError
        raise refusal(f"{series.name} cannot be restored as it is: {series.reason}")
    columns, rows, _ = series.shape
    if columns * rows > MOST_PIXELS:
        raise InputError(f"{series.name} claims {columns} x {rows} pixels a slice, more than any scanner makes.")


def _stacked(slices: list[Voxels | None], shape: tuple[int, int, int]) -> tuple[Voxels, np.dtype[Any]]:
    """(columns, rows, slices) with NaN where a slice is missing, and the type that results go back to."""
    types = {each.dtype for each in slices if each is not None}
    whole = all(np.issubdtype(each, np.integer) for each in types)
    dtype: np.dtype[Any] = np.result_type(*types) if whole else np.dtype(np.float32)
    gaps = any(each is None for each in slices)
    stack: Voxels = np.empty((*shape[:2], len(slices)), dtype=np.float32 if gaps else dtype)
    for place, each in enumerate(slices):
        stack[:, :, place] = np.nan if each is None else each.T
        slices[place] = None  # one copy at a time
    return stack, dtype


def _notes(series: Series) -> tuple[str, ...]:
    told = (f"{series.name}: {series.note}",) if series.note else ()
    if not any(load(path, pixels=False).get("PhotometricInterpretation") == "MONOCHROME1" for path in series.files[:1]):
        return told
    return (
        *told,
        f"{series.name} is MONOCHROME1: low values are meant to look bright. Its values are kept as they are.",
    )


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
        raise ValueError("its PhotometricInterpretation is not one of grey values.")
    syntax = dataset.file_meta.TransferSyntaxUID
    if not wanted_apart(syntax) or not get_decoder(syntax).is_available:
        array: Voxels = pixel_array(dataset, index=index)
        return array
    frame = frame_of(dataset, index)
    check_stream(dataset, frame)
    return unpacker.unpack(dataset, frame, plugin_for(syntax))


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
    package = "" if _has_codec(syntax) else CODECS.get(str(syntax))
    remedy = f"pip install {package}." if package else "Export the series again."
    words = said_by_codec(problem)
    return f"{path} has no pixels that can be decoded (transfer syntax {syntax.name}): {words} {remedy}"


def _has_codec(syntax: Any) -> bool:
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # one that no program decodes
        return True


def rescale(dataset: Any, path: Path) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept of one image; 1 and 0 where it has none.

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
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise InputError(f"{path} has a rescale of {slope} and {intercept}.")
    return slope, intercept


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
        raise InputError(f"{path} cannot be read as DICOM: {said_by(problem)}.") from problem
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset
