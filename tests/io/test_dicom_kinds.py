"""What DICOM comes as: enhanced, compressed, signed or not, scaled slice by slice; and what is no scan at all."""

import logging
import shutil
import subprocess

import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest
from pydicom.pixels.decoders import JPEGLSLosslessDecoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medldm.errors import InputError, NotRestorable
from medldm.io.dicom import find_series, read_series
from medldm.io.dicom.pixels.decode_worker import worker
from medldm.io.dicom.pixels.image import decode, load


@pytest.fixture
def voxels():
    return phantoms.brain((32, 36, 12)).astype(np.int16)


def only(folder):
    (series,) = find_series(folder)
    return series


def stored(folder):
    volume = read_series(only(folder))
    return volume.to_stored(volume.voxels)


def test_frames_of_an_enhanced_image_are_sorted_by_position(voxels, tmp_path):
    series = only(phantoms_dicom.write_enhanced(tmp_path / "s", voxels))
    assert (series.verdict, series.shape, series.spacing) == ("regular", (32, 36, 12), (0.9, 0.8, 2.0))
    assert len(series.files) == 1
    assert np.array_equal(stored(tmp_path / "s"), voxels)


def test_frames_have_slopes_of_their_own(voxels, tmp_path):
    slopes = np.linspace(1, 3, 12)
    values = stored(phantoms_dicom.write_enhanced(tmp_path / "s", voxels, slopes=slopes))
    assert np.allclose(values, voxels * slopes, rtol=1e-6)


def test_an_enhanced_image_says_which_frame_is_missing(voxels, tmp_path):
    kept = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    series = only(phantoms_dicom.write_enhanced(tmp_path / "s", voxels, order=kept, NumberOfFrames=len(kept)))
    assert (series.verdict, series.missing) == ("missing", (4,))


def swapped(frame, k):
    content = frame.FrameContentSequence[0]
    if k in (3, 9):
        content.DimensionIndexValues = content.InStackPositionNumber = 13 - k


def test_indices_that_contradict_positions_are_refused(voxels, tmp_path):
    series = only(phantoms_dicom.write_enhanced(tmp_path / "s", voxels, edit=swapped))
    assert series.verdict == "mixed"
    assert "DimensionIndexValues" in series.reason


def timed(frame, k):
    frame.FrameContentSequence[0].TemporalPositionIndex = 1 + k // 6
    frame.PlanePositionSequence[0].ImagePositionPatient = [-20, -30, 5 + 2.0 * (k % 6)]


def test_an_enhanced_image_of_several_times_is_4d(voxels, tmp_path):
    series = only(phantoms_dicom.write_enhanced(tmp_path / "s", voxels, edit=timed))
    assert series.verdict == "not a volume"
    assert "it is 4D: 2 volumes" in series.reason


def phases(frame, k):
    if k >= 6:
        frame.MRImageFrameTypeSequence[0].ComplexImageComponent = "PHASE"
        frame.PlanePositionSequence[0].ImagePositionPatient = [-20, -30, 5 + 2.0 * (k - 6)]


def test_the_phase_in_an_enhanced_image_stays_apart(voxels, tmp_path):
    by_verdict = {
        series.verdict: series for series in find_series(phantoms_dicom.write_enhanced(tmp_path, voxels, edit=phases))
    }
    assert set(by_verdict) == {"regular", "not a volume"}
    volume = read_series(by_verdict["regular"])
    assert np.array_equal(volume.to_stored(volume.voxels), voxels[:, :, :6])


def test_frames_that_do_not_match_their_groups_are_refused(voxels, tmp_path):
    series = only(phantoms_dicom.write_enhanced(tmp_path / "s", voxels, NumberOfFrames=7))
    assert series.verdict == "not a volume"
    assert "dcm2niix" in series.reason


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda uid: uid.name)
@pytest.mark.parametrize("signed", [True, False])
def test_compressed_pixels_are_those_of_the_original(syntax, signed, voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, signed=signed)
    phantoms_dicom.edit(folder, lambda image: image.compress(syntax, generate_instance_uid=False))
    assert np.array_equal(stored(folder), voxels)


