"""A restored volume as a derived DICOM series that a PACS takes and nobody mistakes for a measurement."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medldm.errors import InputError, OutputError
from medldm.io.atomic import sentence
from medldm.io.dicom.classic import classic
from medldm.io.dicom.declared import declare, make_uids, strip
from medldm.io.dicom.frames import Frame
from medldm.io.dicom.header import no_values_on_screen, read_headers
from medldm.io.dicom.pixels import Files, decode, read_slice, rescale
from medldm.volume import Affine, Volume, Voxels

log = logging.getLogger(__name__)

CITED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")  # a derived slice refers to them
SAME_PLACE_MM = 0.02  # a result slice this close to a source slice is that slice


def write_series(
    volume: Volume, folder: Path, *, task: str, facts: Mapping[str, Any], invented: Sequence[int] = ()
) -> int:
    """Write a derived series, one file a slice, all or nothing.

    Slices that are still missing (all NaN) are not written.

    Parameters
    ----------
    volume : restored; its ``stored.header`` names the source files
    folder : new folder, or an older result of medldm, which is replaced
    task : verb
    facts : what was done (model, sha256, steps, seed)
    invented : slices, along the stored third axis, that hold voxels nobody measured

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
    if volume.stored.container != "dicom" or not images:
        raise InputError(
            f"{volume.name} was not read from DICOM, so there is no patient and study to derive a series from. "
            "Write NIfTI instead."
        )
    _check_place(folder, [image.path for image in images])
    sources = _sources(images)
    voxels = volume.to_stored(volume.voxels)
    temporary = _temporary(folder)
    try:
        with no_values_on_screen():
            clipped = _write_slices(volume, voxels, images, sources, temporary, task, facts, set(invented))
        _publish(temporary, folder)
    except OSError as problem:
        raise sentence(problem, folder) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if clipped:
        log.info("%d voxels of %s were clipped to the stored range", clipped, volume.name)
    return clipped


def _sources(images: list[Frame]) -> list[Any]:
    """Headers of the source slices, in classic terms."""
    files = Files(pixels=False)
    sources = []
    for image in images:
        source = classic(*files.frame(image))
        for name in CITED:
            if not source.get(name):
                raise InputError(
                    f"{image.path} has no {name}, so no series can be derived from it. Write NIfTI instead."
                )
        sources.append(source)
    return sources


def _write_slices(
    volume: Volume,
    voxels: Voxels,
    images: list[Frame],
    sources: list[Any],
    folder: Path,
    task: str,
    facts: Mapping[str, Any],
    invented: set[int],
) -> int:
    """One file for each slice of (columns, rows, slices); number of clipped voxels."""
    uids = make_uids(sources, volume, voxels, task, facts)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.stored_affine()
    files, clipped = Files(), 0
    for place in range(voxels.shape[2]):
        values = voxels[:, :, place].T
        if values.dtype.kind == "f" and np.isnan(values).all():
            continue
        near = _nearest(sources, lps, place)
        dataset = deepcopy(sources[near[0]])
        strip(dataset)
        clipped += _set_pixels(dataset, values, sources[near[0]], images[near[0]], files)
        _set_place(dataset, lps, place, volume.stored.thickness_mm)
        pair, cited = (uids[0], uids[1 + place]), [sources[number] for number in near]
        declare(dataset, cited, pair, task, facts, place in invented, volume.stored.note)
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


def _temporary(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial.", dir=folder.parent))
    except OSError as problem:
        raise sentence(problem, folder) from problem


def _publish(temporary: Path, folder: Path) -> None:
    """The finished folder takes its name; an older result goes only when the new one stands."""
    temporary.chmod(0o755)
    if not folder.exists():
        temporary.replace(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.replace(old)
    try:
        temporary.replace(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _nearest(sources: list[Any], lps: Affine, place: int) -> list[int]:
    """Numbers of the source slices that a result slice comes from: itself, or both neighbours, nearest first."""
    normal = np.cross(lps[:3, 0], lps[:3, 1])
    normal /= np.linalg.norm(normal)
    here = (lps @ [0, 0, place, 1])[:3] @ normal
    away = np.array([[float(v) for v in source.ImagePositionPatient] for source in sources]) @ normal - here
    closest = int(np.abs(away).argmin())
    if abs(away[closest]) < SAME_PLACE_MM:
        return [closest]
    below, above = np.flatnonzero(away < 0), np.flatnonzero(away > 0)
    near = [int(side[np.abs(away[side]).argmin()]) for side in (below, above) if len(side)]
    return sorted(near, key=lambda number: float(abs(away[number])))


def _set_pixels(dataset: Dataset, values: Voxels, source: Any, image: Frame, files: Files) -> int:
    """Values in the source's own units and bits.

    Parameters
    ----------
    dataset : gets the pixels
    values : (rows, columns), HU or scanner units
    source : header that says slope, intercept, bits
    image : the source
    files : where its pixels are read from

    Returns
    -------
    number of voxels clipped to the range
    """
    slope, intercept = rescale(source, image.path)
    bits, allocated, signed = int(source.BitsStored), int(source.BitsAllocated), bool(source.PixelRepresentation)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    raw = np.rint((values.astype(np.float64) - intercept) / slope)
    raw[np.isnan(raw)] = _padding(source, low, high)
    clipped = int(((raw < low) | (raw > high)).sum())
    kind = np.dtype(f"<{'i' if signed else 'u'}{max(1, allocated // 8)}")
    stored = np.clip(raw, low, high).astype(kind)
    if not (float(slope).is_integer() and float(intercept).is_integer()):
        _keep_measured(stored, values, image, files)
    dataset.Rows, dataset.Columns, dataset.HighBit = *stored.shape, bits - 1
    payload = stored.tobytes()
    dataset.add_new("PixelData", "OW" if allocated > 8 else "OB", payload + b"\0" * (len(payload) % 2))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return clipped


def _padding(source: Any, low: int, high: int) -> int:
    """Stored value for a voxel without a value: the source's padding, else the lowest."""
    try:
        value = int(source.PixelPaddingValue)
    except (AttributeError, TypeError, ValueError):
        return low
    return value if low <= value <= high else low


def _keep_measured(stored: Voxels, values: Voxels, image: Frame, files: Files) -> None:
    """Where a voxel is what the source says, its stored value too: fractions lose bits on the way there and back."""
    dataset, _ = files.frame(image)
    if (int(dataset.Rows), int(dataset.Columns)) == values.shape:
        same = read_slice(image, values.shape, files) == values
        stored[same] = decode(dataset, image.path, image.number)[same]


def _set_place(dataset: Dataset, lps: Affine, place: int, thickness_mm: float | None) -> None:
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = lps[:3, :3] / steps
    dataset.ImagePositionPatient = [_decimal(v) for v in (lps @ [0, 0, place, 1])[:3]]
    dataset.ImageOrientationPatient = [_decimal(v) for v in (*cosines[:, 0], *cosines[:, 1])]
    dataset.PixelSpacing = [_decimal(steps[1]), _decimal(steps[0])]
    dataset.SliceThickness = _decimal(thickness_mm or steps[2])
    if dataset.get("Modality") == "MR" or "SpacingBetweenSlices" in dataset:
        dataset.SpacingBetweenSlices = _decimal(steps[2])
    dataset.InstanceNumber = place + 1


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters, as many digits as fit."""
    return next(text for text in (f"{value + 0.0:.{digits}g}" for digits in range(14, 4, -1)) if len(text) <= 16)
