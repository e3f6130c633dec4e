"""One good series, damaged in many ways: what comes out is the right volume or a sentence, never a wrong spacing.

Every voxel holds a linear function of its place in the world, so that a volume proves its own geometry, and linear
interpolation (--fix) must reproduce it too.
"""

import shutil
from functools import partial

import numpy as np
import phantoms_dicom
import pytest
from pydicom.uid import generate_uid

from medldm.errors import InputError
from medldm.io.dicom import find_series, read_series

COUNT, STEP = 20, 2.0
PER_MM = np.array([8.0, 9.0, 10.0])  # stored units for each mm along x, y, z (LPS)
ZERO = 2000.0
SIDEWAYS = (0, 1, 0, 0, 0, -1)


def paint(image, _=0):
    """Give every pixel the value of its place, by the header that the slice has now."""
    (rows_mm, columns_mm), corner = map(float, image.PixelSpacing), np.array(image.ImagePositionPatient, float)
    across, down = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    column, row = np.meshgrid(np.arange(image.Columns), np.arange(image.Rows))
    value = ZERO + corner @ PER_MM + column * columns_mm * (across @ PER_MM) + row * rows_mm * (down @ PER_MM)
    image.add_new("PixelData", "OW", np.rint(value).astype(np.int16).tobytes())


def draw(folder, **said):
    voxels = np.zeros((24, 28, said.pop("count", COUNT)))
    extra = said.pop("edit", lambda image, k: None)

    def edit(image, k):
        extra(image, k)
        paint(image)

    return phantoms_dicom.write_series(folder, voxels, **{"uid": "1.2.3", "edit": edit, **said})


def again(folder, **said):
    """The good series, and more images of the same series beside it."""
    draw(folder)
    return draw(folder, stamp="more", **said)


def exported(folder, edit):
    """A series whose slices have times, and once more under new UIDs."""
    draw(folder, edit=timed(9))
    return draw(folder, stamp="more", edit=edit)


def edit(folder, edit, which=None, **said):
    return phantoms_dicom.edit(draw(folder, **said), edit, which)


def tags(**said):
    def change(image, *_):
        for tag, value in said.items():
            setattr(image, tag, value)

    return change


def copied(folder):
    path = phantoms_dicom.by_position(draw(folder))[5]
    shutil.copyfile(path, folder / "copy")
    return folder


def cut(folder, lost=900):
    phantoms_dicom.cut_short(phantoms_dicom.by_position(draw(folder))[6], lost)
    return folder


def emptied(folder):
    phantoms_dicom.by_position(draw(folder))[6].write_bytes(b"")
    return folder


def moved(mm, direction):
    def change(image):
        image.ImagePositionPatient = [
            float(v) + mm * d for v, d in zip(image.ImagePositionPatient, direction, strict=True)
        ]

    return change


def rotated(image):
    image.ImageOrientationPatient = list(SIDEWAYS)


def without_position(image):
    del image.ImagePositionPatient


def swapped_numbers(image):
    image.InstanceNumber = 1000 - int(image.InstanceNumber)


def other_pixels(image, k):
    image.PixelSpacing = [0.5, 0.5] if k == 8 else image.PixelSpacing


def of_another_kind(image, _):
    image.ImageType = ["DERIVED", "SECONDARY", "M"]


def timed(hour):
    def change(image, k):
        image.AcquisitionTime = f"{hour:02d}00{k:02d}"

    return change


def other_values(image, k):
    """The same moment and place, and another picture."""
    timed(9)(image, k)
    image.RescaleSlope = 2.0


EVEN, WIDE = np.arange(COUNT) * STEP, np.concatenate([np.arange(10) * 2.5, 22.5 + np.arange(1, 11) * 5.0])

