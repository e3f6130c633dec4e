"""Finding scans: whatever IN is, each scan is found once and its result has a place of its own."""

import errno
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from medldm import io
from medldm.data.volume import Stored, Volume
from medldm.errors import InputError, NotRestorable, UsageError
from medldm.io.archives import Unpacked, unpack
from medldm.io.content import looks_like_labels, not_a_scan, what_it_is
from medldm.io.discovery import find_cases, output_path
from medldm.io.lists import read_list
from medldm.modality import modality_by_name

MR = "1.2.840.10008.5.1.4.1.1.4"


def nifti(path, shape=(6, 5, 4), **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    return phantoms.save(path, np.arange(np.prod(shape), dtype=np.int16).reshape(shape), **kwargs)


def dicom(folder, number=3, count=4, uid="1.2.3", name="IM{:04d}"):
    """A stack of small MR images without file suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(count):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MR
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"{uid}.{number}.{place}"
        image.SeriesInstanceUID, image.SeriesNumber, image.Modality = f"{uid}.{number}", number, "MR"
        image.Rows, image.Columns, image.PixelSpacing, image.SliceThickness = 6, 5, [1, 1], 2
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * place]
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
        image.PhotometricInterpretation, image.InstanceNumber = "MONOCHROME2", place + 1
        image.PixelData = np.full((6, 5), place + 1, np.uint16).tobytes()
        image.save_as(folder / name.format(place), enforce_file_format=True)
    return folder


def places(source, **kwargs):
    return [case.place.as_posix() for case in find_cases(source, **kwargs)]


def test_a_tree_of_everything_is_mirrored_in_one_order(tmp_path):
    nifti(tmp_path / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    nifti(tmp_path / "sub-01" / "scan.nii")
    nifti(tmp_path / "sub-01" / "scan.nii.gz")
    dicom(tmp_path / "pacs" / "one")
    dicom(tmp_path / "pacs" / "two", number=3, uid="1.2.4")
    dicom(tmp_path / "pacs" / "two", number=7, uid="1.2.4", name="other{}")
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "table.json").write_text("{}")
    expected = ["pacs/one", "pacs/two/series-003", "pacs/two/series-007", "sub-01/scan", "sub-01/scan-2"]
    assert places(tmp_path) == [*expected, "sub-02/anat/sub-02_T1w"]
    kinds = {case.kind for case in find_cases(tmp_path)}
    assert kinds == {"nifti", "dicom"}


def test_results_go_where_the_tree_says(tmp_path):
    nifti(tmp_path / "in" / "a" / "x.nii")
    nifti(tmp_path / "in" / "y.nii.gz")
    dicom(tmp_path / "in" / "d")
    cases = {case.place.as_posix(): case for case in find_cases(tmp_path / "in")}
    out = tmp_path / "out"
    assert output_path(cases["a/x"], out) == out / "a" / "x.nii"
    assert output_path(cases["y"], out) == out / "y.nii.gz"
    assert output_path(cases["d"], out) == out / "dicom" / "d"
    assert output_path(cases["d"], out, "nifti") == out / "d.nii.gz"
    with pytest.raises(UsageError, match="several"):
        output_path(cases["y"], tmp_path / "out.nii.gz")
    with pytest.raises(UsageError, match="no patient"):
        output_path(cases["y"], out, "dicom")
    (alone,) = find_cases(tmp_path / "in" / "y.nii.gz")
    assert output_path(alone, tmp_path / "out.nii.gz") == tmp_path / "out.nii.gz"


def test_what_is_hidden_or_ours_is_not_seen(tmp_path):
    nifti(tmp_path / "scan.nii.gz")
    nifti(tmp_path / "scan_std.nii.gz")
    nifti(tmp_path / "other_std.nii.gz")  # nobody says that this one is ours
    nifti(tmp_path / ".trash" / "old.nii")
    nifti(tmp_path / "._scan.nii.gz")
    (tmp_path / "scan_medldm.json").write_text(json.dumps({}))
    assert places(tmp_path) == ["other_std", "scan"]


def test_patterns_choose(tmp_path):
    for name in ("sub-01/a_T1w.nii.gz", "sub-01/b_T2w.nii.gz", "sub-02/c_T1w.nii.gz"):
        nifti(tmp_path / name)
    assert places(tmp_path, include=["*_T1w.nii.gz"]) == ["sub-01/a_T1w", "sub-02/c_T1w"]
    assert places(tmp_path, include=["*T1w*"], exclude=["sub-02/*"]) == ["sub-01/a_T1w"]
    with pytest.raises(InputError, match="--include"):
        find_cases(tmp_path, include=["*.mgz"])


def test_masks_colours_and_labels_are_skipped_with_a_reason(tmp_path):
    nifti(tmp_path / "a_mask.nii.gz")
    phantoms.save(tmp_path / "b.nii", np.zeros((4, 4, 4), np.int16), intent_code=1002)
    nifti(tmp_path / "c.nii")
    phantoms.patch(tmp_path / "c.nii", datatype=128)
    (tmp_path / "d.nii.gz").write_text("not an image at all")
    reasons = {case.place.name: case.skip for case in find_cases(tmp_path)}
    assert "mask" in reasons["a_mask"]
    assert "label" in reasons["b"]
    assert "colour" in reasons["c"]
    assert reasons["d"] == ""  # it fails when it is read, and the summary says so


def test_a_series_spread_over_folders_is_one_scan_and_a_copied_folder_is_two(tmp_path):
    whole = dicom(tmp_path / "whole" / "A", count=6)
    (tmp_path / "whole" / "B").mkdir()
    for file in sorted(whole.iterdir())[3:]:
        file.rename(tmp_path / "whole" / "B" / file.name)
    (case,) = find_cases(tmp_path / "whole")
    assert case.place.as_posix() == "series-003"
    assert len(case.files) == 6
    for copy in ("first", "backup"):
        dicom(tmp_path / "copies" / copy, count=4)
    assert places(tmp_path / "copies") == ["backup", "first"]


def test_links_that_go_in_circles_end(tmp_path):
    nifti(tmp_path / "a" / "scan.nii")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert places(tmp_path) == ["a/scan"]


def test_a_list_mirrors_what_its_paths_share(tmp_path):
    nifti(tmp_path / "d" / "sub-01" / "T1w.nii.gz")
    nifti(tmp_path / "d" / "sub-02" / "T1w.nii.gz")
    (tmp_path / "list.txt").write_text("# two\nd/sub-01/T1w.nii.gz\n\nd/sub-02/T1w.nii.gz\nd/sub-03/T1w.nii.gz\n")
    assert places(tmp_path / "list.txt") == ["sub-01/T1w", "sub-02/T1w", "sub-03/T1w"]
    lost = find_cases(tmp_path / "list.txt")[-1]
    with pytest.raises(InputError, match="does not exist"):
        lost.read()
    (tmp_path / "list.csv").write_text("﻿id;Path\n1;d/sub-02/T1w.nii.gz\n2;d/sub-01/T1w.nii.gz\n", encoding="utf-8")
    assert read_list(tmp_path / "list.csv") == [tmp_path / f"d/sub-0{n}/T1w.nii.gz" for n in (2, 1)]
    for name, text in [("empty.txt", "# nothing\n"), ("wrong.txt", "no/such/file.nii\n")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=r"lists"):
            find_cases(tmp_path / name)


def test_a_list_of_dicom_files_is_one_heap(tmp_path):
    files = sorted(dicom(tmp_path / "d" / "one", count=5).iterdir())
    dicom(tmp_path / "d" / "two", number=4, uid="1.2.4")
    (tmp_path / "list.txt").write_text("\n".join([*map(str, files), "d/two", "d/two/IM0000", "d/gone"]))
    counts = {case.place.as_posix(): len(case.files) for case in find_cases(tmp_path / "list.txt")}
    assert counts == {"one": 5, "two": 4, "gone": 1}


def test_notes_call_a_scan_in_a_zip_by_its_name_there(tmp_path):
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(6, 5, 4), np.eye(4))  # without a unit of length
    nib.save(image, tmp_path / "scan.nii.gz")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(tmp_path / "scan.nii.gz", "inside/scan.nii.gz")
    (case,) = find_cases(tmp_path / "a.zip")
    assert case.keep is not None
    (note,) = case.read().stored.note
    assert note.startswith(f"{tmp_path / 'a.zip'}/inside/scan.nii.gz does not say its unit")


def test_a_zip_is_a_tree_and_leaves_nothing_behind(tmp_path):
    nifti(tmp_path / "t" / "sub" / "scan.nii.gz")
    with zipfile.ZipFile(tmp_path / "t" / "more.zip", "w") as packed:
        packed.write(tmp_path / "t" / "sub" / "scan.nii.gz", "inside/scan.nii.gz")
    assert places(tmp_path / "t") == ["more/inside/scan", "sub/scan"]
    (case,) = find_cases(tmp_path / "t" / "more.zip", include=["*.nii.gz"])
    folder = case.source.parent
    assert np.array_equal(case.read().voxels, io.read(tmp_path / "t" / "sub" / "scan.nii.gz").voxels)
    assert io.read(tmp_path / "t" / "more.zip").shape == (6, 5, 4)
    copy = pickle.loads(pickle.dumps(case))
    del copy
    assert folder.exists()
    del case
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../evil.nii", "/etc/evil.nii", "a/../../evil.nii", "..\\evil.nii"])
def test_a_zip_cannot_reach_outside(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(name, b"x")
    with pytest.raises(InputError, match="leads out"):
        unpack(tmp_path / "a.zip")


def test_zips_too_large_or_broken_are_named(tmp_path, monkeypatch):
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(InputError, match="cannot be unpacked"):
        find_cases(tmp_path / "broken.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("scan.nii", b"0" * 5000)
    monkeypatch.setattr("medldm.io.archives.LARGEST", 1000)
    with pytest.raises(InputError, match="unpacks to"):
        unpack(tmp_path / "a.zip")


def test_a_broken_archive_is_reported_where_patterns_could_mean_what_is_in_it(tmp_path):
    nifti(tmp_path / "sub" / "scan.nii")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 nonsense")
    for pattern, broken in {"sub/*": [], "*.nii": ["bad"], "*/*.nii": ["bad"], "bad/*": ["bad"]}.items():
        assert [case.place.name for case in find_cases(tmp_path, [pattern]) if case.broken] == broken


def test_an_interrupted_archive_leaves_no_images_behind(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("first.nii", b"a patient")
        packed.writestr("second.nii", b"another")
    extract = zipfile.ZipFile.extract

    def interrupted(archive, info, folder):
        if info.filename == "second.nii":
            raise KeyboardInterrupt
        return extract(archive, info, folder)

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(zipfile.ZipFile, "extract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "a.zip")
    assert not list((tmp_path / "temporary").iterdir())


def test_an_unpacked_folder_goes_with_its_last_holder(tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    keeper = Unpacked(held, tmp_path / "held.zip")
    del keeper
    assert not held.exists()


def test_no_other_result_lies_in_the_folder_of_a_series(tmp_path):
    voxels = phantoms.brain((8, 8, 4)).astype(np.int16)
    phantoms_dicom.write_series(tmp_path / "x", voxels)
    nifti(tmp_path / "x" / "scan.nii")
    phantoms_dicom.write_series(tmp_path / "logs", voxels, number=4)
    assert [case.place.as_posix() for case in find_cases(tmp_path)] == ["logs-2", "x/scan", "x/series-003"]


def test_what_a_killed_run_has_unpacked_goes_with_the_next_archive(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("scan.nii", b"a patient")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = (
        "import os, sys; from medldm.io.archives import unpack; kept = unpack(__import__('pathlib').Path(sys.argv[1]));"
    )
    dead = f"{code} os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", dead, str(tmp_path / "a.zip")], check=False)
    (left,) = (tmp_path / "temporary").glob("*/scan.nii")
    alive = unpack(tmp_path / "a.zip")
    other = unpack(tmp_path / "a.zip")
    assert not left.exists()
    assert alive.folder.exists()
    assert other.folder.exists()
    del alive, other
    assert not list((tmp_path / "temporary").iterdir())


def test_members_of_one_name_are_all_kept(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, name in enumerate(["x/1.dcm", "x/1.dcm", "X/1.DCM", "./x/1.dcm"]):
            packed.writestr(name, str(number))
    unpacked = unpack(tmp_path / "a.zip")
    assert sorted(path.read_text() for path in unpacked.folder.rglob("*") if path.is_file()) == ["0", "1", "2", "3"]


def test_an_archive_without_a_suffix_is_opened(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("export", "1.2.840"):
        with zipfile.ZipFile(tree / name, "w") as packed:
            packed.write(nifti(tmp_path / "scan.nii"), "scan.nii")
    assert [(case.place.as_posix(), case.read().shape) for case in find_cases(tree)] == [
        ("1.2.840/scan", (6, 5, 4)),
        ("export/scan", (6, 5, 4)),
    ]


def test_nothing_to_find_is_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.bin").write_text("hello")
    for path, word in [("empty", "empty folder"), ("text.bin", "neither"), ("gone", "does not exist")]:
        with pytest.raises(InputError, match=word):
            find_cases(tmp_path / path)
    with pytest.raises(InputError, match="no NIfTI or DICOM"):
        find_cases(tmp_path)


@pytest.mark.parametrize("text", ["x" * 3000, "~nobody_of_that_name/scan.nii"])
def test_text_that_is_no_name_of_a_file_is_a_sentence_wherever_it_stands(text, phantom, tmp_path):
    for source in (text, f"{text}.nii"):
        with pytest.raises(InputError, match=r"too long|does not exist"):
            io.read(source)
    (tmp_path / "alone.txt").write_text(text)
    with pytest.raises(InputError, match="none of them exists"):
        find_cases(tmp_path / "alone.txt")
    scan = phantoms.save(tmp_path / "scan.nii", phantom.voxels)
    (tmp_path / "mixed.txt").write_text(f"{text}\n{scan}\n")
    with pytest.raises(InputError):
        {case.place.name: case for case in find_cases(tmp_path / "mixed.txt")}[Path(text).stem].read()
    (tmp_path / "wide.csv").write_text(f'path\n"{"x" * 200_000}"\n')
    with pytest.raises(InputError, match="table"):
        find_cases(tmp_path / "wide.csv")


def test_what_might_have_been_a_scan_and_cannot_be_read_is_reported(tmp_path, monkeypatch):
    whole = dicom(tmp_path / "whole", count=5)
    last = sorted(whole.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:330])  # the outermost slice: no gap tells that it is gone
    (whole / "readme").write_text("no scan, and no reason to worry")
    (whole / "empty").write_bytes(b"")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nonsense")
    (tmp_path / "lost" / "below").mkdir(parents=True)
    (tmp_path / "lost" / "IM1").symlink_to(tmp_path / "nowhere")
    (tmp_path / "text.dcm").write_text("no image")
    os.mkfifo(tmp_path / "pipe.dcm")  # opening it would wait for ever
    scan_folder = os.scandir

    def scandir(path):
        if str(path).endswith("below"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan_folder(path)

    monkeypatch.setattr(os, "scandir", scandir)
    reasons = {case.place.as_posix(): case.broken for case in find_cases(tmp_path)}
    assert reasons["whole"] == ""
    assert "2 files of" in reasons["whole/unreadable"]
    assert "damaged or cut short" in reasons["whole/unreadable"]
    assert "cannot be unpacked" in reasons["broken"]
    assert "Permission denied" in reasons["lost/unreadable"]
    assert "leads nowhere" in reasons["lost/unreadable"]
    assert "no DICOM inside" in reasons["text.dcm"]
    assert len(reasons) == 5


def test_images_and_archives_that_cannot_be_read_are_skipped_with_a_message(tmp_path):
    nifti(tmp_path / "scan.nii.gz")
    for name in ("T1.mnc", "brain.mnc", "pair.hdr", "pair.img", "old/night.tar.gz", "physio.tsv.gz", "motion.par"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"whatever")
    reasons = {case.place.as_posix(): case.skip for case in find_cases(tmp_path)}
    assert sorted(reasons) == ["old/night.tar.gz", "other-formats", "scan"]
    assert "T1.mnc, brain.mnc, pair.hdr, pair.img: medldm reads NIfTI" in reasons["other-formats"]
    (alone,) = find_cases(tmp_path / "T1.mnc")
    assert "medldm reads NIfTI" in alone.skip


def test_a_report_or_a_dicomdir_is_nothing_to_worry_about(tmp_path):
    folder = dicom(tmp_path / "d")
    report = pydicom.dcmread(sorted(folder.iterdir())[0])
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    del report.PixelData, report.Rows, report.Columns
    report.save_as(folder / "report", enforce_file_format=True)
    report.save_as(folder / "DICOMDIR", enforce_file_format=True)
    assert places(tmp_path / "d") == ["series-003"]


def test_the_only_image_of_a_folder_is_read_and_the_damaged_file_beside_it_reported(tmp_path, caplog):
    folder = dicom(tmp_path / "d")
    (folder / "cut.dcm").write_bytes(b"")
    assert io.read(folder).shape == (5, 6, 4)
    assert "cut.dcm cannot be read (empty)" in caplog.text


def test_read_takes_a_file_or_the_only_scan_of_a_folder(tmp_path):
    dicom(tmp_path / "one")
    nifti(tmp_path / "two" / "a.nii")
    nifti(tmp_path / "two" / "b.nii")
    assert io.read(tmp_path / "one").shape == (5, 6, 4)
    with pytest.raises(InputError, match=r"2 scans \(a, b\)"):
        io.read(tmp_path / "two")
    nifti(tmp_path / "mask" / "a_mask.nii")
    with pytest.raises(NotRestorable, match="mask"):
        io.read(tmp_path / "mask")
    io.write(io.read(tmp_path / "two" / "a.nii"), tmp_path / "c.nii.gz")
    assert np.array_equal(io.read(tmp_path / "c.nii.gz").voxels, io.read(tmp_path / "two" / "a.nii").voxels)


NAMES = {
    "sub-01_desc-brain_mask.nii.gz": "mask",
    "sub-01_dseg.nii.gz": "label",
    "sub-01_T1map.nii.gz": "parameter",
    "sub-01_part-phase_bold.nii.gz": "phase",
    "sub-01_phasediff.nii.gz": "phase",
    "sub-01_pet.nii.gz": "PET",
    "sub-01_T1w.nii.gz": "",
    "mask.nii.gz": "",
    "patient_AD.nii.gz": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_tell_maps_from_scans(name):
    assert NAMES[name] in not_a_scan(Path(name))
    assert bool(NAMES[name]) == bool(not_a_scan(Path(name)))


def test_names_and_folders_tell_the_modality():
    for name in ("sub-01_T1w.nii.gz", "x/anat/scan.nii", "patient_FLAIR.nii.gz", "a_mprage.nii"):
        assert modality_by_name(Path(name)) == "mr"
    assert modality_by_name(Path("lidc_0314_CT.nii.gz")) == "ct"
    assert modality_by_name(Path("scan.nii.gz")) is None


def test_label_maps_are_known_by_their_values(phantom):
    shape = phantom.shape
    blocks = np.repeat(np.repeat(np.arange(1000, 1144, dtype=np.int32).reshape(12, 12, 1), 4, 0), 4, 1)
    parcels = np.repeat(blocks, shape[2], axis=2)
    assert looks_like_labels((phantom.voxels > 0).astype(np.uint8))
    assert looks_like_labels(parcels)
    assert looks_like_labels(parcels.astype(np.float32))
    assert not looks_like_labels(phantom.voxels)
    assert not looks_like_labels(np.rint(phantoms.rician(phantom.voxels, 30)).clip(0, 255).astype(np.uint8))
    assert not looks_like_labels(phantoms.ct().voxels)
    angle = np.random.default_rng(0).uniform(-np.pi, np.pi, shape).astype(np.float32)
    assert "phase" in what_it_is(Volume(angle, np.eye(4)))
    assert what_it_is(phantom, Path("scan.nii")) is None


def test_modality_is_guessed_from_values_and_said(phantom):
    silent = phantom.with_voxels(phantom.voxels, stored=Stored())
    assert io.guess_modality(phantom) == ("mr", "")
    assert io.guess_modality(silent)[0] == "mr"
    assert "--modality" in io.guess_modality(silent)[1]
    ct = phantoms.ct()
    assert io.guess_modality(ct.with_voxels(ct.voxels, stored=Stored()))[0] == "ct"


def test_missing_slices_lie_between_slices_with_content(phantom):
    padded = phantom.with_voxels(np.pad(phantom.voxels, ((0, 0), (0, 0), (5, 5)))[:, :, :40])
    assert io.find_missing_slices(padded) == ()
    assert io.find_missing_slices(phantoms.with_missing_slices(phantom, [12, 13, 20])) == (12, 13, 20)
    assert io.find_missing_slices(phantoms.with_missing_slices(phantom, [0, 39], np.nan)) == (0, 39)
    sagittal = Volume(phantom.voxels, phantom.affine, stored=Stored(axes=(1, 2, 0), flips=(False, False, True)))
    holes = sagittal.voxels.copy()
    holes[20] = 0
    assert io.find_missing_slices(sagittal.with_voxels(holes)) == (48 - 1 - 20,)
    said = phantom.with_voxels(phantom.voxels, stored=Stored(missing=(7,)))
    assert io.find_missing_slices(said) == (7,)


@pytest.mark.parametrize("value", [np.nan, 0.0, 42.0])
def test_a_volume_without_content_is_refused(value, phantom):
    with pytest.raises(InputError, match="nothing to restore"):
        io.check_content(phantom.with_voxels(np.full(phantom.shape, value, np.float32)))


def test_a_scan_and_what_another_program_made_of_it_are_two_though_they_share_their_uids(tmp_path):
    voxels = phantoms.brain((16, 18, 6)).astype(np.int16)
    phantoms_dicom.write_series(tmp_path / "in" / "raw", voxels)
    phantoms_dicom.write_series(tmp_path / "in" / "sharper", voxels + 3)
    cases = find_cases(tmp_path / "in")
    assert [case.place.as_posix() for case in cases] == ["raw", "sharper"]
    assert [int(case.read().voxels.max()) - int(voxels.max()) for case in cases] == [0, 3]
