"""The scans that a generator learns from, on one grid, cached as 8 bits."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medldm.data import template
from medldm.data.description import Description
from medldm.data.volume import Volume
from medldm.errors import InputError, MedldmError
from medldm.training.splits import read_split

log = logging.getLogger(__name__)

LAYOUT = 1  # of the cache
LEVELS = 255 / template.BRIGHTEST
MULTIPLE = 16  # of the axes of a small grid
HEAD = ((96, 112, 96), 2.0)  # grid of heads: voxels, mm
LARGE = 300_000  # voxels of a grid of which an autoencoder learns from parts
ROUNDS = 2  # of registration: to one head, then to the mean of all
# Words of split tables for contrasts.
KNOWN = {"t1w": "T1w", "t1": "T1w", "t2w": "T2w", "t2": "T2w", "flair": "FLAIR", "t1gd": "T1Gd", "t1post": "T1Gd"}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Scans on one grid.

    Parameters
    ----------
    voxels : (N, X, Y, Z) uint8
    descriptions : of each
    subjects, files : of each
    train : (N,) bool, whether it is learned from
    spacing : mm
    small : whether they are cut-out organs, centred instead of registered
    """

    voxels: Tensor
    descriptions: list[Description]
    subjects: list[str]
    files: list[str]
    train: Tensor
    spacing: float
    small: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z) voxels."""
        x, y, z = self.voxels.shape[1:]
        return x, y, z

    @property
    def large(self) -> bool:
        """Whether a grid is so large that an autoencoder learns from parts of it."""
        return self.voxels[0].numel() > LARGE

    def volumes(self, *, train: bool) -> Tensor:
        """(n, 1, X, Y, Z) float32 scaled intensity of one split."""
        return self.voxels[self.train == train, None].float() / LEVELS

    def descriptions_of(self, *, train: bool) -> list[Description]:
        """Descriptions of one split."""
        return [d for d, is_train in zip(self.descriptions, self.train.tolist(), strict=True) if is_train == train]


def description_of(row: dict[str, str], region: str) -> Description:
    """What a line of a split table says of its scan.

    Parameters
    ----------
    row : with ``modality`` ("MR T1w"), ``age``, ``sex`` and ``kind`` where they are known
    region : of all scans of the table
    """
    parts = row.get("modality", "").replace("MR", "").split()
    contrast = next((KNOWN[word.lower()] for word in parts if word.lower() in KNOWN), "")
    sex = {"f": "female", "m": "male"}.get(row.get("sex", "").lower()[:1], "")
    try:
        age = float(row["age"]) if row.get("age") else None
    except ValueError:
        age = None
    return Description(contrast=contrast, region=region, sex=sex, age=age)


def load(data: Path, cache: Path, region: str) -> Corpus:
    """All scans of a folder on one grid, from the cache where it was made of the same files.

    Parameters
    ----------
    data : folder with a split table, see `medldm.training.splits.read_split`
    cache : folder to fill
    region : that the scans show, a name in `medldm.data.description.REGIONS`

    Raises
    ------
    InputError
        Too few scans.
    """
    rows = [row for row in read_split(data) if row["split"] in ("train", "val") and fits(row, region)]
    stamp = hashlib.sha256(
        json.dumps([LAYOUT, region, [[row["file"], Path(row["path"]).stat().st_size] for row in rows]]).encode()
    ).hexdigest()
    index, store = cache / "generation.json", cache / "generation.npz"
    if not (index.is_file() and json.loads(index.read_text())["stamp"] == stamp):
        cache.mkdir(parents=True, exist_ok=True)
        voxels, kept, spacing, small = _on_one_grid(rows)
        entries = [
            {"file": row["file"], "subject": row.get("subject") or row["file"], "train": row["split"] == "train"}
            | {"licence": row.get("licence", ""), "source": row.get("source", "")}
            | {"description": asdict(description_of(row, region))}
            for row in kept
        ]
        np.savez_compressed(store, voxels=voxels)
        index.write_text(json.dumps({"stamp": stamp, "spacing": spacing, "small": small, "scans": entries}, indent=1))
    return read_cache(cache)


def read_cache(cache: Path) -> Corpus:
    """The corpus that `load` has left in a cache."""
    said: dict[str, Any] = json.loads((cache / "generation.json").read_text())
    scans = said["scans"]
    return Corpus(
        voxels=torch.from_numpy(np.load(cache / "generation.npz")["voxels"]),
        descriptions=[Description(**scan["description"]) for scan in scans],
        subjects=[scan["subject"] for scan in scans],
        files=[scan["file"] for scan in scans],
        train=torch.tensor([scan["train"] for scan in scans]),
        spacing=said["spacing"],
        small=said["small"],
    )


def fits(row: dict[str, str], region: str) -> bool:
    """Whether a line of a table is an MR scan of a region, as far as the table says."""
    modality, kind = row.get("modality", "MR T1w"), row.get("kind", "").lower()
    parts = modality.split()
    if not any(part == "MR" or part.lower() in KNOWN for part in parts) or "extremity" in parts:
        return False
    if region == "brain" and kind:
        return "skull-stripped" in kind
    return True


def _on_one_grid(rows: list[dict[str, str]]) -> tuple[np.ndarray[Any, Any], list[dict[str, str]], float, bool]:
    """Voxels of the scans that can be read, their lines, the spacing, and whether they are cut-outs."""
    from medldm.io.images import read_image

    scans, kept = [], []
    for row in rows:
        try:
            scans.append(template.scaled_intensity(read_image(Path(row["path"]), fix=True)))
            kept.append(row)
        except MedldmError as problem:
            log.warning("%s is left out: %s", row["path"], problem)
    if sum(row["split"] == "train" for row in kept) < 2 or all(row["split"] == "train" for row in kept):
        raise InputError(
            f"{len(kept)} MR scans are too few: a generator takes at least two to learn from and one to judge it, of "
            "different subjects."
        )
    extent = np.median([np.multiply(scan.shape, scan.spacing) for scan in scans], axis=0)
    if max(extent) < template.SMALL_MM:
        spacing = float(np.median([scan.spacing for scan in scans]))
        x, y, z = (max(MULTIPLE, int(mm / spacing) // MULTIPLE * MULTIPLE) for mm in extent)
        grids = [template.centred(scan, (x, y, z), spacing) for scan in scans]
        return _bytes(grids), kept, spacing, True
    shape, spacing = HEAD
    grids = aligned(scans, shape, spacing)
    return _bytes(grids), kept, spacing, False


def aligned(scans: list[Volume], shape: tuple[int, int, int], spacing: float) -> list[np.ndarray[Any, Any]]:
    """Heads on the grid of their mean: registered to the first, then to the mean of all.

    Parameters
    ----------
    scans : scaled intensity
    shape, spacing : of the grid
    """
    first = np.eye(4)
    first[:3, 3] = template.centre_of_signal(scans[0])
    grids = [template.on_template(scans[0], first, shape, spacing)]
    mappings: list[Any] = [None] * len(scans)
    for number in range(ROUNDS):
        mean = Volume(np.mean(grids, axis=0), template.centred_affine(shape, spacing), name="mean head")
        mappings = [template.registered(scan, mean, start) for scan, start in zip(scans, mappings, strict=True)]
        grids = [template.on_template(s, m, shape, spacing) for s, m in zip(scans, mappings, strict=True)]
        log.info("registered %d scans, round %d of %d", len(scans), number + 1, ROUNDS)
    return grids


def _bytes(grids: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.stack([np.clip(np.round(grid * LEVELS), 0, 255).astype(np.uint8) for grid in grids])


def augmented(volumes: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Mirrored left to right, turned, stretched and shifted a little, so that few people become more.

    Parameters
    ----------
    volumes : (B, 1, X, Y, Z) scaled intensity
    generator : source of randomness
    strength : of everything but the mirror: 1 turns by up to 0.1 rad, stretches by 6 % and shifts by 4 %
    """
    count, device = len(volumes), volumes.device

    def uniform(*size: int) -> Tensor:
        return 2 * torch.rand(size, generator=generator, device=device) - 1

    angle = 0.1 * strength * uniform(count, 3)
    stretch = 1 + 0.06 * strength * uniform(count, 3)
    shift = 0.04 * strength * uniform(count, 3)
    mirror = (torch.rand(count, generator=generator, device=device) < 0.5).float() * -2 + 1
    zero = torch.zeros(count, device=device)
    a, b, c = angle.unbind(1)
    turn = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], 1).reshape(count, 3, 3)
    matrix = torch.matrix_exp(turn) * stretch[:, None, :]
    # Affine grids count the last axis first: X, the axis from left to right, is their third coordinate.
    matrix = matrix * torch.stack([zero + 1, zero + 1, mirror], 1)[:, :, None]
    grid = F.affine_grid(torch.cat([matrix, shift[:, :, None]], 2), list(volumes.shape), align_corners=False)
    return F.grid_sample(volumes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def box(shape: Sequence[int], generator: torch.Generator, share: float) -> tuple[slice, ...]:
    """Somewhere in a grid, a box of this share of each axis.

    Parameters
    ----------
    shape : of the grid
    generator : source of randomness
    share : in (0, 1]
    """
    places = []
    for size in shape:
        length = max(1, int(share * size))
        start = int(torch.randint(size - length + 1, (), generator=generator, device=generator.device))
        places.append(slice(start, start + length))
    return tuple(places)
