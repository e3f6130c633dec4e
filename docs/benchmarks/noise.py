"""Error of the noise estimate by voxel size: `python docs/benchmarks/noise.py ../shared/data`.

Writes `docs/benchmarks/noise.csv` and `noise.md`. Rician noise of a known level is added to the middle of validation
and test scans: as they are, and interpolated to a grid 1.5 times finer, where noise is added to the fine grid (white)
or to the coarse one before it is interpolated (smooth). A scan carries noise of its own, so the truth is the root of
the sum of both squares; its own is the estimate before noise was added. No number was tuned on a test scan.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from medldm.benchmark.protocol import slab
from medldm.benchmark.scans import is_thin, scans
from medldm.data.intensity import mri_scaling
from medldm.data.volume import Voxels
from medldm.io.images import read_image
from medldm.qc.noise import estimate_noise

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

HERE = Path(__file__).parent
LEVELS = (0.01, 0.03, 0.06)  # of the scan's brightest tissue
FINER = 1.5
FINE_MM = 0.9  # up to here a scan is interpolated to sharp voxels of less than 0.8 mm
EDGES = (0.0, 0.65, 0.8, 0.95, 1.2)  # mm, of the finest voxel edge
KINDS = ("as it is", "interpolated, noise white", "interpolated, noise smooth")


def measured(data: Path) -> Iterator[dict[str, object]]:
    """A row per scan, kind of grid and level."""
    for split in ("val", "test"):
        for row in scans(data, split):
            volume = slab(read_image(Path(row["path"])), across=False)
            clean, spacing = np.asarray(volume.voxels, dtype=np.float32), volume.spacing
            for kind in KINDS if is_thin(spacing) and max(spacing) <= FINER * FINE_MM else KINDS[:1]:
                yield from _errors(row, split, kind, clean, spacing)


def _errors(
    row: dict[str, str], split: str, kind: str, coarse: Voxels, spacing: Sequence[float]
) -> Iterator[dict[str, object]]:
    clean = coarse if kind == KINDS[0] else _finer(coarse)
    mm = tuple(side * old / new for side, old, new in zip(spacing, coarse.shape, clean.shape, strict=True))
    unit, own = mri_scaling(clean).unit, estimate_noise(clean, (mm[0], mm[1], mm[2])).sigma
    # By name, so that a scan has the same noise whatever else is in the list.
    seed = int(hashlib.sha256(row["file"].encode()).hexdigest()[:8], 16)
    for level in LEVELS:
        draw = np.random.default_rng([seed, round(1000 * level)])
        if kind == KINDS[2]:
            parts = [_finer(draw.standard_normal(coarse.shape).astype(np.float32)) for _ in range(2)]
            real, imaginary = (level * unit * part / part.std() for part in parts)
        else:
            real, imaginary = draw.normal(0, level * unit, (2, *clean.shape))
        estimate = estimate_noise(np.hypot(clean + real, imaginary).astype(np.float32), (mm[0], mm[1], mm[2]))
        yield {
            "split": split, "file": row["file"], "finest_mm": round(min(mm), 3), "kind": kind, "added": level,
            "error": round(estimate.sigma / float(np.hypot(level * unit, own)) - 1, 4), "reliable": estimate.reliable,
        }  # fmt: skip


def _finer(image: Voxels) -> Voxels:
    """Cubic interpolation to a finer grid; axes of a few slices too."""
    finer: Voxels = ndimage.zoom(image, FINER, order=3).astype(np.float32)
    return finer


def read() -> list[dict[str, str]]:
    """The scores as they lie there."""
    with (HERE / "noise.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def page(rows: Sequence[dict[str, str]]) -> str:
    """The table, by voxel size and kind of grid."""
    groups: dict[tuple[int, int], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        size = next(number for number, edge in enumerate((*EDGES[1:], np.inf)) if float(row["finest_mm"]) < edge)
        groups[KINDS.index(row["kind"]), size].append(row)
    heads = " | ".join(f"{100 * level:.0f} % added" for level in LEVELS)
    lines = [
        "# Error of the noise estimate by voxel size",
        "",
        "In per cent of the true level: mean and largest error over validation and test scans. Below zero the estimate "
        "is too low. The table is made by `python docs/benchmarks/noise.py ../shared/data`, which describes "
        "the method.",
        "",
        f"| voxels | grid | scans | {heads} | called unreliable |",
        f"|---|---|---|{'---|' * len(LEVELS)}---|",
    ]
    ends = [f"{low:g} to {high:g} mm" for low, high in pairwise(EDGES)] + [f"{EDGES[-1]:g} mm up"]
    ends[0] = f"below {EDGES[1]:g} mm"
    for (kind, size), group in sorted(groups.items()):
        cells = []
        for level in LEVELS:
            wrong = np.array([100 * float(row["error"]) for row in group if float(row["added"]) == level])
            cells.append(f"{wrong.mean():+.1f} / {wrong[np.abs(wrong).argmax()]:+.1f}")
        doubtful = sum(row["reliable"] == "False" for row in group)
        count = len({row["file"] for row in group})
        line = [ends[size], KINDS[kind], str(count), *cells, f"{doubtful} of {len(group)}"]
        lines.append(f"| {' | '.join(line)} |")
    return wrapped("\n".join(lines))


def main(data: Path) -> None:
    """Measure, and write both."""
    rows = list(measured(data))
    with (HERE / "noise.csv").open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "noise.md").write_text(page(read()))
    print(page(read()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
