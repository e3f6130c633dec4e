"""The uncertainty beside a result: its standard deviation, and half the width of its interval where that is known."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from medldm.batch.ledger import Record, map_words
from medldm.data.volume import Volume
from medldm.errors import InputError
from medldm.io import is_nifti, write
from medldm.io.atomic import staged_name
from medldm.io.sidecars import in_derivatives

log = logging.getLogger(__name__)

STD, HALF_WIDTH = "_std", "_halfwidth"


def spread_path(record: Record, kind: str = STD) -> Path:
    """``scan_std.nii.gz``; for a DICOM series ``series-003_std.dcm``, beside the record.

    Not in the folder that is sent: many archives take no Parametric Map, and `storescu` does not offer it by itself.

    Parameters
    ----------
    record : of the result
    kind : `STD` or `HALF_WIDTH`
    """
    return record.companion(f"{kind}.nii.gz" if is_nifti(record.image) else f"{kind}.dcm")


def stage_maps(result: Volume, record: Record) -> list[Path]:
    """Write what is known about the uncertainty of a result, under hidden names (`staged_name`).

    Parameters
    ----------
    result : restored, with ``std`` when several samples were drawn
    record : of the result

    Returns
    -------
    where the maps belong; a map that the header of a DICOM series does not allow is told in the log and left out

    Raises
    ------
    OutputError, ResourceError
    """
    written = []
    for kind, voxels in ((STD, result.std), (HALF_WIDTH, result.half_width)):
        if voxels is None:
            continue
        path = spread_path(record, kind)
        if is_nifti(record.image):
            write(result.as_map(voxels), staged_name(path))
        else:
            try:
                _write_dicom(replace(result, std=voxels), staged_name(path), kind)
            except InputError as problem:  # a header that no map can be made of is no reason to lose the series
                log.warning("%s", problem)
                continue
        written.append(path)
    return written


def remove_maps(record: Record) -> None:
    """Take away the maps of an older result, which would pass for this one's."""
    for kind in (STD, HALF_WIDTH):
        path = spread_path(record, kind)
        path.unlink(missing_ok=True)
        if in_derivatives(record.image):
            map_words(path).unlink(missing_ok=True)


def _write_dicom(result: Volume, path: Path, kind: str) -> None:
    from medldm.io.dicom.writing.parametric_map import write_uncertainty

    last: Any = result.history[-1]
    write_uncertainty(result, path, task=last.task, facts=last.facts, half_width=kind == HALF_WIDTH)
