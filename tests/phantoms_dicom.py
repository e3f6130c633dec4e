"""Small DICOM series, drawn: any orientation, slices lost, shifted, doubled, sheared, mixed, packed, damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

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
    along=None,
    signed=True,
    bits=16,
    shuffled=True,
    edit: Callable[[FileDataset, int], None] | None = None,
    **tags,
):
    """Write (columns, rows, slices) voxels, one extensionless file a slice, names in shuffled order.

    spacing: mm between columns, rows, slices. missing: slices left out. jitter: mm of noise on positions.
    shear: mm that each slice is shifted along its columns. slope, intercept: a number, or one for each slice.
    along: mm along the normal of each slice, instead of even steps. signed, bits: of the stored values.
    shuffled: whether InstanceNumber is drawn by lot, or counts slices. each: called with (image, slice) before
    writing. tags: further DICOM keywords.
    """
    folder.mkdir(parents=True, exist_ok=True)
    across, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(across, down)
    draw = np.random.default_rng(0)
    series = uid or generate_uid(entropy_srcs=["series", str(number)])
    count = voxels.shape[2]
    steps = np.arange(count) * spacing[2] if along is None else np.asarray(along, float)
    slopes, intercepts = np.broadcast_to(slope, count), np.broadcast_to(intercept, count)
    for k in draw.permutation(count):
        instance, name, noise = int(draw.integers(1, 999)), draw.integers(10**9), draw.standard_normal()
        if k in missing:
            continue
        place = np.array(origin) + (steps[k] + jitter * noise) * normal + k * shear * down
        image = _image(modality)
        image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(entropy_srcs=["study"]), series
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        image.SeriesNumber, image.InstanceNumber = number, instance if shuffled else int(k) + 1
        image.ImageOrientationPatient = list(map(float, orientation))
        image.ImagePositionPatient = [f"{v:.6f}" for v in place]
        image.PixelSpacing, image.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        _pixels(image, voxels[:, :, k], signed, bits)
        if slopes[k] != 1 or intercepts[k]:
            image.RescaleSlope, image.RescaleIntercept = float(slopes[k]), float(intercepts[k])
        for tag, value in tags.items():
            setattr(image, tag, value)
        if edit:
            edit(image, int(k))
        pydicom.dcmwrite(folder / f"{stamp}IM{name}", image, enforce_file_format=True)
    return folder


def _image(modality) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.PatientName, image.PatientID, image.Modality = "Doe^Jane", "SECRET-17", modality
    image.ImageType = ["ORIGINAL", "PRIMARY", "M" if modality == "MR" else "AXIAL"]
    return image


def _pixels(image, plane, signed, bits) -> None:
    image.Rows, image.Columns = plane.shape[1], plane.shape[0]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = int(signed)
    kind = np.int16 if signed else np.uint16
    image.add_new("PixelData", "OW", np.ascontiguousarray(plane.T.astype(kind)).tobytes())


def write_enhanced(
    folder: Path,
    voxels,
    *,
    spacing=(0.9, 0.8, 2.0),
    origin=(-20.0, -30.0, 5.0),
    order=None,
    slopes=None,
    edit: Callable[[Dataset, int], None] | None = None,
    **tags,
):
    """Write (columns, rows, slices) voxels as one upright enhanced MR image.

    order: slices in the order of the frames; drawn by lot when not said. slopes: one for each slice. each: called with
    (functional groups of a frame, its slice). tags: further DICOM keywords, of the whole image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = voxels.shape[2]
    order = np.random.default_rng(0).permutation(count) if order is None else order
    image = _image("MR")
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.FrameOfReferenceUID, image.SeriesNumber, image.InstanceNumber = generate_uid(), 3, 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    pointer = Dataset()
    pointer.DimensionIndexPointer, pointer.FunctionalGroupPointer = 0x00209057, 0x00209111
    image.DimensionIndexSequence = [pointer]
    measures = _item(PixelSpacing=[spacing[1], spacing[0]], SliceThickness=spacing[2])
    upright = _item(ImageOrientationPatient=list(UPRIGHT))
    image.SharedFunctionalGroupsSequence = [_item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[upright])]
    groups = []
    for k in map(int, order):
        place = [origin[0], origin[1], origin[2] + k * spacing[2]]
        groups.append(
            _item(
                PlanePositionSequence=[_item(ImagePositionPatient=place)],
                FrameContentSequence=[_item(DimensionIndexValues=k + 1, StackID="1", InStackPositionNumber=k + 1)],
                PixelValueTransformationSequence=[
                    _item(RescaleSlope=1.0 if slopes is None else float(slopes[k]), RescaleIntercept=0.0)
                ],
                MRImageFrameTypeSequence=[_item(FrameType=image.ImageType, ComplexImageComponent="MAGNITUDE")],
            )
        )
        if edit:
            edit(groups[-1], k)
    image.PerFrameFunctionalGroupsSequence = Sequence(groups)
    _pixels(image, voxels[:, :, 0], True, 16)
    image.NumberOfFrames = count
    image.PixelData = np.ascontiguousarray(voxels[:, :, order].T.astype(np.int16)).tobytes()
    for tag, value in tags.items():
        setattr(image, tag, value)
    pydicom.dcmwrite(folder / "enhanced", image, enforce_file_format=True)
    return folder


def _item(**said) -> Dataset:
    item = Dataset()
    for tag, value in said.items():
        setattr(item, tag, value)
    return item


def by_position(folder: Path) -> list[Path]:
    """Files of an upright series from the lowest slice to the highest."""
    return sorted(folder.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def edit(folder: Path, change: Callable[[FileDataset], None], which=None) -> Path:
    """Change the headers of some slices (all when not said) of an upright series."""
    for k, path in enumerate(by_position(folder)):
        if which is None or k in which:
            image = pydicom.dcmread(path)
            change(image)
            image.save_as(path)
    return folder


def without_preamble(folder: Path) -> Path:
    """The same files as bare data sets: no preamble, no DICM, no meta header."""
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        start = path.read_bytes().find(b"\x08\x00\x08\x00CS")  # ImageType, the first element of the data set
        assert start > 0
        path.write_bytes(path.read_bytes()[start:])
        assert image.Rows
    return folder


def cut_short(path: Path, lost=900) -> Path:
    """A copy interrupted: the last bytes are not there."""
    path.write_bytes(path.read_bytes()[:-lost])
    return path


def jpeg_lossless(folder: Path) -> Path:
    """The same files with pixels packed as lossless JPEG, by GDCM's own program."""
    tool = Path(sys.executable).with_name("gdcmconv")
    for path in folder.iterdir():
        subprocess.run([tool, "--jpeg", path, path], check=True)
    return folder
