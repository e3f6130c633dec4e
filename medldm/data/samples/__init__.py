"""Two small scans to try things on; where they come from stands in ATTRIBUTION.md."""

from __future__ import annotations

from pathlib import Path

from medldm.errors import UsageError

SAMPLES = {"mr": "mr_t1w.nii.gz", "ct": "ct_chest.nii.gz"}


def sample_path(name: str = "mr") -> Path:
    """Path of a shipped sample.

    Parameters
    ----------
    name : ``"mr"`` (a skull-stripped T1w brain) or ``"ct"`` (a crop of a chest)

    Raises
    ------
    UsageError
        No sample of that name.
    """
    if name not in SAMPLES:
        raise UsageError(f"There is no sample {name!r}; there are {', '.join(SAMPLES)}.")
    return Path(__file__).parent / SAMPLES[name]