@pytest.mark.slow
def test_lossless_jpeg_gives_the_pixels_of_the_original(voxels, tmp_path):
    assert np.array_equal(
        stored(phantoms_dicom.jpeg_lossless(phantoms_dicom.write_series(tmp_path / "s", voxels))), voxels
    )


@pytest.mark.parametrize(("said", "step"), [({}, 2.0), ({"SpacingBetweenSlices": 6}, 6.0)])
def test_a_single_image_is_as_thick_as_its_header_says(said, step, voxels, tmp_path):
    volume = read_series(only(phantoms_dicom.write_series(tmp_path / "s", voxels[:, :, :1], **said)))
    assert volume.spacing[2] == pytest.approx(step)
    assert volume.stored.note == ()


def test_a_single_image_of_unknown_thickness_says_what_is_assumed(voxels, tmp_path):
    folder = phantoms_dicom.write_series(
        tmp_path / "s", voxels[:, :, :1], SliceThickness=None, SpacingBetweenSlices=None
    )
    volume = read_series(only(folder))
    assert volume.spacing[2] == 1.0
    assert "1 mm is assumed" in volume.stored.note[0]


def test_a_missing_codec_is_named_with_the_package_to_install(voxels, tmp_path, monkeypatch):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)
    phantoms_dicom.edit(folder, lambda image: image.compress(JPEGLSLossless, generate_instance_uid=False))
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(InputError, match=r"JPEG-LS Lossless.*pip install pyjpegls"):
        read_series(only(folder))


def test_slopes_that_change_from_slice_to_slice_are_applied_one_by_one(voxels, tmp_path):
    slopes, intercepts = np.linspace(0.5, 2, 12), np.arange(12) * 10.0
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, modality="CT", slope=slopes, intercept=intercepts)
    assert np.allclose(stored(folder), voxels * slopes + intercepts, rtol=1e-6)


def test_twelve_bits_are_read_without_what_lies_above_them(tmp_path):
    values = np.tile(np.arange(-2048, 2048, 4, dtype=np.int16).reshape(32, 32, 1), (1, 1, 4))

    def dirty(image, _):
        raw = np.frombuffer(image.PixelData, np.uint16)
        image.add_new("PixelData", "OW", ((raw & 0x0FFF) | 0x5000).tobytes())

    assert np.array_equal(stored(phantoms_dicom.write_series(tmp_path / "s", values, bits=12, edit=dirty)), values)


def test_unsigned_values_above_the_signed_range_survive(tmp_path):
    values = np.linspace(0, 65535, 32 * 32 * 4).reshape(32, 32, 4).round()
    read_back = stored(phantoms_dicom.write_series(tmp_path / "s", values, signed=False))
    assert read_back.dtype == np.uint16
    assert np.array_equal(read_back, values)


def test_padding_and_monochrome1_change_no_value(voxels, tmp_path):
    said = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    volume = read_series(only(phantoms_dicom.write_series(tmp_path / "s", voxels, **said)))
    assert np.array_equal(volume.to_stored(volume.voxels), voxels)
    assert "MONOCHROME1" in volume.stored.note[0]


def colour(image, _):
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PlanarConfiguration = 3, "RGB", 0
    image.add_new("PixelData", "OW", image.PixelData * 3)


def mosaic(image, _):
    image.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    image.add_new(0x0019100A, "US", 36)


def palette(image, _):
    image.PhotometricInterpretation = "PALETTE COLOR"


def many(image, _):
    image.NumberOfFrames = 2
    image.add_new("PixelData", "OW", image.PixelData * 2)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"edit": colour}, "colour.*grey-valued series"),
        ({"edit": palette}, "colour"),
        ({"edit": mosaic}, "mosaic.*dcm2niix"),
        ({"edit": many}, "multi-frame.*dcm2niix"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "phase"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "parameter map"),
        ({"modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"Modality": "PT"}, "PT, not MR or CT"),
    ],
)
def test_what_is_no_scan_is_left_alone_with_a_hint(said, reason, voxels, tmp_path):
    all_series = find_series(phantoms_dicom.write_series(tmp_path / "s", voxels, **said))
    assert {series.verdict for series in all_series} == {"not a volume"}
    with pytest.raises(NotRestorable, match=reason):
        read_series(all_series[0], fix=True)


