"""Read a series as one volume: slices decoded, rescaled and stacked; missing ones are NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel import orientations

from medldm.data.volume import Affine, Stored, Volume, Voxels
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.dicom.header.files import no_values_on_screen
from medldm.io.dicom.pixels.image import Files, mapped, read_slice
from medldm.io.dicom.series.regularise import REPAIRABLE, places_of, regular, without_duplicates
from medldm.io.dicom.series.stack import Series, volume_of

MOST_PIXELS = 2**28  # in one slice; no scanner makes that many


@no_values_on_screen()
def read_series(series: Series, *, fix: bool = False, volume_index: int | None = None) -> Volume:
    """One volume of a series.

    Values are those of the modality (HU for CT), padding included: MONOCHROME1 and PixelPaddingValue are about display
    and change nothing, as in dcm2niix.

    Parameters
    ----------
    series : from `find_series`
    fix : leave out duplicates, shear tilted slices back, resample irregular ones; refused where nothing of it helps
    volume_index : which volume of a series that holds several at the same positions, counted from 0

    Returns
    -------
    volume, axes nearest to RAS; missing slices are NaN and named in ``stored.missing``; stored array order is
    (column, row, slice)

    Raises
    ------
    GeometryError, NotRestorable, InputError
    UsageError
        No such volume.
    """
    series = volume_of(series, volume_index)
    notes: tuple[str, ...] = ()
    if fix and series.verdict == "duplicate":
        series, note = without_duplicates(series)
        notes = (note,)
    _check(series, fix)
    files = Files()
    slices = [None if image is None else read_slice(image, series.shape[1::-1], files) for image in series.images]
    stack, dtype = _stacked(slices, series.shape)
    missing, affine = series.missing, series.affine
    if affine is None:
        stack, affine, missing, note = regular(stack, places_of(series), series.name)
        stack = np.rint(stack).astype(dtype) if dtype.kind in "iu" and not missing else stack
        notes = (*notes, note)
    return _volume(series, stack, affine, missing, dtype, (*notes, *_notes(series)))


def _volume(
    series: Series,
    stack: Voxels,
    affine: Affine,
    missing: tuple[int, ...],
    dtype: np.dtype[Any],
    notes: tuple[str, ...],
) -> Volume:
    ornt = orientations.io_orientation(affine)
    inside = affine @ orientations.inv_ornt_aff(ornt, stack.shape)
    axes, flips = ornt[:, 0].astype(int), ornt[:, 1] < 0
    stored = Stored(
        axes=(int(axes[0]), int(axes[1]), int(axes[2])),
        flips=(bool(flips[0]), bool(flips[1]), bool(flips[2])),
        dtype=dtype,
        container="dicom",
        header=series.images,
        thickness_mm=series.thickness_mm,
        missing=missing,
        modality=series.modality,
        note=notes,
        restored_by="by its header" if series.is_derived_by_medldm else "",
        label=series.label,
        part=series.part,
    )
    return Volume(orientations.apply_orientation(stack, ornt), inside, name=series.name, stored=stored)


def _check(series: Series, fix: bool) -> None:
    if not series.restorable and not (fix and series.verdict in REPAIRABLE):
        refusal = NotRestorable if series.verdict == "not a volume" else GeometryError
        raise refusal(f"{series.name} cannot be restored as it is: {series.reason}")
    columns, rows, _ = series.shape
    if columns * rows > MOST_PIXELS:
        raise InputError(f"{series.name} claims {columns} x {rows} pixels a slice, more than any scanner makes.")


def _stacked(slices: list[Voxels | None], shape: tuple[int, int, int]) -> tuple[Voxels, np.dtype[Any]]:
    """(columns, rows, slices) with NaN where a slice is missing, and the type that results go back to."""
    types = {image.dtype for image in slices if image is not None}
    whole = all(np.issubdtype(image, np.integer) for image in types)
    dtype: np.dtype[Any] = np.result_type(*types) if whole else np.dtype(np.float32)
    gaps = any(image is None for image in slices)
    stack: Voxels = np.empty((*shape[:2], len(slices)), dtype=np.float32 if gaps else dtype)
    for place, image in enumerate(slices):
        stack[:, :, place] = np.nan if image is None else image.T
        slices[place] = None  # one copy at a time
    return stack, dtype


def _notes(series: Series) -> tuple[str, ...]:
    files = Files(pixels=False)
    image = next(image for image in series.images if image is not None)
    dataset, header = files.frame(image)
    notes = tuple(f"{series.name}: {note}" for note in (series.note, mapped(header)) if note)
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        return notes
    return (
        *notes,
        f"{series.name} is MONOCHROME1: low values are meant to look bright. Its values are kept as they are.",
    )
