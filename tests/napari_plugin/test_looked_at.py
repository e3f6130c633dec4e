"""Everything that can be looked at opens; what is not restored says why, and what helps."""

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest
from napari.layers import Image
from napari_medldm.layers import snapshot
from napari_medldm.looked_at import _tiles
from napari_medldm.readers import get_reader
from napari_medldm.refused import Refused, all_volumes, has_volumes, plain, refused, remedied, title
from napari_medldm.writers import write_dicom

import medldm
from medldm.errors import GeometryError, UsageError

LPS_TO_RAS = np.array([-1, -1, 1])


@pytest.fixture
def notices(monkeypatch):
    """What napari tells the user."""
    said = []
    monkeypatch.setattr("napari.utils.notifications.show_info", said.append)
    monkeypatch.setattr("napari.utils.notifications.show_warning", said.append)
    return said


def opened(path):
    return [Image(data, **arguments) for data, arguments, _ in get_reader(str(path))(str(path))]


def after_remedy(layer, point=None):
    data, arguments, _ = remedied(layer, point)
    return Image(data, **arguments)


def voxels(shape=(24, 20, 9)):
    """A brain on a ramp, so that no slice is its own mirror image."""
    ramp = np.arange(np.prod(shape)).reshape(shape)
    return np.rint(phantoms.brain(shape) + ramp / 10).astype(np.int16) + 5


def places(folder):
    """Where the images of a folder lie, by their headers: pixels and RAS mm of their corner."""
    images = [pydicom.dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(image.pixel_array, np.array(image.ImagePositionPatient, float) * LPS_TO_RAS) for image in images]


def lies_as_measured(layer, folder):
    """Whether every image of a folder is a plane of a layer, with its corner where its header says."""
    scan = snapshot(layer)
    _, y, x = scan.shape
    planes = np.asarray(scan.data)
    for pixels, corner in places(folder):
        # The axes of a layer run to right, anterior and superior; those of these images to left and posterior.
        same = np.flatnonzero((planes == pixels[::-1, ::-1]).all(axis=(1, 2)))
        offsets = [(scan.affine @ [x - 1, y - 1, k, 1])[:3] - corner for k in same]
        assert min(map(np.linalg.norm, offsets)) < 0.02
    return True


def test_a_tilted_scan_is_shown_sheared_and_its_remedy_shears_it_back(tmp_path, notices):
    phantoms_dicom.write_series(tmp_path, voxels(), shear=0.5, SeriesDescription="Head  CT")
    (layer,) = opened(tmp_path)
    assert layer.name == "3 Head CT"
    assert lies_as_measured(layer, tmp_path)
    assert refused(layer).reason == "Its slices are sheared by 14.0 degrees (gantry tilt)."
    assert title(layer) == "Shear back and resample"
    assert "neither sheared back nor resampled" in notices[0]
    mended = after_remedy(layer)
    fixed = medldm.read(tmp_path, fix=True)
    assert mended.name == "3 Head CT, sheared back"
    assert refused(mended) is None
    assert np.array_equal(mended.data, fixed.voxels.T)
    assert np.allclose(snapshot(mended).affine, fixed.affine, atol=1e-4)


def test_uneven_slices_are_shown_as_often_as_they_are_thick(tmp_path, notices):
    along = [0, 2, 4, 6, 8, 12, 16, 20, 24]
    phantoms_dicom.write_series(tmp_path, voxels(), along=along)
    (layer,) = opened(tmp_path)
    assert layer.scale[0] == pytest.approx(2)
    assert lies_as_measured(layer, tmp_path)
    assert len({plane.tobytes() for plane in layer.data}) == 9
    assert "its slices lie 2.00 to 4.00 mm apart" in notices[0]
    assert refused(layer).remedy == "Resample to an even spacing"
    assert refused(after_remedy(layer)) is None


def test_nothing_is_shown_between_a_scan_and_a_stray_slice_far_away(tmp_path, notices):
    phantoms_dicom.write_series(tmp_path, voxels(), along=[0, 2, 4, 6, 8, 10, 12, 14, 74])
    (layer,) = opened(tmp_path)
    assert lies_as_measured(layer, tmp_path)
    empty = np.isnan(layer.data).all(axis=(1, 2))
    assert empty.sum() == len(layer.data) - 9
    with pytest.raises(GeometryError, match="hole"):
        remedied(layer)


def test_slices_off_any_line_are_shown_with_a_remark(tmp_path, notices):
    def nudge(image, k):
        image.ImagePositionPatient = [image.ImagePositionPatient[0] + 3 * (k % 2), *image.ImagePositionPatient[1:]]

    phantoms_dicom.write_series(tmp_path, voxels(), edit=nudge)
    (layer,) = opened(tmp_path)
    assert "do not lie on a line" in notices[0]
    assert refused(layer).remedy == "Resample to an even spacing"


