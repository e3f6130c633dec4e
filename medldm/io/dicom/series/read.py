"""Read a series as one volume: slices decoded, rescaled and stacked; missing ones are NaN.

What a series is has been found out before, from headers alone (`find_series`). Here pixels are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel import orientations

from medldm.data.volume import Affine, Stored, Volume, Voxels
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.dicom.header.files import no_values_on_screen, read_dataset
from medldm.io.dicom.header.values import SYNTHETIC
from medldm.io.dicom.pixels.image import Files, mapped, read_slice
from medldm.io.dicom.series.repair import REPAIRABLE, make_regular, positions_of, without_duplicates
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
    fix : leave out duplicates, shear tilted slices back, resample irregular ones
    volume_index : which volume of a series that holds several at the same positions, counted from 0

    Returns
    -------
    volume whose axes are permuted and flipped so that they run as near to RAS as they can; missing slices are NaN and
    named in ``stored.missing``; the stored array order is (column, row, slice)

    Raises
    ------
    GeometryError
        No regular grid, also after `fix` if asked for; or files that have changed.
    NotRestorable
        No volume at all.
    InputError
        Pixels that cannot be read.
    UsageError
        No volume `volume_index`.
    """
    series = volume_of(series, volume_index)
    notes: tuple[str, ...] = ()
    if fix and series.verdict == "duplicate":
        series, note = without_duplicates(series)
        notes = (note,)
    _check(series, fix)
    columns, rows, _ = series.shape
    files = Files()
    slices = [None if image is None else read_slice(image, (rows, columns), files) for image in series.images]
    stack, dtype = _stacked(slices, series.shape)
    missing, affine = series.missing, series.affine
    if affine is None:  # no regular grid: tilted or irregular, and `fix` is on
        stack, affine, missing, note = make_regular(stack, positions_of(series), series.name)
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
    """The stack with its axes as near to RAS as they can be, and what is needed to store it as it was."""
    ornt = orientations.io_orientation(affine)
    ras_affine = affine @ orientations.inv_ornt_aff(ornt, stack.shape)
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
        restored_by=_done_by_medldm(series),
        label=series.label,
        part=series.part,
    )
    return Volume(orientations.apply_orientation(stack, ornt), ras_affine, name=series.name, stored=stored)


def _check(series: Series, fix: bool) -> None:
    """Raise where a series is no volume, or none that may be read without or with `fix`."""
    if not series.restorable and not (fix and series.verdict in REPAIRABLE):
        refusal = NotRestorable if series.verdict == "not a volume" else GeometryError
        raise refusal(f"{series.name} cannot be restored as it is: {series.reason}")
    columns, rows, _ = series.shape
    if columns * rows > MOST_PIXELS:
        raise InputError(f"{series.name} claims {columns} x {rows} pixels a slice, more than any scanner makes.")


def _stacked(slices: list[Voxels | None], shape: tuple[int, int, int]) -> tuple[Voxels, np.dtype[Any]]:
    """(columns, rows, slices), float32 with NaN where slices are missing; and the type that results are stored in.

    Empties `slices`, so that no slice is in memory twice.
    """
    types = {image.dtype for image in slices if image is not None}
    integers = all(np.issubdtype(image, np.integer) for image in types)
    dtype: np.dtype[Any] = np.result_type(*types) if integers else np.dtype(np.float32)
    gaps = any(image is None for image in slices)
    stack: Voxels = np.empty((*shape[:2], len(slices)), dtype=np.float32 if gaps else dtype)
    for k, image in enumerate(slices):
        stack[:, :, k] = np.nan if image is None else image.T  # images are (rows, columns)
        slices[k] = None
    return stack, dtype


def _notes(series: Series) -> tuple[str, ...]:
    """Sentences about what was assumed, and about how values are to be understood."""
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


def _done_by_medldm(series: Series) -> str:
    """What medldm did to a series; empty for an original."""
    if not series.is_derived_by_medldm:
        return ""
    first = next(image for image in series.images if image is not None)
    drawn = read_dataset(first.path, stop_before_pixels=True, specific_tags=["PatientID"])
    return "generate" if str(drawn.get("PatientID", "")).startswith(SYNTHETIC) else "by its header"
