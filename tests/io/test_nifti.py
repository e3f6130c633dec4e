"""NIfTI: what was stored comes back as it was stored, and what is broken is named in a sentence."""

import gzip
import os
import shutil
import stat
from dataclasses import replace

import nibabel as nib
import numpy as np
import phantoms
import pytest

from medldm.data.resample import field_of_view_affine
from medldm.errors import GeometryError, InputError, MedldmError, NotRestorable, OutputError, ResourceError, UsageError
from medldm.io import from_array, from_nibabel, read_nifti, write_nifti
from medldm.io.arrays import to_dtype
from medldm.io.atomic import sentence
from medldm.io.nifti import writer
from medldm.io.nifti.reader import probe_nifti

ORIENTATIONS = ["RAS", "LPS", "LAS", "PIR", "SAL", "IPR"]


def oriented(codes, shape=(7, 6, 5)):
    """Distinct integers on an oblique grid whose axes run as `codes` say."""
    to = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    base = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    affine = phantoms.OBLIQUE @ nib.orientations.inv_ornt_aff(to, shape)
    return nib.orientations.apply_orientation(base, to), affine


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_inside_every_orientation_is_ras_and_outside_it_is_kept(codes, tmp_path):
    stored, affine = oriented(codes)
    path = phantoms.save(tmp_path / "scan.nii.gz", stored, affine)
    volume = read_nifti(path)
    upright, expected = oriented("RAS")
    assert np.array_equal(volume.voxels, upright)
    assert np.allclose(volume.affine, expected, atol=1e-4)
    assert write_nifti(volume, tmp_path / "again.nii.gz") == 0
    again = nib.load(tmp_path / "again.nii.gz")
    assert np.array_equal(np.asanyarray(again.dataobj), stored)
    assert again.header.binaryblock == nib.load(path).header.binaryblock


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_voxel_type_is_kept(dtype, suffix, tmp_path):
    voxels = np.arange(60).reshape(5, 4, 3).astype(dtype)
    volume = read_nifti(phantoms.save(tmp_path / f"a{suffix}", voxels))
    restored = volume.with_voxels(volume.voxels.astype(np.float32) + 0.3)
    write_nifti(restored, tmp_path / f"b{suffix}")
    again = nib.load(tmp_path / f"b{suffix}")
    whole = np.issubdtype(np.dtype(dtype), np.integer)
    assert again.get_data_dtype() == dtype
    assert np.allclose(again.get_fdata(), voxels if whole else voxels + 0.3, atol=1e-5)


def test_both_byte_orders_are_read_alike(tmp_path):
    voxels = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.eye(4), header), tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes().endswith(b"\0\x11\0\x17")  # most significant byte first
    volume = read_nifti(tmp_path / "big.nii")
    assert np.array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype == volume.stored.dtype == np.int16
    assert from_array(voxels.astype(">i2"), np.eye(4)).voxels.dtype.isnative
    write_nifti(volume, tmp_path / "out.nii")
    assert np.array_equal(np.asanyarray(nib.load(tmp_path / "out.nii").dataobj), voxels)


def test_clipped_voxels_are_counted(tmp_path):
    volume = read_nifti(phantoms.save(tmp_path / "a.nii", np.full((4, 4, 4), 250, np.uint8)))
    too_much = np.full((4, 4, 4), 100.4, np.float32)
    too_much[0, 0, :3] = [300, -2, 255.6]
    assert write_nifti(volume.with_voxels(too_much), tmp_path / "b.nii") == 3
    assert np.asanyarray(nib.load(tmp_path / "b.nii").dataobj)[0, 0].tolist() == [255, 0, 255, 100]


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "int64", "uint64"])
def test_what_is_beyond_the_largest_integer_does_not_wrap_around(dtype):
    limits = np.iinfo(dtype)
    for kind in (np.float32, np.float64):
        far = np.array([-1e30, limits.min, 5, limits.max + 1, 1e30], kind)
        stored, clipped = to_dtype(far, np.dtype(dtype))
        assert stored.tolist() == [limits.min, limits.min, 5, limits.max, limits.max]
        assert clipped == 3


def test_nan_stays_nan_and_turns_integers_into_float32(tmp_path):
    volume = read_nifti(phantoms.save(tmp_path / "a.nii", np.ones((4, 4, 4), np.int16)))
    holes = np.ones((4, 4, 4), np.float32)
    holes[1] = np.nan
    assert write_nifti(volume.with_voxels(holes), tmp_path / "b.nii") == 0
    again = read_nifti(tmp_path / "b.nii")
    assert again.voxels.dtype == np.float32
    assert np.isnan(again.voxels[1]).all()


