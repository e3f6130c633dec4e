"""Provenance of derived images: new UIDs, sources, derivation codes, equipment, and which voxels were not measured."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medldm.data.volume import Volume, Voxels
from medldm.io.dicom.header.values import UNREADABLE, careful
from medldm.io.dicom.writing.attributes import keep_encoded
from medldm.io.dicom.writing.classic import Source
from medldm.provenance.record import RunRecord

PREFIX = "2.25."  # UIDs made of a 128-bit number need no registered root (PS3.5 B.2)
# What a result follows from, beside its sources and pixels. Options that only say how it was computed, or say the same
# in other words ("auto" and the model it chose), are not among them.
UID_FACTS, UID_SETTINGS = ("model", "sha256", "seed", "steps"), ("fidelity", "samples")
# What describes the source's pixels, files or place, and would be wrong about ours.
DROPPED = (
    "PixelData", "FloatPixelData", "DoubleFloatPixelData", "IconImageSequence", "SmallestImagePixelValue",
    "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    "PixelAspectRatio", "ReferencedImageSequence", "SliceLocation",
    "ImagesInAcquisition", "GantryDetectorTilt", "ReferencedPresentationStateSequence", "PresentationLUTSequence",
    "ReferencedPerformedProcedureStepSequence", "InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID",
    "DigitalSignaturesSequence", "MACParametersSequence", "DataSetTrailingPadding",
)  # fmt: skip
SERIES_NUMBER_OFFSET = 7000  # added to SeriesNumber: new, and still telling where it came from
PART_OFFSET = 10_000  # and this for each further result of one series
HIGHEST_NUMBER = 2**31 - 1  # DICOM keeps numbers in 32 bits
ACQUISITION, MODIFYING = "109101", "109103"  # purposes of equipment, CID 7005
RESAMPLED = ("113085", "DCM", "Spatial resampling")  # CID 7203
INTERPOLATED = "linear interpolation"  # so the notes of repairs say


def make_uids(
    sources: Sequence[Source], volume: Volume, slices: Sequence[Voxels], record: RunRecord, what: str = ""
) -> list[str]:
    """A series UID and one for each slice; equal runs give equal UIDs, other pixels never share one.

    Parameters
    ----------
    sources : images that the result comes from
    volume : result
    slices : its pixels, as stored
    record : what was done
    what : the slices are, beside the result itself
    """
    settings = volume.history[-1].settings if volume.history else {}
    identity = [
        [[str(source.header.SOPInstanceUID), source.image.number] for source in sources],
        str(sources[0].header.SeriesInstanceUID),
        f"{record.task} {what}".strip(),
        {name: record.facts.get(name) for name in UID_FACTS} | {"medldm": record.medldm or None},
        {name: float(settings[name]) for name in UID_SETTINGS if name in settings},
        list(record.invented_slices or ()),
        [round(float(value), 6) for value in volume.stored_affine().ravel()],
        [volume.stored.thickness_mm, [[*voxels.shape, str(voxels.dtype)] for voxels in slices]],
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
    for voxels in slices:
        digest.update(np.ascontiguousarray(voxels).tobytes())
    seed = digest.hexdigest()
    return [derived_uid(seed, "series"), *(derived_uid(seed, f"slice {place}") for place in range(len(slices)))]


def created(source: Any, now: float | None = None) -> tuple[str, str]:
    """Date and time for the instances of a result, to the hour: equal runs one after the other give equal bytes.

    Parameters
    ----------
    source : header; where it names a time zone, that one counts, else this machine's
    now : seconds since 1970; the clock when not given, or SOURCE_DATE_EPOCH, for equal bytes on any day
    """
    if now is None:
        fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
        now = float(fixed) if fixed.isdecimal() else time.time()
    zone = None
    offset = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", careful(lambda: str(source.get("TimezoneOffsetFromUTC") or ""), ""))
    if offset and int(offset[2]) < 24:
        zone = timezone((1 if offset[1] == "+" else -1) * timedelta(hours=int(offset[2]), minutes=int(offset[3])))
    moment = datetime.fromtimestamp(now, UTC).astimezone(zone)
    return f"{moment:%Y%m%d}", f"{moment:%H}"


def derived_uid(seed: str, what: str) -> UID:
    """The UID of one thing; the same seed and words always give the same.

    Parameters
    ----------
    seed : of the result
    what : the thing
    """
    return UID(PREFIX + str(int.from_bytes(hashlib.sha256(f"{seed} {what}".encode()).digest()[:16], "big")))


def strip(dataset: Dataset) -> None:
    """Remove what must not travel: private elements, overlays, curves, and what describes the source's pixels."""
    for name in DROPPED:
        if name in dataset:
            del dataset[name]
    keep_encoded(dataset)


def series_number(source: Any, added: int, part: int = 0) -> int:
    """A new SeriesNumber, at least 1, that still tells where it came from.

    Parameters
    ----------
    source : header
    added : to the source's own number
    part : counts the results of one series, from 0
    """
    added += PART_OFFSET * part
    try:
        number = int(source.get("SeriesNumber") or 0)
    except UNREADABLE:
        number = 0
    return max(1, (max(0, number) + added) % (HIGHEST_NUMBER + 1))


def tasks_of(volume: Volume) -> list[str]:
    """Tasks that were run on a volume, in order; those of its plan for ``restore``."""
    return list(dict.fromkeys(task for step in volume.history for task in RunRecord.of_step(step).tasks))


