"""A DICOM series of nobody: a new patient and study for a volume that was generated, marked as synthetic throughout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from medldm.data.volume import Volume, Voxels
from medldm.errors import InputError, OutputError
from medldm.io.atomic import whole_folder
from medldm.io.dicom.header.parse import read_headers
from medldm.io.dicom.header.values import SYNTHETIC
from medldm.io.dicom.writing.derivation import code, created, derived_uid, description
from medldm.provenance.record import RunRecord

FAMILY = "Synthetic^medldm"
# Type 2 attributes of patient, study, series, equipment, image and MR modules that a drawn image has no value for.
EMPTY = (
    "PatientBirthDate", "ReferringPhysicianName", "AccessionNumber",
    "PositionReferenceIndicator", "RepetitionTime", "EchoTime", "EchoTrainLength", "ScanOptions",
    "AcquisitionDate", "AcquisitionTime",
)  # fmt: skip
SEXES = {"female": "F", "male": "M"}


def as_axial(volume: Volume) -> Volume:
    """The same volume, stored in axial planes: rows run to the left, columns to the back, as viewers expect."""
    return replace(volume, stored=replace(volume.stored, axes=(0, 1, 2), flips=(True, True, False)))


def write_synthetic(
    volume: Volume, folder: Path, record: RunRecord, *, before: Callable[[Path], None] = lambda written: None
) -> int:
    """Write a generated volume as a series of a new patient and study, one file a slice, all or nothing.

    Parameters
    ----------
    volume : of MR, whole values from 0 to 32767, stored as `as_axial` says
    folder : new folder, or an older result of medldm, which is replaced
    record : of the run that drew it
    before : called with the finished folder before it takes its name

    Returns
    -------
    0, since nothing is clipped

    Raises
    ------
    InputError
        Voxels that do not fit.
    OutputError, ResourceError
    """
    _check_place(folder)
    stored = volume.to_stored(volume.voxels)
    if not np.isfinite(stored).all() or stored.min() < 0 or stored.max() > 32767:
        raise InputError(f"{volume.name} holds values that a DICOM image of 16 bits cannot keep. Write NIfTI instead.")
    planes = np.rint(stored).astype("<i2")
    digest = hashlib.sha256(json.dumps([record.task, dict(record.facts)], sort_keys=True, default=str).encode())
    digest.update(np.ascontiguousarray(planes).tobytes())
    seed = digest.hexdigest()
    with whole_folder(folder) as temporary:
        for place in range(planes.shape[2]):
            _slice(volume, record, planes[:, :, place].T, place, seed).save_as(
                temporary / f"{place:04d}.dcm", enforce_file_format=True
            )
        before(temporary)
    return 0


def _slice(volume: Volume, record: RunRecord, pixels: Voxels, place: int, seed: str) -> Dataset:
    said = {
        word.split()[0]: word.split()[1] for word in str(record.facts.get("description", "")).split(", ") if " " in word
    }
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for name in EMPTY:
        setattr(dataset, name, "" if name not in ("RepetitionTime", "EchoTime", "EchoTrainLength") else None)
    date, hour = created(Dataset())
    dataset.PatientName, dataset.PatientID = FAMILY, f"{SYNTHETIC}-{seed[:12].upper()}"
    dataset.PatientSex = SEXES.get(said.get("sex", ""), "")
    if age := said.get("age"):
        dataset.PatientAge = f"{round(float(age)):03d}Y"
    dataset.PatientComments = "This person does not exist; the images were drawn by medldm."
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = derived_uid(seed, "study"), derived_uid(seed, "series")
    dataset.FrameOfReferenceUID = derived_uid(seed, "frame of reference")
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, derived_uid(seed, f"slice {place}")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = date, hour, "1"
    dataset.PatientPosition = "HFS"
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, hour
    dataset.StudyDescription = "SYNTHETIC, medldm, research use only"
    what = " ".join(part for part in (said.get("contrast", ""), said.get("region", "")) if part)
    dataset.SeriesDescription = f"SYNTHETIC {what} medldm RUO".replace("  ", " ")[:64]
    dataset.SeriesNumber, dataset.InstanceNumber = 1, place + 1
    dataset.Modality, dataset.Manufacturer = "MR", "medldm"
    dataset.ManufacturerModelName, dataset.SoftwareVersions = f"medldm {record.model}", record.medldm or "unknown"
    dataset.BodyPartExamined = "HEAD" if said.get("region") == "head" else "BRAIN"
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = "RM", "NONE", "3D"
    dataset.SyntheticData, dataset.ContentQualification = "YES", "RESEARCH"
    dataset.DerivationDescription = description(record, volume)
    dataset.ContributingEquipmentSequence = [_equipment(record)]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.stored_affine()
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / steps
    dataset.ImagePositionPatient = [f"{value + 0.0:.10g}" for value in (affine @ [0, 0, place, 1])[:3]]
    dataset.ImageOrientationPatient = [f"{value + 0.0:.10g}" for value in (*cosines[:, 0], *cosines[:, 1])]
    dataset.PixelSpacing = [f"{steps[1]:.10g}", f"{steps[0]:.10g}"]
    dataset.SliceThickness = dataset.SpacingBetweenSlices = f"{steps[2]:.10g}"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.WindowCenter, dataset.WindowWidth = "500", "1000"
    dataset.BurnedInAnnotation = "NO"
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(pixels).tobytes())
    return dataset


def _equipment(record: RunRecord) -> Dataset:
    ours = Dataset()
    ours.PurposeOfReferenceCodeSequence = [code("109102", "DCM", "Processing Equipment")]
    ours.Manufacturer, ours.ManufacturerModelName = "medldm", "medldm"
    ours.SoftwareVersions = record.medldm or "unknown"
    ours.ContributionDescription = "Drawn by a generative model; no patient was scanned. Research use only"
    return ours


def _check_place(folder: Path) -> None:
    """Only an older result of ours may be replaced."""
    for path in folder.iterdir() if folder.is_dir() else ():
        headers = read_headers(path) if path.suffix == ".dcm" and path.is_file() else []
        if not headers or not headers[0].by_medldm:
            raise OutputError(f"{folder} holds other files; choose another place for the series.")