def test_scaled_integers_go_back_into_the_same_integers(tmp_path):
    stored = np.arange(-100, -40, dtype=np.int16).reshape(5, 4, 3)
    path = phantoms.save(tmp_path / "a.nii", stored, scl_slope=0.25, scl_inter=-1000.0)
    volume = read_nifti(path)
    assert np.allclose(volume.voxels, stored * 0.25 - 1000)
    write_nifti(volume, tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("slope", [0.0, np.nan, np.inf])
def test_a_slope_that_is_none_means_no_scaling(slope, tmp_path):
    path = phantoms.save(tmp_path / "a.nii", np.full((3, 3, 3), 7, np.int16), scl_slope=slope, scl_inter=5.0)
    assert (read_nifti(path).voxels == 7).all()


def test_infinite_voxels_count_as_missing(tmp_path):
    voxels = np.ones((3, 3, 3), np.float64)
    voxels[0, 0, 0], voxels[1, 1, 1] = np.inf, 1e300
    volume = read_nifti(phantoms.save(tmp_path / "a.nii", voxels))
    assert np.isnan(volume.voxels).sum() == 2
    assert "infinite" in volume.stored.note[-1]


def test_a_new_grid_is_written_into_sform_and_qform(tmp_path):
    stored, affine = oriented("LPS")
    volume = read_nifti(phantoms.save(tmp_path / "a.nii.gz", stored, affine, code=4))
    finer = field_of_view_affine(volume.affine, volume.shape, (7, 6, 15))
    write_nifti(volume.with_voxels(np.repeat(volume.voxels, 3, axis=2), finer), tmp_path / "b.nii.gz")
    header = nib.load(tmp_path / "b.nii.gz").header
    again = read_nifti(tmp_path / "b.nii.gz")
    assert np.allclose(again.affine, finer, atol=1e-4)
    assert np.allclose(header.get_sform(), again.stored_affine(), atol=1e-4)
    assert header.get_qform(coded=True)[1] in (0, 4)  # 0 where shear cannot be a quaternion
    assert header["sform_code"] == 4
    assert header.get_zooms()[2] == pytest.approx(np.linalg.norm(affine[:3, 2]) / 3, rel=1e-4)


def test_equal_volumes_give_equal_bytes(tmp_path, phantom):
    write_nifti(phantom, tmp_path / "a.nii.gz")
    write_nifti(phantom, tmp_path / "b.nii.gz")
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3:8] == b"\0" * 5  # no name, no time
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_arrays_and_nibabel_images_become_volumes(tmp_path):
    stored, affine = oriented("PIR")
    assert np.array_equal(from_array(stored, affine).voxels, oriented("RAS")[0])
    volume = from_nibabel(nib.Nifti1Image(stored, affine))
    write_nifti(volume, tmp_path / "a.nii")
    assert np.array_equal(np.asanyarray(nib.load(tmp_path / "a.nii").dataobj), stored)


def test_a_nibabel_image_in_micrometres_lies_where_its_file_does(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.diag([800.0, 800, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    volume = from_nibabel(image)
    assert np.allclose(volume.affine, read_nifti(tmp_path / "a.nii").affine)
    write_nifti(volume, tmp_path / "b.nii")
    again = nib.load(tmp_path / "b.nii")
    assert np.allclose(again.affine, image.affine)
    assert again.header.get_xyzt_units()[0] == "micron"


def test_images_without_a_place_or_a_number_a_voxel_are_refused_with_a_message():
    with pytest.raises(GeometryError, match="no affine"):
        from_nibabel(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), None))
    for strange in (np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]):
        with pytest.raises(NotRestorable, match="one real number a voxel"):
            from_nibabel(nib.Nifti1Image(np.zeros((4, 4, 4), strange), np.eye(4)))


def test_infinite_numbers_in_an_array_count_as_missing():
    array = np.ones((3, 3, 3))
    array[0, 0, 0], array[1, 1, 1] = -np.inf, 1e300
    volume = from_array(array, np.eye(4))
    assert np.isnan(volume.voxels).sum() == 2
    assert "2 infinite voxels" in volume.stored.note[0]
    assert np.isinf(array[0, 0, 0])  # the caller's own stay


def test_planes_and_trailing_ones_are_volumes(tmp_path):
    plane = np.arange(20, dtype=np.int16).reshape(5, 4)
    for shape in [(5, 4), (5, 4, 1), (5, 4, 1, 1)]:
        path = phantoms.save(tmp_path / "a.nii", plane.reshape(shape))
        volume = read_nifti(path)
        assert sorted(volume.shape) == [1, 4, 5]
        write_nifti(volume, tmp_path / "b.nii")
        assert nib.load(tmp_path / "b.nii").shape == shape


