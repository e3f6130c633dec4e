"""Grey windows: what the file says, and those that radiologists know by name."""

from __future__ import annotations

from itertools import islice
from typing import Any

from medldm.data.volume import Volume
from medldm.modality import MODALITIES

# Width and level in HU, as in radiology textbooks and viewers.
PRESETS = {
    "brain": (80.0, 40.0),
    "soft tissue": (400.0, 40.0),
    "bone": (2000.0, 500.0),
    "lung": (1500.0, -600.0),
}


def of_file(volume: Volume) -> tuple[float, float] | None:
    """Darkest and brightest value of the window that a DICOM file asks for; None where it asks for none.

    Parameters
    ----------
    volume : scan
    """
    header = volume.stored.header
    if volume.stored.container != "dicom" or not header:
        return None
    import pydicom
    from pydicom.errors import InvalidDicomError

    from medldm.io.dicom.header.frames import flat_frames, is_enhanced

    frame = next((one for one in header if one is not None and one.path is not None), None)
    if frame is None:
        return None
    try:
        data = pydicom.dcmread(frame.path, stop_before_pixels=True)
    except (OSError, InvalidDicomError):  # it was read once; whoever moved it since loses the window only
        return None
    if is_enhanced(data):
        data = next(islice(flat_frames(data), frame.number, None), data)
    centre, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or not width > 0:
        return None
    return limits(width, centre)


def opening(volume: Volume) -> tuple[float, float] | None:
    """The window that a scan is opened with; None where its own range says it better.

    Parameters
    ----------
    volume : scan
    """
    kind = MODALITIES.get(volume.stored.modality or "")
    return of_file(volume) if kind is not None and kind.window is not None else None


def limits(width: float, level: float) -> tuple[float, float]:
    """Darkest and brightest value of a window."""
    return level - width / 2, level + width / 2


def _first(value: Any) -> float | None:
    try:
        one = value[0] if not isinstance(value, str | int | float) and hasattr(value, "__getitem__") else value
        return float(one)
    except (TypeError, ValueError, IndexError):
        return None
