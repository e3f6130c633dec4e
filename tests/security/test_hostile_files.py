"""Files that mean harm: archives that climb or burst, headers that lie, names that steer terminals or name patients."""

import gzip
import json
import logging
import os
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib

import numpy as np
import phantoms
import phantoms_dicom
import psutil
import pydicom
import pytest

import medldm.io.archives
from medldm.cli import main
from medldm.errors import InputError, MedldmError, shown
from medldm.io import read_nifti
from medldm.io.archives import unpack
from medldm.io.dicom import find_series, read_series
from medldm.io.dicom.header import files as dicom_files
from medldm.io.dicom.header.parse import read_headers
from medldm.io.dicom.pixels import codecs, decode_worker
from medldm.io.discovery import find_cases


@pytest.fixture
def verb(stub_network, capsys):
    """Run denoise with a network that adds one; its exit code, and all that it said."""

    def run(*arguments):
        code = main(["denoise", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.mark.parametrize("name", ["../evil.nii", "/tmp/evil.nii", "a/../../evil.nii", "..\\evil.nii"])
def test_no_archive_writes_outside(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"harm")
    with pytest.raises(InputError, match="leads out"):
        unpack(tmp_path / "x.zip")
    assert not (tmp_path / "evil.nii").exists()


def test_a_link_in_an_archive_is_refused(tmp_path):
    link = zipfile.ZipInfo("scan.nii")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="leads out"):
        unpack(tmp_path / "x.zip")


def test_an_archive_that_hides_its_size_stops_at_what_it_claims(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scan.nii", bytes(2**24))
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the size after unpacking, twice
        at = data.rfind(mark) + place
        data[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(data)
    with pytest.raises(InputError):
        unpack(path)


def test_an_archive_larger_than_allowed_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(medldm.io.archives, "LARGEST", 2**20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("scan.nii", bytes(2**21))
    with pytest.raises(InputError, match="unpacks to"):
        unpack(tmp_path / "x.zip")


def test_archives_in_archives_are_not_opened_however_deep(tmp_path):
    data = phantoms.save(tmp_path / "scan.nii", phantoms.brain((8, 8, 4)), dtype=np.int16).read_bytes()
    (tmp_path / "tree").mkdir()
    for number in range(300):
        with zipfile.ZipFile(tmp_path / "tree" / "deep.zip", "w") as archive:
            archive.writestr(f"{number}.zip" if number else "scan.nii", data)
        data = (tmp_path / "tree" / "deep.zip").read_bytes()
    (case,) = find_cases(tmp_path / "tree")
    assert "archive in an archive" in case.broken
    assert case.place.as_posix() == "deep/299"


@pytest.mark.slow
def test_more_packed_bytes_than_the_header_promises_are_never_held(tmp_path):
    small = phantoms.save(tmp_path / "s.nii", phantoms.brain((8, 8, 4)), dtype=np.int16).read_bytes()
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(small + bytes(2**28), 9))
    import tracemalloc

    tracemalloc.start()
    volume = read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.shape == (8, 8, 4)
    assert peak < 2**27


def test_a_deflated_data_set_that_bursts_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_files, "LARGEST_INFLATED_BYTES", 2**20)
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((8, 8, 3)).astype(np.int16))
    path = sorted(folder.iterdir())[0]
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    image.save_as(path)
    assert read_headers(path)
    data = path.read_bytes()
    start = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    plain = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    burst = plain + b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", 2**24) + bytes(2**24)
    path.write_bytes(data[:start] + packer.compress(burst) + packer.flush())
    assert not read_headers(path)


def hostile(image, damage):
    if damage == "huge":
        image.Rows = image.Columns = 65535
    elif damage == "frames":
        image.NumberOfFrames = 2**31 - 1
    elif damage == "negative":
        image.PixelSpacing, image.SliceThickness = [-1.0, -1.0], -3
    elif damage == "bits":
        image.BitsAllocated, image.BitsStored = 64, 63
    elif damage == "nowhere":
        image.Rows = image.Columns = 0


def test_images_without_rows_are_no_scan(tmp_path):
    voxels = phantoms.brain((8, 8, 3)).astype(np.int16)
    phantoms_dicom.write_series(tmp_path / "s", voxels, edit=lambda image, k: hostile(image, "nowhere"))
    assert not find_series(tmp_path / "s")
    (case,) = find_cases(tmp_path / "s")
    with pytest.raises(InputError, match=r"3 files of .* cannot be read: .*damaged or cut short"):
        case.read()


def test_a_rescale_of_no_known_type_is_a_sentence(tmp_path):
    """Found by the fuzzer: two changed letters name a value type that does not exist."""
    voxels = phantoms.brain((8, 8, 3)).astype(np.int16)
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, slope=2.0)
    for path in folder.iterdir():
        data = path.read_bytes()
        assert b"\x28\x00\x53\x10DS" in data
        path.write_bytes(data.replace(b"\x28\x00\x53\x10DS", b"\x28\x00\x53\x10DC"))
    (series,) = find_series(folder)
    with pytest.raises(InputError, match="RescaleSlope"):
        read_series(series)


