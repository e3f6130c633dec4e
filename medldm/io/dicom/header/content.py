"""What an image shows: a scan, or a localizer, a map, a mosaic, a projection, a report.

`what_it_shows` judges by the words of a parsed header, `foreign_quantity` by the units and the range of its values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydicom.uid import ParametricMapStorage

from medldm.io.dicom.header.frames import MAPPING
from medldm.io.dicom.header.values import careful, number, whole, word
from medldm.modality import holds_magnitudes

if TYPE_CHECKING:
    from medldm.io.dicom.header.parse import Header

LOCALIZER, PHASE, PARAMETER, STATISTICAL = "a localizer", "a phase image", "a parameter map", "a statistical map"
FIELD, COMPLEX, PROJECTION, REPORT = "a field map", "part of a complex image", "a projection", "a screenshot or report"
DIFFERENCE = "a difference of images"
# Words of ImageType, FrameType and ComplexImageComponent, of the standard and of the makers; signs between are one.
TERMS = {
    LOCALIZER: "LOCALIZER TOPOGRAM",
    "a scout view": "SCOUT SCANOGRAM",
    PHASE: "PHASE VELOCITY PHASE_DIFFERENCE",
    FIELD: "FIELD_MAP FIELDMAP B0MAP B1MAP B0_MAP B1_MAP",
    PARAMETER: (
        "ADC EADC FA FRACTIONAL_ANISOTROPY RELATIVE_ANISOTROPY DIFFUSION_ANISO DIFFUSION_TENSOR TENSOR "
        "CBF CBV MTT TTP TMAX RCBF RCBV RMTT RTTP CBVC RCBVC RELCBF RELCBV RELCCBV RELMTT RELTTP RELTMAX CCBV GBP PBP "
        "PERFUSION_MAP KTRANS KEP IAUC IAUGC NEI NORMALIZED_ENHANCEMENT_INTEGRAL LEAKAGE "
        "T1_MAP T2_MAP T2_STAR_MAP T2STAR_MAP R2_STAR R2STAR R1_MAP R2_MAP R2_STAR_MAP "
        "FAT_FRACTION WATER_FRACTION FATFRACTION FF PDFF "
        "METABOLITE_MAP TEMPERATURE STIFFNESS ELASTOGRAM "
        "STD_DEVIATION ELECTRON_DENSITY EFFECTIVE_ATOMIC_NUMBER Z_EFF MAT_SPECIFIC MATERIAL_SPECIFIC MAT_FRACTION"
    ),
    STATISTICAL: "TTEST T_TEST Z_SCORE ZSCORE GLM CORRELATION SPM",
    DIFFERENCE: "SUBTRACTION SUB",
    PROJECTION: "PROJECTION_IMAGE MIP MINIP MNIP MAX_IP MIN_IP MAXIMUM MINIMUM",
    COMPLEX: "REAL IMAGINARY",
    REPORT: (
        "SCREEN_SAVE SCREENSHOT SCREEN_CAPTURE SCREENCAPTURE NON_IMAGE NONIMAGE CSA_REPORT CSAREPORT CSAPARALLEL "
        "MOTIONREPORT DESIGNMATRIX EVASERIES DICOMSR PHYSIO RAWDATA SPECTROSCOPY DOSE_INFO"
    ),
}
REASONS = {term: reason for reason, terms in TERMS.items() for term in terms.split()}
# Single letters mean this only in MR, and only after the first two words (ORIGINAL, PRIMARY).
MR_LETTERS = {"P": PHASE, "R": COMPLEX, "I": COMPLEX}
# Philips writes kind and sequence in one word: P_FFE, R_SE, I_IR.
MR_STARTS = re.compile(r"([PRI])_(?:FFE|SE|IR|TSE|MIXED|PCA)")
MOSAIC = (
    "a mosaic: each of its images holds the slices of a whole volume side by side. Convert it with dcm2niix, and name "
    "one of several volumes with --volume"
)
QUANTITY_TAGS: list[Any] = [
    MAPPING, "RescaleType", "RescaleSlope", "RescaleIntercept", "SmallestImagePixelValue", "LargestImagePixelValue",
    "PixelRepresentation", "BitsStored", "WindowCenter", "SeriesDescription", "ProtocolName", "ScanningSequence",
    "AcquisitionContrast", "SequenceName", "SequenceVariant", "ScanOptions", "ImageComments", "DerivationDescription",
    "ContrastBolusAgent", "PixelPaddingValue",
]  # fmt: skip
# Attributes that differ between two kinds of images where ImageType, echo and contrast do not. They are constant
# within one kind; what changes from time to time or from slice to slice is not among them.
DISTINGUISHING = (
    "RescaleType", "PixelRepresentation", "BitsStored", "SeriesDescription", "ProtocolName", "ScanningSequence",
    "AcquisitionContrast",
)  # fmt: skip
# These may change between volumes of one kind, too; they are used where no other attribute differs.
HINTS = (
    "SequenceName", "SequenceVariant", "ScanOptions", "ImageComments", "DerivationDescription", "ContrastBolusAgent",
)  # fmt: skip
NO_UNIT = ("", "1", "[hnsf'u]", "hnsf'u", "[arb'u]", "{arb'u}", "{no units}", "no units", "us", "none")
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


def what_it_shows(header: Header) -> str:
    """Why an image is no scan, in words that follow "it is"; empty when it may be one.

    Parameters
    ----------
    header : of one image
    """
    terms = [re.sub(r"[^A-Z0-9]+", "_", term).strip("_") for term in header.image_type]
    if header.mosaic > 1 or "MOSAIC" in terms:
        return MOSAIC
    for term in terms:
        if reason := REASONS.get(term) or _map(term):
            return reason
    for term in terms[2:] if holds_magnitudes(header.modality) else ():
        letter = MR_STARTS.fullmatch(term)
        if kind := MR_LETTERS.get(letter[1] if letter else term):
            return kind
    return REASONS.get(header.kinds["ComplexImageComponent"], "") or header.quantity


def _map(term: str) -> str:
    """What a word that ends in MAP means, for every vendor."""
    if not term.endswith("MAP"):
        return ""
    if "PHASE" in term or "VELOCITY" in term:
        return PHASE
    return FIELD if "FIELD" in term or term.startswith(("B0", "B1")) else PARAMETER


def foreign_quantity(dataset: Any) -> str:
    """What the values of an image are where they are no grey values, by units and range; empty for those of a scan.

    Parameters
    ----------
    dataset : header of one image, flat
    """
    if word(dataset, "SOPClassUID") == ParametricMapStorage:
        return "a parametric map"
    rescale_type = word(dataset, "RescaleType").strip().lower()
    if rescale_type in FOREIGN_TYPES:
        return f"{FOREIGN_TYPES[rescale_type]}, by the unit of its values (RescaleType)"
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


def distinguishing(dataset: Any) -> dict[str, str]:
    """Values that distinguish two images of one position, by attribute; empty where the header has none.

    Parameters
    ----------
    dataset : header of one image, flat
    """
    values = {name: word(dataset, name) for name in (*DISTINGUISHING, *HINTS)}
    values["units"] = "\\".join(_units(dataset))
    lowest, highest = value_range(dataset)
    signed = lowest is not None and highest is not None and far_below(lowest, highest)
    if lowest is None and holds_magnitudes(word(dataset, "Modality")):
        centre = number(dataset, "WindowCenter")
        signed = centre is not None and centre <= 0
    values["range of values"] = "signed" if signed else ""
    return values


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
