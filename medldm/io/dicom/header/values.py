"""Single values of a DICOM header, in plain types; what is malformed counts as absent."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom.errors import BytesLengthException, InvalidDicomError

# Whatever pydicom and its value conversions raise on a damaged file.
SYNTHETIC = "SYNTHETIC"  # patient IDs of scans that medldm generated begin so
UNREADABLE = (
    InvalidDicomError, OSError, ValueError, AttributeError, EOFError, KeyError, TypeError, NotImplementedError,
    IndexError, OverflowError, RecursionError, BytesLengthException, struct.error, zlib.error,
)  # fmt: skip
Value = TypeVar("Value")


def careful(get: Callable[[], Value], otherwise: Value) -> Value:
    """A value that a damaged header may not hold."""
    try:
        return get()
    except UNREADABLE:
        return otherwise


def element(dataset: Any, name: Any) -> Any:
    """The value of an element, None where it is not there; private ones of unknown type as text."""
    value = dataset[name].value if name in dataset else None
    if isinstance(value, bytes):  # a private element of unknown type
        value = value.decode("ascii", errors="ignore").strip("\0 ").split("\\")
    return value


def word(dataset: Any, name: Any) -> str:
    """A value as text, several joined by backslashes; empty where there is none."""

    def get() -> str:
        value = element(dataset, name)
        if value is None:
            return ""
        many = not isinstance(value, str) and hasattr(value, "__iter__")
        return "\\".join(str(item) for item in value) if many else str(value)

    return careful(get, "")


def numbers(dataset: Any, name: str, count: int) -> npt.NDArray[np.float64] | None:
    """(count,) finite numbers, None where there are others or none."""

    def get() -> npt.NDArray[np.float64] | None:
        values = np.array([float(value) for value in element(dataset, name) or ()], dtype=np.float64)
        return values if values.shape == (count,) and np.isfinite(values).all() else None

    return careful(get, None)


def number(dataset: Any, name: Any) -> float | None:
    """The first value as a finite number, None where it is none."""

    def get() -> float | None:
        value = float(word(dataset, name).split("\\")[0])
        return value if np.isfinite(value) else None

    return careful(get, None)


def whole(dataset: Any, name: Any) -> int | None:
    """The first value as a whole number, None where it is none."""
    value = number(dataset, name)
    return None if value is None or value != int(value) else int(value)


def millimetres(dataset: Any, name: str) -> float | None:
    """A length, None where it is not positive."""
    value = number(dataset, name)
    return value if value is not None and value > 0 else None
