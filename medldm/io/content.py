"""What an image holds: a scan that can be restored, or a mask, a label map, a parameter map, nothing at all."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medldm.errors import InputError
from medldm.volume import Volume, Voxels

# BIDS suffixes (and the habits of other tools) of images that are no scans.
NOT_SCANS = {
    "mask": "a mask", "dseg": "a label map", "seg": "a label map", "label": "a label map", "labels": "a label map",
    "probseg": "a probability map", "phase": "a phase image", "part-phase": "a phase image", "T1map": "a parameter map",
    "T2map": "a parameter map", "T2starmap": "a parameter map", "R1map": "a parameter map", "ADC": "a parameter map",
    "FA": "a parameter map", "MD": "a parameter map", "fieldmap": "a field map", "phasediff": "a phase image",
    "bold": "a functional series", "dwi": "a diffusion series",
}  # fmt: skip
FEW_VALUES = 12  # a scan has hundreds of grey values, a label map a dozen
MR_NAMES = re.compile(r"(^|_)(T1w|T2w|FLAIR|PDw|T2starw|T1|T2|inplaneT1|inplaneT2|UNIT1|T1Gd|T1POST)($|_|\.)")


def not_a_scan(path: Path) -> str:
    """Reason, by its name, why a file is no scan; empty when it may be one."""
    name = path.name.split(".")[0]
    if "part-phase" in name:
        return "a phase image, by its name"
    last = name.rsplit("_", 1)[-1]
    if last in ("bold", "dwi"):  # 4D is said by the header; a single volume of them can be restored
        return ""
    return f"{NOT_SCANS[last]}, by its name" if last in NOT_SCANS and "_" in name else ""


def looks_like_labels(voxels: Voxels) -> bool:
    """Whether an image has so few distinct whole values that it is a mask or a label map."""
    some = voxels[::2, ::2] if min(voxels.shape[:2]) > 64 else voxels
    finite = some[np.isfinite(some)] if np.issubdtype(some.dtype, np.floating) else some
    values = np.unique(finite[:: max(1, finite.size // 200_000)] if finite.ndim == 1 else finite)
    return len(values) <= FEW_VALUES and bool(np.all(values == np.rint(values)))


def check_content(volume: Volume) -> None:
    """Refuse a volume with nothing in it.

    Raises
    ------
    InputError
        All NaN, all zero, or one single value.
    """
    finite = volume.voxels[np.isfinite(volume.voxels)] if volume.voxels.dtype.kind == "f" else volume.voxels
    if finite.size == 0:
        raise InputError(f"{volume.name} holds only NaN; there is nothing to restore from.")
    if not finite.any():
        raise InputError(f"{volume.name} is zero everywhere; there is nothing to restore from.")
    if finite.min() == finite.max():
        raise InputError(f"{volume.name} has the value {finite.flat[0]:g} everywhere; there is nothing to restore from.")


def find_missing_slices(volume: Volume, axis: int = 2) -> tuple[int, ...]:
    """Slices that are missing: said by the file, all NaN, or all zero between slices that are not.

    Slices of zeros at either end are air (or skull stripping), not damage.

    Parameters
    ----------
    volume : scan
    axis : stored array axis that slices are counted along

    Returns
    -------
    slice numbers, counted from 0
    """
    stored = volume.to_stored(volume.voxels)
    other = tuple(a for a in range(3) if a != axis)
    nothing = np.isnan(stored).all(other) if stored.dtype.kind == "f" else np.zeros(stored.shape[axis], dtype=bool)
    empty = nothing | ~np.nan_to_num(stored).any(other)
    full = np.flatnonzero(~empty)
    inside = empty & (np.arange(len(empty)) > full.min()) & (np.arange(len(empty)) < full.max()) if len(full) else empty
    found = set(np.flatnonzero(nothing | inside).tolist())
    return tuple(sorted(found | (set(volume.stored.missing) if axis == 2 else set())))


def guess_modality(volume: Volume) -> tuple[str, str]:
    """``"mr"`` or ``"ct"``, and how we know.

    Parameters
    ----------
    volume : scan

    Returns
    -------
    modality, and a sentence; empty when the file says it
    """
    if volume.stored.modality in ("mr", "ct"):
        return volume.stored.modality, ""
    if MR_NAMES.search(volume.name):
        return "mr", ""
    if volume.name.lower().endswith("_ct") or "_ct_" in volume.name.lower():
        return "ct", ""
    low, high = float(np.nanmin(volume.voxels)), float(np.nanmax(volume.voxels))
    if low <= -500 and 200 < high < 40000:
        return "ct", f"{volume.name} is taken for CT, since its values reach from {low:.0f} to {high:.0f} as HU do; say --modality mr otherwise."
    return "mr", f"{volume.name} is taken for MR, since its values are not HU; say --modality ct otherwise."
