"""Maps of uncertainty in DICOM: whatever the headers hold, for the right patient, the same bytes every time."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest

from medldm.data.volume import Step
from medldm.errors import InputError
from medldm.io import read
from medldm.io.dicom import write_uncertainty
from medldm.provenance.record import RunRecord

FACTS = {"model": "tiny", "sha256": "ab" * 32, "seed": 7, "steps": 4, "medldm": "0.1.0"}
PATIENT = ("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyTime")


def write_map(source, path, **kind):
    """The map of a scan that was denoised."""
    volume = read(source)
    done = volume.with_voxels(
        volume.voxels, step=Step("denoise", {}, FACTS), std=np.full(volume.shape, 0.25, np.float32)
    )
    write_uncertainty(done, path, RunRecord.of_step(Step("denoise", facts=FACTS)), **kind)
    return pydicom.dcmread(path)


def stored(image, name):
    """An element as its bytes lie in the file."""
    element = image.get_item(name)
    return element and (element.value or b"")


def source_with(folder, **arguments):
    """A series whose headers hold words that the standard does not allow, or spell names in their own ways."""

    def edit(image, _):
        with pydicom.config.disable_value_validation():
            for name, value in arguments.items():
                image.add_new(name, pydicom.datadict.dictionary_VR(name), value)

    voxels = phantoms.brain((24, 24, 6)).astype(np.int16)
    return phantoms_dicom.write_series(folder, voxels, edit=edit, StudyDate="20200102", ContentDate="20200103")


ODD = {
    "japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
    "korean": {"SpecificCharacterSet": ["", "ISO 2022 IR 149"], "PatientName": "Hong^Gildong=洪^吉洞"},
    "character set that is empty": {"SpecificCharacterSet": ""},
    "date with hyphens": {"PatientBirthDate": "1970-01-01"},
    "date of zeros": {"PatientBirthDate": "00000000"},
    "sex in a word": {"PatientSex": "Female"},
    "no such time": {"StudyTime": "25:61", "ContentTime": "99"},
    "number below one": {"SeriesNumber": "-9000"},
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_values_of_a_header_are_kept(kind, tmp_path):
    source = source_with(tmp_path / "in", **ODD[kind])
    std_map = write_map(source, tmp_path / "std.dcm")
    first = pydicom.dcmread(next(source.iterdir()))
    for name in PATIENT:
        assert (stored(std_map, name) or b"") == (stored(first, name) or b""), name
    assert std_map.pixel_array.shape == (6, 24, 24)


def test_equal_runs_give_equal_bytes_and_the_date_of_the_source(tmp_path):
    source = source_with(tmp_path / "in")
    std_map = write_map(source, tmp_path / "one.dcm")
    write_map(source, tmp_path / "two.dcm")
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()
    assert std_map.ContentDate == "20200103"


def test_a_map_tells_its_model_and_who_made_it(tmp_path):
    std_map = write_map(source_with(tmp_path / "in"), tmp_path / "std.dcm")
    assert "standard deviation" in std_map.DerivationDescription
    assert "model tiny" in std_map.DerivationDescription
    assert "seed 7" in std_map.DerivationDescription
    assert "medldm" in [equipment.ManufacturerModelName for equipment in std_map.ContributingEquipmentSequence[1:]]


def test_a_map_cites_the_frames_of_an_enhanced_image(tmp_path):
    voxels = phantoms.brain((24, 24, 6)).astype(np.int16)
    std_map = write_map(phantoms_dicom.write_enhanced(tmp_path / "in", voxels), tmp_path / "std.dcm")
    assert sorted(item.ReferencedFrameNumber for item in std_map.SourceImageSequence) == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("half_width", [False, True])
def test_dciodvfy_has_nothing_against_a_map(half_width, tmp_path):
    whole = {"PatientBirthDate": "19700101", "PatientSex": "F", "StudyTime": "101010"}
    write_map(source_with(tmp_path / "in", **whole), tmp_path / "std.dcm", half_width=half_width)
    done = subprocess.run(["dciodvfy", tmp_path / "std.dcm"], capture_output=True, text=True, check=False)
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def test_what_the_maker_of_maps_cannot_take_is_reported_without_names(tmp_path, monkeypatch):
    import highdicom

    def refuse(**arguments):
        raise ValueError("Doe^Jane is no value of this")

    monkeypatch.setattr(highdicom.pm, "ParametricMap", refuse)
    with pytest.raises(InputError, match="map of the uncertainty") as problem:
        write_map(source_with(tmp_path / "in"), tmp_path / "std.dcm")
    assert "Doe" not in str(problem.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_slices_that_were_thrown_away_are_not_cited(tmp_path):
    source = source_with(tmp_path / "in")
    volume = read(source)
    facts = FACTS | {"filled_slices": [2], "invented_slices": [2]}
    step = Step("fill-slices", {"missing": "2"}, facts)
    done = replace(volume, history=(step,), std=np.ones(volume.shape, np.float32))
    write_uncertainty(done, tmp_path / "std.dcm", RunRecord.of_step(Step("fill-slices", facts=facts)))
    damaged = pydicom.dcmread(phantoms_dicom.by_position(source)[2])
    cited = pydicom.dcmread(tmp_path / "std.dcm").ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(cited) == 5
    assert damaged.SOPInstanceUID not in {item.ReferencedSOPInstanceUID for item in cited}
