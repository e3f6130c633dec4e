"""DICOM series that medldm does not restore as they are, to be looked at: every image where it was measured.

A tilted stack is one volume with a sheared affine, uneven slices are shown at an even spacing, images that repeat
positions follow each other along a first axis, a mosaic becomes the volume that it holds. Nothing is interpolated.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.volume import Affine, Volume, Voxels
from medldm.errors import InputError
from medldm.io.arrays import from_array
from medldm.io.dicom.header.content import far_below
from medldm.io.dicom.header.files import no_values_on_screen
from medldm.io.dicom.header.parse import Header
from medldm.io.dicom.header.values import UNREADABLE, numbers, word
from medldm.io.dicom.pixels.image import Files, decode, load, read_slice
from medldm.io.dicom.series.geometry import LONGEST_GAP, Array, affine_ras, fit_grid
from medldm.io.dicom.series.grouping import group_by_position
from medldm.io.dicom.series.stack import Series, axes_of, members_of
from medldm.modality import MODALITIES

UPRIGHT = (np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0]))  # where nothing says otherwise, LPS
ASIDE_MM = 0.5  # by which a slice may be shown beside its place without a remark
# What a series is that is no scan, in the reason of its reader: "it is a field map, by the unit of its values".
CONTENT = re.compile(r"it is (?:an? )?((?!\d|an? |mosaic)[\w -]+?)(?:[.,:(]|$)")
MOST_PLANES = 16  # times as many as images: a stray slice far away must not fill the memory
NONE = -1  # no image was measured there


@dataclass(frozen=True)
class Picture:
    """A series as it is shown.

    Parameters
    ----------
    volumes : on one grid, in order
    remark : what is not true of the picture, or was done for it, a sentence; empty where it is as measured
    """

    volumes: tuple[Volume, ...]
    remark: str = ""


@dataclass(frozen=True)
class Grid:
    """Where the planes of a picture lie.

    Parameters
    ----------
    affine : (4, 4) index (column, row, plane) to RAS mm
    images : for each plane, the number of the image that is shown there; `NONE` where none was measured
    remark : see `Picture`
    """

    affine: Affine
    images: tuple[int, ...]
    remark: str = ""


@no_values_on_screen()
def picture_of(series: Series, name: str) -> Picture:
    """All images of a series.

    Parameters
    ----------
    series : from `medldm.io.dicom.find_series`, whatever its verdict
    name : for messages

    Raises
    ------
    InputError
        Pixels that cannot be read, or colours.
    """
    members = members_of(series)
    # Some transfer syntaxes hide the private count; the other images of the series say it.
    tiles = max(header.mosaic for header in members)
    if tiles > 1:
        volumes, remark = _mosaics(members, tiles, name)
    elif members[0].frames > 1:
        volumes, remark = _unplaced_frames(members[0], name)
    else:
        volumes, remark = _stacks(series, members, name)
    return Picture(tuple(_as_stored(volume, series) for volume in volumes), remark)


def name_of(series: Series) -> str:
    """What to call a series: its number and description, ``"3 T1w MPRAGE"``, and what tells it from others of its UID.

    Parameters
    ----------
    series : from `medldm.io.dicom.find_series`
    """
    header = _first_header(series)
    described = " ".join((word(header, "SeriesDescription") or word(header, "ProtocolName")).split())
    number = str(series.number) if series.number is not None and series.number >= 0 else ""
    name = f"{number} {described}".strip() if described else series.name
    content = CONTENT.match(series.reason) if series.verdict == "not a volume" and not series.volumes else None
    labels = [series.label or (content[1] if content else "")]
    if content and content[1] == "localizer":
        labels.append(_plane(header))
    return ", ".join([name, *(label for label in labels if label and label.lower() not in name.lower())])


@no_values_on_screen()
def _first_header(series: Series) -> Any:
    """Header of an image, flat; an empty one where the file has changed."""
    try:
        return Files(pixels=False).frame(next(image for image in series.images if image is not None))[1]
    except InputError:
        return {}


def _plane(header: Any) -> str:
    """The anatomical plane that an image is nearest to."""
    orientation = numbers(header, "ImageOrientationPatient", 6)
    if orientation is None:
        return ""
    normal = np.cross(orientation[:3], orientation[3:])
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]


def _as_stored(volume: Volume, series: Series) -> Volume:
    """The volume with what the scanner says beside its voxels; as an array, since no series can be derived from it."""
    modality = series.modality if series.modality in MODALITIES else None
    stored = replace(volume.stored, modality=modality, thickness_mm=series.thickness_mm)
    return volume.with_voxels(volume.voxels, stored=stored)


def _stacks(series: Series, members: list[Header], name: str) -> tuple[list[Volume], str]:
    """Volumes of images that have a place each; of several at one place, one in each volume."""
    by_position = group_by_position(members) or [sorted(members, key=_in_order)]
    grid = _grid([images[0] for images in by_position], series)
    place_of = {header.source: number for number, images in enumerate(by_position) for header in images}
    header_of = {header.source: header for header in members}
    if series.volumes:
        frames = [{place_of[image]: header_of[image] for image in volume} for volume in series.volumes]
    else:
        count = max(map(len, by_position))
        order = _by_sign if series.verdict == "mixed" and count > 1 else _in_order
        ordered = [sorted(images, key=order) for images in by_position]
        frames = [{k: images[n] for k, images in enumerate(ordered) if n < len(images)} for n in range(count)]
    files = Files()
    stacks = [_stack([frame.get(k) for k in range(len(by_position))], grid.images, files) for frame in frames]
    return [from_array(stack, grid.affine, name) for stack in _alike(stacks)], grid.remark


def _grid(places: Sequence[Header], series: Series) -> Grid:
    """Planes at an even spacing for images at different positions, in order along the slice normal.

    Parameters
    ----------
    places : an image for each position
    series : that they are of
    """
    first, axes = places[0], _axes(places)
    columns_mm, rows_mm = reversed(first.pixel_spacing or (1.0, 1.0))
    thick = first.between_mm or series.thickness_mm or 1.0
    if axes is None:
        affine = affine_ras(UPRIGHT, np.zeros(3), (columns_mm, rows_mm, thick))
        return Grid(affine, tuple(range(len(places))), "its header does not say where it lies, so it lies anywhere")
    origins = np.array([header.position for header in places])
    along = (origins - origins[0]) @ axes[2]
    lean, off_line = _line(origins, along, axes[2])
    images, step, remark = _planes(along, axes[2], thick)
    if off_line > ASIDE_MM:
        remark = f"its slices do not lie on a line; they are shown up to {off_line:.1f} mm beside their places"
    affine = affine_ras((axes[0], axes[1], axes[2] + lean), origins[0], (columns_mm, rows_mm, step))
    return Grid(affine, images, remark)


def _axes(members: Sequence[Header]) -> tuple[Array, Array, Array] | None:
    """Directions along a row, along a column and of the slice normal, LPS; None where some image has no place."""
    placed = all(
        header.orientation is not None and header.position is not None and header.pixel_spacing is not None
        for header in members
    )
    return axes_of(list(members)) if placed else None


def _line(origins: Array, along: Array, normal: Array) -> tuple[Array, float]:
    """Millimetres that slices shift in their plane for each mm along the normal, and by how many they miss that line.

    Parameters
    ----------
    origins, along : (N, 3) mm, and (N,) mm along the normal from the first
    normal : (3,) slice normal
    """
    shift = origins - origins[0] - np.outer(along, normal)
    lean: Array = (along @ shift) / (along @ along) if along.any() else np.zeros(3)
    return lean, float(np.linalg.norm(shift - np.outer(along, lean), axis=1).max())


def _planes(along: Array, normal: Array, thick: float) -> tuple[tuple[int, ...], float, str]:
    """For each plane of an even spacing the nearest image, the spacing in mm, and a remark where it is not theirs.

    Parameters
    ----------
    along : (N,) mm along the normal from the first, ascending
    normal : (3,)
    thick : spacing of a single image, mm
    """
    if len(along) == 1:
        return (0,), thick, ""
    grid = fit_grid(np.outer(along, normal), normal)  # as if they lay above each other: a lean changes no spacing
    if grid.index:
        images = [NONE] * (grid.index[-1] + 1)
        for number, plane in enumerate(grid.index):
            images[plane] = number
        return tuple(images), grid.step_mm, ""
    gaps = np.diff(along)
    step = max(float(gaps.min()), float(np.median(gaps)) / 2, float(along[-1]) / (MOST_PLANES * len(along)))
    at = np.arange(round(float(along[-1]) / step) + 1) * step
    nearest = np.abs(at[:, None] - along).argmin(axis=1)
    gap = np.append(gaps, 0.0)[np.clip(np.searchsorted(along, at, side="right") - 1, 0, len(gaps))]
    far = (np.abs(at - along[nearest]) > step / 2) & (gap > (LONGEST_GAP + 1) * step)
    remark = f"its slices lie {gaps.min():.2f} to {gaps.max():.2f} mm apart; the nearest is shown every {step:.2f} mm"
    return tuple(np.where(far, NONE, nearest).tolist()), step, remark


def _stack(images: list[Header | None], planes: Sequence[int], files: Files) -> Voxels:
    """(columns, rows, planes); NaN, and then float32, where there is no image."""
    slices = [None if header is None else _pixels(header, files) for header in images]
    there = next(image for image in slices if image is not None)
    chosen = [None if plane == NONE else slices[plane] for plane in planes]
    gaps = any(image is None for image in chosen)
    dtype = np.result_type(*{image.dtype for image in slices if image is not None})
    stack: Voxels = np.empty((*there.T.shape, len(chosen)), dtype=np.float32 if gaps else dtype)
    for k, image in enumerate(chosen):
        stack[:, :, k] = np.nan if image is None else image.T  # images are (rows, columns)
    return stack


def _alike(stacks: list[Voxels]) -> list[Voxels]:
    """Stacks of one type: the frames of a layer have one."""
    dtype = np.result_type(*{stack.dtype for stack in stacks})
    return [stack.astype(dtype, copy=False) for stack in stacks]


def _pixels(header: Header, files: Files) -> Voxels:
    """(rows, columns) in the unit of the image; stored values where a table maps them, which `read_slice` refuses."""
    try:
        return read_slice(header.source, (header.rows, header.columns), files)
    except InputError:
        dataset, _ = files.frame(header.source)
        return decode(dataset, header.source.path, header.source.number)


def _in_order(header: Header) -> tuple[float, float, Any]:
    """Sorts images as they were taken."""
    taken = float(header.acquisition) if header.acquisition.isdigit() else np.inf
    return taken, np.inf if header.instance is None else header.instance, header.source


def _by_sign(header: Header) -> tuple[Any, ...]:
    """Sorts images of different kinds: magnitudes before what reaches far below zero, as a phase or field map does."""
    low, high = np.percentile(_pixels(header, Files()), (1, 99))
    return far_below(float(low), float(high)), *_in_order(header)


def _unplaced_frames(header: Header, name: str) -> tuple[list[Volume], str]:
    """The frames of an image that has several and does not say where they lie: one after the other."""
    frames = decode(load(header.source.path), header.source.path)
    columns_mm, rows_mm = reversed(header.pixel_spacing or (1.0, 1.0))
    affine = affine_ras(UPRIGHT, np.zeros(3), (columns_mm, rows_mm, header.thickness_mm or 1.0))
    frames = frames.reshape((-1, *frames.shape[-2:]))
    remark = "its header does not say where its frames lie, so they follow each other at one place"
    return [from_array(frame.T[:, :, None], affine, name) for frame in frames], remark


def _mosaics(members: list[Header], count: int, name: str) -> tuple[list[Volume], str]:
    """A volume of each image, whose tiles are its slices."""
    files = Files()
    affine, remark = _mosaic_affine(next(header for header in members if header.mosaic == count))
    stacks = [_tiles(_pixels(header, files), count) for header in sorted(members, key=_in_order)]
    return [from_array(stack, affine, name) for stack in _alike(stacks)], remark


def _tiles(image: Voxels, count: int) -> Voxels:
    """(columns, rows, slices) from tiles that lie row by row in a square, of which the last ones may be empty."""
    across = _across(count)
    rows, columns = image.shape[0] // across, image.shape[1] // across
    tiles = image[: rows * across, : columns * across].reshape(across, rows, across, columns)
    stack: Voxels = tiles.transpose(3, 1, 0, 2).reshape(columns, rows, across**2)[:, :, :count]
    return stack


def _across(count: int) -> int:
    """Tiles along a side of the square that holds some."""
    return int(np.ceil(np.sqrt(count)))


def _mosaic_affine(header: Header) -> tuple[Affine, str]:
    """Index (column, row, slice) of the volume in a mosaic to RAS mm, and a remark where that is not known."""
    axes, normal = _axes([header]), _siemens_normal(header.source.path)
    columns_mm, rows_mm = reversed(header.pixel_spacing or (1.0, 1.0))
    spacing = columns_mm, rows_mm, header.between_mm or header.thickness_mm or 1.0
    if axes is None or normal is None or header.position is None:
        remark = "its header does not say where the slices of the mosaic lie, so they lie anywhere"
        return affine_ras(UPRIGHT, np.zeros(3), spacing), remark
    # Siemens gives the corner of the mosaic as if it were one large slice with the same centre as its slices.
    tiles = _across(header.mosaic)
    columns, rows = header.columns - header.columns // tiles, header.rows - header.rows // tiles
    corner = header.position + axes[0] * columns_mm * columns / 2 + axes[1] * rows_mm * rows / 2
    return affine_ras((axes[0], axes[1], axes[2] * np.sign(axes[2] @ normal)), corner, spacing), ""


def _siemens_normal(path: Path) -> Array | None:
    """Direction in which the slices of a mosaic follow each other, LPS, by the private header of Siemens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its readers of DICOM experimental
        from nibabel.nicom import csareader
    try:
        csa = csareader.get_csa_header(load(path, pixels=False))
        normal = None if csa is None else csareader.get_slice_normal(csa)
    except (*UNREADABLE, csareader.CSAError):
        return None
    return None if normal is None else np.asarray(normal, dtype=np.float64)
