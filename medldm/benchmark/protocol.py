"""What is measured: degradations of test scans with fixed seeds, the same for every method.

Each row damages a slab of 48 slices cut from the middle of a scan. Noise, planes and regions use 48 of the scan's own
slices. Thick and missing slices need the slice axis whole (48 slices would leave eight of 6 mm, ends included), so
there the slab is 48 voxels wide along the first other axis. Rows that need thin slices leave out scans acquired thick.

Rows that put lesions into the scan do so before it is degraded; the reference then shows them. CT rows keep scaled
intensity inside (0 is -1000 HU, 1 is 1000 HU) and add the noise of a low-dose sinogram, reconstructed alone.

Parallel-imaging noise has a level at every voxel and the verbs take one number, so that row gives no level:
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

from medldm.benchmark.drawn_head import drawn_head
from medldm.benchmark.lesions import Lesion, planted
from medldm.benchmark.rod import PIXEL_MM, drawn_object
from medldm.benchmark.scans import is_thin
from medldm.data.resample import field_of_view_affine
from medldm.data.volume import Stored, Volume, Voxels
from medldm.degradations import CleanScan, Degradation, Rician, Row
from medldm.io.images import read_image
from medldm.modality import MODALITIES, MR, Modality

Mask = npt.NDArray[np.bool_]

SLAB = 48  # voxels
RIM = 3  # voxels; the cut edge of a skull-stripped head is no detail to be restored


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
    facts : options that a method is given (noise, missing slices, mask, spacing, thickness, profile)
    lesions : put into the reference
    healthy : (X, Y, Z) scaled intensity, the reference without them; None where there are none
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
    lesions: tuple[Lesion, ...] = ()
    healthy: Voxels | None = None

    @property
    def modality(self) -> Modality:
        """That of the row."""
        return MODALITIES[self.row.modality]

    @property
    def lost(self) -> Mask | None:
        """(X, Y, Z) bool, what was not measured at all."""
        return None if self.untouched is None else ~self.untouched

    def stored(self) -> Volume:
        """The measurement as a file would hold it: scaled for MRI, HU for CT."""
        scaling = self.modality.fixed_scaling
        if scaling is None:
            return self.measured
        return self.measured.with_voxels(
            scaling.invert(self.measured.voxels), stored=Stored(modality=self.row.modality)
        )


def trials(row: Row, scan: dict[str, str]) -> Iterator[Trial]:
    """The trial of a row on a scan, if the scan is fit for it.

    Parameters
    ----------
    row : what to do
    scan : row of `medldm.benchmark.scans.scans`
    """
    modality = MODALITIES[row.modality]
    if row.drawn:
        volume = drawn(row.modality)
    else:
        volume = read_image(Path(scan["path"]))
        if row.needs_thin and not is_thin(volume.spacing):
            return
        volume = slab(volume, across=row.needs_thin)
    clean = modality.scaling(volume.voxels).apply(volume.voxels)
    inside = modality.foreground(volume.voxels)
    # The same seed for all methods, for every rerun, and whether or not the level is given; another for each scan.
    seed = int(hashlib.sha256(f"{row.seeded_as}|{scan['file']}".encode()).hexdigest()[:8], 16)
    generator = torch.Generator().manual_seed(seed)
    labels = {key: scan.get(key, "") for key in ("subject", "file", "source")} | {"contrast": scan.get("modality", "")}
    labels["source"] = labels["source"].split("@")[0]
    name = scan["file"].split(".")[0]
    base = Volume(clean.astype(np.float32), volume.affine, name=name, stored=Stored(modality=modality.name))
    if row.without_ends:
        base, inside = without_ends(base, inside)
    trial = damage(row, base, inside, generator, labels)
    if trial.scored.any():
        yield trial


def drawn(modality: str) -> Volume:
    """The object that is drawn for a modality: a head for MR, rods in water for CT."""
    if modality == MR.name:
        return Volume(np.array(drawn_head()), np.eye(4), name="drawn-head", stored=Stored(modality=MR.name))
    return Volume(drawn_object(), np.diag([PIXEL_MM, PIXEL_MM, 3.0, 1.0]), name="object")


def slab(volume: Volume, *, across: bool) -> Volume:
    """48 voxels from the middle, along the coarsest axis, or along the first when slices must stay whole."""
    coarsest = int(np.argmax(np.round(volume.spacing, 2) + np.array([0, 0, 1e-6])))
    axis = (0 if coarsest != 0 else 1) if across else coarsest
    count = volume.shape[axis]
    start = max(0, (count - SLAB) // 2)
    where = tuple(slice(start, start + SLAB) if a == axis else slice(None) for a in range(3))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * start
    return Volume(volume.voxels[where], affine, name=volume.name, stored=Stored(modality=MR.name))


def damage(row: Row, base: Volume, inside: Mask, generator: torch.Generator, labels: dict[str, str]) -> Trial:
    """Degrade a scaled scan as a row says; slices lie along its coarsest axis."""
    axis = int(np.argmax(np.round(base.spacing, 2) + np.array([0, 0, 1e-6])))
    kind, modality = row.degradation, MODALITIES[row.modality]
    base, inside, ratios = fitted(base, inside, kind.ratios(row, base.spacing, axis))
    healthy, lesions = None, list[Lesion]()
    if row.lesions:
        healthy = np.asarray(base.voxels)
        sick, lesions = planted(healthy, inside, base.spacing, generator)
        base = base.with_voxels(sick)
    shape, clean = base.shape, torch.from_numpy(np.array(base.voxels))
    made, given = kind.of_row(row, CleanScan(shape, base.spacing, axis, ratios, inside), generator)
    facts: dict[str, Any] = {"axis": axis, **given}
    degradation = None if kind.adds_noise else made
    measured = clean if degradation is None else degradation.degrade(clean)
    lost = None
    if degradation is not None and kind.masks:
        lost = (degradation.observe(measured).observed == 0).numpy()
    scored = inside if lost is None else inside & lost
    noise = made if kind.adds_noise else Rician(row.level) if row.level else None
    if noise is not None:
        measured = noise.degrade(measured, generator)
        # Coloured noise has no level: its size is given, in the unit of ``--noise``, though not all there is to know.
        unit = 1.0 if modality.fixed_scaling is None else modality.fixed_scaling.unit
        level = row.level or float((measured - clean)[torch.from_numpy(inside)].std()) * unit
        facts["noise"] = level if row.given else None
    affine = base.affine
    if measured.shape != clean.shape:
        affine = field_of_view_affine(base.affine, shape, tuple(measured.shape))
    scan = Volume(measured.numpy(), affine, name=base.name, stored=Stored(modality=row.modality))
    core = scored & ndimage.binary_erosion(inside, iterations=RIM)
    return Trial(
        row=row,
        **labels,
        measured=scan,
        reference=np.asarray(base.voxels),
        inside=inside,
        scored=scored,
        detailed=core if core.any() else scored,
        detail_axes=(axis,) if row.needs_thin else (0, 1, 2),
        degradation=degradation,
        untouched=None if lost is None else ~lost,
        facts=facts,
        lesions=tuple(lesions),
        healthy=healthy,
    )


def fitted(base: Volume, inside: Mask, ratios: list[float]) -> tuple[Volume, Mask, list[float]]:
    """The scan cut so that a whole number of coarse voxels covers it, and the ratios that then hold exactly."""
    sizes = [round(int(count / ratio) * ratio) for count, ratio in zip(base.shape, ratios, strict=True)]
    exact = [size / int(count / ratio) for size, count, ratio in zip(sizes, base.shape, ratios, strict=True)]
    where = tuple(slice(0, size) for size in sizes)
    return Volume(base.voxels[where], base.affine, name=base.name, stored=base.stored), inside[where], exact


def without_ends(base: Volume, inside: Mask) -> tuple[Volume, Mask]:
    """The scan cut inside the head along its slice axis, so that its outermost slices show anatomy, not air."""
    axis = int(np.argmax(np.round(base.spacing, 2) + np.array([0, 0, 1e-6])))
    held = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
    if len(held) == 0:
        return base, inside
    start, stop = (int(at) for at in np.percentile(held, [15, 85]))
    where = tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))
    affine = base.affine.copy()
    affine[:3, 3] += affine[:3, axis] * start
    return Volume(base.voxels[where], affine, name=base.name, stored=base.stored), inside[where]


__all__ = ["SLAB", "Row", "Trial", "damage", "slab", "trials"]
