"""Positions that hold several images: copies, kinds that must not be mixed, and volumes of which one may be chosen."""

import shutil

import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest
from pydicom.uid import EnhancedCTImageStorage, JPEGLSLossless

import medldm
from medldm.cli import main
from medldm.errors import GeometryError, InputError, NotRestorable, UsageError
from medldm.io.dicom import find_series, read_series

SHAPE = (32, 36, 10)


@pytest.fixture
def magnitude():
    return phantoms.brain(SHAPE).astype(np.int16)


@pytest.fixture
def field(magnitude):
    """A field map of the same places, in Hz."""
    wave = 200 * np.sin(np.linspace(-3, 3, SHAPE[0]))[:, None, None]
    return np.broadcast_to(wave, SHAPE).astype(np.int16)


def both(folder, magnitude, field, of_magnitude=None, of_field=None, **said):
    """Two quantities at each position, of one series and one echo."""
    phantoms_dicom.write_series(folder, magnitude, uid="1.2.3", **said, **(of_magnitude or {}))
    return phantoms_dicom.write_series(folder, field, uid="1.2.3", stamp="map", **said, **(of_field or {}))


def stored(volume):
    return volume.to_stored(volume.voxels)


@pytest.mark.parametrize("timed", [False, True], ids=["no times", "times of their own"])
@pytest.mark.parametrize("counted_on", [False, True], ids=["any number", "numbers that go on"])
def test_two_quantities_that_nothing_tells_apart_are_refused_with_fix_too(
    timed, counted_on, magnitude, field, tmp_path
):
    times = [{"AcquisitionTime": time} if timed else {} for time in ("090000", "090500")]
    if counted_on:
        times = [
            {**said, "edit": counted(lambda k, at=at: at + k + 1)} for said, at in zip(times, (0, 10), strict=True)
        ]
    (series,) = find_series(both(tmp_path / "s", magnitude, field, *times, EchoTime=5.0))
    assert series.verdict == "mixed"
    for fix in (False, True):
        with pytest.raises(GeometryError, match=r"10 of its positions hold more than one image.*no copies") as problem:
            read_series(series, fix=fix)
        assert "their values (-199 to 199, 0 to" in str(problem.value)
        assert ("AcquisitionTime" in str(problem.value)) == timed
        assert "Remove the copies" not in str(problem.value)


def test_the_case_that_was_handed_in_ends_with_a_message_with_fix_too(magnitude, field, tmp_path, capsys):
    both(tmp_path / "s", magnitude, field)
    for more in ([], ["--fix"]):
        assert main(["denoise", str(tmp_path / "s"), str(tmp_path / "out"), *more]) == 3
        assert "no copies" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/**/*.dcm"))


TELLING = {
    "ImageType": ({}, {"ImageType": ["DERIVED", "PRIMARY", "B0 MAP"]}),
    "RescaleType": ({}, {"RescaleType": "Hz"}),
    "smallest and largest value": (
        {"SmallestImagePixelValue": 0, "LargestImagePixelValue": 900},
        {"SmallestImagePixelValue": -200, "LargestImagePixelValue": 200},
    ),
    "window": ({"WindowCenter": 300, "WindowWidth": 600}, {"WindowCenter": 0, "WindowWidth": 400}),
    "window and times": (
        {"WindowCenter": 300, "WindowWidth": 600, "AcquisitionTime": "090000"},
        {"WindowCenter": 0, "WindowWidth": 400, "AcquisitionTime": "090500"},
    ),
    "SeriesDescription": ({"SeriesDescription": "anat"}, {"SeriesDescription": "B0"}),
    "ScanOptions": ({"ScanOptions": "FC"}, {"ScanOptions": "B0"}),
    "ImageComments and times": (
        {"ImageComments": "magnitude", "AcquisitionTime": "090000"},
        {"ImageComments": "field", "AcquisitionTime": "090500"},
    ),
}


@pytest.mark.parametrize("tag", TELLING)
def test_a_magnitude_and_its_field_map_are_split_by_what_tells_them_apart(tag, magnitude, field, tmp_path):
    of_magnitude, of_field = TELLING[tag]
    all_series = find_series(both(tmp_path / "s", magnitude, field, of_magnitude, of_field, EchoTime=5.0))
    assert len(all_series) == 2
    (scan,) = (series for series in all_series if series.restorable and (read_series(series).voxels >= 0).all())
    assert np.array_equal(stored(read_series(scan)), magnitude)
    assert main(["denoise", str(tmp_path / "s"), str(tmp_path / "out"), "--dry-run"]) in (0, 8)


