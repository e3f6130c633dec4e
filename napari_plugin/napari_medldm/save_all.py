"""Save several layers at once, each with its geometry: all of them, or none and a sentence that names the layer."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import MedldmError, OutputError, UsageError
from medldm.io.atomic import partial_name, sentence
from medldm.io.formats import result_format, stem
from napari_medldm.refused import KEY
from napari_medldm.writers import write_dicom, write_image

LayerData = tuple[Any, dict[str, Any], str]
NIFTI, TABLE = ".nii.gz", ".csv"
DRAWN = ("shapes", "points")  # layers of coordinates, which napari writes as tables
UNSAFE = re.compile(r"[^\w.+-]+")  # in names of files, on one system or another
LONGEST = 100  # characters of a name; most systems allow 255 bytes


def write_layers(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write image and labels layers in one format, shapes and points as tables of coordinates in the viewer's world.

    ``study.nii.gz`` gives ``study_LAYER.nii.gz`` for each layer; a name without the suffix of a format is a folder, in
    which each layer is a NIfTI file of its name. Files that are there already are kept.

    Parameters
    ----------
    path : file name with the suffix of a format, or a folder
    layers : array, attributes and kind of each

    Returns
    -------
    the paths written

    Raises
    ------
    MedldmError
        Of the first layer that cannot be written, by its name; nothing is written then.
    """
    target = Path(path)
    form = result_format(target)
    if form is None or not form.writes(target):
        return _write(target, "", [(layer, NIFTI) for layer in layers])
    prefix = stem(target)
    return _write(target.parent, f"{prefix}_", [(layer, target.name[len(prefix) :]) for layer in layers])


def write_layers_as_dicom(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write layers into a folder: scans that came from DICOM as derived series, each a folder, all others as NIfTI.

    Parameters
    ----------
    path : the folder, maybe ending in .dcm
    layers : array, attributes and kind of each

    Returns
    -------
    the paths written

    Raises
    ------
    MedldmError
        See `write_layers`.
    """
    folder = Path(path).with_suffix("") if path.lower().endswith(".dcm") else Path(path)
    kinds = [(layer, "" if _from_dicom(layer) else NIFTI) for layer in layers]
    written = _write(folder, "", kinds)
    if others := [layer[1]["name"] for layer, suffix in kinds if suffix and layer[2] not in DRAWN]:
        from napari.utils.notifications import show_info

        show_info(f"Saved as NIfTI, since no series can be derived for it: {'; '.join(others)}.")
    return written


def write_folder(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write layers into a folder, as `write_layers` does; layers that medldm knows nothing of as napari does.

    napari asks this writer for any name without a suffix, so layers that are no scans must not come out otherwise than
    without this plugin.

    Parameters
    ----------
    path : the folder
    layers : array, attributes and kind of each

    Returns
    -------
    the paths written

    Raises
    ------
    MedldmError
        See `write_layers`.
    """
    if any("medldm" in attributes.get("metadata", {}) for _, attributes, _ in layers):
        return write_layers(path, layers)
    from napari_builtins.io import write_layer_data_with_plugins

    written: list[str] = write_layer_data_with_plugins(path, list(layers))
    return written


def file_names(names: Iterable[str], taken: Callable[[str], bool] = lambda name: False) -> list[str]:
    """Names of layers as names of files: without signs that a system refuses, each once, whatever the case.

    Parameters
    ----------
    names : of layers
    taken : whether a file of that name is there already
    """
    safe: list[str] = []
    for name in names:
        base = UNSAFE.sub("_", stem(Path(name.replace("/", "_").replace("\\", "_")))).strip("._")[:LONGEST] or "layer"
        choice, count = base, 1
        while choice.lower() in {other.lower() for other in safe} or taken(choice):
            count += 1
            choice = f"{base}-{count}"
        safe.append(choice)
    return safe


def _from_dicom(layer: LayerData) -> bool:
    """Whether a series can be derived from a layer."""
    data, attributes, kind = layer
    metadata = attributes.get("metadata", {})
    frame = metadata.get("medldm")
    return (
        kind == "image"
        and KEY not in metadata
        and getattr(data, "ndim", 0) == 3
        and frame is not None
        and frame.stored.container == "dicom"
        and bool(frame.stored.header)
    )


def _write(folder: Path, prefix: str, layers: Sequence[tuple[LayerData, str]]) -> list[str]:
    """Write layers to hidden names beside the folder, then show all of them in it.

    Parameters
    ----------
    folder : where they are wanted
    prefix : of every name
    layers : with the suffix of each; empty for a folder of DICOM
    """
    layers = [(layer, TABLE if layer[2] in DRAWN else suffix) for layer, suffix in layers]
    suffixes = {suffix for _, suffix in layers}
    names = file_names(
        (str(layer[1]["name"]) for layer, _ in layers),
        lambda name: any((folder / f"{prefix}{name}{suffix}").exists() for suffix in suffixes),
    )
    staged = partial_name(folder / "layers") if folder.is_dir() else partial_name(folder)
    try:
        staged.mkdir(parents=True)
        written: list[Path] = []
        for (layer, suffix), name in zip(layers, names, strict=True):
            written += _write_one(layer, staged / f"{prefix}{name}{suffix}", folder, dicom=not suffix)
        _show(staged, folder, [path.name for path in written])
    except OSError as problem:
        raise sentence(problem, folder) from problem
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return [str(folder / path.name) for path in written]


def _write_one(layer: LayerData, path: Path, folder: Path, *, dicom: bool) -> list[Path]:
    """Write one layer; what is wrong names it, and the place where it would have come to lie."""
    data, attributes, kind = layer
    name = str(attributes["name"])
    try:
        if kind in DRAWN:
            return _write_table(layer, path)
        write = write_dicom if dicom else write_image
        return [Path(file) for file in write(str(path), data, attributes)]
    except (MedldmError, ValueError) as problem:
        text = str(problem).replace(str(path.parent), str(folder))
        text = text if text.startswith(name) else f"{name}: {text}"
        error = type(problem) if isinstance(problem, MedldmError) else UsageError
        raise error(f"{text} No layer was saved.") from problem


def _write_table(layer: LayerData, path: Path) -> list[Path]:
    """Write shapes or points as napari does, but in the viewer's world, since a table holds no transform."""
    from napari.layers import Layer
    from napari_builtins.io import napari_write_points, napari_write_shapes

    data, attributes, kind = layer
    placed = Layer.create(data, attributes, kind)
    if kind == "points":
        world: Any = np.array([placed.data_to_world(point) for point in placed.data])
        write = napari_write_points
    else:
        world = [np.array([placed.data_to_world(corner) for corner in shape]) for shape in placed.data]
        write = napari_write_shapes
    if not len(world):
        return []  # there is nothing to lose
    write(str(path), world, attributes)
    return [path]


def _show(staged: Path, folder: Path, headers: Sequence[str]) -> None:
    """Move what was written to its folder; what was moved goes back to nothing where the rest cannot follow.

    Parameters
    ----------
    staged, folder : from where, to where
    headers : names of the files that were asked for; voxels beside them come first, so that a header finds its own
    """
    if not folder.exists():
        staged.rename(folder)
        return
    moved: list[Path] = []
    try:
        for path in sorted(staged.iterdir(), key=lambda path: path.name in headers):
            if (folder / path.name).exists():
                raise OutputError(f"{folder / path.name} has been written by another program. Save once more.")
            moved.append(path.rename(folder / path.name))
    except (OSError, OutputError):
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise
