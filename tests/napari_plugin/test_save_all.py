"""Several layers are saved at once, as napari does it: each in its place, or none."""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pytest
from napari.components import LayerList
from napari.layers import Image, Labels, Shapes
from napari.plugins.io import save_layers
from napari_medldm.layers import layer_data, snapshot
from napari_medldm.readers import get_reader
from napari_medldm.save_all import file_names

import medldm
from medldm.errors import MedldmError, OutputError, UsageError


@pytest.fixture(autouse=True)
def manifest(npe2pm):
    """Only the writers of napari and of medldm, as a user without other plugins has them."""
    from npe2 import PluginManifest

    for name in ("napari_medldm", "napari_builtins"):
        file = "napari.yaml" if name == "napari_medldm" else "builtins.yaml"
        npe2pm.register(PluginManifest.from_file(_folder(name) / file))
    return npe2pm


@pytest.fixture
def notices(monkeypatch):
    said = []
    monkeypatch.setattr("napari.utils.notifications.show_info", said.append)
    return said


def _folder(package):
    return Path(find_spec(package).origin).parent


def opened(path):
    return [
        (Image if kind == "image" else Labels)(data, **more) for data, more, kind in get_reader(str(path))(str(path))
    ]


def voxels(shape=(24, 20, 9)):
    return np.rint(phantoms.brain(shape)).astype(np.int16) + 5


@pytest.fixture
def study(tmp_path):
    """Two oblique scans and a mask, opened from files."""
    folder = tmp_path / "in"
    folder.mkdir()
    phantoms.save(folder / "T1w.nii.gz", voxels(), phantoms.OBLIQUE, dtype=np.int16)
    phantoms.save(folder / "T2w.nii.gz", voxels()[::-1], phantoms.OBLIQUE, dtype=np.int16)
    phantoms.save(folder / "lesion_mask.nii.gz", voxels() > 500, phantoms.OBLIQUE, dtype=np.uint8)
    layers = LayerList(opened(folder))
    assert [type(layer).__name__ for layer in layers] == ["Image", "Image", "Labels"]
    return layers


def same(path, source):
    before, after = nib.load(source), nib.load(path)
    assert np.array_equal(np.asanyarray(before.dataobj), np.asanyarray(after.dataobj))
    assert np.allclose(before.affine, after.affine, atol=1e-4)


@pytest.mark.parametrize("name", ["out", "out/study.nii.gz"])
def test_all_layers_are_saved_into_a_folder_or_beside_a_name(study, tmp_path, name):
    written = study.save(str(tmp_path / name))
    prefix = "study_" if "." in name else ""
    names = ["T1w", "T2w", "lesion_mask"]
    assert written == [str(tmp_path / "out" / f"{prefix}{layer}.nii.gz") for layer in names]
    for path, layer in zip(written, names, strict=True):
        same(path, tmp_path / "in" / f"{layer}.nii.gz")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(f"{prefix}{n}.nii.gz" for n in names)


def test_napari_gives_one_layer_to_the_writer_of_one_and_several_to_that_of_several(manifest):
    for types, path, command in (
        (["image"], "scan.nii.gz", "write_image"),
        (["labels"], "mask.nii.gz", "write_image"),
        (["image"], "scan.dcm", "write_dicom"),
        (["image", "image", "labels"], "study.nii.gz", "write_layers"),
        (["image", "labels"], "study.dcm", "write_layers_as_dicom"),
        (["labels", "labels"], "study", "write_folder"),
    ):
        assert manifest.get_writer(path, types)[0].command == f"medldm.{command}"
    first, *_ = manifest.iter_compatible_writers(["image", "labels"])  # which the dialog shows at first
    assert first.command == "medldm.write_layers"
    assert manifest.get_writer("study.tif", ["image"])[0].command.startswith("napari.")


def test_a_name_without_a_suffix_is_a_folder_whatever_the_dialog_offers(study, tmp_path, manifest):
    writer, *_ = manifest.iter_compatible_writers(["image", "labels"])
    written = save_layers(str(tmp_path / "out"), list(study), _writer=writer)
    assert {path.rpartition("/")[0] for path in written} == {str(tmp_path / "out")}


@pytest.mark.parametrize("suffix", [".nhdr", ".mha", ".mgz"])
def test_other_formats_keep_the_geometry_too(study, tmp_path, suffix):
    (tmp_path / "out").mkdir()
    for path, layer in zip(study.save(str(tmp_path / "out" / f"a{suffix}")), study, strict=True):
        again = medldm.read(path)
        assert np.array_equal(again.voxels, layer.data.T)
        assert np.allclose(again.affine, snapshot(layer).affine, atol=1e-3)


