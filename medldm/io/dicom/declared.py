"""What a derived slice says about itself: who made it from what, and which voxels nobody measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medldm.volume import Volume, Voxels

PREFIX = "2.25."  # UIDs made of a 128-bit number need no registered root (PS3.5 B.2)
TOLD = ("model", "sha256", "seed", "steps", "medldm", "settings")
# What describes the source's pixels, files or place, and would be wrong about ours.
DROPPED = (
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", "IconImageSequence", "SmallestImagePixelValue",
    "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "PixelAspectRatio", "ReferencedImageSequence", "SliceLocation",
    "ImagesInAcquisition", "GantryDetectorTilt", "ReferencedPresentationStateSequence", "PresentationLUTSequence",
    "ReferencedPerformedProcedureStepSequence", "InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID",
    "DigitalSignaturesSequence", "MACParametersSequence", "DataSetTrailingPadding",
)  # fmt: skip
NUMBER = 7000  # added to SeriesNumber: new, and still telling where it came from
ACQUISITION, MODIFYING = "109101", "109103"  # purposes of equipment, CID 7005
# CID 7203 has no word for filling or inpainting; both are resampling of what lies around.
DERIVATION = {"denoise": ("113087", "DCM", "Smoothing"), "super-resolve": ("113085", "DCM", "Spatial resampling")}


def make_uids(sources: Sequence[Any], volume: Volume, voxels: Voxels, task: str, facts: Mapping[str, Any]) -> list[str]:
    """A series UID and one for each slice; equal runs give equal UIDs, other pixels never share one.

    Parameters
    ----------
    sources : headers of the source slices
    volume : result
    voxels : (columns, rows, slices) of the result, as stored
    task, facts : what was done
    """
    settings = volume.history[-1].settings if volume.history else {}
    told = [
        [str(source.SOPInstanceUID) for source in sources],
        str(sources[0].SeriesInstanceUID),
        task,
        {name: facts.get(name) for name in TOLD},
        dict(settings),
        [round(float(value), 6) for value in volume.stored_affine().ravel()],
        [volume.stored.thickness_mm, list(voxels.shape), str(voxels.dtype)],
    ]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for place in range(voxels.shape[2]):
        digest.update(np.ascontiguousarray(voxels[:, :, place]).tobytes())
    seed = digest.digest()

    def uid(what: str) -> str:
        return PREFIX + str(int.from_bytes(hashlib.sha256(seed + what.encode()).digest()[:16], "big"))

    return [uid("series"), *(uid(f"slice {place}") for place in range(voxels.shape[2]))]


def strip(dataset: Dataset) -> None:
    """Remove what must not travel: private elements, overlays, curves, and what describes the source's pixels."""
    for name in DROPPED:
        if name in dataset:
            del dataset[name]
    dataset.remove_private_tags()
    for tag in [tag for tag in dataset.keys() if tag.group & 0xFF00 in (0x5000, 0x6000)]:  # noqa: SIM118
        del dataset[tag]


def declare(
    dataset: Dataset,
    sources: Sequence[Any],
    uids: tuple[str, str],
    task: str,
    facts: Mapping[str, Any],
    invented: bool,
    notes: Sequence[str] = (),
) -> None:
    """Write identity and provenance into a slice.

    Parameters
    ----------
    dataset : the slice
    sources : headers of the slices it comes from, nearest first
    uids : of the series, of the slice
    task, facts : what was done
    invented : whether it holds voxels nobody measured
    notes : what else was done to the series, in sentences
    """
    first = sources[0]
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uids
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    number = str(first.get("SeriesNumber", "") or "")
    dataset.SeriesNumber = NUMBER + (int(number) if number.isdigit() else 0)
    dataset.SeriesDescription = f"{str(first.get('SeriesDescription', '') or '')[:40]} medldm {task} RUO".strip()[:64]
    dataset.ImageType = _image_type(first)
    dataset.DerivationDescription = (
        f"medldm {facts.get('medldm', '')} {task}; model {facts.get('model', '')} {str(facts.get('sha256', ''))[:16]}; "
        f"steps {facts.get('steps', 1)}; seed {facts.get('seed', 0)}; research use only. " + " ".join(notes)
    ).strip()[:1024]
    dataset.DerivationCodeSequence = [_code(*DERIVATION.get(task, DERIVATION["super-resolve"]))]
    dataset.SourceImageSequence = [reference(source) for source in sources]
    dataset.ContributingEquipmentSequence = _equipment(first, facts)
    # What was invented once stays so, whatever is done to it later.
    before = any(str(source.get("SyntheticData", "")) == "YES" for source in sources)
    dataset.SyntheticData = "YES" if invented or before else "NO"
    dataset.ContentQualification = "RESEARCH"


def _image_type(source: Any) -> list[str]:
    words = source.get("ImageType") or []
    kept = [words] if isinstance(words, str) else [str(word) for word in words]
    return ["DERIVED", "SECONDARY", *(kept[2:] or ["OTHER"])]


def reference(source: Any) -> Dataset:
    """A source as derived images cite it."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.file_meta.get("MediaStorageSOPClassUID") or source.SOPClassUID
    item.ReferencedSOPInstanceUID = source.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [_code("121322", "DCM", "Source image for image processing operation")]
    return item


def _equipment(source: Any, facts: Mapping[str, Any]) -> list[Dataset]:
    """Who contributed: all that the source names, its scanner, and medldm."""
    before = list(source.get("ContributingEquipmentSequence") or [])
    codes = [code for item in before for code in item.get("PurposeOfReferenceCodeSequence") or []]
    known = any(str(code.get("CodeValue", "")) == ACQUISITION for code in codes)
    scanner = [] if known else [_scanner(source)]
    ours = Dataset()
    ours.PurposeOfReferenceCodeSequence = [_code(MODIFYING, "DCM", "Modifying Equipment")]
    ours.Manufacturer, ours.ManufacturerModelName = "medldm", "medldm"
    ours.SoftwareVersions = str(facts.get("medldm", ""))
    ours.ContributionDescription = "Restoration with a generative model, research use only"
    return [*before, *scanner, ours]


def _scanner(source: Any) -> Dataset:
    scanner = Dataset()
    scanner.PurposeOfReferenceCodeSequence = [_code(ACQUISITION, "DCM", "Acquisition Equipment")]
    for name in ("Manufacturer", "ManufacturerModelName", "StationName", "SoftwareVersions"):
        if source.get(name):
            setattr(scanner, name, source.get(name))
    scanner.Manufacturer = scanner.get("Manufacturer", "unknown")
    return scanner


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
