"""What a NIfTI header says about size, numbers and place, and what to make of it when it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from medldm.data.volume import Affine
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.checks import check_shape, check_sizes, edges, usable

MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
PLAUSIBLE_MM = (0.02, 50.0)  # voxel edges of a patient's scan
TOLERANCE = 0.01  # relative difference of voxel sizes that rounding explains
PARAMETERS = range(2, 25)  # NIfTI intent codes of statistics
LABELS = (1002, 1003)
TEMPLATES = (3, 4, 5)  # NIfTI codes of spaces that a scan was warped to: Talairach, MNI, others


@dataclass(frozen=True)
class Place:
    """Where the stored voxels are.

    Parameters
    ----------
    affine : (4, 4) float64, stored voxel index to mm in RAS+ world space
    unit_mm : mm per unit of the header
    code : NIfTI code of the space, 0 when the header names none
    note : sentences worth telling
    agrees : whether the header's pixdim may be handed on: it gives the voxel sizes of the affine, or those of a qform
        beside a sform to a template
    """

    affine: Affine
    unit_mm: float
    code: int
    note: tuple[str, ...] = ()
    agrees: bool = True


def read_header(stream: BinaryIO, name: str) -> Any:
    """The NIfTI-1 or NIfTI-2 header at the start of a stream, in either byte order.

    Parameters
    ----------
    stream : uncompressed bytes
    name : of the file, for messages

    Raises
    ------
    InputError
        The bytes are no NIfTI header.
    """
    start = stream.read(544)
    for kind, size in ((nib.Nifti1Header, 348), (nib.Nifti2Header, 540)):
        if len(start) < size:
            continue
        for order in "<>":
            if int(np.frombuffer(start[:4], dtype=f"{order}i4")[0]) == size:
                header: Any = kind(start[:size], endianness=order, check=False)
                return _with_magic(header, name)
    raise InputError(
        f"{name} is no NIfTI file: its content does not start with a NIfTI header. Check what it really is."
    )


def _with_magic(header: Any, name: str) -> Any:
    magic = bytes(header["magic"].tobytes())[:3]
    if magic in (b"n+1", b"n+2", b"ni1", b"ni2"):
        return header
    raise NotRestorable(f"{name} is an Analyze file, which does not say left from right. Convert it to NIfTI first.")


def stored_shape(header: Any, name: str) -> tuple[int, ...]:
    """Voxels along each stored axis, trailing ones included.

    Raises
    ------
    InputError
        Dimensions that no image has.
    """
    dim = [int(size) for size in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(f"{name} claims to have {dim[0]} dimensions; its header is damaged. Export it again.")
    shape = tuple(dim[1 : dim[0] + 1])
    check_shape(shape, name)
    return shape


def stored_dtype(header: Any, name: str) -> np.dtype[Any]:
    """The voxel type, if it is one that can be restored.

    Raises
    ------
    InputError
        Unknown type.
    NotRestorable
        Colours or complex numbers.
    """
    code = int(header["datatype"])
    if code in (128, 2304):
        raise NotRestorable(f"{name} is a colour image (RGB); medldm restores scans with one value per voxel.")
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError):
        dtype = np.dtype(np.void)
    if code == 1536 and dtype.kind != "f":
        raise InputError(f"{name} holds floats of 128 bits, which this machine cannot read. Convert it to float64.")
    if dtype.kind == "c" or code in (1792, 2048):
        raise NotRestorable(f"{name} holds complex numbers; compute the magnitude image and restore that.")
    if dtype.kind not in "iuf":
        raise InputError(f"{name} has voxels of a type that NIfTI does not define (code {code}); export it again.")
    return dtype


def scaling_of(header: Any) -> tuple[float, float]:
    """Slope and intercept from stored to scanner values; (1, 0) where the header gives none.

    A slope of 0 means none (NIfTI-1); so does one that is not a number.
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0


def scaling_note(header: Any, name: str) -> tuple[str, ...]:
    """A sentence about a slope or an intercept that is no number; none where NaN or 0 say that there is no scaling.

    Parameters
    ----------
    header : nibabel NIfTI header
    name : of the file, for messages
    """
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    unset = slope == 0 or (np.isnan(slope) and (np.isnan(intercept) or intercept == 0))
    if unset or (np.isfinite(slope) and np.isfinite(intercept)):
        return ()
    used = "{:g} and {:g} are used".format(*scaling_of(header))
    return (f"{name} scales its voxels by a slope of {slope:g} and an intercept of {intercept:g}; {used}.",)


def intent_reason(header: Any) -> str | None:
    """Why the declared intent of an image speaks against restoring it, or None."""
    intent = int(header["intent_code"])
    if intent in LABELS:
        return f"its header says that it is a label map (intent_code {intent}); clear that if it is a scan"
    if intent in PARAMETERS:
        return f"its header says that it is a statistical map (intent_code {intent}); clear that if it is a scan"
    return None


def place_of(header: Any, shape: tuple[int, int, int], name: str, *, fix: bool = False) -> Place:
    """Where the voxels are: sform if it can be used, else qform, else the voxel sizes alone.

    Parameters
    ----------
    header : nibabel NIfTI header
    shape : stored 3D grid
    name : of the file, for messages
    fix : trust the sform where sform and qform contradict each other

    Raises
    ------
    GeometryError
        Nothing usable, or sform and qform that contradict each other.
    """
    note: list[str] = []
    sform, qform = sform_of(header), qform_of(header, shape)
    s_code, q_code = int(header["sform_code"]), int(header["qform_code"])
    for word, code, matrix in (("sform", s_code, sform), ("qform", q_code, qform)):
        if code > 0 and matrix is None:
            note.append(f"{name} has an unusable {word} (not finite, or without volume); it is ignored.")
    if s_code > 0 and sform is not None:
        if q_code > 0 and qform is not None:
            note += _contradictions(sform, qform, s_code == q_code, name, fix)
        affine, code = sform, s_code
    elif q_code > 0 and qform is not None:
        affine, code = qform, q_code
    elif s_code > 0 or q_code > 0:
        raise GeometryError(f"{name} has neither a usable sform nor a usable qform. Export it again from the scanner.")
    else:
        affine, code = _sizes_alone(header, shape, name), 0
        note.append(f"{name} does not say how the patient lay (sform and qform are unset): left and right are a guess.")
    unit_mm, unit_note = unit_of(header, affine, shape, name)
    affine = np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ affine
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    agrees = _sizes_agree(header, sizes / unit_mm, shape)
    if not agrees:
        said = " x ".join(f"{abs(float(size)) * unit_mm:.4g}" for size in header["pixdim"][1:4])
        # A sform to a template may stretch the patient; pixdim belongs to the qform then.
        agrees = s_code in TEMPLATES and 0 < q_code != s_code and qform is not None
        kept = "" if agrees else ", and the result carries it alone"
        note.append(
            f"{name} contradicts itself: its affine gives voxels of {edges(sizes)} mm, its pixdim {said} mm. "
            f"The affine is used{kept}."
        )
    check_sizes(sizes, shape, name)
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.99:
        note.append(f"{name} has axes that are not at right angles; they are kept as they are.")
    return Place(affine, unit_mm, code, (*note, *unit_note), agrees)


def unit_of(header: Any, affine: Affine, shape: tuple[int, int, int], name: str) -> tuple[float, tuple[str, ...]]:
    """Millimetres per unit of length of the header, not believing units that make voxels of a metre; and a sentence.

    Parameters
    ----------
    header : nibabel NIfTI header
    affine : (4, 4), stored index to RAS+ in the unit of the header
    shape : stored 3D grid
    name : of the file, for messages
    """
    code = int(header["xyzt_units"]) & 7
    word = {1: "meter", 2: "mm", 3: "micron"}.get(code, "unknown")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    sizes = sizes[[axis for axis in range(3) if shape[axis] > 1]]

    def plausible(unit_mm: float) -> bool:
        return bool((sizes * unit_mm >= PLAUSIBLE_MM[0]).all() and (sizes * unit_mm <= PLAUSIBLE_MM[1]).all())

    if word == "unknown":
        note = f"{name} does not say its unit of length; millimetres are assumed."
        return 1.0, (note,)
    if word != "mm" and not plausible(MILLIMETRES[word]) and plausible(1.0):
        return 1.0, (f"{name} says that its unit is {word}, which would make impossible voxels; read as millimetres.",)
    return MILLIMETRES[word], ()


