"""Open NIfTI files, DICOM files and DICOM folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medldm.io.dicom import is_dicom
from medldm.io.nifti import is_nifti


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Any]] | None:
    """The reader, if the path is one that medldm reads; sniffed by content, never by suffix alone.

    Parameters
    ----------
    path : file or folder, or a list of them
    """
    paths = [Path(each) for each in ([path] if isinstance(path, str) else path)]
    return read if paths and all(_ours(each) for each in paths) else None


def _ours(path: Path) -> bool:
    if path.is_dir():
        return any(is_dicom(each) for each in sorted(path.iterdir())[:20] if each.is_file())
    return path.is_file() and (is_nifti(path) or is_dicom(path))


def read(path: str | list[str]) -> list[Any]:
    """Every scan in a path as a layer."""
    from medldm.io.scans import find_cases
    from napari_medldm.layers import layer_data

    layers = []
    for each in [path] if isinstance(path, str) else path:
        for case in find_cases(Path(each)):
            if not case.skip:
                layers.append(layer_data(case.read()))
    return layers
