"""Maps, phases, projections and reports are known by what their headers say, whichever maker wrote them."""

import numpy as np
import phantoms
import phantoms_dicom
import pytest
from derivations import mapping

from medldm.errors import NotRestorable
from medldm.io.dicom import find_series, read_series


@pytest.fixture
def voxels():
    return phantoms.brain((24, 28, 6)).astype(np.int16)


def only(folder):
    (series,) = find_series(folder)
    return series


IMAGE_TYPES = {
    "siemens": ["DERIVED", "PRIMARY", "PERFUSION", "RELCBF"],
    "standard, fourth word": ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"],
    "siemens, t2": ["DERIVED", "PRIMARY", "M", "T2_STAR MAP"],
    "philips, t1": ["DERIVED", "SECONDARY", "T1 MAP", "T1", "UNSPECIFIED"],
    "philips, r2": ["DERIVED", "SECONDARY", "R2_STAR", "R2STAR", "FFE"],
    "philips, b0": ["ORIGINAL", "PRIMARY", "B0 MAP", "B0", "UNSPECIFIED"],
    "philips, phase": ["ORIGINAL", "PRIMARY", "P_FFE", "M", "FFE"],
    "philips, velocity": ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"],
    "united imaging": ["DERIVED", "PRIMARY", "B0MAP"],
    "ge": ["DERIVED", "SECONDARY", "EADC"],
    "fat fraction": ["DERIVED", "PRIMARY", "DIXON", "FAT_FRACTION"],
    "statistics": ["DERIVED", "SECONDARY", "FMRI", "Z_SCORE"],
    "no image": ["DERIVED", "SECONDARY", "NON_IMAGE"],
    "report": ["DERIVED", "SECONDARY", "OTHER", "CSA REPORT"],
    "subtraction": ["DERIVED", "PRIMARY", "ANGIO", "SUBTRACTION"],
    "projection": ["DERIVED", "SECONDARY", "ANGIO", "MAX_IP"],
}


@pytest.mark.parametrize("kind", IMAGE_TYPES)
def test_words_of_every_maker_are_known(kind, voxels, tmp_path):
    series = only(phantoms_dicom.write_series(tmp_path / "s", voxels, ImageType=IMAGE_TYPES[kind]))
    with pytest.raises(NotRestorable, match="it is a"):
        read_series(series, fix=True)


SCANS = {
    "siemens": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM", "FM3_2", "FIL"],
    "siemens, echoes averaged": ["ORIGINAL", "PRIMARY", "OTHER", "ND", "NORM", "MEAN"],
    "philips": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
    "philips, water": ["DERIVED", "PRIMARY", "W", "W", "DERIVED"],
    "dixon": ["DERIVED", "PRIMARY", "DIXON", "WATER"],
    "in phase": ["ORIGINAL", "PRIMARY", "M", "IN_PHASE"],
    "trace": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"],
    "weighted": ["ORIGINAL", "PRIMARY", "T2", "NONE"],
    "contrast": ["ORIGINAL", "PRIMARY", "POST_CONTRAST", "T1"],
    "reformatted": ["DERIVED", "SECONDARY", "MPR", "RESAMPLED"],
}


@pytest.mark.parametrize("kind", SCANS)
def test_scans_with_words_that_look_alike_are_restored(kind, voxels, tmp_path):
    assert only(phantoms_dicom.write_series(tmp_path / "s", voxels, ImageType=SCANS[kind])).restorable


UNITS = {
    "milliseconds": ({"RealWorldValueMappingSequence": mapping("ms")}, "a parameter map"),
    "hertz": ({"RealWorldValueMappingSequence": mapping("Hz")}, "a field map"),
    "diffusion": ({"RealWorldValueMappingSequence": mapping("mm2/s", 1e-6)}, "a parameter map"),
    "a unit nobody knows": ({"RealWorldValueMappingSequence": mapping("furlong")}, "a parameter map"),
    "rescale in hertz": ({"RescaleType": "Hz"}, "a field map"),
    "rescale in radian": ({"RescaleType": "milliradians"}, "a phase image"),
    "range": ({"SmallestImagePixelValue": -300, "LargestImagePixelValue": 400}, "range of values .-300 to 400"),
    "offset": ({"RescaleSlope": 2, "RescaleIntercept": -4096, "BitsStored": 12, "PixelRepresentation": 0}, "range"),
}


@pytest.mark.parametrize("kind", UNITS)
def test_units_and_ranges_that_no_magnitude_has_make_a_map(kind, voxels, tmp_path):
    said, reason = UNITS[kind]
    series = only(phantoms_dicom.write_series(tmp_path / "s", voxels, **said))
    with pytest.raises(NotRestorable, match=reason):
        read_series(series)


NO_UNITS = {
    "none": {"RealWorldValueMappingSequence": mapping("1")},
    "a remark": {"RealWorldValueMappingSequence": mapping("{signal}")},
    "normalized": {"RescaleType": "normalized"},
    "range": {"SmallestImagePixelValue": -3, "LargestImagePixelValue": 900},
    "hounsfield": {"modality": "CT", "RealWorldValueMappingSequence": mapping("[hnsf'U]"), "RescaleType": "HU"},
    "range of a ct": {"modality": "CT", "SmallestImagePixelValue": -1024, "LargestImagePixelValue": 900},
}


@pytest.mark.parametrize("kind", NO_UNITS)
def test_grey_values_with_a_mapping_are_a_scan(kind, voxels, tmp_path):
    assert only(phantoms_dicom.write_series(tmp_path / "s", voxels, **NO_UNITS[kind])).restorable


@pytest.mark.parametrize("kind", ["electron density", "effective atomic number"])
def test_maps_of_spectral_ct_are_no_hounsfield_units(kind, voxels, tmp_path):
    said = {"electron density": {"RescaleType": "ED"}, "effective atomic number": {"RescaleType": "Z_EFF"}}[kind]
    with pytest.raises(NotRestorable, match="a parameter map"):
        read_series(only(phantoms_dicom.write_series(tmp_path / "s", voxels, modality="CT", **said)))


def of_frames(unit):
    def edit(frame, k):
        frame.RealWorldValueMappingSequence = mapping(unit)

    return edit


def test_units_of_enhanced_frames_count_too(voxels, tmp_path):
    with pytest.raises(NotRestorable, match="a parameter map, by the unit"):
        read_series(only(phantoms_dicom.write_enhanced(tmp_path / "s", voxels, edit=of_frames("ms"))))
    assert only(phantoms_dicom.write_enhanced(tmp_path / "t", voxels, edit=of_frames("1"))).restorable


def grid(image, _):
    image.Manufacturer = "UIH"
    image.add_new(0x00650010, "LO", "Image Private Header")
    image.add_new(0x00651050, "DS", "36")


def test_a_mosaic_of_any_maker_is_said_to_be_one(voxels, tmp_path):
    series = only(phantoms_dicom.write_series(tmp_path / "s", voxels, edit=grid))
    with pytest.raises(NotRestorable, match="a mosaic: each of its images holds the slices of a whole volume"):
        read_series(series)
    anonymous = phantoms_dicom.write_series(tmp_path / "t", voxels, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])
    with pytest.raises(NotRestorable, match="a mosaic"):
        read_series(only(anonymous))
