"""Layer to volume and back, whatever the layer: no viewer needed."""

from dataclasses import replace

import dask.array
import numpy as np
import phantoms
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Shapes
from napari_medldm.layers import layer_data, measure_like, series_data, snapshot, volume_of
from napari_medldm.regions import drawn
from napari_medldm.writers import write_image

import medldm


@pytest.mark.parametrize("make", [phantoms.phantom, phantoms.oblique_phantom])
def test_a_volume_survives_being_a_layer(make, as_layer):
    volume = make()
    again = volume_of(as_layer(volume))
    assert np.array_equal(again.voxels, volume.voxels)
    assert np.allclose(again.affine, volume.affine, atol=1e-4)
    assert again.stored.modality == "mr"


def test_an_upright_scan_says_its_millimetres_to_other_plugins(as_layer):
    layer = as_layer(phantoms.phantom(spacing=(1, 2, 3)))
    assert tuple(layer.scale) == (3, 2, 1)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3


def world_of(volume, value):
    """Where the voxel with a value lies, RAS mm."""
    place = np.argwhere(volume.voxels == value)[0]
    return (volume.affine @ [*place, 1])[:3]


@pytest.mark.parametrize(
    "place",
    [
        {"scale": (3, -1, 1)},
        {"scale": (5, 0.5, 0.7), "translate": (7, 8, 9)},
        {"scale": (2, 1, 1), "rotate": (20, 10, 5)},
        {"affine": np.array([[0, 0, 2, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1.0]])},
    ],
    ids=["flipped", "anisotropic", "rotated", "turned"],
)
def test_a_voxel_stays_where_the_viewer_shows_it(place):
    data = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16)
    data[1, 2, 3] = 1000
    layer = Image(data, **place)
    shown = np.array(layer.data_to_world((1, 2, 3)))[::-1]  # (z, y, x) world as RAS
    assert world_of(volume_of(layer), 1000) == pytest.approx(shown, abs=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float16, np.float32, np.float64])
def test_voxel_types_keep_their_values(dtype):
    data = np.arange(60).reshape(3, 4, 5).astype(dtype)
    volume = volume_of(Image(data))
    assert np.array_equal(volume.voxels, data.transpose(2, 1, 0))
    assert volume.voxels.dtype == (dtype if np.issubdtype(dtype, np.integer) else np.float32)


def test_a_lazy_layer_is_read_when_it_is_loaded():
    reads = []

    def block(block_info=None):
        reads.append(1)
        return np.full((1, 4, 5), block_info[None]["chunk-location"][0], np.float32)

    lazy = dask.array.map_blocks(block, chunks=((1,) * 6, 4, 5), dtype=np.float32)
    layer = Image(lazy, contrast_limits=(0, 6))
    taken = snapshot(layer)
    reads.clear()
    assert not reads
    assert taken.load().volumes()[0].voxels[0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert reads


def test_a_pyramid_gives_its_finest_level():
    fine = np.random.default_rng(0).random((8, 16, 16)).astype(np.float32)
    layer = Image([fine, fine[::2, ::2, ::2]], multiscale=True)
    assert np.array_equal(volume_of(layer).voxels, fine.transpose(2, 1, 0))


def test_a_series_gives_the_volume_that_is_shown():
    volumes = [phantoms.oblique_phantom().with_voxels(phantoms.brain((40, 44, 16)) + n) for n in range(3)]
    data, arguments, _ = series_data(volumes)
    viewer = ViewerModel()
    layer = viewer.add_layer(Image(data, **arguments))
    viewer.dims.set_point(0, 2)
    shown = snapshot(layer, viewer).load().volumes()
    assert len(shown) == 1
    assert np.array_equal(shown[0].voxels, volumes[2].voxels)
    assert np.allclose(shown[0].affine, volumes[2].affine, atol=1e-4)
    assert len(snapshot(layer).load(every=True).volumes()) == 3


def test_a_flat_image_is_one_slice_where_it_is():
    volume = volume_of(Image(np.arange(20.0).reshape(4, 5), scale=(2, 3), translate=(10, 20)))
    assert volume.shape == (5, 4, 1)
    assert (volume.affine @ [0, 0, 0, 1])[:2].tolist() == [20, 10]


def test_the_modality_follows_from_the_file_or_the_values():
    voxels = np.random.default_rng(0).uniform(-1000, 1000, (20, 24, 16))
    assert snapshot(Image(voxels)).modality == "ct"
    assert snapshot(Image(np.abs(voxels))).modality == "mr"
    said = phantoms.phantom((8, 8, 8))
    said = replace(said, stored=replace(said.stored, modality="ct"))
    data, arguments, _ = layer_data(said)
    assert snapshot(Image(data, **arguments)).modality == "ct"


def test_lengths_in_other_units_become_millimetres(tmp_path):
    scan = Image(np.ones((4, 5, 6), np.float32), scale=(2000, 500, 500), translate=(0, 0, 3000), units=("um",) * 3)
    volume = volume_of(scan)
    assert volume.spacing == pytest.approx((0.5, 0.5, 2))
    assert volume.affine[:3, 3] == pytest.approx([3, 0, 0])
    data, attributes, _ = scan.as_layer_data_tuple()
    write_image(str(tmp_path / "scan.nii.gz"), data, attributes)
    assert medldm.read(tmp_path / "scan.nii.gz").spacing == pytest.approx((0.5, 0.5, 2))
    box = Shapes([np.array([[2, 1, 1], [2, 1, 3], [2, 4, 3], [2, 4, 1]])], scale=(2000, 500, 500), units=("um",) * 3)
    (outline,) = drawn(box, snapshot(scan)).outlines
    assert outline[:, 0] == pytest.approx(2)


def test_a_result_is_measured_in_the_units_of_its_scan(as_layer):
    scan = Image(np.ones((4, 5, 6), np.float32), scale=(2000, 500, 500), translate=(0, 0, 3000), units=("um",) * 3)
    data, arguments, _ = layer_data(volume_of(scan))
    result = Image(data, **arguments)
    measure_like(scan, result)
    assert result.scale.tolist() == [2000, 500, 500]
    assert result.translate.tolist() == [0, 0, 3000]
    assert np.allclose(volume_of(result).affine, volume_of(scan).affine)


def test_colours_are_refused_with_a_message():
    with pytest.raises(ValueError, match="colour"):
        snapshot(Image(np.zeros((4, 5, 6, 3), np.uint8), rgb=True))


def test_a_later_edit_does_not_reach_a_run_that_has_begun(as_layer):
    layer = as_layer(phantoms.phantom())
    taken = snapshot(layer).load()
    before = taken.volumes()[0].voxels.copy()
    layer.data[:] = 0
    assert np.array_equal(taken.volumes()[0].voxels, before)


def test_metadata_hold_the_provenance_and_not_the_voxels(as_layer):
    from medldm.data.volume import Step
    from medldm.provenance import RunRecord

    volume = phantoms.phantom().with_voxels(phantoms.brain() + 1, step=Step("denoise", {"seed": 3}, {"model": "m"}))
    metadata = as_layer(volume).metadata
    assert metadata["provenance"] == [RunRecord(task="denoise", settings={"seed": 3}, facts={"model": "m"})]
    assert metadata["medldm"].voxels.strides == (0, 0, 0)
