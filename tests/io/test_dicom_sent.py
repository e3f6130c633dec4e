"""What is sent to an archive: a folder of nothing but DICOM, distinguishable results, attributes that stay true."""

import json
import shutil
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest
from derivations import (
    FACTS,
    assert_dcm2niix_agrees,
    derive,
    errors,
    mapping,
    needs_dciodvfy,
    needs_dcm2niix,
    restored,
    written,
)

from medldm.batch.summary import Row
from medldm.cli import main
from medldm.data.volume import Step
from medldm.io import read, write
from medldm.io.content import what_it_is
from medldm.io.dicom import find_series, read_series, write_uncertainty
from medldm.provenance.record import RunRecord
from medldm.qc.ood import check
from medldm.report.facts import facts_of
from medldm.zoo import card

needs_dcmtk = pytest.mark.skipif(not shutil.which("storescp"), reason="storescu and storescp (dcmtk) are not installed")


@pytest.fixture
def voxels():
    return phantoms.brain((24, 28, 8)).astype(np.int16)


@pytest.fixture
def tree(voxels, tmp_path):
    """Two series in a folder called as the one that is sent, a third elsewhere, a NIfTI file."""
    for number in (3, 4):
        phantoms_dicom.write_series(tmp_path / "in" / "dicom", voxels, number=number, stamp=str(number))
    phantoms_dicom.write_series(tmp_path / "in" / "sub" / "scan", voxels, number=5)
    phantoms.save(tmp_path / "in" / "dicom" / "a.nii.gz", phantoms.brain((24, 24, 12)), dtype=np.int16)
    return tmp_path / "in"


def run(tiny_model, *arguments):
    return main([*map(str, arguments), "--model", str(tiny_model), "--noise", "0.05"])


SERIES = ["dicom-2/series-003", "dicom-2/series-004", "sub/scan"]


@pytest.mark.slow
def test_nothing_but_dicom_lies_below_the_folder_that_is_sent(tree, tiny_model, tmp_path):
    out = tmp_path / "out"
    more = ["--samples", "2", "--steps", "4", "--uncertainty", "--preview", "--report"]
    assert run(tiny_model, "denoise", tree, out, *more) == 0
    below = [path for path in (out / "dicom").rglob("*") if path.is_file()]
    assert below
    assert all(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in below)
    assert (
        sorted(path.parent.relative_to(out / "dicom").as_posix() for path in below if path.name == "0000.dcm") == SERIES
    )
    for place in SERIES:
        assert (out / f"{place}_std.dcm").exists()  # which many archives do not take
        record = json.loads((out / f"{place}_medldm.json").read_text())
        assert ((out / f"{place}_medldm.json").parent / record["result"]).resolve() == (out / "dicom" / place).resolve()
        assert (out / f"{place}_preview.png").exists()
    assert (out / "dicom-2" / "a.nii.gz").exists()
    assert (out / "report.html").read_text().count("data:image/jpeg") == 4


