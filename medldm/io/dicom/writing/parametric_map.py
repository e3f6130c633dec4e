"""The standard deviation of a result as a DICOM Parametric Map: one file of floats that viewers lay over the series."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DA, TM

from medldm.data.volume import Affine, Volume, Voxels
from medldm.errors import InputError
from medldm.io.atomic import whole_file
from medldm.io.dicom.header.files import no_values_on_screen
from medldm.io.dicom.header.values import UNREADABLE
from medldm.io.dicom.writing.classic import Source
from medldm.io.dicom.writing.derivation import (
    derived_uid,
    description,
    equipment,
    make_uids,
    reference,
    series_number,
    strip,
)
from medldm.io.dicom.writing.sources import Sources, citable_sources
from medldm.modality import modality_of
from medldm.provenance.record import RunRecord

# What the map is about, and what its maker looks at.
GIVEN = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "Rows",
    "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
)  # fmt: skip
EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
# Who and which study: these groups, and these elements of others.
CARRIED_GROUPS = (0x0010, 0x0012)
CARRIED = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC", "StudyDate", "StudyTime", "StudyID", "StudyDescription",
    "AccessionNumber", "IssuerOfAccessionNumberSequence", "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence",
    "PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence", "RequestingServiceCodeSequence", "ReferencedStudySequence",
    "ProcedureCodeSequence", "ReasonForPerformedProcedureCodeSequence", "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence", "AdmissionID", "IssuerOfAdmissionIDSequence", "ReasonForVisit",
    "ReasonForVisitCodeSequence", "ServiceEpisodeID", "IssuerOfServiceEpisodeIDSequence", "ServiceEpisodeDescription",
    "PositionReferenceIndicator", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
# The standard wants a date; that of the source keeps equal runs equal.
DATES = (("ContentDate", "ContentTime"), ("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime"),
         ("StudyDate", "StudyTime"))  # fmt: skip
NO_DATE = ("19000101", "000000")


class Kind(NamedTuple):
    """One kind of map.

    Parameters
    ----------
    short, words, label : what it is called
    contrast : DICOM's Derived Pixel Contrast
    number : added to SeriesNumber; the restored series itself has 7000
    """

    short: str
    quantity: str
    label: str
    contrast: str
    number: int


STD = Kind("std", "standard deviation", "MEDLDM_STD", "STD_DEVIATION", 8000)
HALF_WIDTH = Kind("half width", "half width of interval", "MEDLDM_HALFWIDTH", "QUANTITY", 8500)


def write_uncertainty(volume: Volume, path: Path, record: RunRecord, *, half_width: bool = False) -> None:
    """Write ``volume.std`` as one Parametric Map, on the grid of the result and in the study of its source.

    Parameters
    ----------
    volume : restored, with ``std``; read from DICOM
    path : new file
    record : what was done
    half_width : whether ``std`` holds half the width of the calibrated interval instead

    Raises
    ------
    InputError
        The volume has no ``std``, or was not read from DICOM.
    OutputError, ResourceError
    """
    if volume.stored.container != "dicom" or not any(volume.stored.header or ()):
        raise InputError(f"{volume.name} was not read from DICOM, so there is no study to put a map into.")
    if volume.std is None:
        raise InputError(f"{volume.name} has no standard deviation. Ask for it with --samples 8 --uncertainty.")
    sources = citable_sources(volume)
    spread = np.nan_to_num(volume.to_stored(volume.std).astype(np.float32))
    with whole_file(path) as temporary, no_values_on_screen():
        try:
            dataset = _parametric_map(volume, spread, sources, record, HALF_WIDTH if half_width else STD)
            dataset.save_as(temporary, enforce_file_format=True)
        except (OSError, MemoryError):
            raise
        except Exception as problem:
            # What pydicom and highdicom raise about odd headers repeats values of them, names of patients too.
            raise InputError(
                f"No map of the uncertainty of {volume.name} could be made ({type(problem).__name__}): its headers "
                "hold something that does not fit into one. Leave out --uncertainty, or write NIfTI."
            ) from None


def _stand_in(source: Source) -> Dataset:
    """A header for the maker of maps, which refuses many a word that real headers hold: only what it looks at.

    Patient and study are left empty; they come later, as they are (`_carry`).
    """
    given = Dataset()
    for name in GIVEN:
        if source.header.get(name):
            given[name] = source.header[name]
    for name in EMPTY:
        setattr(given, name, None)
    if "FrameOfReferenceUID" not in given:
        # The standard wants one here; the images of one series share theirs even where nobody wrote it down.
        seeds = [str(source.header.SeriesInstanceUID), "frame of reference"]
        given.FrameOfReferenceUID = generate_uid(entropy_srcs=seeds)
    given.SliceThickness = 1.0  # only looked at: the map has the thickness of the result
    given.file_meta = FileMetaDataset()
    given.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return given


def _carry(source: Source, dataset: Any) -> None:
    """Write who and which study into a map, byte for byte as the source has it."""
    header = deepcopy(source.header)
    strip(header)
    wanted = {Tag(name) for name in CARRIED}
    for tag in list(header.keys()):
        if tag in wanted or tag.group in CARRIED_GROUPS:
            dataset[tag] = header.get_item(tag)
    # pydicom writes text undecoded only where it believes that nothing changes.
    dataset.set_original_encoding(False, True, dataset._character_set)


def _date_and_time(header: Any) -> tuple[str, str]:
    """When the source was made, by the first of its dates that is one."""
    for names in DATES:
        try:
            date, time = str(header.get(names[0]) or ""), str(header.get(names[1]) or "")
            if DA(date):
                return date, time if TM(time) else NO_DATE[1]
        except UNREADABLE:
            continue
    return NO_DATE


def _parametric_map(volume: Volume, spread: Voxels, sources: Sources, record: RunRecord, kind: Kind) -> Any:
    # Imported here: it takes a second, and only those who ask for the map need it.
    import highdicom as hd

    slices = [spread[:, :, place] for place in range(spread.shape[2])]
    uids = make_uids(sources.images, volume, slices, record, kind.short)
    first = sources.images[0]
    highest = max(float(spread.max()), 1e-6)
    measures, orientation, positions = _grid(sources.lps, spread.shape[2], volume.stored.thickness_mm)
    dataset = hd.pm.ParametricMap(
        # One stands for all: highdicom refuses sources whose orientations differ in the last digit.
        source_images=[_stand_in(first)],
        pixel_array=np.ascontiguousarray(spread.T),  # (slices, rows, columns)
        series_instance_uid=uids[0],
        series_number=series_number(first.header, kind.number, volume.stored.part),
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer="medldm",
        manufacturer_model_name="medldm",
        software_versions=record.medldm or "unknown",
        device_serial_number="0",
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[_mapping(volume.stored.modality, highest, kind)],
        # Exact, since the other functions want windows of at least 1.
        voi_lut_transformations=[
            hd.VOILUTTransformation(highest / 2, highest, voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT)
        ],
        pixel_measures=measures,
        plane_orientation=orientation,
        plane_positions=positions,
        content_label=kind.label,
        content_description=f"{kind.quantity} of {record.task}, research use only",
        derived_pixel_contrast=kind.contrast,
    )
    _carry(first, dataset)
    _cite(dataset, sources)
    _date(dataset, first, derived_uid(uids[0], "dimensions"))
    if not dataset.get("BodyPartExamined"):
        dataset.Laterality = None  # asked for unless the body part is known to have none
    dataset.SeriesDescription = f"{volume.stored.label} medldm {record.task} {kind.quantity} RUO".strip()[:64]
    dataset.DerivationDescription = f"{kind.quantity}: {description(record, volume)[:990]}"
    dataset.ContributingEquipmentSequence = equipment(first.header, record)
    return dataset


def _date(dataset: Any, source: Source, dimensions: str) -> None:
    """Replace what the maker of maps takes from the clock and by lot, so that equal runs give equal bytes."""
    del dataset.InstanceCreationDate, dataset.InstanceCreationTime
    dataset.ContentDate, dataset.ContentTime = _date_and_time(source.header)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions


def _cite(dataset: Any, sources: Sources) -> None:
    """Name every source, once, by the class it really has (enhanced images stand here as classic ones)."""
    files: dict[str, Dataset] = {}
    for source in sources.images:
        item = reference(source)
        del item.PurposeOfReferenceCodeSequence
        files.setdefault(str(item.ReferencedSOPInstanceUID), item)
    dataset.SourceImageSequence = [reference(source) for source in sources.images]
    for item in files.values():
        if "ReferencedFrameNumber" in item:
            del item.ReferencedFrameNumber  # the whole file is meant
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(files.values())


def _grid(lps: Affine, count: int, thickness_mm: float | None) -> tuple[Any, Any, list[Any]]:
    """Pixel measures, orientation, and the position of every slice."""
    import highdicom as hd

    steps = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = lps[:3, :3] / steps
    measures = hd.PixelMeasuresSequence(
        pixel_spacing=(float(steps[1]), float(steps[0])),
        slice_thickness=float(thickness_mm or steps[2]),
        spacing_between_slices=float(steps[2]),
    )
    orientation = hd.PlaneOrientationSequence("PATIENT", [*map(float, cosines[:, 0]), *map(float, cosines[:, 1])])
    positions = [
        hd.PlanePositionSequence("PATIENT", [float(mm) for mm in (lps @ [0, 0, place, 1])[:3]])
        for place in range(count)
    ]
    return measures, orientation, positions


def _mapping(modality: str | None, highest: float, kind: Kind) -> Any:
    """What the numbers are, in the unit of the modality."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.pm.RealWorldValueMapping(
        lut_label=kind.label.removeprefix("MEDLDM_"),
        lut_explanation=f"{kind.quantity} of the restored voxels",
        unit=getattr(codes.UCUM, modality_of(modality).ucum),
        value_range=(0.0, highest),
        slope=1.0,
        intercept=0.0,
    )
