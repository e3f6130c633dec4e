"""Odd headers are read in words, and no result carries what another program would refuse or read otherwise."""

import logging
import subprocess
import sys

import nibabel as nib
import numpy as np
import phantoms
import pytest

import medldm
from medldm import io
from medldm.cli import main
from medldm.data.resample import field_of_view_affine
from medldm.errors import InputError, OutputError
from medldm.io import from_nibabel, read_nifti, write_nifti
from medldm.io.nifti import writer
from medldm.io.nifti.format import NIFTI

VOXELS = np.random.default_rng(0).integers(0, 900, (8, 7, 6)).astype(np.int16)
NAN, INF = np.nan, np.inf


def results(volume, source, folder):
    """The same voxels on the same grid, as floats, on a finer grid, and as a copy; each with what it must hold."""
    shape = (2 * volume.shape[0], *volume.shape[1:])
    finer = field_of_view_affine(volume.affine, volume.shape, shape)
    made = {
        "same": volume,
        "floats": volume.with_voxels(volume.voxels.astype(np.float64)),
        "finer": volume.with_voxels(np.repeat(volume.voxels, 2, axis=0), finer),
    }
    for name, written in made.items():
        write_nifti(written, folder / f"{name}.nii.gz")
        yield folder / f"{name}.nii.gz", written
    NIFTI.copy(source, volume, folder / "copy.nii")
    yield folder / "copy.nii", volume


def check_opened(path, written):
    """nibabel finds the voxels, their place and their sizes as medldm does, and nothing odd is left."""
    image = nib.load(path)
    header = image.header
    assert np.allclose(np.asanyarray(image.dataobj), written.to_stored(written.voxels), rtol=1e-6, equal_nan=True)
    again = read_nifti(path)
    assert np.allclose(again.affine, written.affine, atol=1e-4)
    unit = {"meter": 1000.0, "micron": 0.001}.get(header.get_xyzt_units()[0], 1.0)
    assert np.allclose(unit * image.affine[:3], written.stored_affine()[:3], atol=1e-4)
    assert np.allclose(header.get_zooms()[:3], np.linalg.norm(image.affine[:3, :3], axis=0), rtol=0.01)
    header.get_intent()
    numbers = ("scl_slope", "scl_inter", "cal_max", "cal_min", "toffset", "slice_duration", "pixdim")
    raw = nib.Nifti1Header(nifti_bytes(path)[:348], check=False)
    assert all(np.isfinite(raw[name]).all() for name in numbers)
    assert not [note for note in again.stored.note if "contradicts" in note or "slope" in note]


def nifti_bytes(path):
    with nib.openers.ImageOpener(path) as file:
        return file.read()


