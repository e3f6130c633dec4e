"""Open image files of all formats, DICOM files, folders of either, and trees of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medldm.errors import GeometryError, InputError, MedldmError, NotRestorable
from medldm.io.archives import is_zip
from medldm.io.dicom import is_dicom
from medldm.io.formats import find_image, format_by_name

if TYPE_CHECKING:
    from medldm.data.volume import Volume
    from medldm.io.discovery import Case
    from napari_medldm.layers import LayerTuple

LOOKED_AT = 200  # files of a folder that are sniffed before it is left to other plugins


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerTuple]] | None:
    """The reader, if the path is one that medldm reads: by its content, or called like one, to say what is wrong.

    Parameters
    ----------
    path : file or folder, or a list of them
    """
    paths = [Path(name) for name in ([path] if isinstance(path, str) else path)]
    return read if paths and all(_ours(file) for file in paths) else None


def _ours(path: Path) -> bool:
    if path.is_dir():
        files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        return any(_is_image(file) for file in islice(files, LOOKED_AT))
    return path.is_file() and _is_image(path)


def _is_image(path: Path) -> bool:
    return format_by_name(path) is not None or is_dicom(path) or find_image(path) is not None or is_zip(path)


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
    layers, problems, remarks = [], [], []
    for case, origin in _cases([Path(name) for name in ([path] if isinstance(path, str) else path)]):
        try:
            layer, remark = _layer(case, origin)
        except MedldmError as problem:
            problems.append(str(problem))
            continue
        layers.append(layer)
        remarks += [remark] if remark else []
    if not layers:
        raise InputError(_advice(problems) or f"{path} holds no scan.")
    if problems or remarks:
        from napari.utils.notifications import show_info, show_warning

        if problems:
            show_warning(f"{len(layers)} opened, the others not: {_advice(problems[:5])}")
        for remark in remarks[:5]:
            show_info(remark)
    return layers


def _advice(problems: list[str]) -> str:
    """Sentences of the readers, which advise options that napari has no rows for."""
    said = "; ".join(problems)
    return f"{said} (Options like these are of the command line: medldm restore IN OUT.)" if " --" in said else said


def _cases(paths: list[Path]) -> Iterator[tuple[Case, str]]:
    """Scans, each with a path that holds it and no other; empty where there is none."""
    from medldm.io.dicom import find_series
    from medldm.io.discovery import Case, find_cases

    slices = [path for path in paths if path.is_file() and format_by_name(path) is None and find_image(path) is None]
    if len(slices) > 1:  # chosen together, to be stacked
        paths = [path for path in paths if path not in slices]
        for series in find_series(slices):
            skip = series.reason if series.verdict == "not a volume" else ""
            yield Case(series.files[0].parent, Path(series.name), series, skip=skip), ""
    pairs: set[Path] = set()  # of which both halves were chosen
    for path in paths:
        cases = find_cases(path)
        for case in cases:
            if case.half and case.source in pairs:
                continue
            pairs.add(case.source)
            yield case, _alone(path.absolute(), case, cases)


def _alone(path: Path, case: Case, cases: list[Case]) -> str:
    if case.keep is not None:
        return ""  # it was unpacked to a folder that is gone soon
    if case.alone:
        return str(path)
    place = case.source.absolute()
    others = (file.absolute() for other in cases if other is not case for file in other.files)
    return "" if any(place in file.parents or place == file for file in others) else str(place)


def _layer(case: Case, origin: str) -> tuple[LayerTuple, str]:
    """A scan as a layer, and a sentence about how it is shown where that is not as it was measured."""
    from napari_medldm.layers import Origin, mark
    from napari_medldm.refused import KEY, series_layer

    if case.skip and case.foreign:
        raise NotRestorable(case.skip)
    if case.broken:
        raise InputError(case.broken)
    layer, remark = series_layer(case) if case.series else _image_layer(case)
    if origin and KEY not in layer[1]["metadata"]:
        layer[1]["metadata"]["medldm_origin"] = Origin(origin, mark(layer[0]))
    return layer, remark


def _image_layer(case: Case) -> tuple[LayerTuple, str]:
    from napari_medldm.layers import series_data
    from napari_medldm.refused import KEY, Refused, plain

    count = _length(case)
    if count > 1:
        return series_data([case.read(index) for index in range(count)]), ""
    try:
        return _volume_layer(case.read()), ""
    except GeometryError as problem:
        # The header gives two places. One of them is shown; which is right, its owner must say.
        try:
            layer = _volume_layer(case.read(fix=True))
        except MedldmError:
            raise problem from None
        refusal = Refused(plain(str(problem)), "Trust this place", {"fix": True}, case, "as placed")
        layer[1]["metadata"][KEY] = refusal
        return layer, refusal.reason


def _volume_layer(volume: Volume) -> LayerTuple:
    """A scan as an image; a mask, which is none, as labels: who opens one wants to see it, and to inpaint with it."""
    from medldm.io import looks_like_labels
    from napari_medldm.layers import layer_data

    if looks_like_labels(volume.voxels) and volume.voxels.any():
        return layer_data(volume.with_voxels(volume.voxels.astype("int32")), kind="labels")
    return layer_data(volume)


def _length(case: Case) -> int:
    """Volumes of an image file."""
    return next((size for size in case.stored_shape[3:] if size > 1), 1)
