"""A restored volume as a derived DICOM series that a PACS takes and nobody mistakes for a measurement."""

from __future__ import annotations

import hashlib
import json
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
from medldm.io.dicom.pixels import load, rescale
from medldm.volume import Volume

PREFIX = "2.25."  # UIDs made of a 128-bit number need no registered root (PS3.5 B.2)
DROPPED = (
    "PixelData", "FloatPixelData", "IconImageSequence", "SmallestImagePixelValue",
    "LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit", "ReferencedImageSequence",
    "LossyImageCompressionRatio", "SliceLocation", "AcquisitionNumber", "GantryDetectorTilt",
    "ReferencedPresentationStateSequence", "PresentationLUTSequence", "ReferencedPerformedProcedureStepSequence",
)  # fmt: skip

# CID 7203 has no word for filling or inpainting; both are resampling of what lies around.
DERIVATION = {"denoise": ("113087", "DCM", "Smoothing"), "super-resolve": ("113085", "DCM", "Spatial resampling")}


def write_series(
    volume: Volume, folder: Path, *, task: str, facts: Mapping[str, Any], invented: Sequence[int] = ()
) -> int:
    """Write a derived series, one file a slice, all or nothing.

    Parameters
    ----------
    volume : restored; its ``stored.header`` names the source files
    folder : new folder, or an older result that is replaced
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
    sources = volume.stored.header
    if volume.stored.container != "dicom" or not sources:
        raise InputError(
            f"{volume.name} was not read from DICOM, so there is no patient and study to derive a series from. "
            "Write NIfTI instead."
        )
    templates = [None if path is None else load(path) for path in sources]
    voxels = volume.to_stored(volume.voxels)
    uids = _uids(templates, voxels, task, facts)
    files, clipped = [], 0
    for place in range(voxels.shape[2]):
        if np.isnan(voxels[:, :, place]).any():
            continue  # a slice that is still missing is not written
        near = _nearest(templates, place, voxels.shape[2])
        dataset, lost = _slice(volume, voxels, place, near, templates, uids, task, facts, place in set(invented))
        clipped += lost
        files.append(dataset)
    _publish(files, folder)
    return clipped


def _publish(files: list[Dataset], folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial.", dir=folder.parent))
    except OSError as problem:
        raise sentence(problem, folder) from problem
    try:
        for number, dataset in enumerate(files):
            dataset.save_as(temporary / f"{number:04d}.dcm", enforce_file_format=True)
        if folder.exists():
            if any(not each.name.endswith(".dcm") for each in folder.iterdir()):
                raise OutputError(f"{folder} holds other files; choose another place for the derived series.")
            shutil.rmtree(folder)
        temporary.chmod(0o755)
        temporary.replace(folder)
    except OSError as problem:
        raise sentence(problem, folder) from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _uids(templates: list[Any], voxels: Any, task: str, facts: Mapping[str, Any]) -> list[str]:
    """A series UID and one for each slice; equal runs give equal UIDs, other pixels never share one."""
    first = next(each for each in templates if each is not None)
    digest = hashlib.sha256(np.ascontiguousarray(voxels).tobytes())
    told = {key: facts.get(key) for key in ("model", "sha256", "seed", "steps", "medldm", "settings")}
    digest.update(json.dumps([str(first.SeriesInstanceUID), task, told], sort_keys=True, default=str).encode())

    def uid(what: str) -> str:
        number = int.from_bytes(hashlib.sha256(digest.digest() + what.encode()).digest()[:16], "big")
        return PREFIX + str(number)

    return [uid("series"), *(uid(f"slice {place}") for place in range(voxels.shape[2]))]


def _nearest(templates: list[Any], place: int, count: int) -> list[int]:
    """Indices of the source slices that a result slice comes from: itself, or both neighbours."""
    known = [index for index, each in enumerate(templates) if each is not None]
    centre = (place + 0.5) * len(templates) / count - 0.5
    exact = [index for index in known if abs(index - centre) < 1e-6]
    if exact:
        return exact
    below = [index for index in known if index < centre]
    above = [index for index in known if index > centre]
    return below[-1:] + above[:1]


def _slice(
    volume: Volume, voxels: Any, place: int, near: list[int], templates: list[Any], uids: list[str], task: str,
    facts: Mapping[str, Any], invented: bool,
) -> tuple[Dataset, int]:  # fmt: skip
    source = templates[near[0]]
    dataset = deepcopy(source)
    for name in DROPPED:
        if name in dataset:
            del dataset[name]
    dataset.remove_private_tags()
    for element in [each for each in dataset if 0x6000 <= each.tag.group < 0x6020]:
        del dataset[element.tag]  # overlays
    clipped = _pixels(dataset, source, voxels[:, :, place].T)
    _place(dataset, volume, place)
    _declare(dataset, [templates[index] for index in near], uids, place, task, facts, invented)
    return dataset, clipped


def _pixels(dataset: Dataset, source: Any, values: Any) -> int:
    slope, intercept = rescale(source)
    bits, signed = int(source.BitsStored), bool(source.PixelRepresentation)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    raw = np.rint((values.astype(np.float64) - intercept) / slope)
    clipped = int(((raw < low) | (raw > high)).sum())
    kind = {8: np.int8 if signed else np.uint8, 16: np.int16 if signed else np.uint16}[int(source.BitsAllocated)]
    stored = np.clip(raw, low, high).astype(kind)
    dataset.Rows, dataset.Columns = stored.shape
    payload = stored.tobytes()
    dataset.PixelData = payload + b"\0" * (len(payload) % 2)
    dataset["PixelData"].VR = "OW" if int(source.BitsAllocated) > 8 else "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return clipped


def _place(dataset: Dataset, volume: Volume, place: int) -> None:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.stored_affine()
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = lps[:3, :3] / steps
    dataset.ImagePositionPatient = [_decimal(v) for v in (lps @ [0, 0, place, 1])[:3]]
    dataset.ImageOrientationPatient = [_decimal(v) for v in (*cosines[:, 0], *cosines[:, 1])]
    dataset.PixelSpacing = [_decimal(steps[1]), _decimal(steps[0])]
    dataset.SliceThickness = _decimal(volume.stored.thickness_mm or steps[2])
    if dataset.get("Modality") == "MR" or "SpacingBetweenSlices" in dataset:
        dataset.SpacingBetweenSlices = _decimal(steps[2])
    dataset.InstanceNumber = place + 1


def _declare(
    dataset: Dataset,
    sources: list[Any],
    uids: list[str],
    place: int,
    task: str,
    facts: Mapping[str, Any],
    invented: bool,
) -> None:
    first = sources[0]
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uids[0], uids[1 + place]
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    number = int(first.SeriesNumber) if str(first.get("SeriesNumber", "")).isdigit() else 0
    dataset.SeriesNumber = 7000 + number % 1000
    dataset.SeriesDescription = f"{str(first.get('SeriesDescription', ''))[:40]} medldm {task} RUO".strip()[:64]
    kept = [str(word) for word in first.get("ImageType", [])][2:]
    dataset.ImageType = ["DERIVED", "SECONDARY", *kept] if kept else ["DERIVED", "SECONDARY", "OTHER"]
    dataset.DerivationDescription = (
        f"medldm {facts.get('medldm', '')} {task}; model {facts.get('model', '')} {str(facts.get('sha256', ''))[:16]}; "
        f"steps {facts.get('steps', 1)}; seed {facts.get('seed', 0)}; research use only"
    )[:1024]
    dataset.DerivationCodeSequence = [_code(*DERIVATION.get(task, DERIVATION["super-resolve"]))]
    dataset.SourceImageSequence = [_reference(each) for each in sources]
    dataset.ContributingEquipmentSequence = [*first.get("ContributingEquipmentSequence", []), *_equipment(first, facts)]
    dataset.SyntheticData = "YES" if invented else "NO"
    dataset.ContentQualification = "RESEARCH"
    if str(first.get("LossyImageCompression", "")) == "01":
        dataset.LossyImageCompression = "01"


def _reference(source: Any) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [_code("121322", "DCM", "Source image for image processing operation")]
    return item


def _equipment(source: Any, facts: Mapping[str, Any]) -> list[Dataset]:
    scanner = Dataset()
    scanner.PurposeOfReferenceCodeSequence = [_code("109101", "DCM", "Acquisition Equipment")]
    for name in ("Manufacturer", "ManufacturerModelName", "StationName", "SoftwareVersions"):
        if source.get(name):
            setattr(scanner, name, source.get(name))
    scanner.Manufacturer = scanner.get("Manufacturer", "unknown")
    ours = Dataset()
    ours.PurposeOfReferenceCodeSequence = [_code("109103", "DCM", "Modifying Equipment")]
    ours.Manufacturer, ours.ManufacturerModelName = "medldm", "medldm"
    ours.SoftwareVersions = str(facts.get("medldm", ""))
    ours.ContributionDescription = "Restoration with a generative model, research use only"
    return [scanner, ours]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters, as many digits as fit."""
    return next(text for text in (f"{value + 0.0:.{digits}g}" for digits in range(14, 4, -1)) if len(text) <= 16)
