"""Image files to volumes, whatever their format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medldm.data.volume import Volume
from medldm.io.formats import FORMATS, find_image, format_by_name, stem
from medldm.io.sidecars import read_record


def read_image(path: Path, *, volume_index: int | None = None, fix: bool = False) -> Volume:
    """One 3D volume of an image file, in the format that its content, or else its name, says.

    Parameters
    ----------
    path : file, or part of a detached image
    volume_index : which volume of a 4D file, counted from 0
    fix : repair what can be repaired

    Raises
    ------
    InputError, GeometryError, NotRestorable, UsageError, ResourceError
    """
    image = find_image(path)
    form = image.format if image else format_by_name(path) or FORMATS["nifti"]
    volume = form.read(image.files.header if image else path, volume_index=volume_index, fix=fix)
    before = volume.stored.restored_by or recorded(path)
    return replace(volume, name=stem(path), stored=replace(volume.stored, restored_by=before))


def recorded(image: Path) -> str:
    """What medldm did to a file by the record beside it; empty without one.

    Parameters
    ----------
    image : the file
    """
    record = read_record(image)
    return record.task if record and record.result == image.name and not record.unchanged else ""