def test_a_modality_that_holds_a_name_is_not_repeated(tmp_path):
    """Found by the fuzzer: a damaged length puts what stands behind it into the value."""
    voxels = phantoms.brain((8, 8, 3)).astype(np.int16)
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)
    with dicom_files.no_values_on_screen():
        phantoms_dicom.edit(folder, lambda image: setattr(image, "Modality", "MR DOE^JANE"))
        phantoms_dicom.edit(folder, lambda image: setattr(image, "Modality", "PT"), which=(1,))
    assert {series.reason for series in find_series(folder)} == {
        "its modality is unknown, not MR or CT.",
        "its modality is PT, not MR or CT.",
    }


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"])
def test_packed_pixels_of_another_size_are_a_sentence(syntax, tmp_path):
    """Found by the fuzzer: GDCM ends the process where a JPEG-LS stream is smaller than its header says."""
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((64, 64, 3)).astype(np.int16))
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.compress(syntax)
        image.Columns = 255
        image.save_as(path)
    (series,) = find_series(folder)
    with pytest.raises(InputError, match="no pixels that can be decoded"):
        read_series(series)


def test_a_jpeg_stream_is_measured_before_gdcm_sees_it():
    start = bytes.fromhex("ffd8 ffe0 0004 0000 ff ffc3 000b 10 0020 0030 01 011100")
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    image.Rows, image.Columns, image.SamplesPerPixel = 32, 48, 1
    image.PixelData, image.BitsAllocated = pydicom.encaps.encapsulate([start]), 16
    codecs.check_stream(image, codecs.frame_of(image, None))
    image.PixelData = pydicom.encaps.encapsulate([start.replace(bytes.fromhex("000b10"), bytes.fromhex("000b08"))])
    with pytest.raises(ValueError, match="8 bits"):
        codecs.check_stream(image, codecs.frame_of(image, None))
    image.Columns = 49
    with pytest.raises(ValueError, match="48 x 32"):
        codecs.check_stream(image, codecs.frame_of(image, None))
    image.PixelData = pydicom.encaps.encapsulate([bytes(32)])
    with pytest.raises(ValueError, match="do not start"):
        codecs.check_stream(image, codecs.frame_of(image, None))


def packed(tmp_path, change):
    """A series of lossless JPEG with two damaged slices; `change` gets a file and the place of its stream."""
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((32, 32, 4)).astype(np.int16))
    for path in phantoms_dicom.by_position(phantoms_dicom.jpeg_lossless(folder))[1:3]:
        data = bytearray(path.read_bytes())
        change(data, data.find(b"\xff\xd8\xff"))
        path.write_bytes(data)
    (series,) = find_series(folder)
    return series


def no_table(data, at):
    data[data.find(b"\xff\xc4", at) + 1] = 0xC5


def wide_entries(data, at):
    place = data.find(b"\x28\0\0\x01US\x02\0") + 8  # BitsAllocated
    data[place] = 32


def absurd_precision(data, at):
    data[data.find(b"\xff\xc3", at) + 4] = 255


@pytest.mark.slow
@pytest.mark.parametrize("change", [no_table, wide_entries, absurd_precision])
def test_a_stream_that_ends_its_codec_is_a_sentence_and_the_next_is_read(change, tmp_path):
    """GDCM throws through Python, or reads where nothing is: its process ends, and nobody's night."""
    with pytest.raises(InputError, match="no pixels that can be decoded"):
        read_series(packed(tmp_path / "bad", change))
    good = read_series(packed(tmp_path / "good", lambda data, at: None))
    assert np.array_equal(good.to_stored(good.voxels), phantoms.brain((32, 32, 4)).astype(np.int16))


def test_a_codec_that_never_ends_is_stopped(tmp_path, monkeypatch):
    series = packed(tmp_path, lambda data, at: None)
    monkeypatch.setattr(decode_worker, "TIMEOUT_S", 0.01)
    monkeypatch.setattr(decode_worker, "worker", decode_worker.DecodeWorker())
    monkeypatch.setattr(decode_worker, "CHILD", "import time; time.sleep(600)")
    monkeypatch.setattr("medldm.io.dicom.pixels.image.worker", decode_worker.worker)
    with pytest.raises(InputError, match="end the program"):
        read_series(series)


