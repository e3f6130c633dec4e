"""DICOM series in and out: the right volume or a sentence, never a silently wrong spacing."""

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest

import medldm
from medldm.cli import main
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.dicom import find_series, is_dicom, read_series

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"
OBLIQUE = (0.98, 0.17, 0.1, -0.16836, 0.98567, -0.02569)


@pytest.fixture
def voxels():
    return phantoms.brain((32, 36, 20)).astype(np.int16)


def only(folder):
    (series,) = find_series(folder)
    return series


def unit(orientation):
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    across = across / np.linalg.norm(across)
    down = down - across * (across @ down)
    return (*across, *(down / np.linalg.norm(down)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "orientation", [phantoms_dicom.UPRIGHT, unit(OBLIQUE), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)]
)
def test_a_series_is_sorted_by_position_whatever_its_names_and_numbers_say(orientation, voxels, tmp_path):
    series = only(phantoms_dicom.write_series(tmp_path / "s", voxels, orientation=orientation))
    assert series.verdict == "regular"
    volume = read_series(series)
    assert np.array_equal(volume.to_stored(volume.voxels), voxels)
    assert np.allclose(series.spacing, (0.9, 0.8, 2.0))


def test_geometry_agrees_with_simpleitk(voxels, tmp_path):
    import SimpleITK as sitk

    volume = read_series(only(phantoms_dicom.write_series(tmp_path / "s", voxels, orientation=unit(OBLIQUE))))
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "s"))
    image = sitk.ReadImage(files)
    for index in ((0, 0, 0), (31, 0, 0), (0, 35, 0), (5, 6, 19)):
        lps = image.TransformIndexToPhysicalPoint(index)
        ours = volume.stored_affine() @ [*index, 1]
        assert np.allclose(ours[:3] * [-1, -1, 1], lps, atol=1e-3)


def test_missing_slices_are_found_and_marked(voxels, tmp_path):
    series = only(phantoms_dicom.write_series(tmp_path / "s", voxels, missing=(4, 5, 11)))
    assert (series.verdict, series.missing) == ("missing", (4, 5, 11))
    volume = read_series(series)
    assert volume.shape[2] == 20
    assert np.isnan(volume.to_stored(volume.voxels)[..., [4, 5, 11]]).all()


def test_positions_rounded_by_the_scanner_are_still_regular(voxels, tmp_path):
    assert only(phantoms_dicom.write_series(tmp_path / "s", voxels, jitter=0.003)).verdict == "regular"


@pytest.mark.parametrize(
    ("damage", "verdict"),
    [({"shear": 0.4}, "tilted"), ({"jitter": 0.3}, "irregular"), ({"missing": tuple(range(2, 18))}, "irregular")],
)
def test_what_no_grid_holds_is_refused_with_a_message(damage, verdict, voxels, tmp_path):
    series = only(phantoms_dicom.write_series(tmp_path / "s", voxels, **damage))
    assert series.verdict == verdict
    with pytest.raises(GeometryError, match="series-003"):
        read_series(series)


def test_two_images_at_one_position_are_a_duplicate(voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, uid="1.2.3")
    phantoms_dicom.write_series(folder, voxels[..., :1], uid="1.2.3", stamp="again")
    assert only(folder).verdict == "duplicate"


def test_a_stray_slice_is_not_a_gap_of_fifty(voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, uid="1.2.3")
    phantoms_dicom.write_series(folder, voxels[..., :1], uid="1.2.3", origin=(-20, -30, 160), stamp="stray")
    assert only(folder).verdict == "irregular"


def test_localizers_and_other_series_stay_apart(voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)
    localizer = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    phantoms_dicom.write_series(folder, voxels[..., :3], number=1, stamp="loc", ImageType=localizer)
    phantoms_dicom.write_series(folder, voxels, number=3, uid="1.2.9", stamp="echo", EchoTime=80.0)
    verdicts = {series.name: series.verdict for series in find_series(folder)}
    assert verdicts == {"series-001": "not a volume", "series-003": "regular", "series-003-2": "regular"}
    with pytest.raises(InputError, match="holds 2"):
        medldm.read(folder)


def test_hounsfield_units_keep_their_slope(voxels, tmp_path):
    series = only(phantoms_dicom.write_series(tmp_path / "s", voxels, modality="CT", intercept=-1024.0))
    volume = read_series(series)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.to_stored(volume.voxels), voxels - 1024)