def test_a_map_of_both_signs_is_left_alone_though_no_word_says_so(field, tmp_path, capsys):
    folder = phantoms_dicom.write_series(tmp_path / "s", field)
    assert main(["denoise", str(folder), str(tmp_path / "out")]) == 3
    assert "both signs (-199 to 199)" in capsys.readouterr().err


def copy_of_one(folder, change):
    """A slice once more, changed."""
    path = phantoms_dicom.by_position(folder)[4]
    image = pydicom.dcmread(path)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = "1.2.99"
    change(image)
    image.save_as(folder / "again")


def brighter(image):
    image.PixelData = (np.frombuffer(image.PixelData, np.int16) + 1).tobytes()


def one_bit(image):
    pixels = np.frombuffer(image.PixelData, np.int16).copy()
    pixels[pixels.size // 2] += 1
    image.PixelData = pixels.tobytes()


def other_slope(image):
    image.RescaleSlope, image.RescaleIntercept = 2, 0


def packed(image):
    image.compress(JPEGLSLossless, generate_instance_uid=False)


@pytest.mark.parametrize(
    ("change", "copy"),
    [(lambda image: None, True), (packed, True), (brighter, False), (one_bit, False), (other_slope, False)],
    ids=["the same", "packed", "brighter", "one bit", "another slope"],
)
def test_only_equal_pixels_are_a_copy(change, copy, magnitude, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", magnitude)
    copy_of_one(folder, change)
    (series,) = find_series(folder)
    assert series.verdict == ("duplicate" if copy else "mixed")
    if copy:
        assert np.array_equal(stored(read_series(series, fix=True)), magnitude)
        return
    with pytest.raises(GeometryError, match=r"1 of its positions holds .* no copies"):
        read_series(series, fix=True)


def in_time(folder, volumes, said, **more):
    """Volumes one after another, each with what `said` gives for its number."""
    for number, voxels in enumerate(volumes):
        tags = {**said(number), "edit": said(number).get("edit")}
        phantoms_dicom.write_series(folder, voxels, uid="1.2.3", stamp=f"v{number}", **more, **tags)
    return folder


def per_slice(number):
    def edit(image, k):
        image.AcquisitionTime = f"09{number:02d}{3 * k % 10:02d}.5"

    return {"edit": edit}


def counted(number_of):
    def edit(image, k):
        image.InstanceNumber = number_of(k)

    return edit


MOMENTS = {
    "TemporalPositionIdentifier": lambda number: {"TemporalPositionIdentifier": number + 9},
    "AcquisitionNumber": lambda number: {"AcquisitionNumber": number + 9},
    "TriggerTime": lambda number: {"TriggerTime": 50.0 * number},
    "DiffusionGradientOrientation": lambda number: {"DiffusionGradientOrientation": np.eye(3)[number].tolist()},
    "AcquisitionTime": lambda number: {"AcquisitionTime": f"09{number:02d}00"},
    "times of each slice": per_slice,
    "InstanceNumber, volume by volume": lambda number: {"edit": counted(lambda k: 10 * number + k + 1)},
    "InstanceNumber, slice by slice": lambda number: {"edit": counted(lambda k: 3 * k + number + 1)},
}


@pytest.mark.parametrize("modality", ["MR", "CT"])
@pytest.mark.parametrize("name", MOMENTS)
def test_one_volume_of_several_is_read_and_the_whole_is_refused_as_what_it_is(name, modality, magnitude, tmp_path):
    volumes = [magnitude + 10 * number for number in range(3)]
    (series,) = find_series(in_time(tmp_path / "s", volumes, MOMENTS[name], modality=modality))
    for fix in (False, True):
        with pytest.raises(NotRestorable, match=r"it is 4D: 3 volumes.*--volume 0 to 2") as problem:
            read_series(series, fix=fix)
        assert "copies" not in str(problem.value)
    for number, voxels in enumerate(volumes):
        volume = read_series(series, volume_index=number)
        assert np.array_equal(stored(volume), voxels)
        assert volume.spacing == pytest.approx((0.9, 0.8, 2.0))
    with pytest.raises(UsageError, match="no volume 3: it holds 3"):
        read_series(series, volume_index=3)


def of_time(modality):
    def edit(frame, k):
        frame.FrameContentSequence[0].TemporalPositionIndex = 1 + k // 5
        frame.FrameContentSequence[0].DimensionIndexValues = [1 + k % 5, 1 + k // 5]
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20, -30, 5 + 2.0 * (k % 5)]
        if modality == "CT":
            frame.CTImageFrameTypeSequence = frame.pop("MRImageFrameTypeSequence").value
            frame.CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "DYNAMIC", "NONE"]

    return edit


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_dynamic_enhanced_images_take_the_way_of_classic_ones(modality, magnitude, tmp_path):
    enhanced = phantoms_dicom.write_enhanced(tmp_path / "e", magnitude, edit=of_time(modality), Modality=modality)
    halves = [magnitude[..., :5], magnitude[..., 5:]]
    classic = in_time(tmp_path / "c", halves, MOMENTS["TemporalPositionIdentifier"], modality=modality)
    messages = []
    for folder in (enhanced, classic):
        (series,) = find_series(folder)
        messages.append(series.reason)
        for number, half in enumerate(halves):
            assert np.array_equal(stored(read_series(series, volume_index=number)), half)
    assert messages[0] == messages[1]


ENHANCED_MOMENTS = {
    "FrameAcquisitionNumber": lambda number: number + 1,
    "FrameAcquisitionDateTime": lambda number: f"2020010109000{number}.25",
    "TemporalPositionIndex": lambda number: 3 - number,  # whatever the order of the frames
}


@pytest.mark.parametrize("name", [*ENHANCED_MOMENTS, "DimensionIndexValues"])
def test_frames_of_enhanced_ct_are_distinguished_by_each_of_their_moments(name, magnitude, tmp_path):
    def edit(frame, k):
        content, number = frame.FrameContentSequence[0], k // 5
        content.DimensionIndexValues = [number + 1, 1 + k % 5] if name == "DimensionIndexValues" else 1 + k % 5
        content.InStackPositionNumber = 1 + k % 5
        if name in ENHANCED_MOMENTS:
            setattr(content, name, ENHANCED_MOMENTS[name](number))
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20, -30, 5 + 2.0 * (k % 5)]

    said = {"Modality": "CT", "SOPClassUID": EnhancedCTImageStorage}
    if name == "DimensionIndexValues":
        pointers = [pydicom.Dataset(), pydicom.Dataset()]
        pointers[0].DimensionIndexPointer, pointers[1].DimensionIndexPointer = 0x00209128, 0x00209057
        said["DimensionIndexSequence"] = pointers
    (series,) = find_series(phantoms_dicom.write_enhanced(tmp_path / "s", magnitude, edit=edit, **said))
    assert "it is 4D: 2 volumes" in series.reason
    halves = [magnitude[..., :5], magnitude[..., 5:]]
    volumes_read = [stored(read_series(series, volume_index=number)) for number in range(2)]
    assert all(
        np.array_equal(a, b)
        for a, b in zip(volumes_read, halves[::-1] if name == "TemporalPositionIndex" else halves, strict=True)
    )