@pytest.mark.slow
def test_an_interrupted_unpacking_gives_its_pixels_to_nobody_else(tmp_path, monkeypatch):
    """In a notebook: the cell is stopped, the next one reads another scan."""
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((32, 32, 2)).astype(np.int16))
    first, second = (pydicom.dcmread(path) for path in phantoms_dicom.by_position(phantoms_dicom.jpeg_lossless(folder)))
    worker, receive = decode_worker.DecodeWorker(), decode_worker._receive
    wanted = worker.decode(second, codecs.frame_of(second, None), "")

    def stopped(stream):
        raise KeyboardInterrupt

    monkeypatch.setattr(decode_worker, "_receive", stopped)
    with pytest.raises(KeyboardInterrupt):
        worker.decode(first, codecs.frame_of(first, None), "")
    monkeypatch.setattr(decode_worker, "_receive", receive)
    assert np.array_equal(worker.decode(second, codecs.frame_of(second, None), ""), wanted)
    worker.close()


@pytest.mark.slow
def test_the_process_that_unpacks_ends_with_the_one_that_asked(tmp_path):
    series = packed(tmp_path, lambda data, at: None)
    code = (
        "import os, sys, pathlib; from medldm.io.dicom import find_series, read_series;"
        "from medldm.io.dicom.pixels.decode_worker import worker;"
        "read_series(find_series(pathlib.Path(sys.argv[1]))[0]);"
        "print(worker._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, series.files[0].parent], capture_output=True, text=True, check=False
    )
    while psutil.pid_exists(int(asked.stdout)):  # one that stays is ended by the limit of pytest
        time.sleep(0.05)
    assert asked.returncode == -9


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"])
def test_pixels_wider_than_their_words_are_a_sentence(syntax, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((64, 64, 3)).astype(np.int16))
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.compress(syntax)
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit = 7
        image.save_as(path)
    (series,) = find_series(folder)
    with pytest.raises(InputError, match="16 bits, its header says 8"):
        read_series(series)


def test_a_stream_of_gigabytes_is_measured_before_it_is_unpacked(tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((64, 64, 3)).astype(np.int16))
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.compress("1.2.840.10008.1.2.4.90")
        stream = bytearray(pydicom.encaps.get_frame(image.PixelData, 0, number_of_frames=1))
        at = stream.find(b"\xff\x51") + 6
        stream[at : at + 8] = stream[at + 16 : at + 24] = struct.pack(">II", 30000, 30000)
        image.PixelData = pydicom.encaps.encapsulate([bytes(stream)])
        image.save_as(path)
    (series,) = find_series(folder)
    with pytest.raises(InputError, match="its pixels are 30000 x 30000"):
        read_series(series)


def test_a_photometric_interpretation_that_holds_a_name_is_not_repeated(tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((8, 8, 3)).astype(np.int16))
    with dicom_files.no_values_on_screen():
        phantoms_dicom.edit(folder, lambda image: setattr(image, "PhotometricInterpretation", "DOE^JANE"))
    (series,) = find_series(folder)
    with pytest.raises(InputError, match="not one of grey values") as problem:
        read_series(series)
    assert "DOE" not in str(problem.value)


def test_pipes_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "list.txt").write_text("pipe.dcm\nscan.nii.gz\n")
    phantoms.save(tmp_path / "scan.nii.gz", phantoms.brain((8, 8, 4)), dtype=np.int16)
    with pytest.raises(InputError, match="a pipe, a socket or a device"):
        find_cases(tmp_path / "pipe.dcm")
    reasons = {case.place.as_posix(): case.broken for case in find_cases(tmp_path / "list.txt")}
    assert reasons["scan"] == ""
    assert "a pipe" in reasons["pipe.dcm"]


def test_a_member_without_a_name_is_a_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", b"x")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    for mark, place, name in ((b"PK\x03\x04", 26, 30), (b"PK\x01\x02", 28, 46)):
        at = data.find(mark)
        data[at + place], data[at + name] = 1, 0  # a zero byte ends a name
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tmp_path / "x.zip")


@pytest.mark.parametrize("damage", ["huge", "frames", "negative", "bits"])
def test_headers_that_lie_end_in_a_sentence(damage, tmp_path):
    voxels = phantoms.brain((8, 8, 3)).astype(np.int16)
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, edit=lambda image, k: hostile(image, damage))
    all_series = find_series(folder)
    assert all_series
    for series in all_series:
        with pytest.raises(MedldmError):
            read_series(series, fix=True)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF])
def test_lengths_beyond_the_file_reserve_nothing(length, tmp_path):
    voxels = phantoms.brain((8, 8, 3)).astype(np.int16)
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        at = data.rfind(b"\xe0\x7f\x10\x00OW\0\0") + 8
        data[at : at + 4] = struct.pack("<I", length)
        path.write_bytes(data)
    for series in find_series(folder):
        try:
            volume = read_series(series)
        except MedldmError:
            continue
        # All pixels are there; only their length was wrong.
        assert np.array_equal(volume.to_stored(volume.voxels), voxels)


