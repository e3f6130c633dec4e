"""A DICOM series as one stack of images: what is known about it, and whether its positions form a regular grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medldm.data.volume import Affine
from medldm.errors import GeometryError, UsageError
from medldm.io.dicom.header.frames import Frame
from medldm.io.dicom.header.parse import Header, read_headers
from medldm.io.dicom.series.geometry import Array, affine_ras, fit_grid, unit_axes

CONTRADICTION = (
    "its DimensionIndexValues order the frames otherwise than their positions do. Export it again, or convert it with "
    "dcm2niix."
)


@dataclass(frozen=True)
class Series:
    """Images that form one stack, and whether it can be restored.

    Often all images of a SeriesInstanceUID, but one of those may hold several such stacks (`part` counts them).

    Parameters
    ----------
    images : in order of position along the slice normal; None where a slice is missing
    number : SeriesNumber, None where the header has none
    name : safe name for files and messages, never taken from a patient
    modality : the DICOM word in lower case
    verdict : regular, missing, duplicate, irregular, tilted, mixed, single, or not a volume
    reason : a sentence about why it cannot be restored as it is; empty where it can
    shape : columns, rows, slices (gaps counted)
    spacing : mm along columns, rows, slices; 0 where it is not known
    affine : (4, 4) stored index (column, row, slice) to RAS mm; None without a regular grid
    thickness_mm : SliceThickness
    missing : slices that were not found, counted from 0
    note : a sentence about what was assumed; empty where nothing was
    uid : SeriesInstanceUID
    image_type : words of ImageType, in upper case
    is_derived_by_medldm : whether medldm wrote it
    volumes : images of each volume, where it holds several at the same positions; `volume_of` takes one
    label : distinguishes it from others of the same SeriesInstanceUID, ``"TE 80"``; empty where it is the only one
    part : its number among those of the same SeriesInstanceUID, from 0; each of `volumes` counts
    """

    images: tuple[Frame | None, ...]
    number: int | None = None
    name: str = "series"
    modality: str = ""
    verdict: str = "regular"
    reason: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    affine: Affine | None = None
    thickness_mm: float | None = None
    missing: tuple[int, ...] = ()
    note: str = ""
    uid: str = ""
    image_type: tuple[str, ...] = ()
    is_derived_by_medldm: bool = False
    volumes: tuple[tuple[Frame, ...], ...] = ()
    label: str = ""
    part: int = 0

    @property
    def restorable(self) -> bool:
        """Whether it can be read as one volume."""
        return self.verdict in ("regular", "missing", "single")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold its images, each once."""
        return tuple(dict.fromkeys(image.path for image in self.images if image is not None))


def volume_of(series: Series, index: int | None) -> Series:
    """One volume of a series of several, judged by its geometry; a series of one volume is left as it is.

    Parameters
    ----------
    series : from `find_series`
    index : which volume, counted from 0; None leaves the series as it is

    Raises
    ------
    UsageError
        It has no such volume.
    GeometryError
        Its files have changed.
    """
    count = max(1, len(series.volumes))
    if index is not None and not 0 <= index < count:
        raise UsageError(f"{series.name} has no volume {index}: it holds {count}, counted from 0.")
    if index is None or not series.volumes:
        return series
    chosen = replace(
        series,
        images=series.volumes[index],
        volumes=(),
        reason="",
        label=f"{series.label} volume {index}".strip(),
        part=series.part + index,
    )
    return with_geometry(chosen, members_of(chosen))


def members_of(series: Series) -> list[Header]:
    """Headers of the images of a series, in their order.

    Raises
    ------
    GeometryError
        A file has changed.
    """
    wanted = {image: None for image in series.images if image is not None}
    headers = {header.source: header for path in series.files for header in read_headers(path)}
    if missing := [image for image in wanted if image not in headers]:
        raise GeometryError(f"{missing[0].path} has changed since its folder was looked at. Try again.")
    return [headers[image] for image in wanted]


def with_geometry(series: Series, members: list[Header]) -> Series:
    """A series with the verdict on its geometry, and with order, spacing and affine where there is a regular grid.

    Parameters
    ----------
    series : what is known without geometry
    members : headers of its images, in any order
    """
    first = members[0]
    axes = axes_of(members)
    if axes is None or first.pixel_spacing is None:
        reason = "its ImageOrientationPatient is not a pair of perpendicular unit vectors."
        return replace(series, verdict="not a volume", reason=reason)
    origins = np.array([header.position for header in members])
    single_mm = first.between_mm or series.thickness_mm  # spacing of a single image, which has no gap to measure
    grid = fit_grid(
        origins,
        axes[2],
        # Frames of one file share its InstanceNumber.
        instances=[header.instance if header.stack_place is None else header.stack_place for header in members],
        thicknesses=[header.thickness_mm for header in members],
        single_mm=single_mm or 1.0,
    )
    ordered = [members[number] for number in grid.order]
    if _numbered_otherwise(ordered) and grid.verdict not in ("not a volume", "duplicate"):
        return replace(series, verdict="mixed", reason=CONTRADICTION)
    series = replace(
        series, verdict=grid.verdict, reason=grid.reason, images=tuple(header.source for header in ordered)
    )
    if not grid.index:
        return series
    if grid.verdict == "single" and single_mm is None:
        series = replace(series, note="it tells neither its thickness nor a spacing; 1 mm is assumed.")
    images: list[Frame | None] = [None] * (grid.index[-1] + 1)
    for number, header in zip(grid.index, ordered, strict=True):
        images[number] = header.source
    rows_mm, columns_mm = first.pixel_spacing  # between rows, between columns; the first index runs along a row
    spacing = (columns_mm, rows_mm, grid.step_mm)
    return replace(
        series,
        images=tuple(images),
        shape=(first.columns, first.rows, len(images)),
        spacing=spacing,
        affine=affine_ras(axes, origins[grid.order[0]], spacing),
        missing=grid.missing,
    )


def axes_of(members: list[Header]) -> tuple[Array, Array, Array] | None:
    """`unit_axes` of some images: directions along a row, along a column, and of the slice normal; LPS."""
    return unit_axes([header.orientation for header in members if header.orientation is not None])


def _numbered_otherwise(ordered: list[Header]) -> bool:
    """Whether an enhanced image numbers its frames in another order than their positions have."""
    for path in {header.source.path for header in ordered}:
        numbers = [header.stack_place for header in ordered if header.source.path == path]
        steps = np.diff([number for number in numbers if number is not None])
        if len(steps) + 1 == len(numbers) and not ((steps > 0).all() or (steps < 0).all()):
            return True
    return False
