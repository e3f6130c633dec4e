"""NRRD, MetaImage, MGZ and spellings of NIfTI, in and out: the same voxels at the same places as other programs say."""

import bz2
import gzip
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pytest
import SimpleITK as sitk

import medldm
from medldm import io
from medldm.cli import main
from medldm.data.volume import Step
from medldm.errors import InputError, NotRestorable, OutputError, UsageError
from medldm.io.discovery import find_cases
from medldm.io.formats import result_files, stem

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIXES = (
    ".nii.gz",
    ".nii",
    ".hdr",
    ".nii.bz2",
    ".nii.xz",
    ".nii.zst",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".mgz",
    ".mgh",
)
NEW = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")


def rotation(*angles):
    a, b, c = np.radians(angles)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return z @ y @ x


def affine(matrix, sizes=(1.0, 1.0, 1.0), origin=(-90.0, 12.5, 33.25)):
    made = np.eye(4)
    made[:3, :3] = matrix * np.array(sizes)
    made[:3, 3] = origin
    return made


AFFINES = {
    "upright": affine(np.eye(3)),
    "anisotropic": affine(np.eye(3), (0.43, 0.45, 5.5)),
    "flipped": affine(np.diag([-1, 1, -1]), (1, 2, 3)),
    "permuted": affine(np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]), (0.9, 1.1, 4)),
    "oblique": affine(rotation(13, -21, 34), (0.7, 0.8, 3.3)),
    "mirrored": affine(rotation(5, 40, 60) @ np.diag([1, 1, -1]), (1.2, 1.2, 1.2)),
}


def voxels(dtype=np.int16, shape=(9, 7, 5)):
    some = np.random.default_rng(0).integers(0, 120, shape)
    return (some / 3).astype(dtype) if np.dtype(dtype).kind == "f" else some.astype(dtype)


def itk_image(array, place):
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose()))
    flipped = LPS @ place
    sizes = np.linalg.norm(flipped[:3, :3], axis=0)
    image.SetSpacing(sizes.tolist())
    image.SetDirection((flipped[:3, :3] / sizes).ravel().tolist())
    image.SetOrigin(flipped[:3, 3].tolist())
    return image


def made_elsewhere(path, array, place):
    """A file that SimpleITK or nibabel wrote."""
    if path.suffix in ITK:
        sitk.WriteImage(itk_image(array, place), str(path))
    else:
        nib.save(nib.MGHImage(array, place), path)
    return path


