"""What an image holds: a scan that can be restored, or a mask, a label map, a parameter map, nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medldm.data.volume import Volume, Voxels
from medldm.errors import NothingThere
from medldm.modality import holds_magnitudes

# BIDS suffixes, and the habits of other tools, in lower case.
NOT_SCANS = {
    "a mask": "mask brainmask",
    "a label map": "dseg seg segm segmentation label labels labelmap aseg aparc parc atlas",
    "a probability map": "probseg pve",
    "a phase image": "phase phase1 phase2 phasediff part-phase",
    "part of a complex image": "part-real part-imag",
    "a field map": "fieldmap b0map tb1map rb1map",
    "a displacement field": "warp xfm warpfield",
    "a parameter map": "t1map t2map t2starmap r1map r2map r2starmap pdmap mtrmap mtsat mtvmap mwfmap irt1 chimap "
    "s0map m0map adc fa md cbf mtt",
    "a PET image": "pet",
    "a statistical map": "statmap zmap tmap zstat tstat",
}
REASONS = {name: reason for reason, names in NOT_SCANS.items() for name in names.split()}
FEW_VALUES = 12  # a scan has hundreds of grey values, a mask two, most label maps a dozen
MANY_LABELS = 400  # the finest parcellations
ALIKE = 0.7  # share of neighbours inside a label map that are equal; in scans every tenth pair is
SAMPLE = 200_000  # voxels that tell


def not_a_scan(path: Path) -> str:
    """Reason, by its name, why a file is no scan; empty when it may be one."""
    name = path.name.split(".")[0].lower()
    parts = name.split("_")
    if len(parts) < 2:
        return ""
    named = [part for part in parts if part in ("part-phase", "part-real", "part-imag")]
    for word in (*named, parts[-1]):
        if word in REASONS:
            return f"{REASONS[word]}, by its name; rename it if it is a scan"
    return ""


def looks_like_labels(voxels: Voxels) -> bool:
    """Whether an image is a mask or a label map: whole numbers, few of them, or equal to their neighbours.

    Parameters
    ----------
    voxels : (X, Y, Z)
    """
    flat = voxels.reshape(-1)
    some = flat[:: max(1, flat.size // SAMPLE)]
    some = some[np.isfinite(some)]
    if not _whole(some):
        return False
    count = np.unique(some).size
    if count > MANY_LABELS:
        return False
    if count > FEW_VALUES:
        return _piecewise_constant(voxels)
    whole = flat[np.isfinite(flat)] if voxels.dtype.kind == "f" else flat
    return _whole(whole) and np.unique(whole).size <= FEW_VALUES


def what_it_is(volume: Volume, path: Path | None = None) -> str | None:
    """Why an image is better left alone, or None for a scan.

    Parameters
    ----------
    volume : read from `path`
    path : its name counts too
    """
    if path is not None and not_a_scan(path):
        return not_a_scan(path)
    finite = volume.voxels[np.isfinite(volume.voxels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    magnitude = volume.stored.container == "dicom" and holds_magnitudes(volume.stored.modality)
    if magnitude and _both_signs(finite) and _both_signs(_no_padding(volume)):
        return f"a phase, field or difference map, by its values of both signs ({low:g} to {high:g})"
    if looks_like_labels(volume.voxels):
        return "a mask or label map, by its few distinct values"
    if volume.voxels.dtype.kind == "f" and -3.15 < low < -3.1 and 3.1 < high < 3.15:
        return "a phase image, by its range from -pi to pi"
    return None


def check_content(volume: Volume, called: str | Path = "") -> None:
    """Refuse a volume with nothing in it.

    Parameters
    ----------
    volume : scan
    called : its file, for the sentence; the volume's name when not given

    Raises
    ------
    NothingThere
        All NaN, all zero, or one single value.
    """
    finite = volume.voxels[np.isfinite(volume.voxels)] if volume.voxels.dtype.kind == "f" else volume.voxels
    name = called or volume.name
    if finite.size == 0:
        raise NothingThere(f"{name} holds only NaN; there is nothing to restore from. Check the export.")
    if not finite.any():
        raise NothingThere(f"{name} is zero everywhere; there is nothing to restore from. Check the export.")
    if finite.min() == finite.max():
        value = f"{finite.flat[0]:g}"
        raise NothingThere(
            f"{name} has the value {value} everywhere; there is nothing to restore from. Check the export."
        )


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
    empty = ~((stored != 0) & ~np.isnan(stored)).any(other)
    full = np.flatnonzero(~empty)
    places = np.arange(len(empty))
    inside = empty & (places > full.min()) & (places < full.max()) if len(full) else empty
    missing = set(np.flatnonzero(nothing | inside).tolist())
    return tuple(sorted(missing | (set(volume.stored.missing) if axis == 2 else set())))


def _both_signs(values: Voxels) -> bool:
    from medldm.io.dicom.header.content import far_below

    some = values[:: max(1, values.size // SAMPLE)]
    return some.size > 0 and far_below(*(float(value) for value in np.percentile(some, (1, 99))))


def _no_padding(volume: Volume) -> Voxels:
    from medldm.io.dicom.pixels.padding import measured

    values = measured(volume)
    return values[np.isfinite(values)]


def _whole(values: Voxels) -> bool:
    return values.dtype.kind in "iub" or bool((values == np.rint(values)).all())


def _piecewise_constant(voxels: Voxels) -> bool:
    """Whether neighbours inside the image nearly always have the same value."""
    axis = int(np.argmax(voxels.shape))
    here = np.take(voxels, range(voxels.shape[axis] - 1), axis=axis).reshape(-1)
    there = np.take(voxels, range(1, voxels.shape[axis]), axis=axis).reshape(-1)
    inside = (here != 0) & (here > np.nanmin(voxels))
    return bool(inside.sum() > 100 and (here[inside] == there[inside]).mean() > ALIKE)