ODD = {
    "slope 1, intercept NaN": {"scl_slope": 1.0, "scl_inter": NAN},
    "slope 2, intercept NaN": {"scl_slope": 2.0, "scl_inter": NAN},
    "slope 2, intercept infinite": {"scl_slope": 2.0, "scl_inter": -INF},
    "slope infinite": {"scl_slope": INF, "scl_inter": 3.0},
    "slope NaN, intercept 3": {"scl_slope": NAN, "scl_inter": 3.0},
    "both NaN": {"scl_slope": NAN, "scl_inter": NAN},
    "slope 0, intercept NaN": {"scl_slope": 0.0, "scl_inter": NAN},
    "slope negative": {"scl_slope": -0.5, "scl_inter": 100.0},
    "pixdim of another grid": {"pixdim": [1, 0.866, 0.866, 3, 0, 0, 0, 0], "qform_code": 0},
    "pixdim of another grid beside an aligned sform": {"pixdim": [1, 0.9, 0.9, 3, 0, 0, 0, 0], "sform_code": 2},
    "pixdim 0": {"pixdim": [1, 0, 1, 1, 0, 0, 0, 0], "qform_code": 0},
    "pixdim NaN": {"pixdim": [1, 1, NAN, 1, 0, 0, 0, 0], "qform_code": 0},
    "pixdim infinite": {"pixdim": [1, 1, 1, INF, 0, 0, 0, 0], "qform_code": 0},
    "pixdim negative": {"pixdim": [-1, -1, -1, -1, 0, 0, 0, 0], "qform_code": 0},
    "time step NaN": {"pixdim": [1, 1, 1, 1, NAN, INF, NAN, NAN]},
    "sform code nobody knows": {"sform_code": 77, "qform_code": 0},
    "qform code nobody knows": {"sform_code": 0, "qform_code": 77},
    "negative codes": {"sform_code": -1, "qform_code": -3},
    "unset qform of NaN": {"qform_code": 0, "quatern_b": NAN, "qoffset_x": INF},
    "unset sform of NaN": {"sform_code": 0, "srow_x": [NAN] * 4},
    "units nobody knows": {"xyzt_units": 7 + 56},
    "unit of metres that nobody believes": {"xyzt_units": 1 + 8},
    "intent nobody knows": {"intent_code": 4321},
    "intent parameters NaN": {"intent_p1": NAN, "intent_p2": INF, "intent_p3": -INF},
    "display range NaN": {"cal_max": NAN, "cal_min": INF, "toffset": NAN, "slice_duration": -INF},
    "bits that lie": {"bitpix": 3},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_header_does_not_reach_a_result(odd, tmp_path):
    source = phantoms.save(tmp_path / "scan.nii", VOXELS, **ODD[odd])
    volume = read_nifti(source)
    assert volume.spacing == pytest.approx((1, 1, 1))
    for path, written in results(volume, source, tmp_path):
        check_opened(path, written)


SCALED = {"slope 1, intercept NaN": (1, 0), "slope 2, intercept infinite": (2, 0), "slope infinite": (1, 0)}


@pytest.mark.parametrize("odd", SCALED)
def test_scaling_that_is_no_number_is_named_with_what_was_used(odd, tmp_path):
    volume = read_nifti(phantoms.save(tmp_path / "scan.nii", VOXELS, **ODD[odd]))
    slope, intercept = SCALED[odd]
    assert np.array_equal(volume.to_stored(volume.voxels), slope * VOXELS + intercept)
    (note,) = volume.stored.note
    assert f"; {slope} and {intercept} are used." in note
    for harmless in ("both NaN", "slope 0, intercept NaN", "slope negative"):
        assert not read_nifti(phantoms.save(tmp_path / "scan.nii", VOXELS, **ODD[harmless])).stored.note


def test_one_sentence_says_that_affine_and_pixdim_disagree_and_which_is_used(stub_network, tmp_path, capsys, caplog):
    """The case of make_cases.py, from file to file."""
    brain = phantoms.brain((24, 24, 12)).astype(np.int16)
    image = nib.Nifti1Image(brain, np.eye(4))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "scan.nii")
    phantoms.patch(tmp_path / "scan.nii", pixdim=[1, 0.866, 0.866, 3, 0, 0, 0, 0])
    (note,) = read_nifti(tmp_path / "scan.nii").stored.note
    assert "its affine gives voxels of 1 x 1 x 1 mm, its pixdim 0.866 x 0.866 x 3 mm. The affine is used" in note
    assert main(["denoise", str(tmp_path / "scan.nii"), str(tmp_path / "out.nii")]) == 0
    written = nib.load(tmp_path / "out.nii")
    assert written.header.get_zooms() == pytest.approx((1, 1, 1))
    assert np.allclose(written.affine, np.eye(4))
    assert main(["inspect", str(tmp_path / "scan.nii")]) == 0
    assert note in capsys.readouterr().out


def test_what_rounding_explains_and_sizes_of_axes_that_are_not_there_are_no_contradiction(tmp_path):
    for shape, sizes in {(8, 7, 6): [1.004, 0.997, 1], (8, 7): [1, 1, 0], (8, 7, 1): [1, 1, 0]}.items():
        path = phantoms.save(tmp_path / "a.nii", np.resize(VOXELS, shape), qform_code=0, pixdim=[1, *sizes, 0, 0, 0, 0])
        assert not read_nifti(path).stored.note
    # The units of the header are compared with each other, not with millimetres.
    path = phantoms.save(tmp_path / "b.nii", VOXELS, np.diag([800.0, 800, 2000, 1]), xyzt_units=3)
    assert not read_nifti(path).stored.note