def test_images_without_a_place_follow_each_other_anywhere(tmp_path, notices):
    def lost(image, _):
        del image.ImagePositionPatient, image.ImageOrientationPatient

    phantoms_dicom.write_series(tmp_path, voxels(), edit=lost, shuffled=False)
    (layer,) = opened(tmp_path)
    assert layer.data.shape == (9, 1, 20, 24)
    assert "so it lies anywhere" in notices[0]
    assert title(layer) == ""


def repeated(folder, count, *, shear=0.0):
    """A dynamic series: the brain, brighter each time."""
    for number in range(count):
        phantoms_dicom.write_series(
            folder / str(number), voxels() + 100 * number, stamp=str(number), uid="1.2.3", shear=shear,
            TemporalPositionIdentifier=number + 1, SeriesDescription="bold",
        )  # fmt: skip
    return folder


def test_a_dynamic_series_is_one_layer_with_a_slider_and_its_remedy_is_the_volume_at_it(tmp_path, notices):
    (layer,) = opened(repeated(tmp_path, 3))
    assert layer.name == "3 bold"
    assert layer.data.shape == (3, 9, 20, 24)
    assert refused(layer).reason.startswith("It is 4D: 3 volumes at the same positions (a time series")
    assert "--" not in refused(layer).reason
    point = layer.data_to_world((2, 4, 10, 12))
    assert title(layer, point) == "Use volume 2"
    chosen = after_remedy(layer, point)
    assert chosen.name == "3 bold, volume 2"
    assert refused(chosen) is None
    assert np.array_equal(chosen.data, layer.data[2])
    # It knows its own images, so that a derived series would cite them.
    sources = {image.path.parent.name for image in chosen.metadata["medldm"].stored.header}
    assert sources == {"2"}


def test_all_volumes_of_a_dynamic_series_can_be_used_at_once(tmp_path, notices):
    (layer,) = opened(repeated(tmp_path, 3))
    assert has_volumes(layer)
    data, arguments, _ = all_volumes(layer)
    together = Image(data, **arguments)
    assert together.name == "3 bold, all volumes"
    assert refused(together) is None
    assert np.array_equal(together.data, layer.data)
    assert np.allclose(snapshot(together).affine, snapshot(layer).affine)


def test_all_volumes_of_a_tilted_dynamic_series_are_refused_with_a_sentence(tmp_path, notices):
    (layer,) = opened(repeated(tmp_path, 2, shear=0.5))
    with pytest.raises(UsageError, match=r"Volume 0: .*tilt.* Use single volumes"):
        all_volumes(layer)


def test_a_volume_of_a_tilted_dynamic_series_is_refused_in_turn(tmp_path, notices):
    (layer,) = opened(repeated(tmp_path, 2, shear=0.5))
    volume = after_remedy(layer, layer.data_to_world((1, 0, 0, 0)))
    assert refused(volume).remedy == "Shear back and resample"
    assert refused(after_remedy(volume)) is None


def test_four_images_at_one_position_have_a_slider(tmp_path, notices):
    for number in range(4):
        phantoms_dicom.write_series(
            tmp_path / str(number), voxels((24, 20, 1)) + number, uid="1.2.3", AcquisitionNumber=str(number + 1)
        )
    (layer,) = opened(tmp_path)
    assert layer.data.shape == (4, 1, 20, 24)
    assert [frame.min() for frame in layer.data] == [5, 6, 7, 8]
    chosen = after_remedy(layer, layer.data_to_world((1, 0, 0, 0)))
    assert chosen.data.shape == (1, 20, 24)


def test_images_of_two_kinds_at_each_position_follow_each_other(tmp_path, notices):
    magnitude, field = voxels(), (voxels() - 500).astype(np.int16)
    for stamp, kind in (("a", magnitude), ("b", field)):
        phantoms_dicom.write_series(tmp_path, kind, uid="1.2.3", stamp=stamp)
    (layer,) = opened(tmp_path)
    assert layer.data.shape == (2, 9, 20, 24)
    assert layer.data[0].min() >= 0 > layer.data[1].min()
    assert np.array_equal(layer.data[0] - 500, layer.data[1])
    assert "more than one image, and they are no copies" in refused(layer).reason
    assert title(layer) == ""


def test_a_localizer_is_one_layer_for_each_plane(tmp_path, notices):
    planes = {"axial": (1, 0, 0, 0, 1, 0), "coronal": (1, 0, 0, 0, 0, -1), "sagittal": (0, 1, 0, 0, 0, -1)}
    for name, orientation in planes.items():
        phantoms_dicom.write_series(
            tmp_path / name, voxels((24, 20, 3)), orientation=orientation, uid="1.2.3", number=1,
            SeriesDescription="localizer",
        )  # fmt: skip
    layers = opened(tmp_path)
    assert sorted(layer.name for layer in layers) == [f"1 localizer, {name}" for name in sorted(planes)]
    assert all("looks in 3 directions" in refused(layer).reason for layer in layers)
    assert not any(title(layer) for layer in layers)


