"""Write a restored volume as a derived DICOM series, which a PACS takes and which says that it is no measurement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medldm.data.volume import Volume, Voxels
from medldm.errors import OutputError
from medldm.io.atomic import whole_folder
from medldm.io.dicom.header.files import no_values_on_screen
from medldm.io.dicom.header.frames import Frame
from medldm.io.dicom.header.parse import read_headers
from medldm.io.dicom.pixels.image import Files, decode, read_slice, rescale, says_slope
from medldm.io.dicom.pixels.padding import ATTRIBUTES, padding_range
from medldm.io.dicom.writing.classic import Source
from medldm.io.dicom.writing.derivation import created, make_uids, strip, write_provenance
from medldm.io.dicom.writing.sources import Sources, citable_sources, sources_of
from medldm.modality import modality_of
from medldm.provenance.record import RunRecord

log = logging.getLogger(__name__)

WHOLE = (np.int16, np.uint16, np.int32)  # types that whole values are kept in, as `read_slice` does


def write_series(
    volume: Volume,
    folder: Path,
    record: RunRecord,
    *,
    invented: Sequence[int] = (),
    before: Callable[[Path], None] = lambda written: None,
) -> int:
    """Write a derived series, one file a slice, all or nothing.

    Slices that are still missing (all NaN) are not written.

    Parameters
    ----------
    volume : restored; its ``stored.header`` names the source files
    folder : new folder, or an older result of medldm, which is replaced
    record : what was done
    invented : slices, along the stored third axis, that hold voxels nobody measured
    before : called with the finished folder before it takes its name; what it raises keeps it from doing so

    Returns
    -------
    number of voxels clipped to the range of the stored type

    Raises
    ------
    InputError
        The volume was not read from DICOM.
    OutputError, ResourceError
    """
    images: list[Frame] = [image for image in volume.stored.header or () if image is not None]
    if volume.stored.container == "dicom" and images:
        _check_place(folder, [image.path for image in images])
    sources = citable_sources(volume)
    with whole_folder(folder) as temporary:
        with no_values_on_screen():
            clipped = _write_slices(volume, sources, temporary, record, set(invented))
        before(temporary)
    if clipped:
        log.info("%d voxels of %s were clipped to the stored range", clipped, volume.name)
    return clipped


def as_derived(volume: Volume) -> tuple[Volume, int]:
    """The volume with the voxels that its derived series would hold, and how many of them were clipped for that.

    A series of integers is an input of integers, whatever its slopes: its results are what its stored values can say.
    Missing voxels stay NaN.

    Parameters
    ----------
    volume : read from DICOM

    Raises
    ------
    InputError
        Its files are no longer there.
    """
    sources, files = sources_of(volume), Files()
    voxels = volume.to_stored(volume.voxels)
    gone = np.isnan(voxels) if voxels.dtype.kind == "f" else np.zeros(voxels.shape, dtype=bool)
    whole = volume.stored.dtype.kind in "iu" and not gone.any()
    readable: Voxels = np.empty(voxels.shape, dtype=np.int32 if whole else np.float32)
    clipped = 0
    with no_values_on_screen():
        for place in range(voxels.shape[2]):
            source = sources.nearest(place)[0]
            stored, lost = _to_stored_values(voxels[:, :, place].T, source, files)
            _keep_padding(stored, sources.at(place), files, volume)
            slope, intercept = rescale(source.header, source.image.path)
            values = stored.T.astype(np.float64) * slope + intercept
            readable[:, :, place] = np.clip(np.rint(values), -(2**31), 2**31 - 1) if whole else values
            clipped += lost
    readable[gone] = np.nan if gone.any() else 0
    dtype = volume.stored.dtype
    if whole:
        low, high = readable.min(), readable.max()
        fits = [kind for kind in (dtype, *WHOLE) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max]
        dtype = np.dtype(fits[0])
        readable = readable.astype(dtype)
    stored_as = replace(volume.stored, dtype=dtype)
    return replace(volume, voxels=volume.from_stored(readable), stored=stored_as), clipped


def _write_slices(volume: Volume, sources: Sources, folder: Path, record: RunRecord, invented: set[int]) -> int:
    """One file for each slice of (columns, rows, slices); number of clipped voxels."""
    voxels, files, clipped = volume.to_stored(volume.voxels), Files(), 0
    slices: dict[int, Voxels] = {}
    padded: set[int] = set()
    for place in range(voxels.shape[2]):
        values = voxels[:, :, place].T
        if values.dtype.kind == "f" and np.isnan(values).all():
            continue
        slices[place], lost = _to_stored_values(values, sources.nearest(place)[0], files)
        unknown = values.dtype.kind == "f" and bool(np.isnan(values).any())
        if _keep_padding(slices[place], sources.at(place), files, volume) or unknown:
            padded.add(place)
        clipped += lost
    uids = make_uids(sources.images, volume, list(slices.values()), record)
    moment = created(sources.images[0].header)
    for uid, (place, stored) in zip(uids[1:], slices.items(), strict=True):
        near = sources.nearest(place)
        dataset = deepcopy(near[0].header)
        strip(dataset)
        for name in () if place in padded else ATTRIBUTES:
            if name in dataset:
                del dataset[name]
        _set_pixels(dataset, stored)
        _set_rescale(dataset, near[0])
        _set_place(dataset, sources, place, volume.stored.thickness_mm)
        write_provenance(dataset, near, (uids[0], uid), volume, record, place in invented, moment)
        dataset.save_as(folder / f"{place:04d}.dcm", enforce_file_format=True)
    return clipped


def _check_place(folder: Path, sources: list[Path]) -> None:
    """Only an older result of ours may be replaced: never the source, never anybody's files."""
    if not folder.is_dir():
        return
    whole = folder.resolve()
    if any(whole in path.resolve().parents for path in sources):
        raise OutputError(f"{folder} holds the source of the series; choose another place for the derived series.")
    for path in folder.iterdir():
        headers = read_headers(path) if path.suffix == ".dcm" and path.is_file() else []
        if not headers or not headers[0].by_medldm:
            raise OutputError(f"{folder} holds other files; choose another place for the derived series.")


