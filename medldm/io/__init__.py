"""Files to volumes and back."""

from __future__ import annotations

import logging
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medldm.data.volume import Volume
from medldm.errors import InputError, MedldmError, NotRestorable, OutputError, UsageError
from medldm.io.arrays import from_array, from_nibabel
from medldm.io.checks import same_place
from medldm.io.content import (
    check_content,
    find_missing_slices,
    looks_like_labels,
    not_a_scan,
    what_it_is,
)
from medldm.io.formats import FORMATS, check_format, check_result_name, find_image, is_image_name, result_format
from medldm.io.images import read_image
from medldm.io.nifti.format import read_nifti, write_nifti
from medldm.modality import guess_modality, modality_by_name
from medldm.provenance.record import RunRecord

log = logging.getLogger(__name__)

REPAIRED = ("was repaired", "left out of")  # so the notes of repairs say


def read(path: str | Path, *, volume_index: int | None = None, fix: bool = False) -> Volume:
    """A scan from an image file, a DICOM file, or a folder or zip that holds one scan.

    Parameters
    ----------
    path : file or folder
    volume_index : which volume of a 4D file or series, counted from 0
    fix : repair what can be repaired (duplicate, irregular, tilted DICOM; contradictory NIfTI forms)

    Returns
    -------
    volume, axes nearest to RAS, millimetres

    Raises
    ------
    InputError, GeometryError, NotRestorable
        With a sentence that names the file and the remedy.
    """
    path = Path(path)
    if not os.path.isdir(path) and (find_image(path) or (is_image_name(path) and not os.path.exists(path))):
        return read_image(path, volume_index=volume_index, fix=fix)
    from medldm.io.discovery import find_cases

    cases = find_cases(path)
    good = [case for case in cases if not (case.skip or case.broken)]
    if volume_index is None and len(good) > 1:  # a series of several volumes is no second scan, unless one is asked for
        good = [case for case in good if case.series is None or not case.series.volumes] or good
    for case in cases:
        if case.broken and good:
            log.warning("%s", case.broken)
    if len(good) > 1:
        names = ", ".join(case.place.as_posix() for case in good[:5]) + (", ..." if len(good) > 5 else "")
        raise InputError(f"{path} holds {len(good)} scans ({names}). Name one of them, or run the command line on all.")
    if not good:
        reasons = "; ".join(f"{case.place.as_posix()}: {case.skip or case.broken}" for case in cases[:5])
        raise NotRestorable(f"{path} holds no scan that can be restored ({reasons})")
    return good[0].read(volume_index, fix=fix)


def write(volume: Volume, path: str | Path, *, form: str | None = None) -> int:
    """A volume to an image file, or to a folder as a derived DICOM series.

    What was read from integers is rounded and clipped to them; from DICOM to what its rescale and bits can say, in both
    formats. `Volume.as_map` is for other quantities on the same grid.

    Parameters
    ----------
    volume : to be written as it was stored
    path : its suffix names the format (``.nii.gz``, ``.nrrd``, ``.mha``, ``.mgz``, ...); any other name is a folder for
        DICOM, if the volume came from DICOM or was generated
    form : ``"dicom"`` or the name of a file format; by the name and the origin when not given

    Returns
    -------
    number of voxels clipped to the stored integer range

    Raises
    ------
    UsageError, OutputError, ResourceError
    """
    path = Path(path)
    check_result_name(path)
    check_format(form)
    named = result_format(path)
    dicom = volume.stored.container == "dicom"
    if not dicom and _is_synthetic(volume) and not named and form in (None, "dicom"):
        from medldm.io.dicom.writing.synthetic import as_axial, write_synthetic

        axial, record = as_axial(volume), RunRecord.of_step(volume.history[-1])
        return write_synthetic(axial, path, record, before=lambda written: _check_series(written, path, axial))
    if form not in (None, "dicom") or named or not dicom:
        if form == "dicom":
            raise UsageError(f"{path}: a DICOM series needs a folder, and a volume that was read from DICOM.")
        volume, clipped = _whole_as_dicom(volume) if dicom else (volume, 0)
        return clipped + (FORMATS[form] if form else named or FORMATS["nifti"]).write(volume, path)
    from medldm.io.dicom import write_series

    if volume.history:
        record = RunRecord.of_step(volume.history[-1])
    else:
        repaired = any(phrase in note for note in volume.stored.note for phrase in REPAIRED)
        record = RunRecord(task="repair" if repaired else "copy", medldm=version("medldm"))
    return write_series(
        volume,
        path,
        record,
        invented=sorted(_invented(volume)),
        before=lambda written: _check_series(written, path, volume),
    )


def _is_synthetic(volume: Volume) -> bool:
    """Whether a volume was generated, from no scan."""
    return bool(volume.history) and RunRecord.of_step(volume.history[0]).synthetic


def _check_series(written: Path, path: Path, volume: Volume) -> None:
    """Read a derived series again before it takes its name.

    Parameters
    ----------
    written : the folder under its temporary name
    path : its final name, for messages
    volume : what it was made of

    Raises
    ------
    OutputError
    """
    from medldm.io.dicom import find_series, read_series

    try:
        series = find_series(sorted(written.iterdir()))
        again = read_series(series[0], fix=True) if len(series) == 1 else None
    except MedldmError as problem:
        raise OutputError(f"{path} could not be read again and was not kept ({problem}).") from problem
    stored = volume.to_stored(volume.voxels)
    missing = stored.dtype.kind == "f" and bool(np.isnan(stored).all((0, 1)).any())  # such slices are not written
    alike = again is not None and (
        missing
        or (again.shape == volume.shape and same_place(again.stored_affine(), volume.stored_affine(), stored.shape))
    )
    if not alike:
        raise OutputError(
            f"{path} could not be read again as what was written, and was not kept. Check the disk, and try again."
        )


def _whole_as_dicom(volume: Volume) -> tuple[Volume, int]:
    """The voxels that a derived series would hold, since both formats say the same; how many were clipped for it."""
    from medldm.io.dicom.writing.series import as_derived

    try:
        return as_derived(volume)
    except InputError as problem:
        log.info("%s is written without regard to the bits of its DICOM files: %s", volume.name, problem)
        return volume, 0


def _invented(volume: Volume) -> set[int]:
    """Slices, along the stored third axis, that hold voxels nobody measured."""
    invented: set[int] = set()
    for record in map(RunRecord.of_step, volume.history):
        slices = {*(record.invented_slices or ()), *record.filled_slices}
        if slices and not record.invented_voxels and record.axis != 2:
            # Slices along another axis cross every slice of the series; those of a region are counted along its own.
            slices = set(range(volume.to_stored(volume.voxels).shape[2]))
        invented |= slices
    return invented


__all__ = [
    "check_content",
    "find_missing_slices",
    "from_array",
    "from_nibabel",
    "guess_modality",
    "is_image_name",
    "looks_like_labels",
    "modality_by_name",
    "not_a_scan",
    "read",
    "read_nifti",
    "what_it_is",
    "write",
    "write_nifti",
]
