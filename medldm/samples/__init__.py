"""Two small scans to try things on; where they come from stands in ATTRIBUTION.md."""

from __future__ import annotations

from pathlib import Path

from medldm.errors import UsageError

SAMPLES = {path.name.split("_")[0]: path for path in sorted(Path(__file__).parent.glob("*.nii.gz"))}


def sample_path(name: str) -> Path:
    """Path of a shipped sample.

    Parameters
    ----------
    name : of a modality, see `medldm.modality`: MR is a skull-stripped T1w brain, CT a crop of a chest

    Raises
    ------
    UsageError
        No sample of that name.
    """
    if name not in SAMPLES:
        raise UsageError(f"There is no sample {name!r}; there are {', '.join(SAMPLES)}.")
    return SAMPLES[name]
