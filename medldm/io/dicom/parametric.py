"""The standard deviation of a result as a DICOM Parametric Map: one file of floats that viewers lay over the series."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydicom.uid import generate_uid

from medldm.errors import InputError
from medldm.io.atomic import whole_file
from medldm.io.dicom.classic import classic
from medldm.io.dicom.declared import make_uids, reference
from medldm.io.dicom.frames import Frame
from medldm.io.dicom.header import no_values_on_screen
from medldm.io.dicom.pixels import Files
from medldm.volume import Affine, Volume, Voxels

EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


class Kind(NamedTuple):
    """One kind of map.

    Parameters
    ----------
    short, words, label : what it is called
    contrast : DICOM's Derived Pixel Contrast
    number : added to SeriesNumber; the restored series itself has 7000
    """

    short: str
    words: str
    label: str
    contrast: str
    number: int


STD = Kind("std", "standard deviation", "MEDLDM_STD", "STD_DEVIATION", 8000)
HALF_WIDTH = Kind("half width", "half width of interval", "MEDLDM_HALFWIDTH", "QUANTITY", 8500)


def write_uncertainty(
    volume: Volume, path: Path, *, task: str, facts: Mapping[str, Any], half_width: bool = False
) -> None:
    """Write ``volume.std`` as one Parametric Map, on the grid of the result and in the study of its source.

    Parameters
    ----------
    volume : restored, with ``std``; read from DICOM
    path : new file
    task, facts : what was done (model, sha256, steps, seed, medldm)
    half_width : whether ``std`` holds half the width of the calibrated interval instead

    Raises
    ------
    InputError
        The volume has no ``std``, or was not read from DICOM.
    OutputError, ResourceError
    """
    images: list[Frame] = [image for image in volume.stored.header or () if image is not None]
    if volume.stored.container != "dicom" or not images:
        raise InputError(f"{volume.name} was not read from DICOM, so there is no study to put a map into.")
    if volume.std is None:
        raise InputError(f"{volume.name} has no standard deviation. Ask for it with --samples 8 --uncertainty.")
    headers = Files(pixels=False)
    sources = [_complete(classic(*headers.frame(image))) for image in images]
    spread = np.nan_to_num(volume.to_stored(volume.std).astype(np.float32))
    with no_values_on_screen():
        dataset = _parametric_map(volume, spread, sources, task, facts, HALF_WIDTH if half_width else STD)
    with whole_file(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _complete(source: Any) -> Any:
    """The header with what may be empty but must be there, which anonymizers like to remove altogether."""
    whole = copy(source)
    for name in EMPTY:
        if name not in whole:
            setattr(whole, name, None)
    if "FrameOfReferenceUID" not in whole:
        # The standard wants one here; the images of one series share theirs even where nobody wrote it down.
        whole.FrameOfReferenceUID = generate_uid(entropy_srcs=[str(source.SeriesInstanceUID), "frame of reference"])
    if "SliceThickness" not in whole:
        whole.SliceThickness = 1.0  # only looked at: the map has the thickness of the result
    return whole


def _parametric_map(
    volume: Volume, spread: Voxels, sources: list[Any], task: str, facts: Mapping[str, Any], kind: Kind
) -> Any:
    # Imported here: it takes a second, and only those who ask for the map need it.
    import highdicom as hd

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.stored_affine()
    uids = make_uids(sources, volume, spread, f"{task} {kind.short}", facts)
    first = sources[0]
    version = str(facts.get("medldm", "")) or "unknown"
    highest = max(float(spread.max()), 1e-6)
    number = str(first.get("SeriesNumber", "") or "")
    measures, orientation, positions = _grid(lps, spread.shape[2], volume.stored.thickness_mm)
    dataset = hd.pm.ParametricMap(
        # One stands for all: highdicom refuses sources whose orientations differ in the last digit.
        source_images=sources[:1],
        pixel_array=np.ascontiguousarray(spread.T),  # (slices, rows, columns)
        series_instance_uid=uids[0],
        series_number=kind.number + (int(number) if number.isdigit() else 0),
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer="medldm",
        manufacturer_model_name="medldm",
        software_versions=version,
        device_serial_number="0",
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[_mapping(volume.stored.modality, highest, kind)],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=highest / 2, window_width=highest)],
        pixel_measures=measures,
        plane_orientation=orientation,
        plane_positions=positions,
        content_label=kind.label,
        content_description=f"{kind.words} of {task}, research use only",
        derived_pixel_contrast=kind.contrast,
    )
    _cite(dataset, sources)
    if not dataset.get("BodyPartExamined"):
        dataset.Laterality = None  # asked for unless the body part is known to have none
    dataset.SeriesDescription = f"medldm {task} {kind.words} RUO"[:64]
    return dataset


def _cite(dataset: Any, sources: list[Any]) -> None:
    """Name every source, once, by the class it really has (enhanced images stand here as classic ones)."""
    cited = {str(source.SOPInstanceUID): reference(source) for source in sources}
    for item in cited.values():
        del item.PurposeOfReferenceCodeSequence
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(cited.values())
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence") or ():
            for item in derivation.SourceImageSequence:
                item.ReferencedSOPClassUID = cited[str(item.ReferencedSOPInstanceUID)].ReferencedSOPClassUID


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
    """What the numbers are: HU for CT, no unit for MR."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.pm.RealWorldValueMapping(
        lut_label=kind.label.removeprefix("MEDLDM_"),
        lut_explanation=f"{kind.words} of the restored voxels",
        unit=codes.UCUM.HounsfieldUnit if modality == "ct" else codes.UCUM.NoUnits,
        value_range=(0.0, highest),
        slope=1.0,
        intercept=0.0,
    )
