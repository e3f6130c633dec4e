"""What a result's NIfTI header says about place and numbers: the source's own words where they are sound."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from nibabel.nifti1 import intent_codes, xform_codes
from nibabel.spatialimages import HeaderDataError

from medldm.data.volume import Affine
from medldm.io.checks import same_place
from medldm.io.nifti.header import Place, qform_of, scaling_of, sform_of

SPATIAL_UNITS = (0, 1, 2, 3)
TEMPORAL_UNITS = (0, 8, 16, 24, 32, 40, 48)
SFORM = ("srow_x", "srow_y", "srow_z")
QFORM = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
# Numbers that programs read, and stumble over when they are none; 0 says nothing in each of these fields.
NUMBERS = ("cal_max", "cal_min", "slice_duration", "toffset", "intent_p1", "intent_p2", "intent_p3")


def clean(header: Any) -> None:
    """Take out of a header what other programs refuse to open, or read otherwise than `read_nifti` does.

    Parameters
    ----------
    header : of the source, about to be handed on; changed in place
    """
    if not np.isfinite([float(header["scl_slope"]), float(header["scl_inter"])]).all():
        header["scl_slope"], header["scl_inter"] = scaling_of(header)
    units = int(header["xyzt_units"])
    space, time = units & 7, units & 56
    header["xyzt_units"] = (space if space in SPATIAL_UNITS else 0) + (time if time in TEMPORAL_UNITS else 0)
    if int(header["intent_code"]) not in intent_codes.value_set():
        header["intent_code"] = 0
    for name in NUMBERS:
        if not np.isfinite(float(header[name])):
            header[name] = 0
    for name, fields in (("sform_code", SFORM), ("qform_code", QFORM)):
        code = int(header[name])
        header[name] = known_code(code) if code > 0 else 0
        for field in fields if code <= 0 else ():
            header[field] = np.nan_to_num(header[field], nan=0.0, posinf=0.0, neginf=0.0)
    header["pixdim"][4:] = np.nan_to_num(header["pixdim"][4:], nan=0.0, posinf=0.0, neginf=0.0)


def known_code(code: int) -> int:
    """A code of a space that NIfTI defines; programs take an unknown one for unset, so it becomes "aligned".

    Parameters
    ----------
    code : of sform or qform, as found
    """
    return code if code in xform_codes.value_set() else 2


def can_be_opened(header: Any, affine: Affine, unit_mm: float) -> bool:
    """Whether nibabel opens a header without changing it, and finds the voxels where they are.

    Parameters
    ----------
    header : of a result
    affine : (4, 4), stored index to RAS+ mm
    unit_mm : mm per unit of the header
    """
    try:
        again: Any = type(header).from_fileobj(io.BytesIO(header.binaryblock))
        again.get_slope_inter()
        again.get_xyzt_units()
        again.get_intent()
        there = np.diag([unit_mm] * 3 + [1.0]) @ again.get_best_affine()
        shape = again.get_data_shape()
    except (HeaderDataError, ValueError, KeyError, np.linalg.LinAlgError):
        return False
    return bool(len(shape) >= 2 and again.binaryblock == header.binaryblock and same_place(there, affine, shape))


def is_sound(header: Any) -> bool:
    """Whether what the header says about place can be handed on as it is."""
    sizes = np.array([float(size) for size in header["pixdim"][:4]])
    forms = [sform_of(header) is not None or int(header["sform_code"]) <= 0]
    forms += [not int(header["qform_code"]) > 0 or qform_of(header, (2, 2, 2)) is not None]
    return bool(np.isfinite(sizes).all() and (sizes[1:] > 0).all() and abs(sizes[0]) == 1 and all(forms))


def set_affine(header: Any, affine: Affine, codes: tuple[int, int]) -> None:
    """Write one affine into sform and qform; a sheared one into the sform alone, since a qform cannot hold it.

    Parameters
    ----------
    header : changed in place
    affine : (4, 4), stored index to RAS+ in the unit of the header
    codes : NIfTI codes of the space, of sform and qform
    """
    header.set_sform(affine, code=codes[0])
    header.set_qform(affine, code=codes[1], strip_shears=True)
    if not np.allclose(header.get_qform(), affine, rtol=1e-3, atol=1e-3 * float(np.abs(affine).max())):
        header["qform_code"] = 0


def move_forms(header: Any, source: Any, place: Place, affine: Affine, shape: tuple[int, int, int]) -> bool:
    """Put a header on a new grid, each form and code staying what it was: aligned, of the scanner, or unset.

    Parameters
    ----------
    header : a clean copy of `source` (see `clean`), changed in place, its shape is the new one
    source : header of the old grid
    place : of `source`
    affine : (4, 4), new stored index to RAS+ mm
    shape : of the old grid

    Returns
    -------
    False when the old forms cannot say where the new grid is; nothing was changed then
    """
    codes = int(header["sform_code"]), int(header["qform_code"])
    old = np.linalg.inv(place.affine) @ affine  # new index -> old index
    unit = np.diag([1 / place.unit_mm] * 3 + [1.0])
    if codes == (0, 0):
        sizes = np.linalg.norm((unit @ affine)[:3, :3], axis=0)
        trial = header.copy()
        trial["pixdim"][1:4] = sizes
        if not np.allclose(trial.get_base_affine(), unit @ affine, atol=1e-3 * sizes.max()):
            return False
        header["pixdim"][1:4] = sizes
        return True
    sform, qform = sform_of(source), qform_of(source, shape)
    if (codes[0] > 0 and sform is None) or (codes[1] > 0 and qform is None):
        return False
    by_sform = sform @ old if codes[0] > 0 and sform is not None else unit @ affine
    by_qform = qform @ old if codes[1] > 0 and qform is not None else unit @ affine
    header.set_sform(by_sform, code=codes[0])
    header.set_qform(by_qform, code=codes[1], strip_shears=True)
    return bool(codes[1] == 0 or np.allclose(header.get_qform(), by_qform, rtol=1e-3, atol=1e-3 * np.abs(affine).max()))
