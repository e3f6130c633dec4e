"""Grids keep the field of view, and interpolation keeps straight lines straight."""

import numpy as np
import phantoms
import pytest

from medldm.data.resample import field_of_view_affine, new_shape_for_spacing, resample_to
from medldm.data.volume import Volume


def places(affine, shape):
    """(3, X, Y, Z) world positions of voxel centres, mm."""
    index = np.indices(shape).reshape(3, -1)
    return (affine[:3, :3] @ index + affine[:3, 3:]).reshape(3, *shape)


def ramp(affine, shape):
    x, y, z = places(affine, shape)
    return (x + 2 * y - 3 * z).astype(np.float32)


@pytest.mark.parametrize("new", [(20, 30, 40), (7, 11, 3), (10, 12, 8)])
def test_the_outer_edges_stay(new):
    old = (10, 12, 8)
    affine = field_of_view_affine(phantoms.OBLIQUE, old, new)
    for corner in ([0, 0, 0], [1, 1, 1], [1, 0, 1]):
        before, after = ([*(np.array(shape) * corner - 0.5), 1] for shape in (old, new))
        assert np.allclose(phantoms.OBLIQUE @ before, affine @ after)


def test_only_coarser_axes_are_refined():
    assert new_shape_for_spacing((100, 100, 20), (0.9, 1.005, 5.0), 1.0) == (100, 100, 100)
    assert new_shape_for_spacing((100, 100, 20), (0.9, 0.9, 3.3), (0.45, 0.9, 1.0)) == (200, 100, 66)
    assert new_shape_for_spacing((10, 10, 10), (2.0, 2.0, 2.0), 2.0) == (10, 10, 10)


@pytest.mark.parametrize("order", ["linear", "bspline"])
def test_a_ramp_stays_a_ramp_on_an_oblique_grid(order):
    volume = Volume(ramp(phantoms.OBLIQUE, (20, 20, 16)), phantoms.OBLIQUE)
    finer = field_of_view_affine(volume.affine, volume.shape, (20, 20, 48))
    moved = resample_to(volume, finer, (20, 20, 48), order)
    inner = (slice(6, -6), slice(6, -6), slice(18, -18))
    assert np.abs(moved - ramp(finer, moved.shape))[inner].max() < (1e-3 if order == "linear" else 0.1)
    assert np.isfinite(moved).all()


@pytest.mark.parametrize("order", ["nearest", "linear", "bspline"])
def test_the_same_grid_gives_the_same_voxels(order, oblique_phantom):
    again = resample_to(oblique_phantom, oblique_phantom.affine, oblique_phantom.shape, order)
    assert np.allclose(again, oblique_phantom.voxels, atol=0.5)


@pytest.mark.parametrize("order", ["linear", "bspline"])
def test_missing_slices_do_not_spread(order, phantom):
    holed = phantoms.with_missing_slices(phantom, [20], np.nan)
    finer = field_of_view_affine(phantom.affine, phantom.shape, (48, 56, 80))
    moved = resample_to(holed, finer, (48, 56, 80), order)
    assert np.flatnonzero(np.isnan(moved).all((0, 1))).tolist() == [40, 41]
    assert np.isnan(moved).sum() == 2 * 48 * 56


def test_outside_the_field_of_view_nothing_was_measured(phantom):
    beside = phantom.affine.copy()
    beside[0, 3] -= 10
    moved = resample_to(phantom, beside, phantom.shape)
    assert np.isnan(moved[:9]).all()
    assert np.isfinite(moved[10:]).all()


def test_one_slice_can_be_refined_in_its_plane():
    plane = phantoms.one_slice()
    finer = field_of_view_affine(plane.affine, plane.shape, (80, 88, 1))
    assert np.isfinite(resample_to(plane, finer, (80, 88, 1), "bspline")).all()
