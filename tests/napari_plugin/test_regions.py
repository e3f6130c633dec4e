"""Boxes and outlines become the voxels that the viewer shows there."""

from dataclasses import replace

import numpy as np
import phantoms
import pytest
from napari.layers import Image, Shapes
from napari_medldm.layers import snapshot
from napari_medldm.regions import around, box_of, crop, current_slice, drawn, filled, mask_on, part, widened

from medldm.data.volume import Volume


def test_the_current_slice_of_an_oblique_scan_is_one_slice(as_layer):
    scan = replace(snapshot(as_layer(phantoms.oblique_phantom())), on_screen={0: 5})
    box = box_of(current_slice(scan), scan.load().volumes()[0])
    assert box == ((0, 40), (0, 44), (5, 6))


def test_a_drawn_box_on_a_flipped_layer_finds_its_voxels():
    data = np.zeros((6, 20, 30), np.float32)
    data[2, 5:10, 8:12] = 1
    scan = snapshot(Image(data, scale=(3, -1, 1)))
    volume = scan.load().volumes()[0]
    part_of = crop(volume, box_of(around([[2, 5, 8], [2, 9, 11]], scan), volume))
    assert part_of.shape == (4, 5, 1)
    assert (part_of.voxels == 1).all()


def test_a_crop_stays_in_its_place():
    volume = phantoms.oblique_phantom()
    small = crop(volume, ((3, 20), (5, 21), (2, 9)))
    assert np.allclose(small.affine @ [0, 0, 0, 1], volume.affine @ [3, 5, 2, 1])
    assert np.array_equal(small.voxels, volume.voxels[3:20, 5:21, 2:9])


def test_the_part_of_a_refined_crop_covers_the_wanted_slices():
    fine = Volume(np.arange(40.0).reshape(1, 1, 40), np.diag([1, 1, 0.5, 1.0]))
    inner = part(fine, (1, 1, 10), ((0, 1), (0, 1), (4, 6)))  # four thin slices in each thick one
    assert inner.voxels.ravel().tolist() == list(range(16, 24))
    assert inner.affine[2, 3] == 8


def test_context_ends_at_the_edge():
    assert widened(((0, 5), (3, 4), (8, 10)), (10, 10, 10), (2, 2, 2)) == ((0, 7), (1, 6), (6, 10))


@pytest.mark.parametrize("kind", ["rectangle", "polygon", "ellipse"])
def test_an_outline_fills_its_slice_and_as_many_beside_it_as_asked(kind):
    scan = snapshot(Image(np.ones((9, 30, 30), np.float32), scale=(3, 1, 1)))
    corner = np.array([[4, 5, 5], [4, 5, 15], [4, 20, 15], [4, 20, 5.0]])
    shapes = Shapes([corner], shape_type=kind, scale=(3, 1, 1))
    mask = filled(drawn(shapes, scan, deeper=1), scan).data
    assert np.flatnonzero(mask.any((1, 2))).tolist() == [3, 4, 5]
    area = {"rectangle": 176, "polygon": 176, "ellipse": 118}[kind]
    assert mask[4].sum() == pytest.approx(area, abs=8)


def test_a_mask_on_a_coarser_grid_is_brought_to_the_scan():
    scan = phantoms.phantom()
    coarse = np.zeros((24, 28, 20), np.uint8)
    coarse[10:12, 10:12, 10:12] = 3
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = 0.5
    mask = mask_on(scan, Volume(coarse, affine))
    assert mask.shape == scan.shape
    assert mask.voxels.sum() == 64
