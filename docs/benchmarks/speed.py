"""Seconds and peak memory of one denoising on this machine, three sizes; writes speed.md beside itself.

Run on an otherwise idle machine: `python docs/benchmarks/speed.py`. Every size has a process of its own, so that peak
memory is its own. The shipped scan is cropped to its head and stretched to each size; nothing of it is air that could
be skipped but what lies in a head's corners.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

SIZES = ((128, 128, 90), (192, 192, 120), (256, 256, 180))


def one(shape: tuple[int, ...]) -> dict[str, float]:
    """Load, denoise once, in this process."""
    begun = time.monotonic()
    import numpy as np
    from scipy import ndimage

    import medldm
    from medldm.chain import load_chain
    from medldm.samples import sample_path
    from medldm.tasks.pipeline import peak_memory_mb
    from medldm.zoo import best

    load_chain(best("mr"))
    loaded = time.monotonic() - begun
    head = medldm.read(sample_path("mr")).voxels.astype(np.float32)
    inside = np.argwhere(head > 0.1 * head.max())
    head = head[tuple(slice(a, b) for a, b in zip(inside.min(0), inside.max(0) + 1, strict=True))]
    scan = ndimage.zoom(head, [new / old for new, old in zip(shape, head.shape, strict=True)], order=1)
    draw = np.random.default_rng(0)
    scan = np.hypot(scan + draw.normal(0, 0.05 * scan.max(), scan.shape), draw.normal(0, 0.05 * scan.max(), scan.shape))
    begun = time.monotonic()
    medldm.denoise(scan.astype(np.float32), noise=0.05, affine=np.eye(4))
    return {"loading": loaded, "seconds": time.monotonic() - begun, "memory": peak_memory_mb()}


def main() -> None:
    """All sizes; the table."""
    lines = [
        f"`python docs/benchmarks/speed.py` on {os.cpu_count()} cores, {platform.machine()}: one step, three planes.",
        "",
        "| voxels | million | loading, s | denoising, s | s per million | peak memory, GB |",
        "|---|---|---|---|---|---|",
    ]
    for shape in SIZES:
        told = subprocess.run(
            [sys.executable, __file__, *map(str, shape)], capture_output=True, text=True, check=True
        ).stdout
        found = json.loads(told.splitlines()[-1])
        million = shape[0] * shape[1] * shape[2] / 1e6
        lines.append(
            f"| {' x '.join(map(str, shape))} | {million:.1f} | {found['loading']:.1f} | {found['seconds']:.1f} "
            f"| {found['seconds'] / million:.2f} | {found['memory'] / 1024:.2f} |"
        )
        print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(one(tuple(map(int, sys.argv[1:])))))
    else:
        main()