def test_a_moved_layer_is_saved_where_it_is(study, tmp_path):
    study[1].translate = study[1].translate + np.array([0, 0, 7.0])
    expected = snapshot(study[1]).affine
    written = study.save(str(tmp_path / "out"))
    assert np.allclose(nib.as_closest_canonical(nib.load(written[1])).affine, expected, atol=1e-4)


def test_scans_from_dicom_become_derived_series_beside_their_labels(tmp_path, notices):
    for number in (3, 4):
        phantoms_dicom.write_series(
            tmp_path / "in" / str(number), voxels(), number=number, SeriesDescription=f"T{number - 2}w"
        )
    layers = LayerList(opened(tmp_path / "in"))
    mask = medldm.read(tmp_path / "in" / "3").with_voxels((voxels() > 500).astype(np.int32))
    data, arguments, _ = layer_data(mask, kind="labels", name="lesion")
    layers.append(Labels(data, **arguments))
    written = layers.save(str(tmp_path / "out.dcm"))
    assert written == [str(tmp_path / "out" / name) for name in ("3_T1w", "4_T2w", "lesion.nii.gz")]
    for number, path in ((3, written[0]), (4, written[1])):
        before, after = medldm.read(tmp_path / "in" / str(number)), medldm.read(path)
        assert np.array_equal(before.voxels, after.voxels)
        assert np.allclose(before.affine, after.affine, atol=1e-3)
    assert np.array_equal(medldm.read(written[2]).voxels, mask.voxels)
    assert notices == ["Saved as NIfTI, since no series can be derived for it: lesion."]


def test_what_is_there_already_is_kept(study, tmp_path):
    first = study.save(str(tmp_path / "out"))
    bytes_of_first = [Path(path).read_bytes() for path in first]
    study[0].data = study[0].data + 1
    second = study.save(str(tmp_path / "out"))
    assert second[0] == str(tmp_path / "out" / "T1w-2.nii.gz")
    assert [Path(path).read_bytes() for path in first] == bytes_of_first


def test_a_layer_that_cannot_be_saved_is_named_and_nothing_is_left(study, tmp_path):
    study.append(Image(np.zeros((4, 5, 3), np.uint8), rgb=True, name="photo"))
    for place in ("out", "study.nii.gz"):
        with pytest.raises(UsageError, match=r"^photo .*colour.*No layer was saved\.$"):
            study.save(str(tmp_path / place))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_series_of_volumes_in_a_format_of_one_names_the_layer(study, tmp_path):
    study.append(Image(np.zeros((2, 4, 5, 3), np.int16), name="bold"))
    with pytest.raises(MedldmError, match=r"^bold holds 2 volumes"):
        study.save(str(tmp_path / "study.nrrd"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_place_that_is_a_file_is_refused_in_words(study, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(OutputError, match="out"):
        study.save(str(tmp_path / "out" / "deeper"))


def test_layers_that_are_no_scans_are_left_to_napari(tmp_path):
    layers = LayerList([Image(np.zeros((4, 5), np.uint8), name=name) for name in ("a", "b")])
    assert sorted(path.rpartition("/")[2] for path in layers.save(str(tmp_path / "out"))) == ["a.tif", "b.tif"]


def test_outlines_are_saved_beside_the_scans_where_they_are_drawn(study, tmp_path):
    scan = study[0]
    place = {key: getattr(scan, key) for key in ("scale", "translate", "affine")}
    outline = np.array([[4, 2, 3], [4, 2, 9], [4, 8, 9], [4, 8, 3.0]])
    study.append(Shapes([outline], shape_type="polygon", name="outline", **place))
    study.append(Shapes(ndim=3, name="nothing drawn"))
    written = study.save(str(tmp_path / "out"))
    assert [path.rpartition("/")[2] for path in written[3:]] == ["outline.csv"]
    table = np.genfromtxt(written[3], delimiter=",", skip_header=1, usecols=(3, 4, 5))
    assert table == pytest.approx(np.array([scan.data_to_world(corner) for corner in outline]), abs=1e-3)


def test_names_of_files_are_safe_and_each_is_there_once():
    names = ["3 T1w MPRAGE, TE 20", "a/b", "A_B", "scan.nii.gz", "..", "scan [1]", "näh:er", "x" * 300]
    safe = file_names(names)
    assert safe[:6] == ["3_T1w_MPRAGE_TE_20", "a_b", "A_B-2", "scan", "layer", "scan_1"]
    assert len({name.lower() for name in safe}) == len(safe)
    assert all(len(name) <= 100 and not set('/\\:*?"<>| ') & set(name) for name in safe)
    assert all(one != other for one, other in pairwise(sorted(safe)))