def test_a_table_in_place_of_a_slope_is_refused(voxels, tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [2, 0, 16], b"\0\0\1\0"
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, ModalityLUTSequence=[table])
    with pytest.raises(NotRestorable, match="Modality LUT"):
        read_series(only(folder))


def test_times_at_the_same_positions_are_4d_and_coils_are_distinguished(voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "t", voxels, uid="1.2.3", TemporalPositionIdentifier=1)
    phantoms_dicom.write_series(folder, voxels, uid="1.2.3", TemporalPositionIdentifier=2, stamp="later")
    assert "it is 4D: 2 volumes" in only(folder).reason
    folder = phantoms_dicom.write_series(tmp_path / "c", voxels, uid="1.2.4", ReceiveCoilName="A")
    phantoms_dicom.write_series(folder, voxels, uid="1.2.4", ReceiveCoilName="B", stamp="other")
    assert [series.verdict for series in find_series(folder)] == ["regular", "regular"]


def test_diffusion_weightings_of_every_maker_are_distinguished(voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, uid="1.2.3", Manufacturer="SIEMENS", edit=weighted(0))
    phantoms_dicom.write_series(folder, voxels, uid="1.2.3", Manufacturer="SIEMENS", edit=weighted(1000), stamp="b")
    assert [series.verdict for series in find_series(folder)] == ["regular", "regular"]


def weighted(b_value):
    def edit(image, _):
        image.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        image.add_new(0x0019100C, "IS", b_value)

    return edit


def test_what_holds_no_image_is_named_in_the_log(voxels, tmp_path, caplog):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)
    report = pydicom.dcmread(next(folder.iterdir()))
    for name in ("Rows", "Columns", "PixelData"):
        del report[name]
    report.save_as(folder / "report")
    (folder / "DICOMDIR").write_bytes(next(folder.glob("IM*")).read_bytes())
    (folder / "readme.txt").write_text("words")
    with caplog.at_level("INFO"):
        (series,) = find_series(folder, log=logging.getLogger("tests"))
    assert series.verdict == "regular"
    result = [record.getMessage() for record in caplog.records]
    assert [message.endswith("holds no image") for message in result] == [True, True]
    assert "Doe" not in "".join(result)


@pytest.mark.parametrize("seed", range(12))
def test_bytes_changed_by_lot_end_in_a_volume_or_a_sentence(seed, tmp_path):
    draw = np.random.default_rng(seed)
    voxels = phantoms.brain((16, 18, 5)).astype(np.int16)
    write = phantoms_dicom.write_enhanced if seed % 2 else phantoms_dicom.write_series
    path = sorted(write(tmp_path / "s", voxels).iterdir())[0]
    data = bytearray(path.read_bytes())
    header = data.rfind(b"\xe0\x7f\x10\x00")  # where the pixels begin
    for place in draw.integers(132, header, 4):
        data[place : place + int(draw.integers(0, 4))] = draw.bytes(int(draw.integers(0, 4)))
    path.write_bytes(data)
    ends = [end_of(series) for series in find_series(tmp_path / "s")]
    assert all(isinstance(end, str) or (np.isfinite(end.affine).all() and min(end.spacing) > 0) for end in ends)


def end_of(series):
    try:
        return read_series(series, fix=True)
    except InputError as problem:
        return str(problem)


def written_high(image, k):
    """Twelve bits at the top of sixteen, as scanners of the eighties wrote them."""
    image.HighBit = 15
    image.PixelData = (
        np.frombuffer(image.PixelData, np.int16 if image.PixelRepresentation else np.uint16) << 4
    ).tobytes()


@pytest.mark.parametrize("signed", [False, True])
def test_bits_at_the_top_of_their_words_are_moved_down(signed, voxels, tmp_path):
    seen = voxels - 300 if signed else voxels
    folder = phantoms_dicom.write_series(tmp_path / "s", seen, signed=signed, bits=12, edit=written_high)
    assert np.array_equal(stored(folder), seen)
    image = load(next(folder.iterdir()))
    decode(image, folder)
    assert image.BitsStored == 12  # what is derived from it says so too


