"""What the values of an image are, by its header: grey values of a scan, or a map of something else."""

from __future__ import annotations

import re
from typing import Any

from pydicom.uid import ParametricMapStorage

from medldm.io.dicom.frames import MAPPING
from medldm.io.dicom.values import careful, number, whole, word
from medldm.modality import holds_magnitudes

QUANTITY_TAGS: list[Any] = [
    MAPPING, "RescaleType", "RescaleSlope", "RescaleIntercept", "SmallestImagePixelValue", "LargestImagePixelValue",
    "PixelRepresentation", "BitsStored", "WindowCenter", "SeriesDescription", "ProtocolName", "ScanningSequence",
    "AcquisitionContrast", "SequenceName", "SequenceVariant", "ScanOptions", "ImageComments", "DerivationDescription",
    "ContrastBolusAgent", "PixelPaddingValue",
]  # fmt: skip
# What tells two images of one position apart where ImageType, echo and contrast do not. Each is the same all over an
# image of one kind; what changes from time to time or from slice to slice is not among them.
TELLING = (
    "RescaleType", "PixelRepresentation", "BitsStored", "SeriesDescription", "ProtocolName", "ScanningSequence",
    "AcquisitionContrast",
)  # fmt: skip
# These may change from volume to volume of one kind, too; they are asked where nothing else tells.
HINTS = (
    "SequenceName", "SequenceVariant", "ScanOptions", "ImageComments", "DerivationDescription", "ContrastBolusAgent",
)  # fmt: skip
NO_UNIT = ("", "1", "[hnsf'u]", "hnsf'u", "[arb'u]", "{arb'u}", "{no units}", "no units", "us", "none")
PARAMETER, PHASE, FIELD = "a parameter map", "a phase image", "a field map"
# Units and RescaleType (C.11.1.1.2, and what makers write there), in lower case.
FOREIGN_TYPES = {
    **dict.fromkeys(("hz", "ppm", "t", "ut", "mt"), FIELD),
    **dict.fromkeys(
        ("rad", "mrad", "radian", "radians", "milliradian", "milliradians", "deg", "degree", "degrees", "cm/s", "mm/s",
         "m/s"),
        PHASE,
    ),
    **dict.fromkeys(
        ("od", "mgml", "z_eff", "ed", "edw", "pct", "%", "percent", "s", "sec", "ms", "msec", "us/s", "1/s", "hz/s",
         "mm2/s", "um2/s", "um2/ms", "10^-6 mm2/s", "ml/100ml/min", "ml/100g/min", "ml/100ml", "ml/100g", "kpa", "pa",
         "c", "degc", "celsius"),
        PARAMETER,
    ),
}  # fmt: skip
ANNOTATION = re.compile(r"\{.*\}")  # a remark in UCUM, no unit
BELOW_ZERO = 0.2  # times the highest value: so far below zero no magnitude reaches


def foreign_quantity(dataset: Any) -> str:
    """What the values of an image are where they are no grey values, by units and range; empty for those of a scan.

    Parameters
    ----------
    dataset : header of one image, flat
    """
    if word(dataset, "SOPClassUID") == ParametricMapStorage:
        return "a parametric map"
    said = word(dataset, "RescaleType").strip().lower()
    if said in FOREIGN_TYPES:
        return f"{FOREIGN_TYPES[said]}, by the unit of its values (RescaleType)"
    units = [unit for unit in _units(dataset) if unit not in NO_UNIT and not ANNOTATION.fullmatch(unit)]
    if units:
        what = FOREIGN_TYPES.get(units[0], PARAMETER)
        return f"{what}, by the unit of its values (RealWorldValueMapping)"
    lowest, highest = value_range(dataset)
    if (
        holds_magnitudes(word(dataset, "Modality"))
        and lowest is not None
        and highest is not None
        and far_below(lowest, highest)
    ):
        return f"a phase, field or difference map, by its range of values ({lowest:g} to {highest:g})"
    return ""


def far_below(lowest: float, highest: float) -> bool:
    """Whether values reach so far below zero that they are no magnitude.

    Parameters
    ----------
    lowest, highest : of an MR image, in its unit
    """
    return lowest < 0 and -lowest > BELOW_ZERO * max(highest, 0.0)


def value_range(dataset: Any) -> tuple[float | None, float | None]:
    """Lowest and highest value that the header claims, in the unit of the image; None where it does not.

    Parameters
    ----------
    dataset : header of one image, flat
    """
    slope, intercept = number(dataset, "RescaleSlope") or 1.0, number(dataset, "RescaleIntercept") or 0.0
    low, high = _stored(dataset, "SmallestImagePixelValue"), _stored(dataset, "LargestImagePixelValue")
    if low is not None and low == _stored(dataset, "PixelPaddingValue"):
        low = None  # that is no value of the scan
    if low is not None and high is not None and low < high:
        ends = sorted((low * slope + intercept, high * slope + intercept))
        return ends[0], ends[1]
    if intercept < 0 and slope > 0 and whole(dataset, "PixelRepresentation") == 0:
        # An offset that only values of both signs need; the stored range tells how far they may reach.
        bits = whole(dataset, "BitsStored") or 16
        return intercept, (2**bits - 1) * slope + intercept
    return None, None


def telling(dataset: Any) -> dict[str, str]:
    """Words that tell two images of one position apart, by name; empty where the header says nothing.

    Parameters
    ----------
    dataset : header of one image, flat
    """
    found = {name: word(dataset, name) for name in (*TELLING, *HINTS)}
    found["units"] = "\\".join(_units(dataset))
    lowest, highest = value_range(dataset)
    signed = lowest is not None and highest is not None and far_below(lowest, highest)
    if lowest is None and holds_magnitudes(word(dataset, "Modality")):
        centre = number(dataset, "WindowCenter")
        signed = centre is not None and centre <= 0
    found["range of values"] = "signed" if signed else ""
    return found


def _units(dataset: Any) -> list[str]:
    """Codes of the units that values are mapped to, in lower case."""

    def get() -> list[str]:
        codes = []
        for item in dataset.get(MAPPING) or ():
            for unit in item.get("MeasurementUnitsCodeSequence") or ():
                codes.append(re.sub(r"\s+", " ", str(unit.get("CodeValue") or "")).strip().lower())
        return codes

    return careful(get, [])


def _stored(dataset: Any, name: str) -> float | None:
    """A stored value; where its type depends on the sign of the pixels, some readers leave its bytes."""

    def get() -> float | None:
        value = dataset[name].value if name in dataset else None
        if isinstance(value, bytes):
            return float(int.from_bytes(value[:2], "little", signed=whole(dataset, "PixelRepresentation") == 1))
        if value is not None and whole(dataset, "PixelRepresentation") == 1 and value > 32767:
            value -= 65536
        return None if value is None else float(value)

    return careful(get, None)
