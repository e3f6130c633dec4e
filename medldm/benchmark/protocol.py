"""What is measured: degradations of test scans with fixed seeds, the same for every method.

Each row damages a slab of 48 slices cut from the middle of a scan. Noise, planes and regions use 48 of the scan's own
slices. Thick and missing slices need the slice axis whole (48 slices would leave eight of 6 mm, ends included), so
there the slab is 48 voxels wide along the first other axis. Rows that need thin slices leave out scans acquired thick.

Parallel-imaging noise has a level at every voxel and the verbs take one number, so that row is given to nobody:
each method estimates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from medldm.benchmark.scans import is_thin
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
from medldm.intensity import foreground_mask, mri_scaling
from medldm.io import read_nifti
from medldm.resample import field_of_view_affine
from medldm.volume import Stored, Volume, Voxels

Mask = npt.NDArray[np.bool_]

SLAB = 48  # voxels
RIM = 3  # voxels; the cut edge of a skull-stripped head is no detail anybody has to restore


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
QUICK = ("noise-3", "thick-4mm", "every-4th-kept", "region-20mm")


@dataclass(frozen=True)
class Trial:
    """One row on one scan, ready for every method.

    Parameters
    ----------
    row : what was done
    subject, file, contrast, source : of the scan
    measured : the damaged scan, scaled intensity
    reference : (X, Y, Z) scaled intensity, on the grid of the wanted scan
    inside : (X, Y, Z) bool, foreground of the reference
    scored : (X, Y, Z) bool, where scores are taken: the foreground, of missing slices and regions alone
    detailed : (X, Y, Z) bool, where fine detail is compared: scored, away from the rim of the foreground
    detail_axes : along which it is compared: the damaged one, or all
    degradation : for consistency; None for noise
    untouched : (X, Y, Z) bool, voxels that must come out bit for bit; None where there are none
    facts : options that a method is told (noise, missing slices, mask, spacing)
    """

    row: Row
    subject: str
    file: str
    contrast: str
    source: str
    measured: Volume
    reference: Voxels
    inside: Mask
    scored: Mask
    detailed: Mask
    detail_axes: tuple[int, ...]
    degradation: Degradation | None
    untouched: Mask | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def trials(row: Row, scan: dict[str, str]) -> Iterator[Trial]:
    """The trial of a row on a scan, if the scan is fit for it.

    Parameters
    ----------
    row : what to do
    scan : row of `medldm.benchmark.scans.scans`
    """
    volume = read_nifti(Path(scan["path"]))
    if row.needs_thin and not is_thin(volume.spacing):
        return
    volume = slab(volume, across=row.needs_thin)
    clean = mri_scaling(volume.voxels).apply(volume.voxels)
    inside = foreground_mask(volume.voxels)
    # The same seed for all methods, for every rerun, and whether or not the level is told; another for each scan.
    seed = int(hashlib.sha256(f"{row.name.removesuffix('-blind')}|{scan['file']}".encode()).hexdigest()[:8], 16)
    generator = torch.Generator().manual_seed(seed)
    told = {key: scan.get(key, "") for key in ("subject", "file", "source")} | {"contrast": scan.get("modality", "")}
    told["source"] = told["source"].split("@")[0]
    name = scan["file"].split(".")[0]
    base = Volume(clean.astype(np.float32), volume.affine, name=name, stored=Stored(modality="mr"))
    trial = damage(row, base, inside, generator, told)
    if trial.scored.any():
        yield trial


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


def damage(row: Row, base: Volume, inside: Mask, generator: torch.Generator, told: dict[str, str]) -> Trial:
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
    degradation, facts = flaw(row, base, inside, axis, ratios, generator)
    lost = None
    if "missing" in facts:
        lost = np.zeros(shape, dtype=bool)
        np.moveaxis(lost, axis, 0)[facts["missing"]] = True
    elif "mask" in facts:
        lost = facts["mask"]
    scored = inside if lost is None else inside & lost
    measured = clean if degradation is None else degradation.degrade(clean)
    if row.level:
        noise = VaryingRician(row.level, gain=row.gain) if row.gain > 1 else Rician(row.level)
        measured = noise.degrade(measured, generator)
        facts["noise"] = row.level if row.given else None
    affine = base.affine
    if measured.shape != clean.shape:
        affine = field_of_view_affine(base.affine, shape, tuple(measured.shape))
    scan = Volume(measured.numpy(), affine, name=base.name, stored=Stored(modality="mr"))
    core = scored & ndimage.binary_erosion(inside, iterations=RIM)
    return Trial(
        row=row,
        **told,
        measured=scan,
        reference=np.asarray(base.voxels),
        inside=inside,
        scored=scored,
        detailed=core if core.any() else scored,
        detail_axes=(axis,) if row.needs_thin else (0, 1, 2),
        degradation=degradation,
        untouched=None if lost is None else ~lost,
        facts=facts,
    )


def flaw(
    row: Row, base: Volume, inside: Mask, axis: int, ratios: list[float], generator: torch.Generator
) -> tuple[Degradation | None, dict[str, Any]]:
    """What a row loses of a scan (None: only quiet), and what methods are told about it."""
    facts: dict[str, Any] = {"axis": axis}
    shape = base.shape
    if row.spacing:
        return ThickSlices(shape[axis], axis, ratios[axis]), facts | {"spacing": base.spacing}
    if row.in_plane > 1:
        planes = tuple(a for a in range(3) if a != axis)
        return InPlane(shape, planes, tuple(ratios[a] for a in planes)), facts | {"spacing": base.spacing}
    if row.missing:
        missing = missing_slices(row.missing, shape[axis], generator)
        return MissingSlices(shape[axis], missing, axis), facts | {"missing": missing}
    if row.region_mm:
        mask = blobs(base, inside, row.region_mm, generator)
        return Regions(torch.from_numpy(mask)), facts | {"mask": mask}
    return None, facts


def fitted(base: Volume, inside: Mask, ratios: list[float]) -> tuple[Volume, Mask, list[float]]:
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


def blobs(base: Volume, inside: Mask, diameter_mm: float, generator: torch.Generator) -> Mask:
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