@pytest.mark.parametrize("high", [15, None])
def test_a_high_bit_that_is_merely_wrong_changes_nothing(high, voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels, bits=12, HighBit=high)
    assert np.array_equal(stored(folder), voxels)


@pytest.mark.skipif(not shutil.which("dcmcjpeg"), reason="dcmcjpeg (dcmtk) is not installed")
@pytest.mark.parametrize("signed", [False, True])
def test_twelve_bits_in_extended_jpeg_are_those_of_simpleitk(signed, voxels, tmp_path):
    import SimpleITK as sitk

    folder = phantoms_dicom.write_series(tmp_path / "s", 4 * voxels, signed=False, bits=12)
    for path in folder.iterdir():
        subprocess.run(["dcmcjpeg", "+ee", "+q", "100", path, path], check=True, capture_output=True)
    phantoms_dicom.edit(folder, lambda image: setattr(image, "PixelRepresentation", int(signed)))
    image = pydicom.dcmread(next(folder.iterdir()))
    assert (image.file_meta.TransferSyntaxUID.name, image.BitsStored) == ("JPEG Extended (Process 2 and 4)", 12)
    result = stored(folder)
    theirs = [sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].T for path in phantoms_dicom.by_position(folder)]
    assert np.array_equal(result, np.stack(theirs, axis=2))
    assert np.unique(result).size > 100
    if not signed:
        assert np.abs(result.astype(int) - 4 * voxels).max() <= 8  # lossy


def refusing(plugin, monkeypatch):
    """A codec that fails on every stream, as pyjpegls does on some that GDCM decodes; those that were asked."""
    asked, unpack = [], worker.decode

    def answer(dataset, frame, name):
        asked.append(name)
        if name in plugin:
            raise ValueError("internal words of a codec")
        return unpack(dataset, frame, name)

    monkeypatch.setattr(worker, "decode", answer)
    return asked


def test_the_next_codec_is_tried_before_pixels_are_called_damaged(voxels, tmp_path, monkeypatch):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)
    phantoms_dicom.edit(folder, lambda image: image.compress(JPEGLSLossless, generate_instance_uid=False))
    asked = refusing(["pyjpegls"], monkeypatch)
    assert np.array_equal(stored(folder), voxels)
    assert asked[:2] == ["pyjpegls", "gdcm"]
    refusing(["pyjpegls", "gdcm"], monkeypatch)
    with pytest.raises(InputError, match=r"damaged or cut short: none of the codecs .*\(pyjpegls, gdcm\)") as problem:
        read_series(only(folder))
    assert "internal words" not in str(problem.value)
    assert "internal words" in str(problem.value.__cause__.__cause__)  # for -v


def truncated(image):
    image.PixelData = image.PixelData[:-100]


def without_bits(image):
    del image.BitsAllocated


@pytest.mark.parametrize(
    ("change", "arguments"),
    [(truncated, r"cut short \(2204 of 2304 bytes are there\)"), (without_bits, "its header lacks BitsAllocated")],
)
def test_pixels_that_cannot_be_had_are_reported_in_our_words(change, arguments, voxels, tmp_path):
    folder = phantoms_dicom.edit(phantoms_dicom.write_series(tmp_path / "s", voxels), change, which=(3,))
    with pytest.raises(InputError, match=arguments):
        read_series(only(folder))


def test_a_packed_stream_that_was_cut_is_reported_without_the_words_of_its_codec(voxels, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "s", voxels)

    def cut(image):
        image.compress(JPEGLSLossless, generate_instance_uid=False)
        frame = pydicom.encaps.get_frame(image.PixelData, 0, number_of_frames=1)
        image.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2]])

    phantoms_dicom.edit(folder, cut, which=(5,))
    with pytest.raises(InputError, match="damaged or cut short") as problem:
        read_series(only(folder))
    assert "plugins" not in str(problem.value)


def test_a_file_that_ends_early_is_said_to_do_so(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"\0" * 128 + b"DICM\x02\x00\x00\x00UL\x04\x00\x90")
    with pytest.raises(InputError, match=r"cannot be read as DICOM: it|cannot be read as DICOM: its header"):
        load(tmp_path / "x.dcm")
