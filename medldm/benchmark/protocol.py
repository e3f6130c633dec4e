"""What is measured: degradations of test scans with fixed seeds, the same for every method.

Each row damages a slab of 48 slices cut from the middle of a scan. Noise, planes and regions use 48 of the scan's own
slices. Thick and missing slices need the slice axis whole, so there the slab is 48 voxels wide along another axis.
Rows that need thin slices leave out scans that were acquired thick.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm.degradations import (
    Degradation,
    InPlane,
    MissingSlices,
    Regions,
    Rician,
    ThickSlices,
    VaryingRician,
    smooth_field,
)
from medldm.errors import InputError
from medldm.intensity import foreground_mask, mri_scaling
from medldm.io import read_nifti
from medldm.resample import field_of_view_affine
from medldm.volume import Stored, Volume, Voxels

SLAB = 48  # voxels
THIN = 1.6  # spacing ratio up to which a scan counts as isotropic


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    name : as ``--tasks`` takes it
    verb : that restores it
    level : Rician noise, fraction of p99.5; 0 for none
    given : whether methods are told the noise level
    gain : of spatially varying noise; 1 for even noise
    spacing : of thick slices, mm; 0 for none
    missing : ``"every 4th kept"``, ``"gap of 3"`` or empty
    in_plane : factor of k-space truncation; 1 for none
    region_mm : diameter of blobs; 0 for none
    """

    name: str
    verb: str
    level: float = 0.0
    given: bool = True
    gain: float = 1.0
    spacing: float = 0.0
    missing: str = ""
    in_plane: float = 1.0
    region_mm: float = 0.0

    @property
    def needs_thin(self) -> bool:
        """Whether the reference must have thin slices."""
        return bool(self.spacing or self.missing)


CORE = (
    Row("noise-3", "denoise", level=0.03),
    Row("noise-3-blind", "denoise", level=0.03, given=False),
    Row("noise-7", "denoise", level=0.07),
    Row("noise-7-blind", "denoise", level=0.07, given=False),
    Row("noise-varying", "denoise", level=0.02, gain=3.0, given=False),
    Row("thick-3mm", "super-resolve", spacing=3.0),
    Row("thick-4mm", "super-resolve", spacing=4.0),
    Row("thick-6mm", "super-resolve", spacing=6.0),
    Row("thick-3.7mm", "super-resolve", spacing=3.7),
    Row("thick-4mm-noise-3", "super-resolve", spacing=4.0, level=0.03),
    Row("plane-x2", "super-resolve", in_plane=2.0),
    Row("every-4th-kept", "fill-slices", missing="every 4th kept"),
    Row("gap-of-3", "fill-slices", missing="gap of 3"),
    Row("region-20mm", "inpaint", region_mm=20.0),
)
QUICK = ("noise-3", "noise-7-blind", "thick-4mm", "every-4th-kept", "region-20mm")


@dataclass(frozen=True)
class Trial:
    """One row on one scan, ready for every method.

    Parameters
    ----------
    row : what was done
    subject, file, contrast, source : of the scan
    measured : the damaged scan, scaled intensity
    reference : (X, Y, Z) scaled intensity, on the grid of the wanted scan
    scored : (X, Y, Z) bool, where scores are taken
    degradation : for consistency; None for noise
    facts : options that a method is told (noise, missing slices, mask, spacing)
    """

    row: Row
    subject: str
    file: str
    contrast: str
    source: str
    measured: Volume
    reference: Voxels
    scored: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    degradation: Degradation | None
    facts: dict[str, Any] = field(default_factory=dict)


def scans(data: Path, split: str) -> list[dict[str, str]]:
    """MR scans of one split: rows of the manifest beside or above `data`, or every NIfTI file of a plain folder.

    Raises
    ------
    InputError
    """
    for table in (data / "manifest.csv", data.parent / "manifest.csv"):
        if table.is_file():
            with table.open(newline="") as lines:
                rows = [
                    row for row in csv.DictReader(lines) if row["split"] == split and row["modality"].startswith("MR")
                ]
            found = [{**row, "path": str(table.parent / split / row["file"])} for row in rows]
            found = [row for row in found if Path(row["path"]).is_file()]
            if found:
                return found
    paths = sorted(path for path in data.rglob("*.nii*") if path.is_file())
    if not paths:
        raise InputError(f"{data} holds no scan for a benchmark.")
    return [
        {"path": str(path), "file": path.name, "subject": path.name.split("_")[0], "modality": "MR", "source": ""}
        for path in paths
    ]


def trials(row: Row, scan: dict[str, str]) -> Iterator[Trial]:
    """The trial of a row on a scan, if the scan is fit for it."""
    volume = read_nifti(Path(scan["path"]))
    if row.needs_thin and max(volume.spacing) > THIN * min(volume.spacing):
        return
    volume = slab(volume, across=row.needs_thin)
    scaling = mri_scaling(volume.voxels)
    clean = scaling.apply(volume.voxels)
    inside = foreground_mask(volume.voxels)
    # The same seed for all methods and for every rerun, another for each row and scan.
    seed = int(hashlib.sha256(f"{row.name}|{scan['file']}".encode()).hexdigest()[:8], 16)
    generator = torch.Generator().manual_seed(seed)
    told = {key: scan.get(key, "") for key in ("subject", "file", "source")} | {"contrast": scan.get("modality", "")}
    told["source"] = told["source"].split("@")[0]
    base = Volume(
        clean.astype(np.float32), volume.affine, name=scan["file"].split(".")[0], stored=Stored(modality="mr")
    )
    yield damage(row, base, inside, generator, told)