def description(record: RunRecord, volume: Volume, notes: Sequence[str] = ()) -> str:
    """DerivationDescription: what was done, by which model, how.

    Parameters
    ----------
    record : what was done
    volume : result, whose history says which tasks ran
    notes : what else was done, in sentences
    """
    tasks = tasks_of(volume)
    plan = f" ({', '.join(tasks)})" if tasks and tasks != [record.task] else ""
    parts = [f"medldm {record.medldm} {record.task}{plan}"]
    if record.model:
        parts.append(f"model {record.model} {record.weights[:16]}".strip())
        parts.append(f"steps {record.steps}; seed {record.seed}")
    return " ".join([f"{'; '.join(parts)}; research use only.", *notes])[:1024].strip()


def write_provenance(
    dataset: Dataset,
    sources: Sequence[Source],
    uids: tuple[str, str],
    volume: Volume,
    record: RunRecord,
    invented: bool,
    moment: tuple[str, str],
) -> None:
    """Write identity and provenance into a slice.

    Parameters
    ----------
    dataset : the slice
    sources : images it comes from, nearest first
    uids : of the series, of the slice
    volume : result; its history says what was run, its notes what else was done to the series
    record : what was done
    invented : whether it holds voxels nobody measured
    moment : from `created`
    """
    first, notes = sources[0].header, volume.stored.note
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = uids
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = moment
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesNumber = series_number(first, SERIES_NUMBER_OFFSET, volume.stored.part)
    dataset.SeriesDescription = series_description(first, volume, f"medldm {record.task} RUO")
    dataset.ImageType = _image_type(first)
    dataset.DerivationDescription = description(record, volume, notes)
    codes = [triple for step in volume.history for triple in step.derivation]
    codes += [RESAMPLED] if any(INTERPOLATED in note for note in notes) else []
    if "DerivationCodeSequence" in dataset:
        del dataset.DerivationCodeSequence
    if codes:
        dataset.DerivationCodeSequence = [code(*triple) for triple in dict.fromkeys(codes)]
    dataset.SourceImageSequence = [reference(source) for source in sources]
    dataset.ContributingEquipmentSequence = equipment(first, record)
    # What was invented once stays so, whatever is done to it later.
    before = any(str(source.header.get("SyntheticData", "")) == "YES" for source in sources)
    dataset.SyntheticData = "YES" if invented or before else "NO"
    dataset.ContentQualification = "RESEARCH"


def series_description(source: Any, volume: Volume, ours: str) -> str:
    """SeriesDescription of a result: the source's, its label among the series of one UID, what was done.

    Parameters
    ----------
    source : header
    volume : result
    ours : what was done
    """
    end = f"{volume.stored.label} {ours}".strip()
    return f"{_text(source, 'SeriesDescription')[: min(40, 63 - len(end))]} {end}".strip()[:64]


def _text(source: Any, name: str) -> str:
    """A text; several values, which a backslash in it makes, joined again."""
    value = source.get(name) or ""
    return value if isinstance(value, str) else " ".join(map(str, value))


def _image_type(source: Any) -> list[str]:
    parts = source.get("ImageType") or []
    kept = [parts] if isinstance(parts, str) else [str(word) for word in parts]
    return ["DERIVED", "SECONDARY", *(kept[2:] or ["OTHER"])]


def reference(source: Source) -> Dataset:
    """A source as derived images cite it."""
    item = Dataset()
    item.ReferencedSOPClassUID = source.header.file_meta.get("MediaStorageSOPClassUID") or source.header.SOPClassUID
    item.ReferencedSOPInstanceUID = source.header.SOPInstanceUID
    if source.enhanced:
        item.ReferencedFrameNumber = source.image.number + 1
    item.PurposeOfReferenceCodeSequence = [code("121322", "DCM", "Source image for image processing operation")]
    return item


def equipment(source: Any, record: RunRecord) -> list[Dataset]:
    """Who contributed: all that the source names, its scanner, and medldm.

    Parameters
    ----------
    source : header
    record : what was done
    """
    before = deepcopy(list(source.get("ContributingEquipmentSequence") or []))
    for item in before:
        keep_encoded(item)
    purposes = [purpose for item in before for purpose in item.get("PurposeOfReferenceCodeSequence") or []]
    known = any(str(purpose.get("CodeValue", "")) == ACQUISITION for purpose in purposes)
    scanner = [] if known else [_scanner(source)]
    ours = Dataset()
    ours.PurposeOfReferenceCodeSequence = [code(MODIFYING, "DCM", "Modifying Equipment")]
    ours.Manufacturer, ours.ManufacturerModelName = "medldm", "medldm"
    ours.SoftwareVersions = record.medldm
    kind = "Restoration with a generative model" if record.model else "Repair or copy of a series"
    ours.ContributionDescription = f"{kind}, research use only"
    return [*before, *scanner, ours]


def _scanner(source: Any) -> Dataset:
    scanner = Dataset()
    scanner.PurposeOfReferenceCodeSequence = [code(ACQUISITION, "DCM", "Acquisition Equipment")]
    for name in ("Manufacturer", "ManufacturerModelName", "StationName", "SoftwareVersions"):
        if source.get(name):
            setattr(scanner, name, source.get(name))
    scanner.Manufacturer = scanner.get("Manufacturer", "unknown")
    return scanner


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
