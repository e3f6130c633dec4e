"""Open NIfTI files, DICOM files, folders of either, and trees of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medldm.errors import InputError, MedldmError, NotRestorable
from medldm.io.dicom import is_dicom
from medldm.io.nifti import is_nifti

if TYPE_CHECKING:
    from medldm.io.scans import Case
    from napari_medldm.layers import LayerTuple

LOOKED_AT = 200  # files of a folder that are sniffed before it is left to other plugins


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerTuple]] | None:
    """The reader, if the path is one that medldm reads; DICOM is sniffed by content, never by suffix.

    Parameters
    ----------
    path : file or folder, or a list of them
    """
    paths = [Path(each) for each in ([path] if isinstance(path, str) else path)]
    return read if paths and all(_ours(each) for each in paths) else None


def _ours(path: Path) -> bool:
    if path.is_dir():
        files = (each for each in path.rglob("*") if each.is_file() and not each.name.startswith("."))
        return any(is_nifti(each) or is_dicom(each) for each in islice(files, LOOKED_AT))
    return path.is_file() and (is_nifti(path) or is_dicom(path))


def read(path: str | list[str]) -> list[LayerTuple]:
    """Every scan in a path as a layer: several series give several layers, a mask a labels layer.

    Parameters
    ----------
    path : file or folder, or a list of them

    Raises
    ------
    InputError
        Nothing could be opened; its sentence says why.
    """
    from medldm.io.scans import find_cases

    layers, problems = [], []
    for each in [path] if isinstance(path, str) else path:
        for case in find_cases(Path(each)):
            try:
                layers.append(_layer(case))
            except MedldmError as problem:
                problems.append(str(problem))
    if not layers:
        raise InputError("; ".join(problems) or f"{path} holds no scan.")
    if problems:
        from napari.utils.notifications import show_warning

        show_warning(f"{len(layers)} opened, the others not: " + "; ".join(problems[:5]))
    return layers


def _layer(case: Case) -> LayerTuple:
    from medldm.io import is_nifti, looks_like_labels
    from napari_medldm.layers import layer_data, series_data

    if case.skip and not is_nifti(case.source):
        raise NotRestorable(f"{case.series.name}: {case.skip}" if case.series else case.skip)
    if case.broken:
        raise InputError(case.broken)
    count = 1 if case.series is not None else _length(case.source)
    if count > 1:
        return series_data([case.read(index) for index in range(count)])
    volume = case.read()
    # A mask is no scan, but whoever opens one wants to see it, and inpaint wants it as labels.
    if looks_like_labels(volume.voxels) and volume.voxels.any():
        whole = volume.with_voxels(volume.voxels.astype("int32"))
        return layer_data(whole, kind="labels")
    return layer_data(volume)


def _length(path: Path) -> int:
    """Volumes of a NIfTI file."""
    from medldm.io.nifti import probe_nifti

    shape: Iterator[int] = iter(probe_nifti(path).shape[3:])
    return next((size for size in shape if size > 1), 1)