@pytest.mark.slow
def test_a_second_run_finds_what_the_first_one_did(tree, tiny_model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(tiny_model, "denoise", tree, out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    capsys.readouterr()
    assert run(tiny_model, "denoise", tree, out) == 0
    assert capsys.readouterr().err.count("already done") == 4
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")} == before
    shutil.rmtree(out / "dicom" / "sub")
    assert run(tiny_model, "denoise", tree, out) == 0
    assert set(out.rglob("*.dcm")) == set(before)


@pytest.mark.parametrize("place", ["sub/scan", "dicom-2/series-004"])
def test_a_record_is_repeated_into_any_folder(place, tree, tiny_model, tmp_path, capsys):
    assert run(tiny_model, "denoise", tree, tmp_path / "out") == 0
    record = tmp_path / "out" / f"{place}_medldm.json"
    assert main(["rerun", str(record)]) == 2
    assert main(["rerun", str(record), str(tmp_path / "again")]) == 0
    assert "byte for byte" in capsys.readouterr().err
    assert (tmp_path / "again" / "dicom" / place / "0000.dcm").exists()
    assert (tmp_path / "again" / f"{place}_medldm.json").exists()
    assert main(["rerun", str(record), "--overwrite"]) == 0
    said = capsys.readouterr()
    assert "byte for byte" in said.err
    assert said.out == f"{tmp_path / 'out' / 'dicom' / place}\n"


def test_a_record_of_a_tree_with_one_volume_chosen_is_repeated(voxels, tiny_model, tmp_path, capsys):
    for number in (1, 2):
        said = {"uid": "1.2.3", "stamp": str(number), "AcquisitionNumber": number, "SeriesDescription": "fmri"}
        phantoms_dicom.write_series(tmp_path / "in" / "t", voxels + number, **said)
    phantoms_dicom.write_series(tmp_path / "in" / "s", voxels, number=4)
    assert run(tiny_model, "denoise", tmp_path / "in", tmp_path / "out", "--volume", "1") == 0
    image = pydicom.dcmread(tmp_path / "out" / "dicom" / "t" / "0000.dcm")
    assert (image.SeriesDescription, image.SeriesNumber) == ("fmri volume 1 medldm denoise RUO", 17003)
    for place in ("s", "t"):
        assert main(["rerun", str(tmp_path / "out" / f"{place}_medldm.json"), str(tmp_path / "again")]) == 0
        assert "byte for byte" in capsys.readouterr().err


def test_on_another_day_a_rerun_finds_the_same_image(voxels, tiny_model, tmp_path, monkeypatch, capsys):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("out", "equal"):
        assert run(tiny_model, "denoise", source, tmp_path / name) == 0
    files = [sorted((tmp_path / name).rglob("*.dcm")) for name in ("out", "equal")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    assert main(["rerun", str(tmp_path / "out" / "series-003_medldm.json"), str(tmp_path / "later")]) == 0
    assert "byte for byte" in capsys.readouterr().err
    later = pydicom.dcmread(next((tmp_path / "later").rglob("0000.dcm")))
    assert later.InstanceCreationDate.startswith("2027")
    assert run(tiny_model, "denoise", source, tmp_path / "out") == 0
    assert "already done" in capsys.readouterr().err


def test_a_series_named_alone_lies_in_the_same_place(voxels, tiny_model, tmp_path, capsys):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels)
    assert run(tiny_model, "denoise", source, tmp_path / "out", "--preview", "--report") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["dicom", "report.html", "series-003_medldm.json", "series-003_preview.png"]
    assert "data:image/jpeg" in (tmp_path / "out" / "report.html").read_text()
    row = Row("series-003", "done", 1.0, "", "/elsewhere/dicom/series-003")  # of a shard that ran there
    (facts,) = facts_of([row], tmp_path / "out", width=64)
    assert facts.picture.startswith("data:image/jpeg")
    assert facts.task == "denoise"
    assert len(list((tmp_path / "out" / "dicom" / "series-003").iterdir())) == 8
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "series-003" in capsys.readouterr().out


@needs_dcmtk
@pytest.mark.slow
def test_storescu_sends_all_of_it_and_an_archive_takes_it(tree, tiny_model, tmp_path):
    assert run(tiny_model, "denoise", tree, tmp_path / "out", "--preview") == 0
    (tmp_path / "archive").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    archive = subprocess.Popen(["storescp", "-od", str(tmp_path / "archive"), port], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                    break
            time.sleep(0.1)
        sent = subprocess.run(
            ["storescu", "+sd", "+r", "127.0.0.1", port, str(tmp_path / "out" / "dicom")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert sent.returncode == 0, sent.stderr
    finally:
        archive.terminate()
        archive.wait()
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "archive").iterdir()}
    assert uids == {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "out" / "dicom").rglob("*.dcm")}


DIFFERENCES = {
    "echo": ({"EchoTime": 20.0}, {"EchoTime": 80.0}, ["TE 20", "TE 80"]),
    "echo number": ({"EchoNumbers": 1}, {"EchoNumbers": 2}, ["echo 1", "echo 2"]),
    "b-value": ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}, ["b 0", "b 1000"]),
    "kind": ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["DERIVED", "PRIMARY", "MEAN"]}, None),
    "coil": ({"ReceiveCoilName": "A"}, {"ReceiveCoilName": "B"}, ["coil A", "coil B"]),
    "time": ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, ["volume 0", "volume 1"]),
    "orientation": ({}, {"orientation": (0, 1, 0, 0, 0, -1)}, ["part 1", "part 2"]),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_what_distinguishes_two_results_is_in_their_description(kind, voxels, tmp_path):
    one, other, marks = DIFFERENCES[kind]
    name = "a description that is long enough to be cut somewhere"
    for stamp, tags in (("a", one), ("b", other)):
        phantoms_dicom.write_series(tmp_path / "in", voxels, uid="1.2.3", stamp=stamp, SeriesDescription=name, **tags)
    all_series = find_series(tmp_path / "in")
    chosen = [(series, index) for series in all_series for index in range(len(series.volumes))]
    volumes = [
        read_series(series, volume_index=index) for series, index in chosen or ((entry, None) for entry in all_series)
    ]
    assert len(volumes) == 2
    images = [written(restored(volume), tmp_path / str(number))[0] for number, volume in enumerate(volumes)]
    descriptions = [image.SeriesDescription for image in images]
    assert all(
        description.startswith("a description") and description.endswith("medldm denoise RUO")
        for description in descriptions
    )
    assert (
        len({*descriptions})
        == len({image.SeriesNumber for image in images})
        == len({i.SeriesInstanceUID for i in images})
        == 2
    )
    assert max(map(len, descriptions)) <= 64
    if marks:
        assert all(any(word in description for description in descriptions) for word in marks)
    maps = []
    for number, volume in enumerate(volumes):
        spread = volume.with_voxels(restored(volume).voxels, std=np.ones(volume.shape, np.float32))
        write_uncertainty(spread, tmp_path / f"{number}.dcm", RunRecord.of_step(Step("denoise", facts=FACTS)))
        maps.append(pydicom.dcmread(tmp_path / f"{number}.dcm"))
    assert len({entry.SeriesNumber for entry in [*maps, *images]}) == 4
    assert maps[0].SeriesDescription != maps[1].SeriesDescription