def test_one_enhanced_file_for_each_volume_is_one_series_of_several(magnitude, tmp_path):
    for number in range(3):
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        said = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.4"}
        phantoms_dicom.write_enhanced(tmp_path / "one", magnitude + number, **said, InstanceNumber=3 - number)
        (tmp_path / "s").mkdir(exist_ok=True)
        shutil.copyfile(tmp_path / "one" / "enhanced", tmp_path / "s" / f"{number}")
    (series,) = find_series(tmp_path / "s")
    assert "3 volumes" in series.reason
    volumes_read = [stored(read_series(series, volume_index=number)) for number in range(3)]
    assert [int((values - magnitude).max()) for values in volumes_read] == [2, 1, 0]  # as InstanceNumber orders them


def test_a_time_series_that_was_broken_off_is_no_heap_of_copies(magnitude, tmp_path):
    volumes = [magnitude, magnitude + 1, magnitude[..., :6] + 2]
    (series,) = find_series(in_time(tmp_path / "s", volumes, MOMENTS["AcquisitionNumber"]))
    assert "it is 4D: 3 volumes" in series.reason
    assert np.array_equal(stored(read_series(series, volume_index=2)), volumes[2])
    (series,) = find_series(in_time(tmp_path / "t", volumes, per_slice))
    with pytest.raises(NotRestorable, match="a time series whose volumes are not complete"):
        read_series(series, fix=True)


