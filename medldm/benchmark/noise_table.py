"""How far off is the noise estimate: known Rician noise added to test scans, level by level."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medldm.benchmark.protocol import slab
from medldm.data.intensity import mri_scaling
from medldm.io.images import read_image
from medldm.qc.noise import estimate_noise

LEVELS = (0.01, 0.03, 0.05, 0.07, 0.09)


def noise_errors(rows: Sequence[dict[str, str]]) -> dict[float, list[tuple[str, float, bool]]]:
    """Relative error of the estimate on the middle slab of each scan.

    A scan carries noise of its own, so the truth is the root of the sum of both squares; the own part is the
    estimate on the scan before noise was added, which matters at 1 % only.

    Parameters
    ----------
    rows : rows of `medldm.benchmark.scans.scans`

    Returns
    -------
    level to (subject, estimate / truth - 1, whether the estimate called itself reliable)
    """
    errors: dict[float, list[tuple[str, float, bool]]] = {level: [] for level in LEVELS}
    for row in rows:
        # By name, so that a scan has the same noise whatever else is in the list.
        seed = int(hashlib.sha256(row["file"].encode()).hexdigest()[:8], 16)
        volume = slab(read_image(Path(row["path"])), across=False)
        clean = np.asarray(volume.voxels, dtype=np.float32)
        brightest = mri_scaling(clean).unit
        own = estimate_noise(clean, volume.spacing).sigma
        for level in LEVELS:
            draw = np.random.default_rng([seed, round(1000 * level)])
            real, imaginary = draw.normal(0, level * brightest, (2, *clean.shape))
            noisy = np.hypot(clean + real, imaginary).astype(np.float32)
            estimate = estimate_noise(noisy, volume.spacing)
            truth = float(np.hypot(level * brightest, own))
            errors[level].append((row["subject"], estimate.sigma / truth - 1, estimate.reliable))
    return errors


def noise_markdown(errors: dict[float, list[tuple[str, float, bool]]]) -> str:
    """The errors as a Markdown table."""
    lines = [
        "### Noise level estimate, error in % of the truth",
        "",
        "| added | mean | largest | called unreliable |",
        "|---|---|---|---|",
    ]
    for level, estimates in errors.items():
        wrong = np.array([error for _, error, _ in estimates]) * 100
        worst = wrong[np.abs(wrong).argmax()]
        doubtful = sum(not reliable for _, _, reliable in estimates)
        lines.append(f"| {100 * level:.0f} % | {wrong.mean():+.1f} | {worst:+.1f} | {doubtful} of {len(estimates)} |")
    return "\n".join(lines) + "\n"