def test_a_series_with_one_result_is_described_as_before(voxels, tmp_path):
    phantoms_dicom.write_series(tmp_path / "in", voxels, uid="1.2.3", SeriesDescription="t1")
    localizer = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    phantoms_dicom.write_series(tmp_path / "in", voxels[..., :3], uid="1.2.3", stamp="loc", ImageType=localizer)
    (scan,) = (series for series in find_series(tmp_path / "in") if series.restorable)
    image = written(restored(read_series(scan)), tmp_path / "out")[0]
    assert (image.SeriesDescription, image.SeriesNumber) == ("t1 medldm denoise RUO", 7003)


def phase_encoded(direction):
    def edit(frame, k):
        geometry = pydicom.Dataset()
        geometry.InPlanePhaseEncodingDirection = direction
        frame.MRFOVGeometrySequence = [geometry]

    return edit


@pytest.mark.parametrize(("enhanced", "classic"), [("COLUMN", "COL"), ("ROW", "ROW"), ("OTHER", None)])
def test_the_phase_encoding_direction_is_said_in_classic_terms(enhanced, classic, voxels, tmp_path):
    source = phantoms_dicom.write_enhanced(tmp_path / "in", voxels, edit=phase_encoded(enhanced))
    _, images = derive(source, tmp_path / "out")
    assert {image.get("InPlanePhaseEncodingDirection") for image in images} == {classic}


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_result_was_created_when_it_was_made(kind, voxels, tmp_path, monkeypatch):
    said = {"InstanceCreationDate": "20010203", "InstanceCreationTime": "040506", "InstanceCreatorUID": "1.2.3"}
    make = phantoms_dicom.write_series if kind == "classic" else phantoms_dicom.write_enhanced
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")  # 14 November 2023, 22:13 in Greenwich
    _, images = derive(make(tmp_path / "in", voxels, **said, TimezoneOffsetFromUTC="+0330"), tmp_path / "out")
    assert {(image.InstanceCreationDate, image.InstanceCreationTime) for image in images} == {("20231115", "01")}
    assert not any("InstanceCreatorUID" in image for image in images)
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    before = datetime.now(UTC)
    _, images = derive(tmp_path / "in", tmp_path / "today")
    zone = timezone(timedelta(hours=3, minutes=30))
    near = {f"{moment.astimezone(zone):%Y%m%d %H}" for moment in (before, datetime.now(UTC))}
    assert {f"{image.InstanceCreationDate} {image.InstanceCreationTime}" for image in images} <= near


PADDED = {
    "ct, signed": ({"modality": "CT", "intercept": 0.0}, -2000),
    "ct, unsigned": ({"modality": "CT", "intercept": -1024.0, "signed": False}, 63536),
    "mr": ({}, -5),
}


def padded_source(folder, voxels, kind):
    said, padding = PADDED[kind]
    voxels = voxels.astype(np.int32) + 100
    voxels[:3] = padding
    tag = "SS" if said.get("signed", True) else "US"

    def edit(image, _):
        image.add_new("PixelPaddingValue", tag, padding)

    return phantoms_dicom.write_series(folder, voxels, edit=edit, **said), padding


@pytest.mark.parametrize("kind", PADDED)
def test_padding_stays_padding_and_is_said_to_be(kind, voxels, tmp_path):
    source, padding = padded_source(tmp_path / "in", voxels, kind)
    volume, images = derive(source, tmp_path / "out")
    for image in images:
        assert image.PixelPaddingValue == padding
        assert (image.pixel_array.T[:3] == padding).all()
        assert (image.pixel_array.T[3:] != padding).all()
    write(volume, tmp_path / "out.nii.gz")
    assert np.array_equal(read(tmp_path / "out.nii.gz").voxels, read(tmp_path / "out").voxels)