# name: how to make it; verdicts in order of name; slices of the grid that must come out without --fix
VARIANTS = {
    "as it is": (draw, ["regular"], COUNT),
    "one dropped": (partial(draw, missing=(7,)), ["missing"], COUNT),
    "three dropped": (partial(draw, missing=(4, 5, 11)), ["missing"], COUNT),
    "the ends dropped": (partial(draw, missing=(0, 19)), ["regular"], COUNT - 2),
    "every other dropped": (partial(draw, missing=tuple(range(1, COUNT, 2))), ["regular"], COUNT // 2),
    "most dropped": (partial(draw, missing=tuple(range(2, 18))), ["irregular"], None),
    "a file twice": (copied, ["duplicate"], None),
    "a slice taken twice": (partial(again, count=1, origin=(-20, -30, 9)), ["duplicate"], None),
    "exported twice": (partial(exported, edit=timed(9)), ["duplicate"], None),
    "taken twice": (partial(exported, edit=timed(11)), ["not a volume"], None),
    "another picture of the same moment": (partial(exported, edit=other_values), ["mixed"], None),
    "a slice beside another": (partial(again, count=1, origin=(-20, -30, 9.15)), ["mixed"], None),
    "numbers reversed": (partial(edit, edit=swapped_numbers, shuffled=False), ["regular"], COUNT),
    "numbers all one": (partial(edit, edit=tags(InstanceNumber=1)), ["regular"], COUNT),
    "thickness wrong": (partial(draw, SliceThickness=0.5), ["regular"], COUNT),
    "spacing tag wrong": (partial(draw, SpacingBetweenSlices=7.0), ["regular"], COUNT),
    "jitter of 5 um": (partial(draw, jitter=0.005), ["regular"], COUNT),
    "jitter of 0.3 mm": (partial(draw, jitter=0.3), ["irregular"], None),
    "spacing doubles": (partial(draw, along=WIDE, shuffled=False), ["irregular"], None),
    "spacing of 2.0 to 2.6": (partial(draw, along=EVEN + np.linspace(0, 1, COUNT) ** 2 * 6), ["irregular"], None),
    "tilt of 15 degrees": (partial(draw, shear=STEP * np.tan(np.radians(15))), ["tilted"], None),
    "tilt, one dropped": (partial(draw, shear=0.5, missing=(6,)), ["tilted"], None),
    "tilt, uneven": (partial(draw, shear=0.5, along=WIDE), ["irregular"], None),
    "a stray slice": (partial(again, count=1, origin=(-20, -30, 105)), ["irregular"], None),
    "a stray slice nearby": (partial(again, count=1, origin=(-20, -30, 50.3)), ["irregular"], None),
    "a slice turned": (partial(edit, edit=rotated, which=(8,)), ["missing", "not a volume"], COUNT),
    "a slice 0.7 mm off": (partial(edit, edit=moved(0.7, (0, 0, 1)), which=(8,)), ["irregular"], None),
    "a slice 5 mm aside": (partial(edit, edit=moved(5.0, (0, 1, 0)), which=(8,)), ["irregular"], None),
    "a slice without position": (
        partial(edit, edit=without_position, which=(8,)),
        ["missing", "not a volume"],
        COUNT,
    ),
    "a slice of other pixels": (partial(draw, edit=other_pixels), ["missing", "single"], COUNT),
    "a localizer inside": (
        partial(again, count=3, orientation=SIDEWAYS, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ["not a volume", "regular"],
        COUNT,
    ),
    "a second echo": (partial(again, EchoTime=80.0), ["regular", "regular"], COUNT),
    "another kind between": (partial(again, origin=(-20, -30, 6), edit=of_another_kind), ["mixed", "mixed"], None),
    "another study between": (
        partial(again, origin=(-20, -30, 6), StudyInstanceUID=generate_uid()),
        ["regular", "regular"],
        COUNT,
    ),
    "another frame of reference": (
        partial(again, origin=(-20, -30, 6), FrameOfReferenceUID=generate_uid()),
        ["regular", "regular"],
        COUNT,
    ),
    "a file cut short": (cut, ["regular"], None),
    "a file cut in its header": (partial(cut, lost=1900), ["missing"], COUNT),
    "a file emptied": (emptied, ["missing"], COUNT),
    "no preamble": (lambda folder: phantoms_dicom.without_preamble(draw(folder)), ["regular"], COUNT),
}
LIES = ("a slice 0.7 mm off", "a slice 5 mm aside")  # their headers are wrong, so --fix cannot know better
REPAIRABLE = ("duplicate", "irregular", "tilted")
BEYOND_REPAIR = ("a stray slice", "most dropped")


def off_by(volume):
    """Largest difference between what voxels hold and what their place says, in stored units; background aside."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    world = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    said = ZERO + (world * [-1, -1, 1]) @ PER_MM
    inside = np.isfinite(volume.voxels) & (volume.voxels > np.nanmin(volume.voxels))
    assert inside.mean() > 0.3
    return np.abs(volume.voxels - said)[inside].max()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_damaged_series_ends_in_the_right_volume_or_a_sentence(name, tmp_path):
    make, verdicts, slices = VARIANTS[name]
    all_series = find_series(make(tmp_path / "s"))
    assert sorted(series.verdict for series in all_series) == sorted(verdicts)
    read, sentences = [], []
    for series in all_series:
        try:
            read.append(read_series(series))
        except InputError as problem:
            sentences.append(str(problem))
    assert all(len(sentence.split()) > 8 for sentence in sentences)
    assert bool(read) == (slices is not None)
    assert all(volume.shape[2] == slices for volume in read if volume.shape[2] > 1)
    assert max(map(off_by, read), default=0) < 1


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in LIES])
def test_fix_repairs_what_it_can_and_puts_nothing_in_a_wrong_place(name, tmp_path):
    make, verdicts, _ = VARIANTS[name]
    repairable = [series for series in find_series(make(tmp_path / "s")) if series.verdict in REPAIRABLE]
    for series in repairable:
        if name in BEYOND_REPAIR:
            with pytest.raises(InputError, match="cannot be repaired"):
                read_series(series, fix=True)
            continue
        volume = read_series(series, fix=True)
        assert volume.stored.note
        # Ten units a mm: the values were rounded, and interpolated, so 1.5 says that no voxel is 0.15 mm off.
        assert off_by(volume) < 1.5
    assert bool(repairable) == bool(set(REPAIRABLE) & set(verdicts))


def test_fix_keeps_the_slices_of_a_tilted_series_apart_as_they_were(tmp_path):
    (series,) = find_series(draw(tmp_path / "s", shear=0.5))
    volume = read_series(series, fix=True)
    assert volume.spacing == pytest.approx((0.9, 0.8, STEP))
    assert volume.shape == (24, 28 + int(np.ceil(0.5 * (COUNT - 1) / 0.8)), COUNT)


def test_of_duplicates_the_first_is_kept(tmp_path):
    folder = draw(tmp_path / "s", shuffled=False, AcquisitionNumber=1)
    draw(folder, stamp="a-second-look", count=1, origin=(-20, -30, 9), AcquisitionNumber=2, edit=tags(InstanceNumber=1))
    (series,) = find_series(folder)
    kept = [path.name for path in read_series(series, fix=True).stored.header and series.files]
    assert any(name.startswith("a-second") for name in kept)
    assert not [
        image for image in read_series(series, fix=True).stored.header if image.path.name.startswith("a-second")
    ]


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("after", [0, 1])
def test_a_stray_slice_half_way_does_not_halve_the_spacing_of_a_few(count, after, tmp_path):
    along = sorted([*(STEP * k for k in range(count)), STEP * (after + 0.5)])
    (series,) = find_series(draw(tmp_path / "s", count=count + 1, along=along, shuffled=False, SliceThickness=STEP))
    assert series.verdict == "irregular"


def test_a_few_slices_of_which_one_was_lost_are_known_by_their_numbers(tmp_path):
    (series,) = find_series(draw(tmp_path / "s", count=4, missing=(2,), shuffled=False, SliceThickness=STEP))
    assert (series.verdict, series.spacing[2]) == ("missing", pytest.approx(STEP))


def test_slices_that_turn_a_little_are_no_localizer(tmp_path):
    def rotated(image, k):
        angle = np.radians(1.5 * (k % 2))
        image.ImageOrientationPatient = [np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0]

    result = find_series(draw(tmp_path / "s", count=8, edit=rotated))
    assert not [series for series in result if "localizer" in series.reason]


@pytest.mark.slow
def test_hundreds_of_kinds_of_images_are_not_all_compared_with_all(tmp_path, monkeypatch):
    from medldm.io.dicom.series import grouping

    compared, same_position_mm = [], grouping.same_position_mm

    def counted(along):
        compared.append(1)
        return same_position_mm(along)

    monkeypatch.setattr(grouping, "same_position_mm", counted)
    folder = draw(tmp_path / "s", count=400, edit=lambda image, k: setattr(image, "ImageType", ["ORIGINAL", f"K{k}"]))
    assert len(find_series(folder)) == 400
    assert len(compared) < 10 * 400  # of 400 * 399
