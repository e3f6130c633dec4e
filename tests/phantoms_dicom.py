"""Small DICOM series, drawn: any orientation, slices lost, shifted, doubled, sheared, mixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

UPRIGHT = (1, 0, 0, 0, 1, 0)


def write_series(
    folder: Path,
    voxels,
    *,
    spacing=(0.9, 0.8, 2.0),
    orientation=UPRIGHT,
    origin=(-20.0, -30.0, 5.0),
    missing=(),
    jitter=0.0,
    shear=0.0,
    number=3,
    modality="MR",
    slope=1.0,
    intercept=0.0,
    uid=None,
    stamp="",
    **tags,
):
    """Write (columns, rows, slices) int16 voxels, one extensionless file a slice, in shuffled order.

    spacing: mm between columns, rows, slices. missing: slices left out. jitter: mm of noise on positions.
    shear: mm that each slice is shifted along its rows. tags: further DICOM keywords.
    """
    folder.mkdir(parents=True, exist_ok=True)
    across, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(across, down)
    draw = np.random.default_rng(0)
    series = uid or generate_uid(entropy_srcs=["series", str(number)])
    for k in draw.permutation(voxels.shape[2]):
        if k in missing:
            continue
        place = np.array(origin) + k * spacing[2] * normal + k * shear * down + jitter * draw.standard_normal() * normal
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        image.PatientName, image.PatientID = "Doe^Jane", "SECRET-17"
        image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(entropy_srcs=["study"]), series
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        image.SeriesNumber, image.InstanceNumber, image.Modality = number, int(draw.integers(1, 999)), modality
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        image.ImageOrientationPatient, image.ImagePositionPatient = (
            list(map(float, orientation)),
            [f"{v:.6f}" for v in place],
        )
        image.PixelSpacing, image.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        image.Rows, image.Columns = voxels.shape[1], voxels.shape[0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        if slope != 1 or intercept:
            image.RescaleSlope, image.RescaleIntercept = slope, intercept
        image.PixelData = np.ascontiguousarray(voxels[:, :, k].T.astype(np.int16)).tobytes()
        for name, value in tags.items():
            setattr(image, name, value)
        pydicom.dcmwrite(folder / f"{stamp}IM{draw.integers(10**9)}", image, enforce_file_format=True)
    return folder
