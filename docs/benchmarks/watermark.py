"""The watermark's detector on scans that bear none: `python docs/benchmarks/watermark.py ../shared/data`.

Every image file below DATA that can be read as one scan; what is looked at is what `medldm inspect` looks at. Writes
watermark.md beside itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from medldm.errors import MedldmError
from medldm.io import read
from medldm.io.discovery import image_files
from medldm.qc.ood import watermark_height
from medldm.qc.watermark import SMALLEST, THRESHOLD

HERE = Path(__file__).parent


def page(heights: list[float]) -> str:
    """The page, from the height of the correlation on each scan, standard deviations."""
    shares = ", ".join(f"{np.quantile(heights, share):.1f} ({100 * share:.0f} %)" for share in (0.5, 0.95, 1.0))
    return (
        "# Watermark: false alarms\n\n"
        f"`python docs/benchmarks/watermark.py DATA` on {len(heights)} real scans, those of training included.\n"
        f"Height of the detector, in standard deviations: {shares}.\n"
        f"A scan counts as marked above {THRESHOLD:g}; {sum(height > THRESHOLD for height in heights)} of them did.\n"
    )


def main(data: Path) -> None:
    """Look at every scan, write the page."""
    heights = []
    for path in image_files(data):
        try:
            scan = read(path)
        except MedldmError as problem:
            print(f"{path.name}: {problem}")
            continue
        if min(scan.shape[:2]) >= SMALLEST:
            heights.append(watermark_height(scan))
    (HERE / "watermark.md").write_text(page(heights))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
