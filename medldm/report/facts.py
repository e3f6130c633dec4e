"""What a report says about a case: its row, its record, and what a person should look at."""

from __future__ import annotations

import base64
import io
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medldm.io.sidecars import PREVIEW, SENT, find_companion, read_record
from medldm.modality import modality_of
from medldm.provenance import RunRecord

log = logging.getLogger(__name__)

FEWEST = 8  # cases of a kind before one of them can stand out
STANDS_OUT = 5.0  # robust standard deviations above the median
MAD_TO_SIGMA = 1.4826  # of a normal distribution
UNFINISHED = ("failed", "refused")


@dataclass(frozen=True)
class CaseFacts:
    """One case of a report.

    Parameters
    ----------
    case, status, seconds, message : of the batch's row
    task : verb, empty without a record
    noise : level of the scan, MRI a fraction of the 99.5th percentile, CT HU; None where none was
    noise_unit : ``"%"`` (of p99.5) or ``"HU"``
    residual : consistency residual of the record: what the result, measured again, differs from the scan
    invented : slices that hold voxels nobody measured
    flags : what to look at, a few words a flag
    notes : what the run said about the case, in sentences; nothing to worry about
    picture : JPEG of the preview, as a data URI; empty without one
    """

    case: str
    status: str
    seconds: float = 0.0
    message: str = ""
    task: str = ""
    noise: float | None = None
    noise_unit: str = "%"
    residual: float | None = None
    invented: int | None = None
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    picture: str = field(default="", repr=False)

    @property
    def to_look_at(self) -> bool:
        """Whether a person should see this case: something about it stands out, or it has no result."""
        return bool(self.flags) or self.status in UNFINISHED


def facts_of(rows: Sequence[Any], folder: Path, *, width: int) -> list[CaseFacts]:
    """Everything that the page shows, in the order of the rows.

    Parameters
    ----------
    rows : of the batch, each with case, status, seconds, message and result
    folder : of the report; records are looked for beside the results, by its path or by its place below this folder
    width : of the pictures, pixels
    """
    cases = [_one(row, folder, width) for row in rows]
    return [replace(case, flags=case.flags + _outlying(case, cases)) for case in cases]


def _one(row: Any, folder: Path, width: int) -> CaseFacts:
    known = CaseFacts(row.case, row.status, float(row.seconds), row.message)
    if not row.result:
        return known
    image = Path(row.result)
    if not image.exists():  # a shard that ran elsewhere calls the folder by another path
        place = Path(row.case).with_name(image.name)
        image = next(filter(Path.exists, (folder / place, folder / SENT / place)), image)
    record = read_record(image) or RunRecord()
    noise, invented = record.noise_level, record.invented_slices
    model = modality_of(record.modality).noise
    return replace(
        known,
        task=record.task,
        noise=None if noise is None else model.shown(noise),
        noise_unit=model.shown_unit,
        residual=record.residual,
        invented=None if invented is None else len(invented),
        flags=_flags(record),
        notes=_notes(record),
        picture=_picture(find_companion(image, PREVIEW), width),
    )


def _flags(record: RunRecord) -> tuple[str, ...]:
    flags = [f"{record.clipped_voxels:,} voxels clipped"] if record.clipped_voxels else []
    if record.measured_slices_changed:
        flags.append("measured slices changed")
    if record.outside_of_card:
        flags.append(f"outside the model: {', '.join(record.outside_of_card)}")
    return tuple(flags)


def _notes(record: RunRecord) -> tuple[str, ...]:
    region = record.invented_voxels
    invented = (f"{region:,} voxels invented",) if region and not record.invented_slices else ()
    return (*invented, *record.notes)


def _outlying(case: CaseFacts, others: Sequence[CaseFacts]) -> tuple[str, ...]:
    """Whether noise or residual stands out from the cases of the same task, by median and median deviation."""
    flags = []
    for name, kind in (("noise", "noise_unit"), ("residual", "task")):
        value = getattr(case, name)
        alike = [getattr(other, name) for other in others if getattr(other, kind) == getattr(case, kind)]
        alike = [other for other in alike if other is not None]
        if value is None or len(alike) < FEWEST:
            continue
        middle = statistics.median(alike)
        spread = MAD_TO_SIGMA * statistics.median(abs(other - middle) for other in alike)
        if spread > 0 and value > middle + STANDS_OUT * spread:
            flags.append(f"{name} far above the others")
    return tuple(flags)


def _picture(path: Path | None, width: int) -> str:
    """A preview, small enough for a page of many; empty where there is none that can be read."""
    if path is None:
        return ""
    from PIL import Image

    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        log.warning("%s is not shown in the report: %s", path, problem)
        return ""
    small.thumbnail((width, width))
    packed = io.BytesIO()
    small.save(packed, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
