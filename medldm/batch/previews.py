"""A picture of a case that was finished without one: from the scan and the result on disk, without the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medldm.batch.ledger import Record
from medldm.batch.maps import HALF_WIDTH, STD, spread_path
from medldm.batch.memory import check_memory
from medldm.batch.options import Run
from medldm.data.volume import Step, Volume, Voxels
from medldm.io import is_image_name, read
from medldm.io.sidecars import PREVIEW


def preview_path(record: Record) -> Path:
    """Where the picture lies, beside the result."""
    return record.companion(PREVIEW)


def draw_later(run: Run, record: Record, name: str, before: Volume) -> None:
    """Draw the picture of a result that is up to date by the ledger.

    Parameters
    ----------
    run : what is asked
    record : of the result
    name : of the case
    before : scan, as read

    Raises
    ------
    MedldmError
    """
    told = record.read()
    if isinstance(told.get("voxels"), int):
        check_memory(name, told["voxels"])
    after = read(record.image)
    step = Step(run.verb, run.settings.asdict(), told)
    std, half_width = (_map(record, kind, after) for kind in (STD, HALF_WIDTH))
    run.watch.preview(before, replace(after, history=(step,), std=std, half_width=half_width), preview_path(record))


def _map(record: Record, kind: str, after: Volume) -> Voxels | None:
    """A map of uncertainty beside a NIfTI result; those of DICOM are no scans and are not read back."""
    path = spread_path(record, kind)
    if not is_image_name(record.image) or not path.exists():
        return None
    found = read(path).voxels
    return found if found.shape == after.shape else None