def test_remarks_that_change_from_time_to_time_split_no_time_series(magnitude, tmp_path):
    said = lambda number: {"AcquisitionNumber": number, "ImageComments": f"motion {number}"}  # noqa: E731
    (series,) = find_series(in_time(tmp_path / "s", [magnitude, magnitude + 1], said))
    assert "it is 4D: 2 volumes" in series.reason


def test_a_time_series_of_equal_images_is_no_heap_of_copies_either(magnitude, tmp_path):
    for name, volumes in (("whole", [magnitude] * 3), ("broken off", [magnitude, magnitude, magnitude[..., :6]])):
        (series,) = find_series(in_time(tmp_path / name, volumes, MOMENTS["AcquisitionTime"]))
        assert "it is 4D: 3 volumes" in series.reason
    (series,) = find_series(
        in_time(tmp_path / "copies", [magnitude] * 3, lambda number: {"ContentTime": f"09{number:02d}00"})
    )
    assert series.verdict == "duplicate"


def test_images_of_one_place_are_times_of_it_or_of_unknown_place(magnitude, tmp_path):
    slices = [magnitude[..., k : k + 1] for k in range(4)]
    (series,) = find_series(in_time(tmp_path / "t", slices, MOMENTS["AcquisitionTime"]))
    with pytest.raises(NotRestorable, match=r"it is 4 images of one position .a time series"):
        read_series(series)
    assert np.array_equal(stored(read_series(series, volume_index=1)), slices[1])
    (series,) = find_series(in_time(tmp_path / "u", slices, lambda number: {}))
    with pytest.raises(NotRestorable, match="Where each of them lies is not known"):
        read_series(series, fix=True)
    (series,) = find_series(in_time(tmp_path / "v", slices[:1] * 3, lambda number: {}))
    assert series.verdict == "duplicate"
    assert np.array_equal(stored(read_series(series, fix=True)), slices[0])


def nowhere(frame, k):
    del frame.PlanePositionSequence


def test_frames_without_a_position_do_not_lie_at_one(magnitude, tmp_path):
    said = {"ImagePositionPatient": [0, 0, 0]}  # of the file as a whole, which says nothing about its frames
    folder = phantoms_dicom.write_enhanced(tmp_path / "s", magnitude, edit=nowhere, **said)
    all_series = find_series(folder)
    assert {series.verdict for series in all_series} == {"not a volume"}
    for series in all_series:
        with pytest.raises(NotRestorable, match="its ImagePositionPatient is missing"):
            read_series(series)


def test_every_interface_chooses_a_volume(magnitude, tmp_path, capsys):
    scan, out = in_time(tmp_path / "in" / "t", [magnitude, magnitude + 1], MOMENTS["AcquisitionNumber"]), tmp_path / "o"
    assert np.array_equal(stored(medldm.read(scan, volume_index=1)), magnitude + 1)
    with pytest.raises(InputError, match="--volume 0 to 1"):
        medldm.read(scan)
    for volume, code in ((None, 3), ("1", 0), ("7", 2)):
        more = ["--volume", volume] if volume else []
        assert main(["denoise", str(scan), str(out), "--dry-run", *more]) == code
    phantoms_dicom.write_series(tmp_path / "in" / "s", magnitude, number=4)
    assert np.array_equal(stored(medldm.read(tmp_path / "in")), magnitude)  # the other one holds several volumes
    capsys.readouterr()
    assert main(["denoise", str(tmp_path / "in"), str(out), "--dry-run", "--volume", "1"]) == 0
    assert "2 cases: 2" in capsys.readouterr().err
    assert main(["denoise", str(tmp_path / "in"), str(out), "--dry-run"]) == 0
    assert "skipped: t: " in capsys.readouterr().err