def seen_elsewhere(path):
    """Voxels and RAS affine by SimpleITK or nibabel."""
    if path.suffix not in ITK:
        image = nib.load(path)
        return np.asanyarray(image.dataobj), image.affine
    image = sitk.ReadImage(str(path))
    place = np.eye(4)
    place[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    place[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(), LPS @ place


def opens_elsewhere(suffix):
    return suffix not in (".nii.xz", ".nii.zst")


@pytest.mark.parametrize("suffix", NEW)
@pytest.mark.parametrize("place", AFFINES.values(), ids=AFFINES)
def test_what_others_wrote_is_read_where_they_put_it(suffix, place, tmp_path):
    path = made_elsewhere(tmp_path / f"scan{suffix}", voxels(), place)
    volume = medldm.read(path)
    assert volume.name == "scan"
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.to_stored(volume.voxels), voxels())
    assert np.allclose(volume.stored_affine(), place, atol=1e-4)
    assert (np.abs(volume.affine[:3, :3]).argmax(axis=0) == np.arange(3)).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("place", AFFINES.values(), ids=AFFINES)
def test_what_is_written_is_read_by_others_where_it_was(suffix, place, tmp_path):
    path = tmp_path / f"scan{suffix}"
    volume = io.from_array(voxels(), place, "scan")
    assert medldm.write(volume, path) == 0
    again = medldm.read(path)
    assert again.voxels.dtype == np.int16
    assert np.array_equal(again.voxels, volume.voxels)
    assert np.allclose(again.affine, volume.affine, atol=1e-4)
    assert sorted(tmp_path.iterdir()) == sorted(result_files(path))
    if opens_elsewhere(suffix):
        array, there = seen_elsewhere(path)
        assert np.array_equal(array, voxels())
        assert np.allclose(there, place, atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_volumes_give_equal_bytes(suffix, tmp_path):
    volume = io.from_array(voxels(), AFFINES["oblique"], "scan").with_voxels(voxels(), step=Step("denoise"))
    for folder in ("a", "b"):
        medldm.write(volume, tmp_path / folder / f"scan{suffix}")
    for path in result_files(tmp_path / "a" / f"scan{suffix}"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("suffix", ITK)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_the_voxel_type_of_the_file_is_kept(suffix, dtype, tmp_path):
    path = made_elsewhere(tmp_path / f"scan{suffix}", voxels(dtype), AFFINES["oblique"])
    medldm.write(medldm.read(path), tmp_path / "out" / path.name)
    array, _ = seen_elsewhere(tmp_path / "out" / path.name)
    assert array.dtype == np.dtype(dtype)
    assert np.array_equal(array, voxels(dtype))


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("u1", "u1"), ("i1", "i2"), ("i2", "i2"), ("u2", "i4"), ("i4", "i4"), ("u4", "i4"), ("f4", "f4"), ("f8", "f4")],
)
def test_mgz_holds_four_types_and_says_which_it_took(dtype, stored, tmp_path, caplog):
    path = phantoms.save(tmp_path / "scan.nii.gz", voxels(dtype), dtype=dtype)
    medldm.write(medldm.read(path), tmp_path / "scan.mgz")
    array, _ = seen_elsewhere(tmp_path / "scan.mgz")
    assert array.dtype == np.dtype(stored).newbyteorder(">")
    assert ("scan.mgz is written as" in caplog.text) == (dtype != stored)


def test_what_a_nifti_file_scales_becomes_floats_elsewhere(tmp_path):
    image = nib.Nifti1Image(voxels(), np.eye(4))
    image.header.set_slope_inter(0.25, -3)
    image.to_filename(tmp_path / "scan.nii")
    stored = nib.load(tmp_path / "scan.nii")
    medldm.write(medldm.read(tmp_path / "scan.nii"), tmp_path / "scan.nrrd")
    assert np.allclose(seen_elsewhere(tmp_path / "scan.nrrd")[0], stored.get_fdata(), atol=1e-5)


def test_times_and_angles_of_freesurfer_are_kept(tmp_path):
    image = nib.MGHImage(voxels("f4"), AFFINES["oblique"])
    image.header["tr"], image.header["flip_angle"] = 2300, 0.16
    nib.save(image, tmp_path / "scan.mgz")
    medldm.write(medldm.read(tmp_path / "scan.mgz"), tmp_path / "again.mgz")
    assert nib.load(tmp_path / "again.mgz").header["tr"] == 2300


def test_missing_voxels_become_floats_where_the_file_held_integers(tmp_path):
    medldm.write(io.from_array(voxels(), np.eye(4)), tmp_path / "scan.nrrd")
    volume = medldm.read(tmp_path / "scan.nrrd")
    holes = volume.voxels.astype(np.float32)
    holes[0] = np.nan
    medldm.write(volume.with_voxels(holes), tmp_path / "holes.nrrd")
    assert np.array_equal(medldm.read(tmp_path / "holes.nrrd").voxels, holes, equal_nan=True)


@pytest.mark.parametrize("suffix", NEW)
def test_a_result_says_in_its_header_what_was_done(suffix, tmp_path):
    volume = io.from_array(voxels(), np.eye(4)).with_voxels(voxels(), step=Step("denoise"))
    medldm.write(volume, tmp_path / f"scan{suffix}")
    assert medldm.read(tmp_path / f"scan{suffix}").stored.restored_by == "denoise"
    assert np.array_equal(seen_elsewhere(tmp_path / f"scan{suffix}")[0], voxels())


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd", ".hdr"])
def test_both_files_of_a_detached_header_are_one_scan(suffix, tmp_path):
    path = tmp_path / f"scan{suffix}"
    medldm.write(io.from_array(voxels(), AFFINES["oblique"]), path)
    data_file, _ = result_files(path)
    (case,) = find_cases(tmp_path)
    assert set(case.files) == {data_file, path}
    assert np.array_equal(medldm.read(data_file).voxels, medldm.read(path).voxels)
    data_file.unlink()
    with pytest.raises(InputError, match=r"does not lie beside it.*Copy both into one folder"):
        medldm.read(path)


@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix is not installed")
def test_nrrd_of_dcm2niix_lies_where_its_nifti_does(tmp_path):
    across, down = rotation(13, -21, 34)[:, 0], rotation(13, -21, 34)[:, 1]
    phantoms_dicom.write_series(tmp_path / "in", voxels(shape=(24, 20, 9)), orientation=(*across, *down))
    for form, name in (("n", "nifti"), ("y", "nrrd")):
        command = ["dcm2niix", "-e", form, "-z", "n", "-f", name, "-o", tmp_path, tmp_path / "in"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
    one, other = medldm.read(tmp_path / "nifti.nii"), medldm.read(next(tmp_path.glob("nrrd*.n?[rd]*")))
    dicom = medldm.read(tmp_path / "in")
    assert np.array_equal(one.voxels, other.voxels)
    assert np.allclose(one.affine, other.affine, atol=1e-3)
    assert np.allclose(dicom.affine, other.affine, atol=1e-3)


def nrrd(array=None, **fields):
    array = voxels() if array is None else array
    header = {
        "type": "short", "dimension": array.ndim, "space": "right-anterior-superior",
        "sizes": " ".join(map(str, array.shape)), "space directions": "(1,0,0) (0,2,0) (0,0,3)", "endian": "little",
        "encoding": "raw", "space origin": "(1,2,3)",
    }  # fmt: skip
    header |= {name.replace("_", " "): value for name, value in fields.items()}
    lines = "\n".join(f"{name}: {value}" for name, value in header.items() if value is not None)
    return f"NRRD0004\n{lines}\n\n".encode() + array.tobytes(order="F")


def mha(array=None, **fields):
    array = voxels() if array is None else array
    header = {
        "ObjectType": "Image", "NDims": array.ndim, "BinaryData": True, "BinaryDataByteOrderMSB": False,
        "TransformMatrix": " ".join(map(str, np.eye(array.ndim, dtype=int).ravel())),
        "Offset": " ".join(["0"] * array.ndim), "ElementSpacing": " ".join(["1", "2", "3", "1"][: array.ndim]),
        "DimSize": " ".join(map(str, array.shape)), "ElementType": "MET_SHORT",
    }  # fmt: skip
    end = {"ElementDataFile": fields.pop("ElementDataFile", "LOCAL")}
    lines = "\n".join(f"{name} = {value}" for name, value in (header | fields | end).items())
    return f"{lines}\n".encode() + array.tobytes(order="F")


@pytest.mark.parametrize(
    ("space", "turn"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
    ],
)
def test_every_space_that_nrrd_names_comes_out_as_ras(space, turn, tmp_path):
    (tmp_path / "scan.nrrd").write_bytes(nrrd(space=space))
    expected = np.diag([*turn, 1.0]) @ affine(np.eye(3), (1, 2, 3), (1, 2, 3))
    assert np.allclose(medldm.read(tmp_path / "scan.nrrd").stored_affine(), expected)


def test_units_of_nrrd_count(tmp_path):
    (tmp_path / "scan.nrrd").write_bytes(nrrd(space_units='"cm" "cm" "cm"'))
    assert medldm.read(tmp_path / "scan.nrrd").spacing == (10, 20, 30)


def test_a_file_that_does_not_say_how_the_patient_lay_is_reported(tmp_path):
    bare = nrrd(space=None, space_directions=None, space_origin=None, spacings="1 2 3")
    (tmp_path / "scan.nrrd").write_bytes(bare)
    volume = medldm.read(tmp_path / "scan.nrrd")
    assert volume.spacing == (1, 2, 3)
    assert "left and right are a guess" in volume.stored.note[0]


@pytest.mark.parametrize("name", ["noext", "scan.dat"])
@pytest.mark.parametrize("content", [nrrd(), mha(), nib.MGHImage(voxels(), np.eye(4)).to_bytes()], ids=["n", "m", "f"])
def test_a_format_is_known_by_its_content(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert np.array_equal(medldm.read(tmp_path / name).to_stored(medldm.read(tmp_path / name).voxels), voxels())


FOUR = voxels(shape=(9, 7, 5, 3))


LIST = {"kinds": "domain domain domain list", "space_directions": "(1,0,0) (0,2,0) (0,0,3) none"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.nrrd", nrrd(FOUR, **LIST)),
        ("time.mha", mha(FOUR)),
        ("bold.mgz", gzip.compress(nib.MGHImage(FOUR, np.eye(4)).to_bytes())),
    ],
)
def test_one_of_several_volumes_has_to_be_chosen(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NotRestorable, match=r"3 volumes.*--volume N"):
        medldm.read(tmp_path / name)
    chosen = io.read(tmp_path / name, volume_index=1)
    assert np.array_equal(chosen.to_stored(chosen.voxels), FOUR[..., 1])
    with pytest.raises(UsageError, match="no volume 3"):
        io.read(tmp_path / name, volume_index=3)


COLOURS = voxels("u1", (3, 9, 7, 5))


def several(kind, **fields):
    return nrrd(
        COLOURS, kinds=f"{kind} domain domain domain", space_directions="none (1,0,0) (0,2,0) (0,0,3)", **fields
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rgb.nrrd", several("RGB-color", type="uchar"), "colour"),
        ("vector.nrrd", several("vector", type="float"), "3 vectors"),
        ("complex.nrrd", several("complex"), "complex"),
        ("rgb.mha", mha(voxels("u1"), ElementType="MET_UCHAR", ElementNumberOfChannels=3), "colour"),
    ],
)
def test_colours_vectors_and_complex_numbers_are_refused_as_what_they_are(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content + b"\0" * 4000)
    with pytest.raises(NotRestorable, match=said):
        medldm.read(tmp_path / name)


def shape_of_mgh(*shape):
    whole = bytearray(nib.MGHImage(voxels(), np.eye(4)).to_bytes())
    whole[4:20] = np.array(shape, ">i4").tobytes()
    return bytes(whole)


def place_of_mgh(value):
    whole = bytearray(nib.MGHImage(voxels(), np.eye(4)).to_bytes())
    whole[30:42] = np.full(3, value, ">f4").tobytes()
    return bytes(whole)


HOSTILE = {
    "truncated.nrrd": nrrd()[:-100],
    "truncated.gz.nrrd": nrrd(encoding="gzip")[:200] + gzip.compress(voxels().tobytes())[:-50],
    "huge.nrrd": nrrd(sizes="40000 30000 20000"),
    "endless.nrrd": nrrd(sizes="99999999999999 99999999999 1"),
    "nothing.nrrd": nrrd(sizes="0 7 5"),
    "negative.nrrd": nrrd(sizes="-9 7 5"),
    "words.nrrd": nrrd(sizes="nine 7 5"),
    "nan.nrrd": nrrd(space_directions="(nan,nan,nan) (0,2,0) (0,0,3)"),
    "flat.nrrd": nrrd(space_directions="(0,0,0) (0,2,0) (0,0,3)"),
    "parallel.nrrd": nrrd(space_directions="(0,1,0) (0,2,0) (0,0,3)"),
    "metres.nrrd": nrrd(space_directions="(1000,0,0) (0,2000,0) (0,0,3000)"),
    "twice.nrrd": nrrd().replace(b"endian", b"sizes: 1 1 1\nendian"),
    "nospacing.nrrd": nrrd(space=None, space_directions=None, space_origin=None),
    "nanspacing.nrrd": nrrd(space=None, space_directions=None, space_origin=None, spacings="nan 2 3"),
    "type.nrrd": nrrd(type="quaternion"),
    "block.nrrd": nrrd(type="block", block_size="2"),
    "encoding.nrrd": nrrd(encoding="rot13"),
    "packed.nrrd": gzip.compress(nrrd()),
    "empty.nrrd": b"",
    "text.nrrd": b"this is text",
    "short.nrrd": b"NRRD0004\n",
    "truncated.mha": mha()[:-100],
    "truncated.z.mha": mha(CompressedData=True)[:-500],
    "huge.mha": mha(DimSize="40000 30000 20000"),
    "nothing.mha": mha(DimSize="0 7 5"),
    "nan.mha": mha(TransformMatrix="nan 0 0 0 1 0 0 0 1"),
    "spacing.mha": mha(ElementSpacing="0 2 3"),
    "nanspacing.mha": mha(ElementSpacing="nan 2 3"),
    "type.mha": mha(ElementType="MET_OTHER"),
    "twice.mha": mha().replace(b"Offset", b"DimSize = 1 1 1\nOffset"),
    "nospacing.mha": mha().replace(b"ElementSpacing", b"Anything"),
    "axes.mha": mha(NDims=-1),
    "nodata.mha": mha().replace(b"ElementDataFile", b"Elsewhere"),
    "text.mha": b"this is text",
    "truncated.mgh": nib.MGHImage(voxels(), np.eye(4)).to_bytes()[:500],
    "truncated.mgz": gzip.compress(nib.MGHImage(voxels(), np.eye(4)).to_bytes())[:-60],
    "huge.mgh": shape_of_mgh(40000, 30000, 20000, 1),
    "nothing.mgh": shape_of_mgh(0, 7, 5, 1),
    "nan.mgh": place_of_mgh(np.nan),
    "flat.mgh": place_of_mgh(0),
    "text.mgz": b"this is text",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_file_is_refused_with_a_message_by_every_interface(name, tmp_path, capfd):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(HOSTILE[name])
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        medldm.read(path)
    assert main(["denoise", str(path), str(tmp_path / "out")]) == 3
    assert main(["inspect", str(path)]) == 3
    phantoms.save(tmp_path / "in" / "good.nii.gz", phantoms.brain((16, 16, 8)))
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out"), "--dry-run"]) == 8
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out


def test_packed_data_are_read_to_their_end_and_truncated_ones_are_not(tmp_path):
    for suffix in ITK:
        medldm.write(io.from_array(voxels(), np.eye(4)), tmp_path / f"scan{suffix}")
        data_file = result_files(tmp_path / f"scan{suffix}")[0]
        for cut in (1, 20, 300):
            data_file.write_bytes(data_file.read_bytes()[:-cut])
            with pytest.raises(InputError, match="damaged"):
                medldm.read(tmp_path / f"scan{suffix}")


@pytest.mark.parametrize(("axes", "content", "message"), [(70, bytes(2), "1 x 1"), (3, bytes(2**27), "far more")])
def test_headers_and_data_without_end_are_refused_soon(axes, content, message, tmp_path):
    lines = [f"dimension: {axes}", "sizes:" + " 1" * axes, "spacings:" + " 1" * axes, "type: short", "encoding: bzip2"]
    header = "\n".join(["NRRD0004", *lines, "", ""]).encode()
    (tmp_path / "scan.nrrd").write_bytes(header.replace(b" 1 1 1\n", b" 4 4 4\n", 1) + bz2.compress(content))
    with pytest.raises(InputError, match=message):
        medldm.read(tmp_path / "scan.nrrd")


@pytest.mark.parametrize("encoding", ["bzip2", "ascii", "hex", "gz"])
def test_other_encodings_of_nrrd_are_read(encoding, tmp_path):
    data = voxels().tobytes(order="F")
    numbers = " ".join(map(str, voxels().ravel(order="F"))).encode()
    packed = {"bzip2": bz2.compress(data), "gz": gzip.compress(data), "ascii": numbers, "hex": data.hex().encode()}[
        encoding
    ]
    (tmp_path / "scan.nrrd").write_bytes(nrrd(encoding=encoding)[: -len(data)] + packed)
    volume = medldm.read(tmp_path / "scan.nrrd")
    assert np.array_equal(volume.to_stored(volume.voxels), voxels())


OUTSIDE = ["../secret.raw", "/etc/passwd", "a/../../secret.raw", "LIST", "slice%03d.raw 1 5 1", ".", "..", "gone.raw"]


@pytest.mark.parametrize("place", OUTSIDE)
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_no_header_leads_out_of_its_folder(suffix, place, tmp_path):
    (tmp_path / "secret.raw").write_bytes(voxels().tobytes(order="F"))
    path = tmp_path / "in" / f"scan{suffix}"
    path.parent.mkdir()
    content = nrrd(data_file=place) if suffix == ".nhdr" else mha(ElementDataFile=place)
    path.write_bytes(content[: -voxels().nbytes])
    with pytest.raises(InputError, match=r"outside of its folder|several files|does not lie beside it"):
        medldm.read(path)
    (case,) = find_cases(tmp_path / "in")
    with pytest.raises(InputError):
        case.read()


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_components_may_come_before_or_after_the_axes_in_space(axis, tmp_path):
    kinds, directions = ["domain"] * 3, ["(1,0,0)", "(0,2,0)", "(0,0,3)"]
    kinds.insert(axis, "list")
    directions.insert(axis, "none")
    array = np.moveaxis(FOUR, -1, axis)
    content = nrrd(array, kinds=" ".join(kinds), space_directions=" ".join(directions))
    (tmp_path / "scan.nrrd").write_bytes(content)
    assert find_cases(tmp_path)[0].stored_shape == (9, 7, 5, 3)
    chosen = io.read(tmp_path / "scan.nrrd", volume_index=2)
    assert np.array_equal(chosen.voxels, FOUR[..., 2])


def test_components_of_metaimage_are_volumes(tmp_path):
    image = sitk.GetImageFromArray(np.ascontiguousarray(FOUR.transpose(2, 1, 0, 3)), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "scan.mha"), True)
    chosen = io.read(tmp_path / "scan.mha", volume_index=1)
    assert np.array_equal(chosen.to_stored(chosen.voxels), FOUR[..., 1])


def test_one_slice_may_have_two_axes(tmp_path):
    for name in ("scan.mha", "scan.nrrd"):
        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels()[..., 0].transpose()))
        image.SetSpacing((0.5, 2))
        sitk.WriteImage(image, str(tmp_path / name))
        volume = medldm.read(tmp_path / name)
        assert np.array_equal(volume.to_stored(volume.voxels)[..., 0], voxels()[..., 0])
        assert volume.spacing == (0.5, 2, 1)


