"""Files to volumes and back."""

from __future__ import annotations

from pathlib import Path

from medldm.errors import InputError, NotRestorable
from medldm.io.content import check_content, find_missing_slices, guess_modality, looks_like_labels, not_a_scan
from medldm.io.nifti import is_nifti, read_nifti, write_nifti
from medldm.volume import Volume


def read(path: str | Path, *, volume: int | None = None) -> Volume:
    """A scan from a NIfTI file, a DICOM file, or a folder that holds one DICOM series.

    Parameters
    ----------
    path : file or folder
    volume : which volume of a 4D NIfTI file, counted from 0

    Returns
    -------
    volume, axes nearest to RAS, millimetres

    Raises
    ------
    InputError, GeometryError, NotRestorable
        With a sentence that names the file and the remedy.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_file() and is_nifti(path):
        return read_nifti(path, volume_index=volume)
    from medldm.io.dicom import find_series, is_dicom, read_series

    if path.is_file() and not is_dicom(path):
        raise InputError(f"{path} is neither NIfTI nor DICOM.")
    found = find_series(path)
    good = [series for series in found if series.restorable]
    if not found:
        raise InputError(f"{path} holds no DICOM image and is no NIfTI file.")
    if len(good) > 1:
        names = ", ".join(series.name for series in good)
        raise InputError(f"{path} holds {len(good)} series ({names}). Name the files of one, or run the command line on the folder.")
    if not good:
        raise NotRestorable(f"{path} holds no series that can be restored: " + "; ".join(f"{s.name}: {s.reason}" for s in found))
    return read_series(good[0])


def write(volume: Volume, path: str | Path) -> int:
    """A volume to a NIfTI file, or to a folder as a derived DICOM series.

    Parameters
    ----------
    volume : to be written as it was stored
    path : ``.nii`` or ``.nii.gz``; any other name is a folder for DICOM, if the volume came from DICOM

    Returns
    -------
    number of voxels clipped to the stored integer range

    Raises
    ------
    OutputError, ResourceError, InputError
    """
    path = Path(path)
    if is_nifti(path):
        return write_nifti(volume, path)
    from medldm.io.dicom import write_series

    last = volume.history[-1] if volume.history else None
    facts = dict(last.facts) if last else {}
    return write_series(
        volume, path, task=last.task if last else "copy", facts=facts, invented=facts.get("invented_slices", ())
    )


__all__ = [
    "check_content",
    "find_missing_slices",
    "guess_modality",
    "is_nifti",
    "looks_like_labels",
    "not_a_scan",
    "read",
    "read_nifti",
    "write",
    "write_nifti",
]
