"""Scans as small integers in one folder, so that training reads memory and nothing else."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.errors import InputError, MedldmError
from medldm.modality import CT, DEFAULT, Modality, modality_of
from medldm.training.splits import by_air, rows_of, stated_modality

log = logging.getLogger(__name__)

INDEX = "index.json"  # of a cache
LAYOUT = 2  # of a cache; one of another layout is made anew
LEVELS = 200  # of an MR scan between black and white: most scans then fit into 8 bits
COARSE = 2e-3  # scaled intensity; values stored in larger steps are dithered when they are drawn
QUARTER = 0.25  # dose of the noise that is kept beside a CT scan; other doses are made of it
KERNELS = ("hann", "ramp")  # soft and sharp reconstructions
BODY = 0.25  # scaled intensity between air and body in CT, -500 HU
THICK = 1.6  # a scan whose spacing varies by more than this cannot show what thin slices look like


@dataclass(frozen=True)
class Packed:
    """One scan of the cache.

    Parameters
    ----------
    voxels : (X, Y, Z) uint8 or uint16, cropped to its content; may lie on disk
    scale : scaled intensity per stored unit; in MRI 1 is the 99.5th percentile of the foreground
    shift : scaled intensity of a stored 0
    noise : (K, X, Y, Z) int16 HU, what a quarter of the dose would add to a CT scan, K times; None for MRI
    spacing : mm
    slice_axis : axis of the coarsest spacing
    isotropic : whether it can serve as a reference along every axis
    weight : how often it is drawn
    file, subject, modality, licence, source : where it comes from
    """

    voxels: np.ndarray[Any, Any]
    scale: float
    spacing: tuple[float, float, float]
    slice_axis: int
    isotropic: bool
    weight: float
    file: str
    subject: str
    modality: str = "MR"
    licence: str = ""
    source: str = ""
    shift: float = 0.0
    noise: np.ndarray[Any, Any] | None = None

    @property
    def kind(self) -> Modality:
        """The modality as an object."""
        return stated_modality(self.modality) or DEFAULT

    @property
    def coarse(self) -> bool:
        """Whether its levels are so far apart that they are dithered; floating-point voxels have none."""
        return self.scale > COARSE and np.issubdtype(self.voxels.dtype, np.integer)

    def scaled(self, where: tuple[slice, ...], generator: torch.Generator | None) -> Tensor:
        """A block as float32 scaled intensity; coarse levels are dithered by half of one where there is signal."""
        block = torch.from_numpy(self.voxels[where].astype(np.float32))
        if self.coarse and generator is not None:
            block = torch.where(block > 0, block + torch.rand(block.shape, generator=generator) - 0.5, block)
        return block * self.scale + self.shift


def pack(data: Path, cache: Path, modality: str = "MR", *, noise: bool = True) -> None:
    """Fill a cache.

    Parameters
    ----------
    data : folder of image files, see `read_split`
    cache : folder to fill; reused when it was made of the same files
    modality : scans of another modality are left out
    noise : whether the noise of CT scans is made, which takes a minute a scan

    Raises
    ------
    InputError
        A scan whose values are of another modality, and the table does not say what it is.
    """
    rows = rows_of(data, modality)
    sizes = [[row["path"], Path(row["path"]).stat().st_size] for row in rows]
    stamp = hashlib.sha256(json.dumps([LAYOUT, sizes]).encode()).hexdigest()
    if is_current(cache, stamp):
        return
    cache.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, row in enumerate(rows):
        target = cache / f"{number:04d}.npy"
        entry = _pack_one(Path(row["path"]), target, modality, not row.get("modality"))
        if entry is None:
            log.warning("%s is left out: unreadable, nothing but air, a label map, or not a 3D image", row["path"])
            continue
        if noise and modality_of(modality) is CT:
            add_noise(target, entry["spacing"])
        known = {key: row.get(key, "") for key in ("file", "subject", "modality", "licence", "source", "split")}
        known["modality"] = known["modality"] or modality  # a table need not say; what is packed is known
        entries.append({**entry, **known, "weight": float(row.get("weight") or 1), "name": target.name})
    write_index(cache, stamp, entries)


def is_current(cache: Path, stamp: str) -> bool:
    """Whether a cache was made of what the stamp stands for."""
    index = cache / INDEX
    return index.is_file() and json.loads(index.read_text())["stamp"] == stamp


def write_index(cache: Path, stamp: str, entries: list[dict[str, Any]]) -> None:
    """Say what is in a cache; written last, so that one that is half full is made anew."""
    (cache / INDEX).write_text(json.dumps({"stamp": stamp, "scans": entries}, indent=1))


def _pack_one(path: Path, target: Path, modality: str, guessed: bool) -> dict[str, Any] | None:
    # As `mri_scaling` below.
    from medldm.data.volume import Volume
    from medldm.io.content import looks_like_labels
    from medldm.io.images import read_image
    from medldm.qc.ood import describe

    try:
        scan = read_image(path, fix=True)
    except MedldmError as problem:
        log.warning("%s cannot be read: %s", path, problem)
        return None
    raw, voxels = scan.voxels, np.nan_to_num(scan.voxels.astype(np.float32), posinf=0, neginf=0)
    spacing = tuple(round(mm, 6) for mm in scan.spacing)  # forms hold rounded numbers: 1 mm, not 0.99999997
    if not voxels.any() or min(voxels.shape) < 2:
        return None

    if float(voxels.min()) >= 0 and looks_like_labels(raw):
        return None
    likely, kind = by_air(float(voxels.min())), modality_of(modality)
    if guessed and likely is not kind and (likely.body_above, kind.body_above) != (None, None):
        raise InputError(
            f"The values of {path.name} are those of {likely.title}, other scans of the folder are {modality}; a "
            "network learns one modality. Put them into two folders, or name the modality of each scan in split.csv."
        )
    seen = Volume(voxels, np.diag([*spacing, 1.0]), name=path.name)
    description = describe(seen, modality.lower())
    packed = _pack_relative if kind.window is None else _pack_hounsfield
    return {**packed(voxels, raw.dtype == np.uint8, target), "spacing": spacing, "looks": description}


def _pack_relative(voxels: np.ndarray[Any, Any], bytes_: bool, target: Path) -> dict[str, float]:
    # Only here: packing happens where the scans are, and training may run where SciPy is not installed.
    from medldm.data.intensity import mri_scaling

    unit = mri_scaling(voxels).unit
    voxels = voxels[_content(voxels > 0.02 * voxels.max())]
    step = 1.0 if bytes_ else unit / LEVELS
    levels = np.clip(np.round(voxels / step), 0, 65535)
    np.save(target, levels.astype(np.uint8 if levels.max() < 256 else np.uint16))
    return {"scale": step / unit}


def _pack_hounsfield(voxels: np.ndarray[Any, Any], bytes_: bool, target: Path) -> dict[str, float]:
    assert CT.plausible is not None
    low, high = CT.plausible
    voxels = np.clip(voxels[_content(voxels > CT.body_above)], low, high)
    np.save(target, np.round(voxels - low).astype(np.uint16))
    scaling = CT.scaling(voxels)
    return {"scale": 1 / scaling.unit, "shift": (low - scaling.low) / scaling.unit}


def add_noise(packed: Path, spacing: Sequence[float]) -> None:
    """Write what a quarter of the dose would add to a packed CT scan; equal scans get equal noise.

    Parameters
    ----------
    packed : voxels of the scan in its cache
    spacing : mm
    """
    from medldm.degradations import LowDose

    assert CT.plausible is not None
    voxels = np.load(packed).astype(np.float32) + CT.plausible[0]
    axis = int(np.argmax(spacing))
    across = float(np.delete(spacing, axis)[0])
    draws = []
    for number, kernel in enumerate(KERNELS):
        degradation = LowDose(QUARTER, pixel_mm=across, kernel=kernel)
        generator = torch.Generator().manual_seed(number)
        noise = np.stack([degradation.noise(image, generator) for image in np.moveaxis(voxels, axis, 0)])
        draws.append(np.moveaxis(noise, 0, axis))
    np.save(noise_path(packed), np.clip(np.round(draws), -32768, 32767).astype(np.int16))


def _content(filled: np.ndarray[Any, Any]) -> tuple[slice, ...]:
    """The box around what is filled, with a margin."""
    at = np.argwhere(filled) if filled.any() else np.array([[0, 0, 0], np.array(filled.shape) - 1])
    low, high = np.maximum(at.min(0) - 4, 0), at.max(0) + 5
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def noise_path(packed: Path) -> Path:
    """Where the noise of a packed CT scan lies."""
    return packed.with_suffix(".noise.npy")


def index_of(cache: Path) -> list[dict[str, Any]]:
    """What a cache says of each packed scan."""
    entries: list[dict[str, Any]] = json.loads((cache / INDEX).read_text())["scans"]
    return entries


def load_cache(cache: Path, split: str) -> list[Packed]:
    """The packed scans of one split; their voxels stay on disk until they are used."""
    scans = []
    for entry in index_of(cache):
        if entry["split"] != split:
            continue
        noise = noise_path(cache / entry["name"])
        voxels = np.load(cache / entry["name"], mmap_mode="r")
        scans.append(packed_scan(entry, voxels, np.load(noise, mmap_mode="r") if noise.is_file() else None))
    return scans


def packed_scan(
    entry: dict[str, Any], voxels: np.ndarray[Any, Any], noise: np.ndarray[Any, Any] | None = None
) -> Packed:
    """A packed scan of its entry in the index.

    Parameters
    ----------
    entry : of ``index.json``
    voxels : (X, Y, Z) as stored
    noise : (X, Y, Z) of a CT scan, as stored
    """
    spacing = tuple(entry["spacing"])
    return Packed(
        voxels=voxels,
        scale=entry["scale"],
        spacing=spacing,
        slice_axis=int(np.argmax(spacing)),
        isotropic=max(spacing) <= THICK * min(spacing),
        weight=entry["weight"],
        file=entry["file"],
        subject=entry["subject"],
        modality=entry["modality"],
        licence=entry["licence"],
        source=entry["source"],
        shift=entry.get("shift", 0.0),
        noise=noise,
    )


def scan_descriptions(cache: Path, split: str) -> list[dict[str, Any]]:
    """`medldm.qc.ood.describe` of the packed scans of one split; caches of earlier versions do not know it."""
    return [entry["looks"] for entry in index_of(cache) if entry["split"] == split and entry.get("looks")]


def balance(scans: list[Packed]) -> list[Packed]:
    """Weigh sources against each other: each counts by the square root of its subjects, not by its files.

    A corpus that is mostly one scanner would otherwise teach that scanner.
    """
    families: dict[str, list[Packed]] = {}
    for scan in scans:
        families.setdefault(f"{scan.source.split('@')[0]}|{scan.modality}|{scan.isotropic}", []).append(scan)
    balanced = []
    for members in families.values():
        subjects = len({scan.subject for scan in members})
        for scan in members:
            balanced.append(Packed(**{**scan.__dict__, "weight": scan.weight * subjects**0.5 / len(members)}))
    return balanced
