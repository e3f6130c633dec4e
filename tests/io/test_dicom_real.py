"""Real series, where ../shared is there: what each is, and the same voxels and geometry as dcm2niix."""

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medldm.errors import GeometryError, NotRestorable
from medldm.io.dicom import find_series, read_series
from medldm.io.dicom.pixels.image import decode, load

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"
pytestmark = [pytest.mark.data, pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not there")]
needs_dcm2niix = pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")

VERDICTS = {
    "ge_ct_irregular_increment": {"series-002": "missing"},
    "ge_hispeed_ct_head_tilt_variable": {"series-002": "tilted", "series-002-2": "tilted"},
    "ge_mr750_anat_dti": {"series-004": "regular", "series-010": "regular", "series-010-2": "regular"},
    "hyperfine_lowfield_enhanced": {"series-010": "regular"},
    "philips_achieva_enhanced": {"series-301": "regular", "series-801": "regular", "series-801-2": "not a volume"},
    "philips_localizer_3plane": {"series-202": "not a volume", "series-501": "not a volume"},
    "siemens_ct_gantry_tilt": {"series-004": "tilted"},
    "siemens_ct_not_a_volume": {"series-004": "not a volume"},
    "siemens_mosaic_9_transfer_syntaxes": {"series-001": "not a volume"},
    "siemens_trio_mprage_missing_slice_mixed": {
        "series-005": "missing",
        "series-017": "not a volume",
        "series-018": "not a volume",
    },
    "siemens_xa_enhanced": {"series-005": "regular", "series-006": "not a volume"},
    "trio_compressed_jpegls": {"series-004": "regular"},
}
# Where both accept the series, ours and what dcm2niix calls it; with the volume of a 4D file.
ALIKE = [
    ("ge_ct_irregular_increment", "series-002", "2_dicom2nifti", None),
    ("ge_mr750_anat_dti", "series-004", "4_dicom2nifti", None),
    ("ge_mr750_anat_dti", "series-010", "10_dicom2nifti", 0),
    ("ge_mr750_anat_dti", "series-010-2", "10_dicom2nifti", 1),
    ("hyperfine_lowfield_enhanced", "series-010", "10_dicom2nifti", None),
    ("philips_achieva_enhanced", "series-301", "301_dicom2nifti", None),
    ("philips_achieva_enhanced", "series-801", "801_WIP_B0_NS_e1", None),
    ("siemens_trio_mprage_missing_slice_mixed", "series-005", "5_mocoMEMPRAGE_220FOV", None),
    ("siemens_xa_enhanced", "series-005", "5_", None),
]


def series_of(folder, name):
    return next(series for series in find_series(SHARED / folder) if series.name == name)


def converted(folder, name, out):
    """What dcm2niix makes of it; Philips values as the scanner shows them (-p n), which the header says too."""
    subprocess.run(["dcm2niix", "-p", "n", "-o", out, "-f", "%s_%p", SHARED / folder], check=False, capture_output=True)
    return nib.as_closest_canonical(nib.load(out / f"{name}.nii"))


def measured(volume):
    """Slices that are there, as a canonical image; dcm2niix closes gaps, which is what it warns of."""
    stored = volume.to_stored(volume.voxels)
    kept = [place for place in range(stored.shape[2]) if place not in volume.stored.missing]
    image = nib.Nifti1Image(stored[:, :, kept].astype(np.float32), volume.stored_affine())
    return nib.as_closest_canonical(image)


def test_every_folder_is_known():
    assert {folder.name for folder in SHARED.iterdir() if folder.is_dir()} == set(VERDICTS)


@pytest.mark.parametrize("folder", VERDICTS)
def test_the_real_series_end_in_the_right_volume_or_a_sentence(folder):
    result = find_series(SHARED / folder)
    assert {series.name: series.verdict for series in result} == VERDICTS[folder]
    for series in result:
        if series.verdict == "not a volume":
            with pytest.raises(NotRestorable, match=series.name):
                read_series(series, fix=True)
        elif not series.restorable:
            with pytest.raises(GeometryError, match=series.name):
                read_series(series)


@needs_dcm2niix
@pytest.mark.parametrize(("folder", "name", "theirs", "volume"), ALIKE)
def test_voxels_spacing_and_affine_are_those_of_dcm2niix(folder, name, theirs, volume, tmp_path):
    ours = measured(read_series(series_of(folder, name)))
    image = converted(folder, theirs, tmp_path)
    voxels = image.get_fdata(dtype=np.float32)
    # Both multiply by the slope, in single precision.
    assert np.allclose(ours.get_fdata(dtype=np.float32), voxels if volume is None else voxels[..., volume], rtol=1e-6)
    assert np.allclose(ours.affine, image.affine, atol=1e-4)


@needs_dcm2niix
def test_a_tilted_series_is_sheared_back_as_dcm2niix_does(tmp_path):
    volume = read_series(series_of("siemens_ct_gantry_tilt", "series-004"), fix=True)
    ours, theirs = measured(volume), converted("siemens_ct_gantry_tilt", "4__Tilt_1", tmp_path)
    assert np.allclose(ours.affine, theirs.affine, atol=1e-4)
    a, b = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    inside = (a > a.min()) & (b > b.min())
    assert inside.mean() > 0.9
    assert np.array_equal(a[inside], b[inside])


@pytest.mark.parametrize(("name", "spacing"), [("series-002", 4.0019), ("series-002-2", 6.9986)])
def test_both_halves_of_the_tilted_head_come_upright(name, spacing):
    volume = read_series(series_of("ge_hispeed_ct_head_tilt_variable", name), fix=True)
    assert volume.to_stored(volume.voxels).shape[2] == 14
    assert volume.spacing[volume.slice_axis] == pytest.approx(spacing, abs=1e-3)
    columns = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert np.allclose(columns.T @ columns, np.eye(3), atol=1e-6)


def test_the_gap_of_the_trio_is_where_its_numbers_say():
    series = series_of("siemens_trio_mprage_missing_slice_mixed", "series-005")
    assert series.missing == (114,)
    assert series.spacing == pytest.approx((1.14583, 1.14583, 1.0), abs=1e-4)


@pytest.mark.parametrize("number", range(1, 10))
def test_nine_transfer_syntaxes_decode_to_the_same_pixels(number):
    path = SHARED / "siemens_mosaic_9_transfer_syntaxes" / f"{number}.dcm"
    assert decode(load(path), path).sum(dtype=np.int64) == 38036663


def test_jpeg_ls_is_decoded():
    volume = read_series(series_of("trio_compressed_jpegls", "series-004"))
    assert volume.to_stored(volume.voxels).shape == (256, 256, 4)
    assert volume.voxels.sum(dtype=np.int64) == 33304746