def test_sequences_without_end_are_no_image(tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", phantoms.brain((8, 8, 3)).astype(np.int16))
    for path in folder.iterdir():
        data = path.read_bytes()
        at = data.find(b"\x08\x00\x18\x00UI")  # SOPInstanceUID
        item = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        path.write_bytes(data[:at] + item * 5000 + data[at:])
    assert all(series.verdict == "not a volume" or not series.images for series in find_series(folder))


def test_links_out_of_the_tree_do_not_let_results_out_of_it(tmp_path, verb):
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    tree.mkdir()
    phantoms.save(outside / "scan.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    before = (outside / "scan.nii.gz").read_bytes()
    (tree / "linked").symlink_to(outside)
    (tree / "up").symlink_to(tmp_path)  # a circle
    code, said = verb(tree, tmp_path / "out")
    assert code == 0, said
    assert (outside / "scan.nii.gz").read_bytes() == before
    assert sorted(path.name for path in outside.iterdir()) == ["scan.nii.gz"]


def test_names_with_line_ends_escapes_and_odd_bytes_stay_on_their_line(tmp_path, verb):
    tree = tmp_path / "tree"
    tree.mkdir()
    names = [b"two\nlines.nii.gz", b"red\x1b[31m.nii.gz", b"latin-\xe9.nii.gz", b"<script>.nii.gz"]
    good = phantoms.save(tmp_path / "good.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16).read_bytes()
    for name in names:
        (tree / os.fsdecode(name)).write_bytes(good)
    (tree / "bad\n[red]\x1b[2J.nii.gz").write_bytes(b"nothing")
    out = tmp_path / "out"
    code, said = verb(tree, out, "--report", "-v")
    assert code == 8
    assert "\x1b" not in said
    assert r"two\nlines" in said
    assert {os.fsencode(path.name) for path in out.glob("*.nii.gz")} == set(names)
    assert len(json.loads((out / "summary.json").read_text())) == 5
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1


def test_a_damaged_file_whose_name_is_no_text_ends_nobodys_night(tmp_path, verb):
    tree = tmp_path / "tree"
    tree.mkdir()
    phantoms.save(tree / "scan.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    (tree / os.fsdecode(b"latin-\xe9.nii.gz")).write_bytes(b"nothing")  # the sentence about it has its name
    code, said = verb(tree, tmp_path / "out")
    assert code == 8
    assert "1 done, 1 failed" in said
    assert len(list((tmp_path / "out" / "logs").iterdir())) == 2
    assert main(["inspect", str(tree)]) == 8


def test_words_for_a_screen_are_one_line():
    assert shown("sub-01 é 日本") == "sub-01 é 日本"
    assert shown("a\nb\x1b[2J\udce9\u202e") == r"a\nb\x1b[2J\udce9\u202e"


@pytest.mark.parametrize("form", ["dicom", "nifti"])
def test_no_patient_is_named_outside_dicom(form, tmp_path, verb, caplog):
    def identify(image, k):
        image.PatientBirthDate, image.OtherPatientIDs = "19700203", "OTHER-99"
        image.ReferringPhysicianName, image.InstitutionName = "Ref^Erring", "Secret Clinic"
        image.StudyDescription = image.SeriesDescription = "Jane Doe brain"
        image.AccessionNumber, image.StudyID = "ACC-5", "STU-6"

    voxels = phantoms.brain((24, 24, 12)).astype(np.int16)
    folder = phantoms_dicom.write_series(tmp_path / "in" / "case", voxels, edit=identify)
    broken = phantoms_dicom.write_series(tmp_path / "in" / "broken", voxels, number=4, edit=identify)
    phantoms_dicom.cut_short(sorted(broken.iterdir())[2])
    odd = phantoms_dicom.write_series(tmp_path / "in" / "odd", voxels, number=5, edit=identify)
    with dicom_files.no_values_on_screen():  # pydicom complains while the phantom is written, too
        phantoms_dicom.edit(odd, lambda image: setattr(image, "PatientName", "Doe^Jane^" * 30))
    out = tmp_path / "out"
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        _, said = verb(tmp_path / "in", out, "--report", "-v", "--format", form)
        main(["inspect", str(folder), "--json"])
    texts = [said, caplog.text, *(str(item.message) for item in warned)]
    written = [path for path in out.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert {path.suffix for path in written} >= {".json", ".csv", ".html", ".png"}
    texts += [str(path.relative_to(out)) for path in out.rglob("*")]
    texts += [
        (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode("latin-1")
        for path in written
    ]
    for secret in ("Doe^Jane", "Jane", "SECRET-17", "OTHER-99", "19700203", "Erring", "Clinic", "ACC-5", "STU-6"):
        matches = [text[max(0, text.find(secret) - 200) :][:300] for text in texts if secret in text]
        assert not matches
