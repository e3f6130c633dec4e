"""Has medldm restored this scan before? A result says so in its header, where that has a text field."""

from __future__ import annotations

from typing import Any

from medldm.data.volume import Volume

OURS = "medldm "
LONGEST = 79  # bytes of the NIfTI field `descrip`, which ends with a zero


def mark_text(volume: Volume) -> str:
    """What was done to a volume, for a header: ``"medldm denoise: estimates, research use only"``.

    Parameters
    ----------
    volume : about to be written

    Returns
    -------
    empty for a volume that nothing was done to
    """
    tasks = [step.task for step in volume.history]
    if earlier := volume.stored.restored_by:
        tasks = [earlier, *tasks]
    return f"{OURS}{', '.join(tasks)}: estimates, research use only" if volume.history else ""


def tasks_of(text: str) -> str:
    """What medldm did to a scan by the text in its header, ``"denoise"``; empty for an original."""
    return text.removeprefix(OURS).split(":")[0] if text.startswith(OURS) else ""


def mark(header: Any, volume: Volume) -> None:
    """Write into a NIfTI header's `descrip` what was done; a volume that nothing was done to keeps its own text.

    Parameters
    ----------
    header : nibabel header, changed in place
    volume : about to be written
    """
    if text := mark_text(volume):
        header["descrip"] = text.encode()[:LONGEST]


def marked(header: Any) -> str:
    """What medldm did to a NIfTI file by its header, ``"denoise"``; empty for an original."""
    return tasks_of(bytes(header["descrip"].item()).decode("ascii", "replace")) if "descrip" in header else ""