def test_padding_that_is_gone_is_not_claimed(voxels, tmp_path):
    source, _ = padded_source(tmp_path / "in", voxels, "mr")
    volume = read(source)
    affine = volume.affine @ np.diag([1, 1, 0.5, 1])
    affine[:3, 3] -= affine[:3, 2] / 2  # edges agree, so that no new slice is an old one
    thin = volume.with_voxels(np.repeat(volume.voxels, 2, axis=2) + 7, affine)
    images = written(thin, tmp_path / "out")
    assert not any("PixelPaddingValue" in image for image in images)


@pytest.mark.parametrize("said", [{}, {"SmallestImagePixelValue": -2000, "LargestImagePixelValue": 1100}])
def test_padding_far_below_zero_makes_no_map_of_a_magnitude(said, voxels, tmp_path):
    voxels = np.abs(voxels.astype(np.int32)) + 100
    voxels[:3] = -2000

    def edit(image, _):
        for name, value in {"PixelPaddingValue": -2000, **said}.items():
            image.add_new(name, "SS", value)

    volume = read(phantoms_dicom.write_series(tmp_path / "in", voxels, edit=edit))
    assert what_it_is(volume) is None
    assert "modality" not in check(volume, card("brain-mri-2d"))
    unsaid = phantoms_dicom.write_series(tmp_path / "unsaid", voxels)
    assert "both signs" in what_it_is(read(unsaid))


def test_a_padding_that_no_pixel_has_is_not_claimed(voxels, tmp_path):
    source = phantoms_dicom.write_series(tmp_path / "in", voxels, PixelPaddingValue=-99)
    _, images = derive(source, tmp_path / "out")
    assert not any("PixelPaddingValue" in image for image in images)


def of_frames(slope, intercept):
    def edit(frame, k):
        del frame.PixelValueTransformationSequence
        frame.RealWorldValueMappingSequence = mapping("1", slope, intercept)

    return edit


@needs_dcm2niix
@needs_dciodvfy
@pytest.mark.parametrize("kind", ["classic", "enhanced", "ct"])
def test_a_mapping_counts_where_there_is_no_slope(kind, voxels, tmp_path):
    slope, intercept = (2.0, -1000.0) if kind == "ct" else (0.5, 0.0)
    if kind == "enhanced":
        source = phantoms_dicom.write_enhanced(tmp_path / "in", voxels, edit=of_frames(slope, intercept))
    else:
        unit, modality = ("[hnsf'U]", "CT") if kind == "ct" else ("1", "MR")
        said = {"modality": modality, "RealWorldValueMappingSequence": mapping(unit, slope, intercept)}
        source = phantoms_dicom.write_series(tmp_path / "in", voxels, **said)
    volume = read(source)
    assert np.allclose(volume.to_stored(volume.voxels), voxels * slope + intercept)
    assert any("RealWorldValueMapping was applied" in note for note in volume.stored.note)
    result, images = derive(source, tmp_path / "out")
    assert (float(images[0].RescaleSlope), float(images[0].RescaleIntercept)) == (slope, intercept)
    assert "RealWorldValueMapping was applied" in images[0].DerivationDescription
    assert np.allclose(read(tmp_path / "out").voxels, result.voxels, atol=slope)
    assert_dcm2niix_agrees(result, tmp_path / "out", tmp_path)
    assert errors(tmp_path / "out") <= errors(source)


def test_a_mapping_that_is_no_line_or_not_needed_is_reported_or_left(voxels, tmp_path):
    table = mapping("1")
    del table[0].RealWorldValueSlope, table[0].RealWorldValueIntercept
    table[0].RealWorldValueLUTData = [1.0, 2.0]
    volume = read(phantoms_dicom.write_series(tmp_path / "t", voxels, RealWorldValueMappingSequence=table))
    assert np.array_equal(volume.to_stored(volume.voxels), voxels)
    assert any("RealWorldValueMapping was not applied" in note for note in volume.stored.note)
    both = {"RealWorldValueMappingSequence": mapping("1", 3.0), "RescaleSlope": 1, "RescaleIntercept": 0}
    volume = read(phantoms_dicom.write_series(tmp_path / "b", voxels, **both))
    assert np.array_equal(volume.to_stored(volume.voxels), voxels)
    assert volume.stored.note == ()