@pytest.mark.parametrize("order", ["little", "big"])
def test_both_byte_orders_are_read(order, tmp_path):
    array = voxels().astype(voxels().dtype.newbyteorder("<" if order == "little" else ">"))
    (tmp_path / "scan.nrrd").write_bytes(nrrd(array, endian=order))
    (tmp_path / "scan.mha").write_bytes(mha(array, BinaryDataByteOrderMSB=order == "big"))
    for name in ("scan.nrrd", "scan.mha"):
        volume = medldm.read(tmp_path / name)
        assert np.array_equal(volume.to_stored(volume.voxels), voxels())


@pytest.mark.parametrize("size", [7, -1])
def test_data_may_begin_after_other_bytes(size, tmp_path):
    data, before = voxels().tobytes(order="F"), b"x" * 7
    (tmp_path / "scan.raw").write_bytes(before + data)
    (tmp_path / "scan.nhdr").write_bytes(nrrd(data_file="scan.raw", byte_skip=size)[: -len(data)])
    (tmp_path / "scan.mhd").write_bytes(mha(ElementDataFile="scan.raw", HeaderSize=size)[: -len(data)])
    for name in ("scan.nhdr", "scan.mhd"):
        volume = medldm.read(tmp_path / name)
        assert np.array_equal(volume.to_stored(volume.voxels), voxels())