def test_each_echo_is_a_layer(tmp_path, notices):
    for echo in (20.0, 80.0):
        phantoms_dicom.write_series(
            tmp_path / str(echo), voxels(), uid="1.2.3", EchoTime=echo, SeriesDescription="T2 TSE"
        )
    layers = opened(tmp_path)
    assert sorted(layer.name for layer in layers) == ["3 T2 TSE, TE 20", "3 T2 TSE, TE 80"]
    assert all(refused(layer) is None for layer in layers)


def test_tiles_of_a_mosaic_are_slices_row_by_row():
    stack = voxels((6, 4, 7))
    mosaic = np.zeros((12, 18), np.int16)
    for k in range(7):
        row, column = divmod(k, 3)
        mosaic[4 * row : 4 * row + 4, 6 * column : 6 * column + 6] = stack[:, :, k].T
    assert np.array_equal(_tiles(mosaic, 7), stack)


def test_a_mosaic_becomes_the_volume_that_it_holds_and_can_be_used(tmp_path, notices):
    stack = voxels((6, 4, 7))
    mosaic = np.zeros((18, 12, 1), np.int16)
    for k in range(7):
        row, column = divmod(k, 3)
        mosaic[6 * column : 6 * column + 6, 4 * row : 4 * row + 4, 0] = stack[:, :, k]

    def as_siemens(image, _):
        image.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        image.add_new(0x0019100A, "US", 7)

    phantoms_dicom.write_series(
        tmp_path, mosaic, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], SpacingBetweenSlices=3.0,
        Manufacturer="SIEMENS", edit=as_siemens,
    )  # fmt: skip
    (layer,) = opened(tmp_path)
    assert layer.data.shape == (7, 4, 6)
    assert layer.scale == pytest.approx((3, 0.8, 0.9))
    assert "so they lie anywhere" in notices[0]  # without the private header of Siemens
    assert refused(layer).reason.endswith("side by side.")
    usable = after_remedy(layer)
    assert refused(usable) is None
    assert sorted(map(bytes, usable.data)) == sorted(map(bytes, layer.data))


def test_what_is_shown_only_is_no_series_to_derive_another_from(tmp_path, notices):
    phantoms_dicom.write_series(tmp_path, voxels(), shear=0.5)
    (layer,) = opened(tmp_path)
    data, attributes, _ = layer.as_layer_data_tuple()
    with pytest.raises(UsageError, match="sheared by 14"):
        write_dicom(str(tmp_path / "out.dcm"), data, attributes)


def test_a_scan_without_a_description_is_called_by_its_number(tmp_path, notices):
    phantoms_dicom.write_series(tmp_path, voxels())
    (layer,) = opened(tmp_path)
    assert layer.name == "series-003"


def test_a_file_that_says_two_places_is_shown_at_one(tmp_path, notices):
    image = nib.Nifti1Image(voxels(), np.diag([1, 1, 2, 1]))
    image.set_sform(np.diag([1, 1, 2, 1]), code=1)
    image.set_qform(phantoms.OBLIQUE, code=1)
    nib.save(image, tmp_path / "twice.nii.gz")
    with pytest.raises(GeometryError):
        medldm.read(tmp_path / "twice.nii.gz")
    (layer,) = opened(tmp_path / "twice.nii.gz")
    assert refused(layer).remedy
    assert "--" not in refused(layer).reason
    assert refused(after_remedy(layer)) is None


def test_a_reason_advises_no_options_of_the_command_line():
    reason = "1 of its positions holds copies of an image. Remove the copies, or ask for --fix, which keeps the first."
    assert plain(reason) == "1 of its positions holds copies of an image."
    assert plain("it is a localizer: its series looks in 2 directions.").startswith("It is a localizer")


def test_a_layer_without_a_remedy_says_so(as_layer):
    layer = as_layer(phantoms.phantom((8, 8, 6)))
    layer.metadata["medldm_refused"] = Refused("It is a field map.")
    with pytest.raises(UsageError, match="has no remedy"):
        remedied(layer)
    assert title(layer) == ""


@pytest.mark.gui
def test_what_is_sheared_or_has_a_slider_is_drawn(make_napari_viewer, tmp_path, notices):
    phantoms_dicom.write_series(tmp_path / "tilted", voxels(), shear=0.5)
    viewer = make_napari_viewer(show=True)
    viewer.open(str(tmp_path / "tilted"), plugin="medldm")
    viewer.open(str(repeated(tmp_path / "dynamic", 3)), plugin="medldm")
    tilted, dynamic = viewer.layers
    viewer.dims.set_point(0, 2)
    assert title(dynamic, viewer.dims.point) == "Use volume 2"
    picture = viewer.screenshot(flash=False)
    assert picture[..., :3].max() > 50
    viewer.dims.ndisplay = 3
    assert viewer.screenshot(flash=False)[..., :3].max() > 50
    assert tilted.metadata["medldm_refused"].remedy