def sform_of(header: Any) -> Affine | None:
    """(4, 4) sform in the unit of the header, whatever its code; None where it is unusable."""
    affine = np.eye(4)
    affine[:3] = [np.asarray(header[f"srow_{row}"], dtype=np.float64) for row in "xyz"]
    return affine if usable(affine) else None


def qform_of(header: Any, shape: tuple[int, int, int]) -> Affine | None:
    """The qform with voxel sizes and handedness (qfac) that scanners forgot or negated taken as the standard says."""
    plain = header.copy()
    sizes = _sizes(header, shape)
    quaternion = np.array([float(header[f"quatern_{axis}"]) for axis in "bcd"])
    if sizes is None or not np.isfinite(quaternion).all() or (quaternion**2).sum() > 1.0001:
        return None
    plain["pixdim"][1:4] = sizes
    plain["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    for axis, value in zip("bcd", quaternion / max(1.0, np.sqrt((quaternion**2).sum())), strict=True):
        plain[f"quatern_{axis}"] = value
    try:
        affine: Affine = np.asarray(plain.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return None
    return affine if usable(affine) else None


def _sizes(header: Any, shape: tuple[int, int, int]) -> list[float] | None:
    """Voxel sizes, positive; an axis with one voxel may lack one. None when they are nonsense."""
    sizes = [abs(float(size)) for size in header["pixdim"][1:4]]
    for axis, size in enumerate(sizes):
        if shape[axis] == 1 and not (np.isfinite(size) and size > 0):
            sizes[axis] = 1.0
    return sizes if all(np.isfinite(size) and size > 0 for size in sizes) else None


def _sizes_agree(header: Any, sizes: Affine, shape: tuple[int, int, int]) -> bool:
    """Whether pixdim gives the voxel sizes of the affine; an axis with one voxel may lack one.

    Parameters
    ----------
    header : nibabel NIfTI header
    sizes : three, by the affine, in the unit of the header
    shape : stored 3D grid
    """
    for axis, (size, count) in enumerate(zip(sizes, shape, strict=True)):
        given = abs(float(header["pixdim"][axis + 1]))
        left_out = count == 1 and (axis >= int(header["dim"][0]) or not np.isfinite(given) or given == 0)
        if not left_out and not np.isclose(given, size, rtol=TOLERANCE, atol=0):
            return False
    return True


def _sizes_alone(header: Any, shape: tuple[int, int, int], name: str) -> Affine:
    """Radiological axes around the middle of the grid, as nibabel and most viewers assume (NIfTI method 1)."""
    sizes = _sizes(header, shape)
    if sizes is None:
        stored = ", ".join(f"{float(size):g}" for size in header["pixdim"][1:4])
        raise GeometryError(f"{name} has no usable voxel size ({stored}) and no orientation. Export it again.")
    affine = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _contradictions(sform: Affine, qform: Affine, same_space: bool, name: str, fix: bool) -> list[str]:
    """Sentences about sform and qform that disagree; an error where that could swap or stretch a patient."""
    s_sizes, q_sizes = (np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
    conflict = ""
    if np.sign(np.linalg.det(sform[:3, :3])) != np.sign(np.linalg.det(qform[:3, :3])):
        conflict = "disagree about left and right"
    elif same_space and not np.allclose(s_sizes, q_sizes, rtol=TOLERANCE):
        sizes = f"{edges(s_sizes)} and {edges(q_sizes)}"
        conflict = f"give different voxel sizes ({sizes})"
    if conflict and not fix:
        raise GeometryError(
            f"{name} contradicts itself: its sform and qform {conflict}. "
            "Correct the header, or trust the sform with `--fix`."
        )
    if conflict:
        return [f"{name}: sform and qform {conflict}; the sform was trusted."]
    moved = np.abs(sform - qform)[:3].max() > 0.5 * s_sizes.min()
    return [f"{name}: sform and qform describe different places; the sform is used."] if same_space and moved else []
