"""Has medldm restored this scan before? Its header says so, or the record beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medldm.data.volume import Volume
from medldm.io.sidecars import read_record

OURS = "medldm "
LONGEST = 79  # bytes of the NIfTI field `descrip`, which ends with a zero


def mark(header: Any, volume: Volume) -> None:
    """Write into a NIfTI header's `descrip` what was done; a volume that nothing was done to keeps its own words.

    Parameters
    ----------
    header : nibabel header, changed in place
    volume : about to be written
    """
    tasks = [step.task for step in volume.history]
    if earlier := volume.stored.restored_by:
        tasks = [earlier, *tasks]
    if volume.history:
        header["descrip"] = f"{OURS}{', '.join(tasks)}: estimates, research use only".encode()[:LONGEST]


def marked(header: Any) -> str:
    """What medldm did to a NIfTI file by its header, ``"denoise"``; empty for an original."""
    words = bytes(header["descrip"].item()).decode("ascii", "replace") if "descrip" in header else ""
    return words.removeprefix(OURS).split(":")[0] if words.startswith(OURS) else ""


def recorded(image: Path) -> str:
    """What medldm did to a file by the record beside it; empty without one.

    Parameters
    ----------
    image : the file
    """
    record = read_record(image)
    return record.task if record and record.result == image.name and not record.unchanged else ""