def slab(volume: Volume, *, across: bool) -> Volume:
    """48 voxels from the middle, along the coarsest axis, or along the first when slices must stay whole."""
    coarsest = int(np.argmax(np.round(volume.spacing, 2) + np.array([0, 0, 1e-6])))
    axis = (0 if coarsest != 0 else 1) if across else coarsest
    count = volume.shape[axis]
    start = max(0, (count - SLAB) // 2)
    where = tuple(slice(start, start + SLAB) if a == axis else slice(None) for a in range(3))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * start
    return Volume(volume.voxels[where], affine, name=volume.name, stored=Stored(modality="mr"))


def damage(row: Row, base: Volume, inside: Any, generator: torch.Generator, told: dict[str, str]) -> Trial:
    """Degrade a scaled scan as a row says; slices lie along its coarsest axis."""
    axis = int(np.argmax(np.round(base.spacing, 2) + np.array([0, 0, 1e-6])))
    ratios = [1.0, 1.0, 1.0]
    for a in range(3):
        if row.spacing and a == axis:
            ratios[a] = row.spacing / base.spacing[a]
        elif row.in_plane > 1 and a != axis:
            ratios[a] = row.in_plane
    base, inside, ratios = fitted(base, inside, ratios)
    shape, clean = base.shape, torch.from_numpy(np.array(base.voxels))
    facts: dict[str, Any] = {"axis": axis}
    degradation: Degradation | None = None
    affine, scored = base.affine, inside
    if row.spacing:
        degradation = ThickSlices(shape[axis], axis, ratios[axis])
        facts["spacing"] = base.spacing
    elif row.in_plane > 1:
        planes = tuple(a for a in range(3) if a != axis)
        degradation = InPlane(shape, planes, tuple(ratios[a] for a in planes))
        facts["spacing"] = base.spacing
    elif row.missing:
        facts["missing"] = missing_slices(row.missing, shape[axis], generator)
        degradation = MissingSlices(shape[axis], facts["missing"], axis)
        gone = np.isin(np.arange(shape[axis]), facts["missing"]).reshape([-1 if a == axis else 1 for a in range(3)])
        scored = inside & gone
    elif row.region_mm:
        mask = blobs(base, inside, row.region_mm, generator)
        facts["mask"] = mask
        degradation = Regions(torch.from_numpy(mask))
        scored = inside & mask
    measured = clean if degradation is None else degradation.degrade(clean)
    if row.level:
        noise = VaryingRician(row.level, gain=row.gain) if row.gain > 1 else Rician(row.level)
        measured = noise.degrade(measured, generator)
        facts["noise"] = row.level if row.given else None
    if measured.shape != clean.shape:
        affine = field_of_view_affine(base.affine, shape, tuple(measured.shape))
    stored = Stored(modality="mr")
    scan = Volume(measured.numpy(), affine, name=base.name, stored=stored)
    return Trial(
        row,
        told["subject"],
        told["file"],
        told["contrast"],
        told["source"],
        scan,
        np.asarray(base.voxels),
        scored,
        degradation,
        facts,
    )


def fitted(base: Volume, inside: Any, ratios: list[float]) -> tuple[Volume, Any, list[float]]:
    """The scan cut so that a whole number of coarse voxels covers it, and the ratios that then hold exactly."""
    sizes = [round(int(count / ratio) * ratio) for count, ratio in zip(base.shape, ratios, strict=True)]
    exact = [size / int(count / ratio) for size, count, ratio in zip(sizes, base.shape, ratios, strict=True)]
    where = tuple(slice(0, size) for size in sizes)
    return Volume(base.voxels[where], base.affine, name=base.name, stored=base.stored), inside[where], exact


def missing_slices(kind: str, count: int, generator: torch.Generator) -> list[int]:
    """Which slices are lost."""
    if kind == "every 4th kept":
        return [k for k in range(count) if k % 4]
    starts = range(12, count - 12, 12)  # gaps of three, far enough apart not to touch
    shift = int(torch.randint(6, (1,), generator=generator))
    return [start + shift + k for start in starts for k in range(3)]


def blobs(base: Volume, inside: Any, diameter_mm: float, generator: torch.Generator) -> Any:
    """Three wobbly blobs around voxels of the foreground, (X, Y, Z) bool."""
    at = np.argwhere(inside)
    mask = np.zeros(base.shape, dtype=bool)
    grid = np.indices(base.shape).astype(np.float32)
    wobble = 0.7 + 0.6 * smooth_field(base.shape, generator, knots=6).numpy()
    for _ in range(3):
        centre = at[int(torch.randint(len(at), (1,), generator=generator))]
        distance = sum(((grid[a] - centre[a]) * base.spacing[a] / (diameter_mm / 2)) ** 2 for a in range(3))
        mask |= np.asarray(distance * wobble < 1)
    return mask
