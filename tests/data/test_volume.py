"""Volume: voxels and geometry stay together; the stored layout can always be reached again."""

from itertools import permutations, product

import numpy as np
import phantoms
import phantoms_dicom
import pytest

from medldm.data.volume import Step, Stored, Volume
from medldm.io import read, write

LAYOUTS = [(axes, flips) for axes in permutations(range(3)) for flips in product([False, True], repeat=3)]


@pytest.mark.parametrize(("axes", "flips"), LAYOUTS[::5])
def test_the_stored_layout_and_back(axes, flips):
    voxels = np.arange(60).reshape(3, 4, 5)
    volume = Volume(voxels, phantoms.OBLIQUE, stored=Stored(axes=axes, flips=flips))
    stored = volume.to_stored(volume.voxels)
    assert stored.shape == tuple(voxels.shape[axis] for axis in axes)
    assert np.array_equal(volume.from_stored(stored), voxels)
    # The same voxel lies at the same place, whichever index is used.
    at = np.array([1, 2, 0])
    inside = np.argwhere(voxels == stored[tuple(at)])[0]
    assert np.allclose((volume.stored_affine() @ [*at, 1])[:3], (volume.affine @ [*inside, 1])[:3])


def test_a_volume_cannot_be_changed_from_outside(phantom):
    with pytest.raises(ValueError, match="read-only"):
        phantom.voxels[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        phantom.affine[0, 0] = 2
    own = np.zeros((2, 2, 2))
    Volume(own, np.eye(4))
    own[0, 0, 0] = 1  # the caller's array stays the caller's


@pytest.mark.parametrize(
    ("voxels", "affine"),
    [
        (np.zeros((2, 2)), np.eye(4)),
        (np.zeros((2, 2, 2)), np.zeros((4, 4))),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan)),
        (np.zeros((2, 2, 2)), np.eye(3)),
    ],
)
def test_voxels_without_a_place_make_no_volume(voxels, affine):
    with pytest.raises(ValueError, match=r"three axes|4 x 4"):
        Volume(voxels, affine)


def test_history_grows_and_geometry_follows(phantom):
    brighter = phantom.with_voxels(phantom.voxels + 1, step=Step("denoise", {"noise": 0.05}))
    assert [step.task for step in brighter.history] == ["denoise"]
    assert phantom.history == ()
    assert np.array_equal(brighter.affine, phantom.affine)
    with pytest.raises(ValueError, match="needs a new affine"):
        phantom.with_voxels(phantom.voxels[::2])


def test_spacing_is_read_from_the_affine(oblique_phantom):
    assert oblique_phantom.spacing == pytest.approx(np.linalg.norm(phantoms.OBLIQUE[:3, :3], axis=0))
    assert oblique_phantom.slice_axis == 2


@pytest.mark.parametrize("container", ["nifti", "dicom"])
def test_a_map_on_the_grid_of_a_scan_of_integers_keeps_its_fractions_and_signs(container, tmp_path):
    voxels = phantoms.brain((24, 24, 8)).astype(np.uint16)
    if container == "dicom":
        scan = read(phantoms_dicom.write_series(tmp_path / "s", voxels, signed=False))
    else:
        scan = read(phantoms.save(tmp_path / "scan.nii.gz", voxels, dtype=np.uint16))
    gap = np.linspace(-0.7, 0.4, voxels.size, dtype=np.float32).reshape(scan.shape)
    write(scan.as_map(gap), tmp_path / "gap.nii.gz")
    again = read(tmp_path / "gap.nii.gz")
    assert np.array_equal(again.voxels, gap)
    assert np.allclose(again.affine, scan.affine)