def test_a_stretching_sform_to_a_template_keeps_the_scanners_own_form(tmp_path):
    image = nib.Nifti1Image(VOXELS, None)
    image.header.set_zooms((1, 1, 3))
    image.set_qform(np.diag([1.0, 1, 3, 1]), code=1)
    image.set_sform(np.diag([1.2, 1.1, 3.3, 1]), code=4)
    nib.save(image, tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    assert any("contradicts itself" in note and note.endswith("The affine is used.") for note in volume.stored.note)
    write_nifti(volume.with_voxels(volume.voxels + 1), tmp_path / "b.nii")
    header = nib.load(tmp_path / "b.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 1)
    assert header.get_zooms() == pytest.approx((1, 1, 3))


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">f8", "int8", "uint16", "int64", "uint64", "float64"])
def test_every_voxel_type_comes_back_or_is_named(dtype, tmp_path):
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    values = (VOXELS % 100).astype(dtype)
    header.set_data_dtype(values.dtype)
    nib.save(nib.Nifti1Image(values, np.eye(4), header, dtype=values.dtype), tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii")
    write_nifti(volume, tmp_path / "b.nii")
    again = nib.load(tmp_path / "b.nii")
    assert np.array_equal(np.asanyarray(again.dataobj), values.astype(float))
    assert again.get_data_dtype() == np.dtype(dtype).newbyteorder("<")


def test_floats_of_128_bits_are_named(tmp_path):
    path = phantoms.save(tmp_path / "a.nii", VOXELS[:, :, :2].astype(np.float64), datatype=1536, bitpix=128)
    phantoms.patch(path, dim=[3, 8, 7, 1, 1, 1, 1, 1])
    try:
        said = " ".join(read_nifti(path).stored.note)  # where numpy's long floats are those of the file
        assert "written as float64" in said
    except InputError as problem:
        said = str(problem)
    assert "floats of 128 bits" in said


def test_what_only_float64_can_say_is_kept_bit_for_bit(tmp_path):
    fine = 1000 + np.arange(336).reshape(8, 7, 6) * 1e-9
    source = phantoms.save(tmp_path / "a.nii.gz", fine)
    volume = read_nifti(source)
    assert volume.voxels.dtype == np.float64
    for path, written in results(volume, source, tmp_path):
        stored = np.asanyarray(nib.load(path).dataobj)
        assert stored.dtype == np.float64
        assert np.array_equal(stored, written.to_stored(written.voxels))
    holes = volume.voxels.copy()
    holes[0] = np.nan
    write_nifti(volume.with_voxels(holes), tmp_path / "b.nii")
    assert nib.load(tmp_path / "b.nii").get_data_dtype() == np.float64


def test_integers_that_a_scale_keeps_apart_stay_apart(tmp_path):
    """A small slope on a large intercept, and integers beyond 24 bits: float32 would join neighbours."""
    for voxels, slope, intercept in ((VOXELS, 0.001, 5e4), (VOXELS.astype(np.int32) + 2**30, 0.5, 0.0)):
        path = phantoms.save(tmp_path / "a.nii", voxels, scl_slope=slope, scl_inter=intercept)
        volume = read_nifti(path)
        assert volume.voxels.dtype == np.float64
        write_nifti(volume.with_voxels(volume.voxels + 0.1 * slope), tmp_path / "b.nii")
        assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()


def test_integers_that_become_floats_are_named(tmp_path, caplog):
    for dtype, floats in ((np.int16, np.float32), (np.int32, np.float64)):
        volume = read_nifti(phantoms.save(tmp_path / "a.nii", VOXELS.astype(dtype)))
        holes = volume.voxels.astype(np.float64)
        holes[2] = np.nan
        with caplog.at_level(logging.WARNING):
            write_nifti(volume.with_voxels(holes), tmp_path / "b.nii")
        assert f"b.nii is written as {np.dtype(floats)}: {np.dtype(dtype)} has no value" in caplog.text
        assert nib.load(tmp_path / "b.nii").get_data_dtype() == floats


def test_a_scaled_nibabel_image_keeps_its_integers(tmp_path):
    path = phantoms.save(tmp_path / "a.nii", VOXELS, scl_slope=0.25, scl_inter=-1000.0)
    volume = from_nibabel(nib.load(path))
    assert np.array_equal(volume.to_stored(volume.voxels), VOXELS * 0.25 - 1000)
    write_nifti(volume.with_voxels(volume.voxels + 0.25), tmp_path / "b.nii")
    again = nib.load(tmp_path / "b.nii")
    assert again.get_data_dtype() == np.int16
    assert np.array_equal(np.asanyarray(again.dataobj), VOXELS * 0.25 - 999.75)
    assert from_nibabel(nib.Nifti1Image(np.float64(VOXELS), np.eye(4))).stored.dtype == np.float64


@pytest.mark.slow
def test_float64_gives_what_float32_gives_through_every_task(tiny_model, tmp_path):
    head = phantoms.rician(phantoms.brain((24, 24, 12)), 40).astype(np.float32)
    head[:, :, 5] = 0
    sizes, region = np.diag([1.0, 1, 4, 1]), np.zeros(head.shape, np.uint8)
    region[9:13, 9:13, 7:9] = 1
    mask = io.from_array(region, sizes)
    verbs = {
        "denoise": lambda scan: medldm.denoise(scan, model=str(tiny_model), samples=2),
        "super-resolve": lambda scan: medldm.super_resolve(scan, 2.0, model=str(tiny_model)),
        "fill-slices": lambda scan: medldm.fill_slices(scan, model=str(tiny_model)),
        "inpaint": lambda scan: medldm.inpaint(scan, mask, model=str(tiny_model)),
        "restore": lambda scan: medldm.restore(scan, model=str(tiny_model)),
    }
    for name, verb in verbs.items():
        short, long = (
            verb(read_nifti(phantoms.save(tmp_path / "a.nii", head, sizes, dtype=kind)))
            for kind in (np.float32, np.float64)
        )
        assert np.allclose(short.voxels, long.voxels, rtol=1e-4, atol=1e-2), name
        for volume, kind in ((short, np.float32), (long, np.float64)):
            io.write(volume, tmp_path / "b.nii")
            assert nib.load(tmp_path / "b.nii").get_data_dtype() == kind


def test_a_result_that_cannot_be_read_again_does_not_take_its_name(phantom, tmp_path, monkeypatch):
    pour = writer._pour

    def short(header, array, stream):
        pour(header, array[:-1], stream)

    def other(header, array, stream):
        pour(header, array + 1, stream)

    def moved(header, array, stream):
        header["srow_x"][3] += 5
        pour(header, array, stream)

    def odd(header, array, stream):
        header["scl_slope"], header["scl_inter"] = 1, np.nan
        pour(header, array, stream)

    (tmp_path / "kept.nii.gz").write_bytes(b"an older result")
    for damage in (short, other, moved, odd):
        monkeypatch.setattr(writer, "_pour", damage)
        for name in ("a.nii", "kept.nii.gz"):
            with pytest.raises(OutputError, match=r"could not be opened again and was not kept \(.*\)"):
                write_nifti(phantom, tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == ["kept.nii.gz"]
        assert (tmp_path / "kept.nii.gz").read_bytes() == b"an older result"


def test_a_copy_that_nibabel_would_not_open_is_written_anew(tmp_path):
    """An extension whose length is nonsense: nobody here reads it, and nobody else shall stumble over it."""
    plain = phantoms.save(tmp_path / "plain.nii", VOXELS).read_bytes()
    source = tmp_path / "scan.nii"
    source.write_bytes(plain[:348] + b"\1\0\0\0" + (9999).to_bytes(4, "little") + b"\0" * 28 + plain[352:])
    phantoms.patch(source, vox_offset=384)
    volume = read_nifti(source)
    assert np.array_equal(volume.to_stored(volume.voxels), VOXELS)
    NIFTI.copy(source, volume, tmp_path / "copy.nii")
    assert (tmp_path / "copy.nii").read_bytes() == plain
    with pytest.raises(OutputError, match="no folder"):
        NIFTI.copy(tmp_path / "plain.nii", volume, tmp_path / "scan.nii" / "below.nii")


def test_a_series_that_cannot_be_read_again_does_not_take_its_name(tmp_path, monkeypatch):
    import phantoms_dicom

    from medldm.io.dicom.writing import series as derived

    volume = io.read(phantoms_dicom.write_series(tmp_path / "in", VOXELS))
    write = derived._write_slices

    def without_the_last(volume, stack, folder, *rest):
        clipped = write(volume, stack, folder, *rest)
        sorted(folder.iterdir())[-1].unlink()
        return clipped

    monkeypatch.setattr(derived, "_write_slices", without_the_last)
    with pytest.raises(OutputError, match="was not kept"):
        io.write(volume, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    monkeypatch.undo()
    io.write(volume, tmp_path / "out")
    assert np.array_equal(io.read(tmp_path / "out").voxels, volume.voxels)


def test_nibabel_reads_results_in_a_process_that_knows_nothing_of_medldm(tmp_path):
    source = phantoms.save(tmp_path / "scan.nii", VOXELS, **ODD["slope 1, intercept NaN"])
    write_nifti(read_nifti(source), tmp_path / "out.nii.gz")
    code = "import nibabel, sys; print(nibabel.load(sys.argv[1]).get_fdata().sum())"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "out.nii.gz"], capture_output=True, text=True)
    assert float(done.stdout) == VOXELS.sum()