def _to_stored_values(values: Voxels, source: Source, files: Files) -> tuple[Voxels, int]:
    """Values in a source's own units and bits.

    Parameters
    ----------
    values : (rows, columns), HU or scanner units
    source : says slope, intercept, bits
    files : where its pixels are read from

    Returns
    -------
    (rows, columns) integers, and how many were clipped to the range of the bits
    """
    header = source.header
    slope, intercept = rescale(header, source.image.path)
    bits, allocated, signed = int(header.BitsStored), int(header.BitsAllocated), bool(header.PixelRepresentation)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    raw = np.rint((values.astype(np.float64) - intercept) / slope)
    raw[np.isnan(raw)] = _padding(header, low, high)
    clipped = int(((raw < low) | (raw > high)).sum())
    kind = np.dtype(f"<{'i' if signed else 'u'}{max(1, allocated // 8)}")
    stored: Voxels = np.clip(raw, low, high).astype(kind)
    if not (float(slope).is_integer() and float(intercept).is_integer()):
        _keep_measured(stored, values, source.image, files)
    return stored, clipped


def _set_pixels(dataset: Dataset, stored: Voxels) -> None:
    dataset.Rows, dataset.Columns, dataset.HighBit = *stored.shape, int(dataset.BitsStored) - 1
    payload = stored.tobytes()
    dataset.add_new("PixelData", "OW" if stored.itemsize > 1 else "OB", payload + b"\0" * (len(payload) % 2))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _padding(source: Any, low: int, high: int) -> int:
    """Stored value for a voxel without a value: the source's padding, else the lowest."""
    ends = padding_range(source)
    return ends[0] if ends and low <= ends[0] <= high else low


def _keep_padding(stored: Voxels, source: Source | None, files: Files, volume: Volume) -> bool:
    """Put the padding of a source back into a slice that lies where it lies, in place; whether the slice holds padding.

    A region that was filled was meant to hold something: there padding is only looked for.
    """
    ends = padding_range(source.header) if source else None
    if source is None or ends is None:
        return False
    dataset, _ = files.frame(source.image)
    if (int(dataset.Rows), int(dataset.Columns)) != stored.shape:
        return False
    original = decode(dataset, source.image.path, source.image.number)
    padded = (original >= ends[0]) & (original <= ends[1])
    if not volume.history or not RunRecord.of_step(volume.history[-1]).invented_voxels:
        stored[padded] = original[padded]
    return bool((stored[padded] == original[padded]).any())


def _set_rescale(dataset: Dataset, source: Source) -> None:
    """Say the slope that the values have, where the source said it by a RealWorldValueMapping only."""
    slope, intercept = rescale(source.header, source.image.path)
    if not says_slope(dataset) and (slope, intercept) != (1.0, 0.0):
        dataset.RescaleSlope, dataset.RescaleIntercept = _decimal(slope), _decimal(intercept)
        dataset.RescaleType = modality_of(str(dataset.get("Modality", ""))).rescale_type


def _keep_measured(stored: Voxels, values: Voxels, image: Frame, files: Files) -> None:
    """Where a voxel is what the source says, its stored value too: fractions lose bits on the way there and back."""
    dataset, _ = files.frame(image)
    if (int(dataset.Rows), int(dataset.Columns)) == values.shape:
        same = read_slice(image, values.shape, files) == values
        stored[same] = decode(dataset, image.path, image.number)[same]


def _set_place(dataset: Dataset, sources: Sources, place: int, thickness_mm: float | None) -> None:
    lps = sources.lps
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = lps[:3, :3] / steps
    dataset.ImagePositionPatient = [_decimal(v) for v in (lps @ [0, 0, place, 1])[:3]]
    dataset.ImageOrientationPatient = [_decimal(v) for v in (*cosines[:, 0], *cosines[:, 1])]
    dataset.PixelSpacing = [_decimal(steps[1]), _decimal(steps[0])]
    dataset.SliceThickness = _decimal(thickness_mm or steps[2])
    dataset.SpacingBetweenSlices = _decimal(steps[2])
    dataset.InstanceNumber = place + 1


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters, as many digits as fit."""
    return next(text for text in (f"{value + 0.0:.{digits}g}" for digits in range(14, 4, -1)) if len(text) <= 16)