def test_a_file_without_pixels_or_cut_short_gets_a_sentence(voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)
    victim = sorted(folder.iterdir())[3]
    image = pydicom.dcmread(victim)
    del image.PixelData
    image.save_as(victim)
    with pytest.raises(InputError, match="no pixels"):
        read_series(only(folder))
    image.add_new("PixelData", "OW", voxels[:, :, 0].T.tobytes())
    image.save_as(victim)
    victim.write_bytes(victim.read_bytes()[:-900])
    with pytest.raises(InputError, match="no pixels"):
        read_series(only(folder))


def test_words_are_no_dicom(tmp_path):
    (tmp_path / "x").write_text("words")
    assert not is_dicom(tmp_path / "x")
    assert find_series(tmp_path) == []


@pytest.fixture
def filled(voxels, tmp_path, tiny_model):
    """A series with a gap, filled on the command line; source folder and folder of the derived series."""
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, missing=(7,), orientation=unit(OBLIQUE))
    assert main(["fill-slices", str(source), str(tmp_path / "out"), "--model", str(tiny_model)]) == 0
    (out,) = (path for path in (tmp_path / "out").rglob("*") if path.is_dir() and list(path.glob("*.dcm")))
    return source, out


def test_a_filled_series_is_derived_whole_and_bit_exact(filled, voxels):
    source, out = filled
    volume = medldm.read(out)
    stored = volume.to_stored(volume.voxels)
    kept = [k for k in range(20) if k != 7]
    assert np.array_equal(stored[..., kept], voxels[..., kept])
    assert stored[..., 7].any()
    before = {pydicom.dcmread(path).SOPInstanceUID for path in source.iterdir()}
    images = sorted((pydicom.dcmread(path) for path in out.glob("*.dcm")), key=lambda image: image.InstanceNumber)
    assert len(images) == 20
    assert [image.SyntheticData for image in images] == ["YES" if k == 7 else "NO" for k in range(20)]
    assert len({image.SOPInstanceUID for image in images}) == 20
    for image in images:
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert image.SOPInstanceUID not in before
        assert image.StudyInstanceUID == pydicom.dcmread(next(source.iterdir())).StudyInstanceUID
        assert {item.ReferencedSOPInstanceUID for item in image.SourceImageSequence} <= before
        assert "research use only" in image.DerivationDescription
    assert len(images[7].SourceImageSequence) == 2


def test_an_equal_rerun_gives_equal_uids(filled, tmp_path, tiny_model):
    source, out = filled
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in out.glob("*.dcm")}
    assert main(["fill-slices", str(source), str(tmp_path / "again"), "--model", str(tiny_model)]) == 0
    again = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "again").rglob("*.dcm")}
    assert uids == again


def test_no_name_of_a_patient_leaves_the_headers(filled, tmp_path):
    _, out = filled
    for path in out.parent.rglob("*"):
        assert "Doe" not in path.name
        if path.suffix in (".json", ".csv"):
            assert "Doe" not in path.read_text()
            assert "SECRET-17" not in path.read_text()


@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
def test_dcm2niix_reads_the_derived_series_as_we_do(filled, tmp_path):
    _, out = filled
    (tmp_path / "nii").mkdir()
    subprocess.run(["dcm2niix", "-o", tmp_path / "nii", "-f", "x", out], check=True, capture_output=True)
    theirs = nib.as_closest_canonical(nib.load(next((tmp_path / "nii").glob("*.nii*"))))
    ours = medldm.read(out)
    assert np.array_equal(np.asarray(theirs.dataobj), ours.voxels)
    assert np.allclose(theirs.affine, ours.affine, atol=1e-3)


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_that_the_source_did_not_have(filled):
    source, out = filled

    def errors(folder):
        done = subprocess.run(["dciodvfy", next(folder.iterdir())], capture_output=True, text=True, check=False)
        return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}

    # Debian's dciodvfy is older than the standard's Synthetic Data (0008,001C), which we declare on purpose.
    assert {line for line in errors(out) - errors(source) if "0x0008,0x001c" not in line} == set()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not there")
def test_the_missing_slice_of_the_trio_is_filled_and_the_rest_is_bit_exact(tmp_path, tiny_model):
    source = SHARED / "siemens_trio_mprage_missing_slice_mixed"
    assert main(["fill-slices", str(source), str(tmp_path), "--model", str(tiny_model)]) == 0
    before = read_series(next(series for series in find_series(source) if series.restorable))
    after = medldm.read(tmp_path / "dicom" / "series-005")
    hole = np.isnan(before.voxels)
    assert np.array_equal(before.voxels[~hole], after.voxels[~hole])
    assert np.allclose(before.affine, after.affine, atol=1e-4)
    with pytest.raises(NotRestorable):
        read_series(next(series for series in find_series(source) if series.verdict == "not a volume"))