def test_data_may_lie_below_the_header(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mein Würfel.raw").write_bytes(voxels().tobytes(order="F"))
    (tmp_path / "scan.nhdr").write_bytes(nrrd(data_file="data/mein Würfel.raw")[: -voxels().nbytes])
    assert len(find_cases(tmp_path)) == 1
    assert medldm.read(tmp_path / "scan.nhdr").shape == (9, 7, 5)


@pytest.fixture
def tree(tmp_path):
    """The same scan in every format, and a DICOM series."""
    scan = np.rint(phantoms.brain((16, 16, 8))).astype(np.int16) + 5
    for number, suffix in enumerate(SUFFIXES):
        medldm.write(io.from_array(scan, AFFINES["upright"]), tmp_path / "in" / f"scan{number}{suffix}")
    phantoms_dicom.write_series(tmp_path / "in" / "series", scan)
    return tmp_path / "in"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_a_tree_of_all_formats_comes_out_as_it_went_in(tree, tmp_path, stub_network):
    assert run("denoise", tree, tmp_path / "out", "--noise", "0.05") == 0
    made = {path.name for path in (tmp_path / "out").iterdir()}
    kept = {".hdr": ".nii.gz", ".nii.bz2": ".nii.gz", ".nii.xz": ".nii.gz", ".nii.zst": ".nii.gz", ".nhdr": ".nrrd"}
    kept |= {".mhd": ".mha"}
    expected = {f"scan{number}{kept.get(suffix, suffix)}" for number, suffix in enumerate(SUFFIXES)}
    assert expected <= made
    assert {f"scan{number}_medldm.json" for number in range(len(SUFFIXES))} <= made
    scan = medldm.read(tree / "scan0.nii.gz")
    for name in expected:
        result = medldm.read(tmp_path / "out" / name)
        assert np.array_equal(result.voxels, scan.voxels + 1)
        assert result.stored.restored_by == "denoise"
    assert run("denoise", tree, tmp_path / "out", "--noise", "0.05") == 0  # all done already
    assert {path.name for path in (tmp_path / "out").iterdir()} == made


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_name_of_the_result_says_its_format(suffix, scan_file, tmp_path, stub_network):
    out = tmp_path / "out" / f"result{suffix}"
    for _ in range(2):
        assert run("denoise", scan_file, out, "--noise", "0.05", "--samples", "2", "--uncertainty", "--preview") == 0
        assert np.array_equal(medldm.read(out).voxels, medldm.read(scan_file).voxels + 1)
    (out.parent / "result_medldm.json").unlink()
    assert run("denoise", scan_file, out, "--noise", "0.05") == 2  # not known to the ledger any more
    assert run("denoise", scan_file, out, "--noise", "0.05", "--overwrite") == 0
    assert [path for path in out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("form", "suffix"), [("nrrd", ".nrrd"), ("mha", ".mha"), ("mgz", ".mgz"), ("nifti", ".nii.gz")]
)
def test_a_format_may_be_asked_for(form, suffix, tree, tmp_path, stub_network):
    assert run("denoise", tree, tmp_path / "out", "--noise", "0.05", "--format", form) == 0
    images = [path for path in (tmp_path / "out").iterdir() if path.suffix not in (".json", ".csv", "")]
    assert len(images) == len(SUFFIXES) + 1
    assert sum(path.name.endswith(suffix) for path in images) >= len(images) - 1  # .nii stays .nii


@pytest.mark.parametrize("suffix", NEW)
def test_uncertainty_lies_beside_a_result_in_its_format_and_is_no_scan(suffix, tree, tmp_path, stub_network):
    source = tree / f"scan{SUFFIXES.index(suffix)}{suffix}"
    assert run("denoise", source, tmp_path / "out", "--noise", "0.05", "--samples", "2", "--uncertainty") == 0
    maps = list((tmp_path / "out").glob("*_std*"))
    assert len(maps) == 1
    assert maps[0].suffix == {".nhdr": ".nrrd", ".mhd": ".mha", ".mgh": ".mgz"}.get(suffix, suffix)
    assert len(find_cases(tmp_path / "out")) == 1


@pytest.mark.parametrize("suffix", NEW)
def test_nothing_to_do_gives_a_copy(suffix, tree, tmp_path):
    source = tree / f"scan{SUFFIXES.index(suffix)}{suffix}"
    assert run("super-resolve", source, tmp_path / "out", "--spacing", "3") == 0
    (result,) = (path for path in (tmp_path / "out").iterdir() if path.suffix not in (".json", ".csv"))
    assert np.array_equal(medldm.read(result).voxels, medldm.read(source).voxels)
    if suffix == result.suffix:
        assert result.read_bytes() == source.read_bytes()


def test_a_header_is_not_copied_without_its_data(tree, tmp_path):
    header = tree / f"scan{SUFFIXES.index('.nhdr')}.nhdr"
    header = header.rename(header.with_suffix(".nrrd"))
    assert run("super-resolve", header, tmp_path / "out", "--spacing", "3") == 0
    assert np.array_equal(medldm.read(tmp_path / "out" / header.name).voxels, medldm.read(header).voxels)


@pytest.mark.parametrize("suffix", NEW)
def test_a_mask_may_have_any_format(suffix, tree, tmp_path, stub_network):
    mask = np.zeros((16, 16, 8), np.uint8)
    mask[5:8, 5:8, 3:5] = 1
    medldm.write(io.from_array(mask, AFFINES["upright"]), tmp_path / f"mask{suffix}")
    assert run("inpaint", tree / "scan6.nrrd", tmp_path / "out", "--mask", tmp_path / f"mask{suffix}") == 0


@pytest.mark.parametrize("suffix", [".hdr", ".nhdr", ".mhd"])
def test_data_of_somebody_else_are_not_replaced_by_those_of_a_result(suffix, scan_file, tmp_path, stub_network, capsys):
    out = tmp_path / f"result{suffix}"
    data_file, _ = result_files(out)
    data_file.write_bytes(b"mine")
    assert run("denoise", scan_file, out, "--noise", "0.05") == 2
    assert "is not a result of medldm" in capsys.readouterr().err
    assert data_file.read_bytes() == b"mine"
    for missing in result_files(out):  # a run that was killed in between leaves one of them, and its record
        assert run("denoise", scan_file, out, "--noise", "0.05", "--overwrite") == 0
        missing.unlink()
        (tmp_path / "summary.json").unlink(missing_ok=True)
        code = run("denoise", scan_file, out, "--noise", "0.05")
        assert (code, out.exists(), data_file.exists()) == ((0, True, True) if missing == out else (2, True, False))


def test_a_result_that_cannot_be_read_again_is_not_kept(tmp_path, monkeypatch):
    from medldm.io.nrrd import Nrrd

    monkeypatch.setattr(Nrrd, "save", lambda self, array, volume, path: path.write_bytes(nrrd(array[::-1])))
    with pytest.raises(OutputError, match="could not be opened again"):
        medldm.write(io.from_array(voxels(), np.eye(4)), tmp_path / "scan.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_names_lose_the_suffix_of_every_format():
    names = {f"a.b{suffix}" for suffix in (*SUFFIXES, ".img.gz", ".mgh.gz")}
    assert {stem(Path(name)) for name in names} == {"a.b"}
