"""How often the out-of-distribution detector is right: `python docs/benchmarks/ood.py ../shared/data [NAME]`.

Writes `scores.csv` and `table.md` into `docs/benchmarks/ood`.
Test scans are ones the card should cover: every warning is a false alarm.
Everything else lies outside on purpose: real CT as MR (HU, or shifted to be positive), real DICOM scans of phantoms and
heads, drawn phantoms, a drawn knee, and test scans that were damaged in ways no scanner would. There is
no real knee among the data at hand: the drawn one stands for it, and says less.
"""

from __future__ import annotations

import csv
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from scipy import ndimage

from medldm.data.volume import Stored, Volume, Voxels
from medldm.errors import MedldmError
from medldm.io.discovery import find_cases, image_files
from medldm.io.images import read_image
from medldm.qc.ood import check
from medldm.zoo import card

sys.path.insert(0, str(Path(__file__).parents[1]))
from wrapping import wrapped

OUT = Path(__file__).parent / "ood"
SCORES = OUT / "scores.csv"
TEST = "test scans (every warning is a false alarm)"


def scans(data: Path, split: str) -> list[dict[str, str]]:
    """MR scans of one split of the manifest; the benchmark's own reader would load torch."""
    paths = {path.name: str(path) for path in image_files(data)}
    with (data / "manifest.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split and row["modality"].startswith("MR")]
    return [{**row, "path": paths[row["file"]]} for row in rows if row["file"] in paths]


def drawn(image: Voxels, name: str, noise: float = 0.03) -> Volume:
    """A drawing at 1 mm with Rician noise, as MR."""
    draw = np.random.default_rng(0)
    noisy = np.hypot(image + noise * draw.standard_normal(image.shape), noise * draw.standard_normal(image.shape))
    return Volume((1000 * noisy).astype(np.float32), np.eye(4), name=name, stored=Stored(modality="mr"))


def phantoms() -> Iterator[tuple[str, Volume]]:
    """Spheres, bottles, boxes, Shepp-Logan, and a knee of two bones, marrow, cartilage, muscle and fat."""
    x, y, z = np.indices((160, 160, 140)).astype(np.float32)
    across = np.hypot(x - 80, y - 80)
    yield "sphere", drawn((np.hypot(across, z - 70) < 60) * 1.0, "sphere")
    yield "bottle", drawn((across < 55) * (z > 8) * (z < 132) * 0.9, "bottle")
    holes = (np.hypot((x % 32) - 16, (y % 32) - 16) > 6) * (across < 70) * 1.0
    yield "resolution phantom", drawn(holes, "resolution phantom")
    yield "box", drawn(((abs(x - 80) < 50) & (abs(y - 80) < 60) & (abs(z - 70) < 50)) * 1.0, "box")
    from skimage.data import shepp_logan_phantom

    plane = ndimage.zoom(shepp_logan_phantom(), 0.4, order=1).astype(np.float32)
    yield "Shepp-Logan, extruded", drawn(np.repeat(plane[..., None], 100, 2), "Shepp-Logan")
    leg = np.hypot((x - 80) / 62, (y - 80) / 66)
    knee = np.where(leg < 1, 0.95, 0.0)  # fat
    knee = np.where(leg < 0.88, 0.45 + 0.05 * np.sin(x / 4) * np.sin(y / 5), knee)  # muscle
    wide = 26 + 8 * np.exp(-(((z - 70) / 25) ** 2))
    bone = np.hypot(x - 80, y - 72) < wide
    knee = np.where(bone, 0.85, knee)  # marrow
    knee = np.where(bone & (np.hypot(x - 80, y - 72) > wide - 3), 0.1, knee)  # cortex
    knee = np.where(bone & (abs(z - 70) < 4), 0.6, knee)  # cartilage
    yield "knee, drawn", drawn(knee, "knee")


def outside(data: Path) -> Iterator[tuple[str, str, Volume]]:
    """Kind, name and volume of scans that a brain-MRI card does not cover."""
    for path in sorted(data.glob("*/*_CT.nii.gz")):
        ct = read_image(path)
        stored = replace(ct.stored, modality="mr")
        yield "CT in HU, said to be MR", path.name, ct.with_voxels(ct.voxels, stored=stored)
        shifted = np.clip(ct.voxels.astype(np.float32) + 1024, 0, None)
        yield "CT shifted above zero", path.name, ct.with_voxels(shifted, stored=stored)
    for name, volume in phantoms():
        yield "knee, drawn" if "knee" in name else "phantom, drawn", name, volume
    for row in scans(data, "test"):
        scan = read_image(Path(row["path"]))
        yield (
            "voxels twice as large as they were",
            row["file"],
            Volume(scan.voxels, np.diag([2, 2, 2, 1.0]) @ scan.affine, name=scan.name, stored=scan.stored),
        )
        order = np.random.default_rng(0).permutation(scan.shape[2])
        yield "slices shuffled", row["file"], scan.with_voxels(scan.voxels[:, :, order])
        smooth = ndimage.gaussian_filter(scan.voxels.astype(np.float32), [2 / mm for mm in scan.spacing])
        yield "blurred by 2 mm", row["file"], scan.with_voxels(smooth)
        light = ndimage.gaussian_filter(scan.voxels.astype(np.float32), [0.7 / mm for mm in scan.spacing])
        yield "restored elsewhere (smoothed by 0.7 mm), no mark", row["file"], scan.with_voxels(light)
        stored = replace(scan.stored, restored_by="denoise")
        yield "restored by medldm, marked", row["file"], scan.with_voxels(scan.voxels, stored=stored)
    for case in find_cases(data / "dicom"):
        try:
            volume = case.read()
        except MedldmError:
            continue
        kind = "DICOM CT, said to be MR" if volume.stored.modality == "ct" else "DICOM MR, a few slices or unusual"
        yield kind, case.place.as_posix(), volume


def main(data: Path, name: str) -> None:
    """Measure and write."""
    logging.disable(logging.WARNING)
    model = card(name)
    if not model.ood:
        raise SystemExit(f"{name} holds no out-of-distribution detector: run docs/benchmarks/calibrate.py first.")
    inside = ((TEST, row["file"], read_image(Path(row["path"]))) for row in scans(data, "test"))
    OUT.mkdir(exist_ok=True)
    with SCORES.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["card", "material", "scan", "checks", "words"], lineterminator="\n")
        writer.writeheader()
        for kind, scan, volume in chain(inside, outside(data)):
            odd = check(volume, model)
            text = " ".join(odd.values()) if kind == TEST else ""
            writer.writerow(
                {"card": name, "material": kind, "scan": scan, "checks": ", ".join(sorted(odd)), "words": text}
            )
    (OUT / "table.md").write_text(table(read()))
    print(table(read()))


def read() -> list[dict[str, str]]:
    """What was measured last: a scan a line, with the checks that warned."""
    with SCORES.open(newline="") as lines:
        return list(csv.DictReader(lines))


def table(rows: list[dict[str, str]]) -> str:
    """Warnings by material, as Markdown."""
    lines = [
        "# What the out-of-distribution detector warns about",
        "",
        f"Command: `python docs/benchmarks/ood.py ../shared/data {rows[0]['card']}`; limits chosen on validation "
        "scans.",
        "",
        "| material | scans | warned | by which check |",
        "|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["material"] for row in rows):
        checks = [row["checks"].split(", ") if row["checks"] else [] for row in rows if row["material"] == kind]
        by = Counter(name for names in checks for name in names)
        counts = ", ".join(f"{name} {count}" for name, count in sorted(by.items()))
        lines.append(f"| {kind} | {len(checks)} | {sum(map(bool, checks))} | {counts} |")
    alarms = [f"- {row['scan']}: {row['words']}" for row in rows if row["material"] == TEST and row["checks"]]
    return wrapped("\n".join([*lines, "", "False alarms:", "", *(alarms or ["none"])]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "brain-mri-2d")
