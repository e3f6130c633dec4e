"""Pixels of a series: decoded, rescaled slice by slice, stacked with gaps as NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from nibabel import orientations
from pydicom.errors import InvalidDicomError

from medldm.errors import GeometryError, InputError, NotRestorable, UsageError
from medldm.io.dicom.series import Series
from medldm.volume import Stored, Volume, Voxels


def read_series(series: Series, *, fix: bool = False) -> Volume:
    """One volume of a series.

    Parameters
    ----------
    series : from `find_series`
    fix : repair what can be repaired; not there yet, so it is refused

    Returns
    -------
    volume, axes nearest to RAS; missing slices are NaN and named in ``stored.missing``; stored array order is
    (column, row, slice)

    Raises
    ------
    GeometryError, NotRestorable, InputError
    """
    if fix and not series.restorable:
        raise UsageError(f"--fix cannot repair {series.name} yet: {series.reason}")
    if series.affine is None or not series.restorable:
        refusal = NotRestorable if series.verdict == "not a volume" else GeometryError
        raise refusal(f"{series.name} cannot be restored as it is: {series.reason}")
    if series.shape[0] * series.shape[1] > 2**28:
        raise InputError(
            f"{series.name} claims {series.shape[0]} x {series.shape[1]} pixels a slice, more than any scanner makes."
        )
    slices = [None if path is None else read_slice(path, series.shape[1::-1]) for path in series.paths]
    measured = [each for each in slices if each is not None]
    whole = all(np.issubdtype(each.dtype, np.integer) for each in measured)
    dtype = np.result_type(*measured) if whole else np.dtype(np.float32)
    inner = dtype if whole and not series.missing else np.dtype(np.float32)
    stack = np.full(series.shape, 0 if np.issubdtype(inner, np.integer) else np.nan, dtype=inner)
    for place, each in enumerate(slices):
        if each is not None:
            stack[:, :, place] = each.T
    ornt = orientations.io_orientation(series.affine)
    inside = series.affine @ orientations.inv_ornt_aff(ornt, stack.shape)
    axes, flips = ornt[:, 0].astype(int), ornt[:, 1] < 0
    stored = Stored(
        axes=(int(axes[0]), int(axes[1]), int(axes[2])),
        flips=(bool(flips[0]), bool(flips[1]), bool(flips[2])),
        dtype=dtype,
        container="dicom",
        header=series.paths,
        thickness_mm=series.thickness_mm,
        missing=series.missing,
        modality=series.modality,
    )
    return Volume(orientations.apply_orientation(stack, ornt), inside, name=series.name, stored=stored)


def read_slice(path: Path, shape: tuple[int, ...]) -> Voxels:
    """One image in its unit (HU for CT): integers when the rescale keeps them whole.

    Parameters
    ----------
    path : DICOM file
    shape : (rows, columns) that it must have

    Returns
    -------
    (rows, columns)
    """
    dataset = load(path)
    try:
        stored = dataset.pixel_array
    except Exception as problem:
        # pydicom passes on whatever its codecs raise; any of it means that this file has no usable pixels.
        syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
        name = syntax.name if syntax is not None else "unknown"
        raise InputError(
            f"{path} has no pixels that can be decoded (transfer syntax {name}): {str(problem).splitlines()[0][:200]} "
            "If a codec is missing: pip install pylibjpeg pylibjpeg-openjpeg pyjpegls python-gdcm."
        ) from problem
    if stored.shape != tuple(shape):
        raise InputError(f"{path} has {stored.shape} pixels, its series has {tuple(shape)}.")
    slope, intercept = rescale(dataset)
    if slope == round(slope) and intercept == round(intercept):
        wide = stored.astype(np.int32) * int(slope) + int(intercept)
        fits = next(kind for kind in (np.int16, np.uint16, np.int32) if _fits(wide, kind))
        whole: Voxels = wide.astype(fits)
        return whole
    scaled: Voxels = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
    return scaled


def rescale(dataset: Any) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept of one image; 1 and 0 where it has none."""
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise InputError(f"{dataset.filename} has a rescale of {slope} and {intercept}.")
    return slope, intercept


def load(path: Path) -> Any:
    """A whole data set.

    Raises
    ------
    InputError
    """
    try:
        return pydicom.dcmread(path)
    except (InvalidDicomError, OSError, ValueError, AttributeError, EOFError, KeyError, TypeError) as problem:
        raise InputError(f"{path} cannot be read as DICOM: {str(problem).splitlines()[0][:200]}") from problem


def _fits(values: Voxels, kind: type) -> bool:
    limits = np.iinfo(kind)
    return bool(values.min() >= limits.min and values.max() <= limits.max)