def test_one_volume_of_many_is_taken_only_when_named(tmp_path):
    many = np.arange(120, dtype=np.int16).reshape(4, 5, 2, 3)
    path = phantoms.save(tmp_path / "bold.nii.gz", many)
    with pytest.raises(NotRestorable, match=r"3 volumes.*--volume"):
        read_nifti(path)
    assert np.array_equal(read_nifti(path, volume_index=2).voxels, many[..., 2])
    with pytest.raises(UsageError, match="no volume 3"):
        read_nifti(path, volume_index=3)
    write_nifti(read_nifti(path, volume_index=1), tmp_path / "one.nii")
    assert nib.load(tmp_path / "one.nii").shape == (4, 5, 2)


@pytest.mark.parametrize(("unit", "mm"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_units_are_read_as_millimetres_and_written_as_found(unit, mm, tmp_path):
    affine = np.diag([2 / mm, 2 / mm, 2 / mm, 1.0])
    path = phantoms.save(tmp_path / "a.nii", np.ones((4, 4, 4), np.int16), affine, xyzt_units=unit)
    volume = read_nifti(path)
    assert volume.spacing == pytest.approx((2, 2, 2))
    assert any("unit" in note for note in volume.stored.note) == (unit == 0)
    write_nifti(volume, tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()
    halved = volume.with_voxels(np.ones((8, 4, 4)), field_of_view_affine(volume.affine, volume.shape, (8, 4, 4)))
    write_nifti(halved, tmp_path / "c.nii")
    assert read_nifti(tmp_path / "c.nii").spacing == pytest.approx((1, 2, 2))


def test_units_that_make_giant_voxels_are_not_believed(tmp_path):
    path = phantoms.save(tmp_path / "a.nii", np.ones((4, 4, 4), np.int16), xyzt_units=1)
    volume = read_nifti(path)
    assert volume.spacing == pytest.approx((1, 1, 1))
    assert "meter" in volume.stored.note[0]


@pytest.mark.parametrize("offset", [16, 351, -1, np.nan, np.inf])
def test_voxels_that_would_start_inside_the_header_are_not_read(offset, tmp_path):
    path = phantoms.save(tmp_path / "a.nii", np.ones((3, 3, 3), np.int16), vox_offset=offset)
    with pytest.raises(InputError, match="start at byte"):
        read_nifti(path)


NAN = np.array([np.nan] * 4)
PLACES = {
    "no orientation at all": ({"sform_code": 0, "qform_code": 0}, "left and right are a guess"),
    "an sform of NaN beside a good qform": ({"srow_x": NAN}, "unusable sform"),
    "an sform of zeros beside a good qform": ({"srow_z": np.zeros(4)}, "unusable sform"),
    "a quaternion beyond 1 beside a good sform": ({"quatern_b": 5.0}, "unusable qform"),
    "places that differ": ({"qoffset_x": 40.0}, "different places"),
    "no qfac": ({"pixdim": [0, 1, 1, 1, 0, 0, 0, 0]}, ""),
    "nonsense qfac": ({"pixdim": [7, 1, 1, 1, 0, 0, 0, 0]}, ""),
    "negative sizes": ({"pixdim": [1, -1, -1, -1, 0, 0, 0, 0]}, ""),
    "zero sizes beside a good sform": ({"pixdim": [1, 0, 0, 0, 0, 0, 0, 0]}, "unusable qform"),
}


@pytest.mark.parametrize("damage", PLACES)
def test_headers_with_one_way_out_are_read(damage, tmp_path):
    fields, word = PLACES[damage]
    path = phantoms.save(tmp_path / "a.nii", np.arange(60, dtype=np.int16).reshape(5, 4, 3), **fields)
    volume = read_nifti(path)
    assert volume.spacing == pytest.approx((1, 1, 1))
    assert word in " ".join(volume.stored.note)
    write_nifti(volume, tmp_path / "b.nii")
    again = read_nifti(tmp_path / "b.nii")
    assert np.allclose(again.affine, volume.affine)
    assert np.array_equal(again.voxels, volume.voxels)
    assert nib.load(tmp_path / "b.nii").header["pixdim"][0] in (-1, 1)


NOWHERE = {
    "neither form usable": ({"srow_x": NAN, "quatern_b": np.nan}, "neither a usable sform"),
    "no sizes, no orientation": ({"sform_code": 0, "qform_code": 0, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "voxel size"),
    "left is right": ({"srow_x": [-1, 0, 0, 0]}, "left and right"),
    "two sizes": ({"srow_x": [3, 0, 0, 0]}, "different voxel sizes"),
    "voxels of a house": ({"sform_code": 0, "pixdim": [1, 5000, 1, 1, 0, 0, 0, 0]}, "no scanner makes"),
}


@pytest.mark.parametrize("damage", NOWHERE)
def test_headers_without_a_place_are_refused(damage, tmp_path):
    fields, word = NOWHERE[damage]
    path = phantoms.save(tmp_path / "a.nii", np.ones((5, 4, 3), np.int16), **fields)
    with pytest.raises(GeometryError, match=word):
        read_nifti(path)


def test_a_contradiction_is_settled_on_demand(tmp_path):
    path = phantoms.save(tmp_path / "a.nii", np.ones((5, 4, 3), np.int16), srow_x=[-1, 0, 0, 0])
    volume = read_nifti(path, fix=True)
    assert volume.stored.flips == (True, False, False)
    write_nifti(volume, tmp_path / "b.nii")
    assert read_nifti(tmp_path / "b.nii").stored.note == ()


def broken(kind, folder):
    """A file that is not what it seems."""
    path = folder / "scan.nii.gz"
    good = phantoms.save(folder / "good.nii", np.arange(8000, dtype=np.int16).reshape(20, 20, 20))
    packed = gzip.compress(good.read_bytes())
    contents = {
        "empty": b"",
        "text": b"I am not a scan.\n" * 50,
        "short text": b"no",
        "truncated gzip": packed[: len(packed) // 2],
        "flipped gzip": packed[:-6] + b"\x55" + packed[-5:],
        "truncated": good.read_bytes()[:5000],
        "header only": good.read_bytes()[:348],
        "gzip of text": gzip.compress(b"hello" * 200),
        "gzip of nothing": gzip.compress(b""),
    }
    path.write_bytes(contents[kind])
    return path


KINDS = ["empty", "text", "short text", "truncated gzip", "flipped gzip", "truncated", "header only", "gzip of text"]


@pytest.mark.parametrize("kind", [*KINDS, "gzip of nothing"])
def test_what_is_no_whole_nifti_is_named_in_a_sentence(kind, tmp_path):
    with pytest.raises(InputError, match=r"scan\.nii\.gz .*\.$"):
        read_nifti(broken(kind, tmp_path))


LIES = {
    "no voxels along an axis": {"dim": [3, 20, 0, 20, 1, 1, 1, 1]},
    "negative size": {"dim": [3, 20, -5, 20, 1, 1, 1, 1]},
    "eleven dimensions": {"dim": [11, 20, 20, 20, 1, 1, 1, 1]},
    "more voxels than bytes": {"dim": [3, 32000, 32000, 32000, 1, 1, 1, 1]},
    "a type nobody knows": {"datatype": 77},
    "one bit a voxel": {"datatype": 1},
    "half of a pair": {"magic": b"ni1"},
    "Analyze": {"magic": b""},
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_that_lie_are_caught_before_any_memory_is_asked_for(lie, suffix, tmp_path):
    path = phantoms.save(tmp_path / "scan.nii", np.ones((20, 20, 20), np.int16), **LIES[lie])
    if suffix == ".nii.gz":
        path.with_name("scan.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InputError, match=r"scan\.nii"):
        read_nifti(tmp_path / f"scan{suffix}")
    with pytest.raises(InputError):
        probe_nifti(tmp_path / f"scan{suffix}")


def test_more_voxels_than_memory_is_a_sentence(tmp_path, monkeypatch):
    path = phantoms.save(tmp_path / "a.nii", np.ones((20, 20, 20), np.int16))
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    with pytest.raises(ResourceError, match="memory"):
        read_nifti(path)


def test_colours_complex_numbers_and_lines_are_left_alone(tmp_path):
    colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "rgb.nii")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    phantoms.save(tmp_path / "line.nii", np.zeros((40, 1, 1), np.int16))
    for name, word in [("rgb", "colour"), ("complex", "magnitude"), ("line", "no image")]:
        with pytest.raises(NotRestorable, match=word):
            read_nifti(tmp_path / f"{name}.nii")


def test_a_packed_file_without_gz_and_the_other_way_round(tmp_path):
    good = phantoms.save(tmp_path / "a.nii", np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    shutil.copy(good, tmp_path / "plain.nii.gz")
    (tmp_path / "packed.nii").write_bytes(gzip.compress(good.read_bytes()))
    for name in ("plain.nii.gz", "packed.nii"):
        assert np.array_equal(read_nifti(tmp_path / name).voxels, read_nifti(good).voxels)


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "nothing.nii", tmp_path):
        with pytest.raises(InputError, match=r"Check|folder"):
            read_nifti(path)


def test_places_that_cannot_be_written_leave_nothing_behind(tmp_path, phantom, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="no folder"):
        write_nifti(phantom, tmp_path / "file" / "a.nii.gz")
    with pytest.raises(OutputError, match="does not end"):
        write_nifti(phantom, tmp_path / "a.png")
    before = sorted(tmp_path.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "_pour", full)
    with pytest.raises(ResourceError, match="disk is full"):
        write_nifti(phantom, tmp_path / "a.nii.gz")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path, phantom):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="not writable"):
        write_nifti(phantom, tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        (PermissionError(13, "Permission denied"), "not writable"),
        (OSError(30, "Read-only file system"), "not writable"),
        (OSError(122, "Disk quota exceeded"), "disk is full"),
        (IsADirectoryError(21, "Is a directory"), "it is a folder"),
        (OSError(36, "File name too long"), "File name too long"),
    ],
)
def test_what_the_system_refuses_becomes_a_sentence(problem, word, tmp_path):
    refusal = sentence(problem, tmp_path / "a.nii.gz")
    assert word in str(refusal)
    assert isinstance(refusal, ResourceError if "full" in word else OutputError)


def test_every_error_of_this_room_has_an_exit_code():
    for kind in (InputError, GeometryError, NotRestorable, OutputError, ResourceError):
        assert issubclass(kind, MedldmError)
        assert kind.exit_code in (2, 3, 8)


def test_a_standard_deviation_is_written_as_float32(tmp_path):
    volume = read_nifti(phantoms.save(tmp_path / "a.nii", np.ones((4, 4, 4), np.int16), scl_slope=2.0))
    std = volume.with_voxels(
        np.full((4, 4, 4), 0.25, np.float32), stored=replace(volume.stored, dtype=np.dtype(np.float32))
    )
    write_nifti(std, tmp_path / "std.nii")
    assert np.allclose(nib.load(tmp_path / "std.nii").get_fdata(), 0.25)


@pytest.mark.parametrize("codes", [(2, 1), (1, 0), (0, 1), (0, 0), (4, 2)])
def test_on_a_new_grid_each_form_keeps_its_code(codes, tmp_path):
    """Unknown stays unknown; aligned does not become the scanner's."""
    voxels = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    sizes = np.diag([2.0, 1.5, 3.0, 1.0])
    image = nib.Nifti1Image(voxels, None)
    image.header.set_zooms((2.0, 1.5, 3.0))
    # An affine to a template (4) may stretch; one to another scan (2) may not, or it contradicts pixdim.
    scale = np.diag([1.0, 1, 1, 1] if codes[0] == 4 else [*1 / np.linalg.norm(phantoms.OBLIQUE[:3, :3], axis=0), 1])
    if codes != (0, 0):
        image.header.set_sform(phantoms.OBLIQUE @ scale @ sizes if codes[0] else None, code=codes[0])
        image.header.set_qform(sizes if codes[0] else phantoms.OBLIQUE @ sizes, code=codes[1])
    nib.save(image, tmp_path / "a.nii.gz")
    volume = read_nifti(tmp_path / "a.nii.gz")
    finer = tuple(2 * size for size in volume.shape)
    affine = field_of_view_affine(volume.affine, volume.shape, finer)
    write_nifti(volume.with_voxels(np.zeros(finer, np.float32), affine), tmp_path / "b.nii.gz")
    again = nib.load(tmp_path / "b.nii.gz")
    assert (int(again.header["sform_code"]), int(again.header["qform_code"])) == codes
    old, new = (nib.load(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz"))
    forms = ["get_base_affine", *(["get_sform"] if codes[0] else []), *(["get_qform"] if codes[1] else [])]
    for form in forms if codes == (0, 0) else forms[1:]:
        before, after = getattr(old.header, form)(), getattr(new.header, form)()
        # The same corner of the field of view: half a voxel outside the first one.
        assert np.allclose(before @ [-0.5, -0.5, -0.5, 1], after @ [-0.5, -0.5, -0.5, 1], atol=1e-3)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1.0, 1, 0, 1]), np.diag([np.nan, 1, 1, 1]), np.eye(3)])
def test_an_array_with_an_affine_that_spans_no_space_is_a_sentence(affine):
    with pytest.raises(GeometryError, match="no finite, invertible 4 x 4 matrix"):
        from_array(np.zeros((4, 5, 6), np.float32), affine)
