"""Files to layers and back."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pydicom
import pytest
from napari.layers import Image
from napari_medldm import samples
from napari_medldm.layers import layer_data, series_data, volume_of
from napari_medldm.readers import get_reader
from napari_medldm.writers import write_dicom, write_image

import medldm
from medldm.errors import InputError, UsageError


def opened(path):
    return [Image(data, **arguments) for data, arguments, _ in get_reader(str(path))(str(path))]


def save(layer, write, path):
    data, attributes, _ = layer.as_layer_data_tuple()
    return write(str(path), data, attributes)


def voxels(shape=(24, 20, 9)):
    return np.rint(phantoms.brain(shape)).astype(np.int16) + 5


def test_the_reader_takes_scans_by_content_and_leaves_the_rest(scan_file, tmp_path):
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "empty").mkdir()
    assert get_reader(str(tmp_path / "words.txt")) is None
    assert get_reader(str(tmp_path / "empty")) is None
    assert get_reader([str(scan_file), str(tmp_path / "words.txt")]) is None
    (data, arguments, kind), *_ = get_reader(str(scan_file))(str(scan_file))
    assert kind == "image"
    assert data.shape == (40, 56, 48)
    assert arguments["units"] == ("mm", "mm", "mm")


def test_several_series_become_several_layers(tmp_path):
    for number, shape in ((3, (24, 20, 9)), (4, (24, 20, 5))):
        phantoms_dicom.write_series(tmp_path / str(number), voxels(shape), number=number)
    assert sorted(layer.data.shape[0] for layer in opened(tmp_path)) == [5, 9]


def test_a_single_extensionless_slice_is_opened_alone(tmp_path):
    phantoms_dicom.write_series(tmp_path / "series", voxels())
    one = next(path for path in sorted((tmp_path / "series").iterdir()) if not path.suffix)
    (layer,) = opened(one)
    assert layer.data.shape == (1, 20, 24)


def test_slices_that_were_chosen_together_are_stacked_to_their_series(tmp_path):
    for number, shape in ((3, (24, 20, 9)), (4, (24, 20, 5))):
        phantoms_dicom.write_series(tmp_path / str(number), voxels(shape), number=number)
    files = sorted(str(path) for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(len(data) for data, _, _ in get_reader(files)(files)) == [5, 9]


def test_a_four_dimensional_file_is_one_layer_in_true_geometry(tmp_path):
    path = tmp_path / "bold.nii.gz"
    data = np.stack([voxels(), voxels() + 100], -1)
    nib.save(nib.Nifti1Image(data, phantoms.OBLIQUE), path)
    (layer,) = opened(path)
    assert layer.data.shape[0] == 2
    again = save(layer, write_image, tmp_path / "again.nii.gz")
    image = nib.load(again[0])
    assert np.array_equal(np.asanyarray(image.dataobj), data)
    assert np.allclose(image.affine, phantoms.OBLIQUE, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh"])
def test_every_format_is_saved_and_opened_in_its_place(suffix, tmp_path):
    phantoms.save(tmp_path / "scan.nii.gz", voxels(), phantoms.OBLIQUE, dtype=np.int16)
    (layer,) = opened(tmp_path / "scan.nii.gz")
    (path,) = save(layer, write_image, tmp_path / "out" / f"scan{suffix}")
    assert path.endswith(suffix)
    for place in (path, tmp_path / "out"):
        (again,) = opened(place)
        assert np.array_equal(again.data, layer.data)
        assert np.allclose(again.data_to_world((1, 2, 3)), layer.data_to_world((1, 2, 3)), atol=1e-3)
    several = [str(file) for file in (tmp_path / "out").iterdir()]
    assert len(get_reader(several)(several)) == 1


def test_several_volumes_are_saved_as_nifti_only(tmp_path):
    nib.save(nib.Nifti1Image(np.stack([voxels(), voxels() + 100], -1), phantoms.OBLIQUE), tmp_path / "bold.nii.gz")
    (layer,) = opened(tmp_path / "bold.nii.gz")
    with pytest.raises(UsageError, match=r"Save it as \.nii\.gz"):
        save(layer, write_image, tmp_path / "bold.nrrd")


def test_a_mask_is_opened_as_labels(tmp_path):
    phantoms.save(tmp_path / "lesion_mask.nii.gz", voxels() > 500, dtype=np.uint8)
    ((_, _, kind),) = get_reader(str(tmp_path))(str(tmp_path))
    assert kind == "labels"


def test_a_broken_file_is_reported(tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.nii\.gz"):
        get_reader(str(tmp_path / "broken.nii.gz"))(str(tmp_path / "broken.nii.gz"))


def test_a_moved_layer_is_saved_where_it_is(tmp_path, as_layer):
    layer = as_layer(phantoms.phantom())
    layer.translate = layer.translate + np.array([0, 0, 7.0])
    save(layer, write_image, tmp_path / "moved.nii.gz")
    assert medldm.read(tmp_path / "moved.nii.gz").affine[0, 3] == pytest.approx(phantoms.phantom().affine[0, 3] + 7)


def test_a_cropped_layer_is_saved_where_it_is(tmp_path, scan_file):
    (layer,) = opened(scan_file)
    origin = np.array(layer.data_to_world((4, 5, 6)))[::-1]
    layer.data, layer.translate = layer.data[4:20, 5:30, 6:40], layer.data_to_world((4, 5, 6))
    save(layer, write_image, tmp_path / "cropped.nii.gz")
    saved = medldm.read(tmp_path / "cropped.nii.gz")
    assert saved.shape == (34, 25, 16)
    assert saved.affine[:3, 3] == pytest.approx(origin, abs=1e-3)


def test_an_unchanged_file_comes_out_as_it_went_in(tmp_path, scan_file):
    (layer,) = opened(scan_file)
    save(layer, write_image, tmp_path / "again.nii.gz")
    before, after = nib.load(scan_file), nib.load(tmp_path / "again.nii.gz")
    assert np.array_equal(np.asanyarray(before.dataobj), np.asanyarray(after.dataobj))
    assert np.array_equal(before.affine, after.affine)
    assert before.get_data_dtype() == after.get_data_dtype()


OBLIQUE = (0.98, 0.17, 0.1, -0.19, 0.96, 0.2)


def oblique_folder(tmp_path):
    across, down = np.array(OBLIQUE[:3]), np.array(OBLIQUE[3:])
    across /= np.linalg.norm(across)
    down -= across * (across @ down)
    down /= np.linalg.norm(down)
    phantoms_dicom.write_series(tmp_path / "in", voxels(), orientation=(*across, *down))
    return tmp_path / "in"


def places(folder):
    files = sorted(map(pydicom.dcmread, folder.iterdir()), key=lambda file: int(file.InstanceNumber))
    return np.array([file.ImagePositionPatient for file in files], float), files


def test_a_dicom_layer_is_saved_as_a_derived_series_in_its_place(tmp_path):
    folder = oblique_folder(tmp_path)
    (layer,) = opened(folder)
    (written,) = save(layer, write_dicom, tmp_path / "out.dcm")
    assert written == str(tmp_path / "out")
    before, after = medldm.read(folder), medldm.read(tmp_path / "out")
    assert np.array_equal(before.voxels, after.voxels)
    assert np.allclose(before.affine, after.affine, atol=1e-3)
    _, files = places(tmp_path / "out")
    assert files[0].ImageType[0] == "DERIVED"


def test_a_crop_of_a_dicom_layer_refers_to_the_slices_it_came_from(tmp_path):
    folder = oblique_folder(tmp_path)
    (layer,) = opened(folder)
    full = volume_of(layer)
    origin = layer.data_to_world((3, 2, 1))
    layer.data = layer.data[3:7, 2:, 1:]
    layer.translate = layer.translate + np.linalg.solve(
        layer.affine.affine_matrix[-4:-1, -4:-1], np.array(origin) - np.array(layer.data_to_world((0, 0, 0)))
    )
    save(layer, write_dicom, tmp_path / "out")
    after = medldm.read(tmp_path / "out")
    assert np.allclose((after.affine @ [0, 0, 0, 1])[:3], (full.affine @ [1, 2, 3, 1])[:3], atol=1e-3)
    _, files = places(tmp_path / "out")
    sources = {file.SOPInstanceUID: np.array(file.ImagePositionPatient, float) for file in places(folder)[1]}
    normal = np.cross(np.array(files[0].ImageOrientationPatient[:3], float),
                      np.array(files[0].ImageOrientationPatient[3:], float))  # fmt: skip
    for file in files:
        (source,) = file.SourceImageSequence
        distance = sources[source.ReferencedSOPInstanceUID] - np.array(file.ImagePositionPatient, float)
        assert distance @ normal == pytest.approx(0, abs=1e-3)


def test_a_refined_dicom_layer_keeps_its_field_of_view(tmp_path):
    from medldm.data.resample import field_of_view_affine

    folder = oblique_folder(tmp_path)
    scan = medldm.read(folder)
    fine = np.repeat(scan.voxels, 2, axis=scan.slice_axis)
    result = scan.with_voxels(fine, field_of_view_affine(scan.affine, scan.shape, fine.shape))
    data, arguments, _ = layer_data(result)
    save(Image(data, **arguments), write_dicom, tmp_path / "out")
    after = medldm.read(tmp_path / "out")
    assert after.shape == result.shape
    assert np.allclose(after.affine, result.affine, atol=1e-3)


def test_a_layer_that_is_not_from_dicom_is_refused_as_dicom(tmp_path, as_layer):
    with pytest.raises(UsageError, match="Save it as NIfTI"):
        save(as_layer(phantoms.phantom()), write_dicom, tmp_path / "out.dcm")


def test_several_volumes_are_refused_as_dicom(tmp_path):
    data, arguments, _ = series_data([phantoms.phantom((8, 8, 6))] * 2)
    with pytest.raises(UsageError, match="holds 2 volumes"):
        save(Image(data, **arguments), write_dicom, tmp_path / "out.dcm")


def test_the_samples_have_the_damage_they_are_named_after():
    from medldm.io import find_missing_slices
    from medldm.qc.noise import estimate_noise

    scan = samples.shipped("mr")
    assert find_missing_slices(samples.with_gap(scan)) == tuple(samples.GAP)
    noisy = samples.with_noise(scan)
    assert estimate_noise(noisy.voxels, noisy.spacing).level == pytest.approx(samples.NOISE, rel=0.2)
    thick = samples.with_thick_slices(scan)
    assert thick.spacing[2] == pytest.approx(5 * scan.spacing[2])
    middle = (thick.affine @ [80, 100, 10, 1])[:3]
    assert np.linalg.solve(scan.affine, [*middle, 1])[:3] == pytest.approx([80, 100, 52])


def test_the_phantom_has_a_bright_skull_around_darker_tissue_and_the_damage_it_is_named_after():
    from medldm.io import find_missing_slices
    from medldm.qc.noise import estimate_noise

    head = samples.phantom()
    across = head.voxels[:, 64, 64]
    assert across[[5, 20, 50]] == pytest.approx([0, 1000, 0], abs=1)  # air, skull, the left ventricle
    assert head.voxels[64, 64, 64] == pytest.approx(200, abs=1)
    assert find_missing_slices(samples.with_gap(head)) == tuple(samples.GAP)
    noisy = samples.with_noise(head)
    assert estimate_noise(noisy.voxels, noisy.spacing).level == pytest.approx(samples.NOISE, rel=0.2)
    assert samples.with_thick_slices(head).spacing[2] == pytest.approx(5)


def test_the_sample_menu_gives_layers():
    made = [getattr(samples, name) for name in dir(samples) if name.endswith("_sample")]
    assert len(made) == 8
    for make in made:
        ((data, arguments, kind),) = make()
        assert kind == "image"
        assert data.ndim == 3
        assert arguments["units"] == ("mm", "mm", "mm")


@pytest.mark.slow
def test_nothing_of_the_plugin_loads_torch():
    code = (
        "import sys, napari_medldm.widgets, napari_medldm.readers, napari_medldm.writers, napari_medldm.samples,"
        " napari_medldm.jobs; print('torch' in sys.modules, 'monai' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**__import__("os").environ, "PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert process.stdout.split() == ["False", "False"]


def test_a_pair_and_a_scan_without_a_suffix_are_opened_by_content(tmp_path):
    voxels = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    nib.save(nib.Nifti1Pair(voxels, np.eye(4)), tmp_path / "scan.img")
    (tmp_path / "bare").write_bytes(nib.Nifti1Image(voxels, np.eye(4)).to_bytes())
    halves = [str(tmp_path / f"scan{end}") for end in (".hdr", ".img")]
    for chosen in (halves, halves[:1], halves[1:], [str(tmp_path / "bare")]):
        read = get_reader(chosen)
        assert read is not None
        (layer,) = read(chosen)
        assert np.array_equal(layer[0], voxels.T)
