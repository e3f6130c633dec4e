"""Derived series: what goes out is what the NIfTI says, belongs to the patient's study, and says who made it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest
from derivations import (
    FACTS,
    assert_dcm2niix_agrees,
    derive,
    done,
    errors,
    needs_dciodvfy,
    needs_dcm2niix,
    restored,
    written,
)

from medldm.data.volume import Step
from medldm.errors import InputError, OutputError, ResourceError
from medldm.io import from_array, read, write
from medldm.io.dicom import find_series, read_series, write_series, write_uncertainty
from medldm.provenance.record import RunRecord

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"
real = [pytest.mark.data, pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not there")]


@pytest.fixture
def voxels():
    return phantoms.brain((32, 36, 8)).astype(np.int16)


SOURCES = {
    "mr": {},
    "mr, oblique and sagittal": {"orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)},
    "mr, unsigned 12 bit": {"signed": False, "bits": 12},
    "ct": {"modality": "CT", "intercept": -1024.0},
}


@needs_dcm2niix
@pytest.mark.parametrize("kind", SOURCES)
def test_dcm2niix_makes_of_it_what_our_nifti_says(kind, voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, **SOURCES[kind])
    volume, _ = derive(source, tmp_path / "out")
    assert_dcm2niix_agrees(volume, tmp_path / "out", tmp_path)


@pytest.mark.parametrize("kind", SOURCES)
def test_gdcm_reads_it_on_the_same_grid(kind, voxels, tmp_path):
    import SimpleITK as sitk

    volume, _ = derive(phantoms_dicom.write_series(tmp_path / "in", voxels, **SOURCES[kind]), tmp_path / "out")
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    theirs = sitk.GetArrayFromImage(image).T
    ours = volume.to_stored(volume.voxels)
    lps = np.diag([-1, -1, 1, 1]) @ volume.stored_affine()
    assert image.GetSpacing() == pytest.approx((0.9, 0.8, 2.0))
    assert np.allclose(image.TransformIndexToPhysicalPoint((3, 4, 5)), (lps @ [3, 4, 5, 1])[:3], atol=1e-4)
    assert np.array_equal(theirs, ours)


@needs_dciodvfy
@pytest.mark.parametrize("kind", SOURCES)
def test_dciodvfy_finds_no_error_that_the_source_did_not_have(kind, voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, **SOURCES[kind])
    derive(source, tmp_path / "out")
    assert errors(tmp_path / "out") <= errors(source)


REAL = {
    "ge_ct_irregular_increment": "series-002",
    "ge_hispeed_ct_head_tilt_variable": "series-002-2",
    "ge_mr750_anat_dti": "series-004",
    "hyperfine_lowfield_enhanced": "series-010",
    "siemens_ct_gantry_tilt": "series-004",
    "siemens_trio_mprage_missing_slice_mixed": "series-005",
    "siemens_xa_enhanced": "series-005",
    "trio_compressed_jpegls": "series-004",
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", [pytest.param(name, marks=real) for name in REAL])
@needs_dcm2niix
@needs_dciodvfy
def test_real_series_come_out_as_whole_as_they_went_in(folder, tmp_path):
    series = next(series for series in find_series(SHARED / folder) if series.name == REAL[folder])
    volume = restored(read_series(series, fix=True))
    write(volume, tmp_path / "out", form="dicom")
    for number, path in enumerate(series.files[:3]):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / "in" / str(number))
    assert errors(tmp_path / "out") <= errors(tmp_path / "in")
    assert_dcm2niix_agrees(volume, tmp_path / "out", tmp_path)


def test_identity_is_new_and_the_study_is_kept(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, SeriesDescription="t1 sag")
    _, images = derive(source, tmp_path / "out")
    before = [pydicom.dcmread(path) for path in source.iterdir()]
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert {image[name].value for image in images} == {before[0][name].value}
    for name in ("SeriesInstanceUID", "SOPInstanceUID", "SeriesNumber"):
        assert not {image[name].value for image in images} & {image[name].value for image in before}
    assert {image.SeriesDescription for image in images} == {"t1 sag medldm denoise RUO"}
    assert {image.ContentQualification for image in images} == {"RESEARCH"}
    assert "model tiny" in images[0].DerivationDescription
    assert images[0].file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


def test_equal_results_share_their_uids_and_other_pixels_never_do(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels)
    first, again, other = (
        {image.SOPInstanceUID for image in derive(source, tmp_path / name, brighter=value)[1]}
        for name, value in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == again
    assert not first & other


def test_a_filled_slice_is_synthetic_and_cites_both_neighbours(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, missing=(3,))
    _, images = derive(source, tmp_path / "out", invented=(3,))
    assert [image.SyntheticData for image in images] == ["YES" if place == 3 else "NO" for place in range(8)]
    cited = [{item.ReferencedSOPInstanceUID for item in image.SourceImageSequence} for image in images]
    assert cited[3] == cited[2] | cited[4]
    assert [len(sources) for sources in cited] == [1, 1, 1, 2, 1, 1, 1, 1]


def test_what_was_lost_stays_reported_and_what_is_private_goes(voxels, tmp_path):
    def burden(image, _):
        image.LossyImageCompression, image.LossyImageCompressionRatio = "01", 10.0
        image.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        image.add_new(0x60000010, "US", 16)
        image.IconImageSequence = [pydicom.Dataset()]

    _, images = derive(phantoms_dicom.write_series(tmp_path / "in", voxels, edit=burden), tmp_path / "out")
    assert {image.LossyImageCompression for image in images} == {"01"}
    for tag in (0x00190010, 0x60000010, "IconImageSequence"):
        assert not any(tag in image for image in images)


def test_what_does_not_fit_twelve_bits_is_clipped_and_counted(tmp_path):
    values = np.full((16, 16, 4), 100)
    values[:4] = 4094
    source = phantoms_dicom.write_series(tmp_path / "in", values, signed=False, bits=12)
    assert write(restored(read(source)), tmp_path / "out", form="dicom") == 4 * 16 * 4
    assert read(tmp_path / "out").voxels.max() == 4095


def test_new_geometry_is_said_on_every_slice(voxels, tmp_path):
    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels))
    affine = volume.affine @ np.diag([1, 1, 0.5, 1])
    thin = volume.with_voxels(np.repeat(volume.voxels, 2, axis=2), affine, step=Step("super-resolve", {}, FACTS))
    write(thin, tmp_path / "out", form="dicom")
    (series,) = find_series(tmp_path / "out")
    assert (series.verdict, series.shape, series.spacing) == ("regular", (32, 36, 16), (0.9, 0.8, 1.0))
    assert np.allclose(read_series(series).affine, affine)
    images = [pydicom.dcmread(path) for path in (tmp_path / "out").iterdir()]
    assert {float(image.SpacingBetweenSlices) for image in images} == {1.0}
    assert sorted(image.InstanceNumber for image in images) == list(range(1, 17))


def test_an_enhanced_image_comes_out_as_classic_slices(voxels, tmp_path):
    source = phantoms_dicom.write_enhanced(tmp_path / "in", voxels)
    volume, images = derive(source, tmp_path / "out")
    assert {image.SOPClassUID for image in images} == {pydicom.uid.MRImageStorage}
    assert not any("PerFrameFunctionalGroupsSequence" in image or "NumberOfFrames" in image for image in images)
    cited = images[0].SourceImageSequence[0]
    assert cited.ReferencedSOPClassUID == pydicom.uid.EnhancedMRImageStorage
    back = read(tmp_path / "out")
    assert np.array_equal(back.voxels, volume.voxels)
    assert np.allclose(back.affine, volume.affine)


def test_a_repair_is_reported_in_the_derived_series(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, shear=0.4)
    write(restored(read(source, fix=True)), tmp_path / "out", form="dicom")
    image = pydicom.dcmread(next((tmp_path / "out").iterdir()))
    assert "was repaired: its slices were shifted" in image.DerivationDescription
    (series,) = find_series(tmp_path / "out")
    assert (series.verdict, series.spacing) == ("regular", pytest.approx((0.9, 0.8, 2.0)))


def test_a_volume_without_a_patient_makes_no_series(phantom, tmp_path):
    volume = from_array(np.asarray(phantom.voxels), phantom.affine)
    with pytest.raises(InputError, match="Write NIfTI instead"):
        write_series(volume, tmp_path / "out", RunRecord.of_step(Step("denoise", facts=FACTS)))


def without_study(image):
    del image.StudyInstanceUID


def test_a_source_that_cannot_be_cited_is_named(voxels, tmp_path):
    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels))
    phantoms_dicom.edit(tmp_path / "in", without_study)
    with pytest.raises(InputError, match="no StudyInstanceUID"):
        write(restored(volume), tmp_path / "out", form="dicom")
    assert not (tmp_path / "out").exists()


def test_neither_the_source_nor_other_files_are_replaced(voxels, tmp_path):
    volume = restored(read(phantoms_dicom.write_series(tmp_path / "in", voxels)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for folder in (tmp_path / "in", tmp_path / "other"):
        with pytest.raises(OutputError, match="choose another place"):
            write(volume, folder, form="dicom")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "in").iterdir())) == 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mr, oblique and sagittal", "ct", "enhanced"])
def test_uncertainty_is_a_map_on_the_same_grid(kind, voxels, tmp_path):
    if kind == "enhanced":
        source = phantoms_dicom.write_enhanced(tmp_path / "in", voxels)
    else:
        source = phantoms_dicom.write_series(tmp_path / "in", voxels, **SOURCES[kind])
    volume = restored(read(source))
    spread = np.random.default_rng(0).random(volume.shape, dtype=np.float32)
    write_uncertainty(
        replace(volume, std=spread), tmp_path / "std.dcm", RunRecord.of_step(Step("denoise", facts=FACTS))
    )
    scan = pydicom.dcmread(tmp_path / "std.dcm")
    stored = volume.to_stored(spread)
    assert scan.SOPClassUID == pydicom.uid.ParametricMapStorage
    assert scan.StudyInstanceUID == pydicom.dcmread(next(source.iterdir())).StudyInstanceUID
    places = [item.PlanePositionSequence[0].ImagePositionPatient for item in scan.PerFrameFunctionalGroupsSequence]
    lps = np.diag([-1, -1, 1, 1]) @ volume.stored_affine()
    along = [int(np.rint((np.linalg.inv(lps) @ [*place, 1])[2])) for place in places]
    assert sorted(along) == list(range(8))
    assert np.array_equal(scan.pixel_array, stored[:, :, along].T)
    cited = scan.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in cited} == {
        (image.SOPClassUID, image.SOPInstanceUID) for image in map(pydicom.dcmread, source.iterdir())
    }
    mapping = scan.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    unit = mapping.MeasurementUnitsCodeSequence[0].CodeValue
    assert unit == ("[hnsf'U]" if kind == "ct" else "1")


def test_a_map_of_an_anonymous_series_names_nobody(voxels, tmp_path, recwarn):
    def anonymous(image, _):
        del image.FrameOfReferenceUID, image.SliceThickness
        image.PatientName = "Doe"

    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels, edit=anonymous))
    spread = np.ones(volume.shape, np.float32)
    write_uncertainty(
        replace(volume, std=spread), tmp_path / "std.dcm", RunRecord.of_step(Step("denoise", facts=FACTS))
    )
    assert pydicom.dcmread(tmp_path / "std.dcm").FrameOfReferenceUID
    assert not [item for item in recwarn if "Doe" in str(item.message)]


def test_a_map_that_the_disk_does_not_take_leaves_nothing_behind(voxels, tmp_path, monkeypatch):
    volume = read(phantoms_dicom.write_series(tmp_path / "s", voxels))
    doubtful = volume.with_voxels(volume.voxels, std=np.ones(volume.shape, np.float32))

    def full(dataset, file, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pydicom.dataset.Dataset.save_as", full)
    (tmp_path / "out").mkdir()
    with pytest.raises(ResourceError, match="disk is full"):
        write_uncertainty(doubtful, tmp_path / "out" / "std.dcm", RunRecord.of_step(Step("denoise", facts=FACTS)))
    assert not list((tmp_path / "out").iterdir())


def test_a_result_without_uncertainty_makes_no_map(voxels, tmp_path):
    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels))
    with pytest.raises(InputError, match="--uncertainty"):
        write_uncertainty(volume, tmp_path / "std.dcm", RunRecord.of_step(Step("denoise", facts=FACTS)))
    assert not (tmp_path / "std.dcm").exists()


def cited(images):
    """UIDs of the images that each slice cites, nearest first."""
    return [[item.ReferencedSOPInstanceUID for item in image.SourceImageSequence] for image in images]


def test_uids_follow_from_what_was_done_and_not_from_how_it_was_said(voxels, tmp_path):
    """Else a rerun of a record, which names the model that was chosen, would double everything in an archive."""
    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels))
    said = {"model": "auto", "device": "auto", "tile": None, "precision": "auto", "modality": "auto", "fidelity": 1.0}
    again = {"model": "tiny", "device": "cpu", "tile": 64, "precision": "fp32", "modality": "mr", "fidelity": 1}
    other = said | {"fidelity": 0.5}
    first, second, third = (
        [image.SOPInstanceUID for image in written(done(volume, "denoise", settings=settings), tmp_path / name)]
        for name, settings in (("a", said), ("b", again), ("c", other))
    )
    assert first == second
    assert not set(first) & set(third)


@pytest.mark.parametrize("task", ["fill-slices", "restore"])
def test_a_damaged_slice_is_not_what_its_replacement_cites(task, voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels)
    names = [pydicom.dcmread(path).SOPInstanceUID for path in phantoms_dicom.by_position(source)]
    plan = {"plan": [{"verb": "fill-slices", "reason": "lost"}]} if task == "restore" else {}
    images = written(done(read(source), task, filled_slices=[3, 4], invented_slices=[3, 4], **plan), tmp_path / "out")
    cited_slices = [[names.index(name) for name in sources] for sources in cited(images)]
    assert cited_slices == [[0], [1], [2], [2, 5], [5, 2], [5], [6], [7]]
    assert [image.SyntheticData for image in images] == ["YES" if place in (3, 4) else "NO" for place in range(8)]


def test_an_inpainted_slice_cites_itself(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels)
    names = [pydicom.dcmread(path).SOPInstanceUID for path in phantoms_dicom.by_position(source)]
    images = written(done(read(source), "inpaint", invented_slices=[3, 4]), tmp_path / "out")
    assert cited(images) == [[name] for name in names]
    assert images[3].SyntheticData == "YES"


def test_thin_slices_do_not_cite_a_lost_thick_one(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels)
    lost = pydicom.dcmread(phantoms_dicom.by_position(source)[3]).SOPInstanceUID
    volume = read(source)
    affine = volume.affine @ np.diag([1, 1, 0.5, 1])
    affine[:3, 3] -= affine[:3, 2] / 2
    facts = FACTS | {"filled_slices": [3], "invented_slices": list(range(16))}
    facts |= {"old_spacing_mm": volume.spacing, "new_spacing_mm": (0.9, 0.8, 1.0)}
    thin = volume.with_voxels(np.repeat(volume.voxels, 2, axis=2), affine, step=Step("super-resolve", {}, facts))
    images = written(thin, tmp_path / "out")
    assert lost not in {name for sources in cited(images) for name in sources}
    assert [len(sources) for sources in cited(images)] == [1, *[2] * 14, 1]


def test_frames_of_enhanced_images_are_cited_by_number(voxels, tmp_path):
    source = phantoms_dicom.write_enhanced(tmp_path / "in", voxels, order=[2, 0, 1, 3, 4, 5, 6, 7])
    images = written(done(read(source), "denoise"), tmp_path / "out")
    assert [image.SourceImageSequence[0].ReferencedFrameNumber for image in images] == [2, 3, 1, 4, 5, 6, 7, 8]


RANGES = {
    "ct, unsigned 12 bit": {"modality": "CT", "intercept": -1024.0, "signed": False, "bits": 12},
    "mr, slope of 1.37": {"slope": 1.37},
    "mr, slope of each slice its own": {"slope": np.linspace(0.5, 1.2, 8)},
    "mr, whole slopes": {"slope": [1, 2] * 4},
}


@pytest.mark.parametrize("kind", RANGES)
def test_both_formats_hold_the_same_voxels(kind, voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, **RANGES[kind])
    volume = read(source)
    wide = np.asarray(volume.voxels, np.float32) * 6 + np.float32(0.3) - 1100
    wide[..., 5] = volume.voxels[..., 5]  # measured, as fill-slices leaves it
    result = done(volume, "fill-slices", wide, invented_slices=[0, 1, 2, 3, 4, 6, 7])
    clipped = [write(result, tmp_path / "out", form="dicom"), write(result, tmp_path / "out.nii.gz")]
    assert clipped[0] == clipped[1]
    assert (clipped[0] > 0) == ("12 bit" in kind)
    as_dicom, as_nifti = read(tmp_path / "out"), read(tmp_path / "out.nii.gz")
    assert np.array_equal(as_dicom.voxels, as_nifti.voxels)
    assert np.array_equal(as_nifti.voxels[..., 5], volume.voxels[..., 5])


def test_a_map_of_uncertainty_keeps_its_fractions(voxels, tmp_path):
    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels))
    spread = np.random.default_rng(0).random(volume.shape, dtype=np.float32)
    stored = replace(volume.stored, dtype=np.dtype(np.float32), container="nifti")
    write(replace(volume, voxels=spread, stored=stored), tmp_path / "std.nii.gz")
    assert np.array_equal(read(tmp_path / "std.nii.gz").voxels, spread)


def test_a_result_outlives_the_files_of_its_scan(voxels, tmp_path, caplog):
    result = restored(read(phantoms_dicom.write_series(tmp_path / "in", voxels)))
    shutil.rmtree(tmp_path / "in")
    caplog.set_level("INFO", "medldm")  # a test of --quiet may have run before
    write(result, tmp_path / "out.nii.gz")
    assert np.array_equal(read(tmp_path / "out.nii.gz").voxels, result.voxels)
    assert "without regard to the bits" in caplog.text


def test_the_spacing_of_slices_is_said_in_ct_too(voxels, tmp_path):
    _, images = derive(phantoms_dicom.write_series(tmp_path / "in", voxels, modality="CT"), tmp_path / "out")
    assert {float(image.SpacingBetweenSlices) for image in images} == {2.0}


def meanings(image):
    return [item.CodeMeaning for item in image.get("DerivationCodeSequence") or ()]


PLANS = {
    ("denoise",): ["Smoothing"],
    ("fill-slices", "denoise"): ["Spatial resampling", "Smoothing"],
    ("super-resolve",): ["Spatial resampling"],
}


@pytest.mark.parametrize("verbs", PLANS)
def test_a_plan_is_reported_by_what_was_done_for_it(verbs, voxels, tmp_path):
    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels))
    plan = [{"verb": verb, "reason": "so"} for verb in verbs]
    image = written(done(volume, "restore", plan=plan), tmp_path / "out")[0]
    assert meanings(image) == PLANS[verbs]
    assert f"restore ({', '.join(verbs)}); model tiny" in image.DerivationDescription


def test_a_repair_alone_claims_no_model(voxels, tmp_path):
    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels, shear=0.4), fix=True)
    image = written(volume, tmp_path / "out")[0]
    assert image.SeriesDescription == "medldm repair RUO"
    assert image.DerivationDescription.startswith("medldm 0.")
    assert "was repaired: its slices were shifted" in image.DerivationDescription
    assert not any(word in image.DerivationDescription for word in ("model", "seed", "  ", "; ;"))
    assert meanings(image) == ["Spatial resampling"]
    assert "generative" not in image.ContributingEquipmentSequence[-1].ContributionDescription


@pytest.mark.parametrize(("number", "ours"), [(3, 7003), (2**31 - 1, 6999), (-7, 7000), ("", 7000)])
def test_a_series_number_stays_within_its_bits(number, ours, voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, SeriesNumber=number)
    _, images = derive(source, tmp_path / "out")
    assert {image.SeriesNumber for image in images} == {ours}


def test_a_description_of_several_values_is_one_text(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, SeriesDescription=["t1 sag", "with contrast"])
    _, images = derive(source, tmp_path / "out")
    assert images[0].SeriesDescription == "t1 sag with contrast medldm denoise RUO"


def test_enhanced_ct_comes_out_with_what_classic_ct_needs(voxels, tmp_path):
    source = phantoms_dicom.write_enhanced(tmp_path / "in", voxels, Modality="CT")
    _, images = derive(source, tmp_path / "out")
    assert images[0].SOPClassUID == pydicom.uid.CTImageStorage
    assert "KVP" in images[0]
    assert images[0].KVP is None


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian])
def test_a_name_is_handed_on_byte_for_byte(syntax, voxels, tmp_path):
    """Hospitals declare Unicode and write Latin-1; who decodes that name and writes it again has made another one."""

    def edit(image, _):
        image.SpecificCharacterSet, image.PatientName = "ISO_IR 192", "Mxller^Jane"
        item = pydicom.Dataset()
        item.CodeMeaning = "Schxdel"
        item.private_block(0x0019, "MAKER", create=True).add_new(1, "LO", "Doe^Jane")
        image.ProcedureCodeSequence = [item]
        image.file_meta.TransferSyntaxUID = syntax

    source = phantoms_dicom.write_series(tmp_path / "in", voxels, edit=edit)
    for path in source.iterdir():
        path.write_bytes(path.read_bytes().replace(b"Mxller", b"M\xfcller").replace(b"Schxdel", b"Sch\xe4del"))
    write(restored(read(source)), tmp_path / "out", form="dicom")
    for path in (tmp_path / "out").iterdir():
        bytes_of_it = path.read_bytes()
        assert b"M\xfcller^Jane" in bytes_of_it
        assert b"Sch\xe4del" in bytes_of_it
        assert b"MAKER" not in bytes_of_it
        assert b"Doe^Jane" not in bytes_of_it
