"""What an image shows where that is no scan: a localizer, a map, a mosaic, a projection, a report."""

from __future__ import annotations

import re

from medldm.io.dicom.header import Header
from medldm.modality import holds_magnitudes

LOCALIZER, PHASE, PARAMETER, STATISTICAL = "a localizer", "a phase image", "a parameter map", "a statistical map"
FIELD, COMPLEX, PROJECTION, REPORT = "a field map", "part of a complex image", "a projection", "a screenshot or report"
DIFFERENCE = "a difference of images"
# Words of ImageType, FrameType and ComplexImageComponent, of the standard and of the makers; signs between are one.
WORDS = {
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
REASONS = {word: reason for reason, words in WORDS.items() for word in words.split()}
# Single letters mean this only in MR, and only after the first two words (ORIGINAL, PRIMARY).
MR_LETTERS = {"P": PHASE, "R": COMPLEX, "I": COMPLEX}
# Philips writes kind and sequence in one word: P_FFE, R_SE, I_IR.
MR_STARTS = re.compile(r"([PRI])_(?:FFE|SE|IR|TSE|MIXED|PCA)")
MOSAIC = (
    "a mosaic: each of its images holds the slices of a whole volume side by side. Convert it with dcm2niix, and name "
    "one of several volumes with --volume"
)


def what_it_shows(header: Header) -> str:
    """Why an image is no scan, in words that follow "it is"; empty when it may be one.

    Parameters
    ----------
    header : of one image
    """
    words = [re.sub(r"[^A-Z0-9]+", "_", word).strip("_") for word in header.image_type]
    if header.mosaic > 1 or "MOSAIC" in words:
        return MOSAIC
    for word in words:
        if reason := REASONS.get(word) or _map(word):
            return reason
    for word in words[2:] if holds_magnitudes(header.modality) else ():
        letter = MR_STARTS.fullmatch(word)
        if kind := MR_LETTERS.get(letter[1] if letter else word):
            return kind
    return REASONS.get(header.kinds["ComplexImageComponent"], "") or header.quantity


def _map(word: str) -> str:
    """What a word that ends in MAP says, whichever maker wrote it."""
    if not word.endswith("MAP"):
        return ""
    if "PHASE" in word or "VELOCITY" in word:
        return PHASE
    return FIELD if "FIELD" in word or word.startswith(("B0", "B1")) else PARAMETER
