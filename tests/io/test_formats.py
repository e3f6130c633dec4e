"""What a file is shows in its content: pairs, other packings, no suffix and wrong ones are the same scan."""

import bz2
import gzip
import importlib.util
import json
import lzma
import shutil

import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pytest

from medldm import io
from medldm.cli import main
from medldm.errors import InputError, NotRestorable, UsageError
from medldm.io import compression, read_nifti, write_nifti
from medldm.io.discovery import find_cases
from medldm.io.formats import check_result_name, stem
from medldm.io.nifti.files import nifti_files

VOXELS = np.random.default_rng(0).integers(0, 900, (12, 10, 8)).astype(np.int16)
AFFINE = np.array([[0, 0, 3.0, -20], [-1.1, 0.1, 0, 30], [0.1, 1.1, 0, 5], [0, 0, 0, 1]])


@pytest.fixture
def content(tmp_path):
    """Bytes of one plain .nii file."""
    path = phantoms.save(tmp_path / "content.nii", VOXELS, AFFINE)
    data = path.read_bytes()
    path.unlink()
    return data


def pair(folder, name="scan", header=".hdr", voxels=".img", *, magic=b"ni1", kind=nib.Nifti1Pair):
    """A pair, each half packed as its ending says."""
    image = kind(VOXELS, AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, folder / "raw.img")
    for part, end in (("hdr", header), ("img", voxels)):
        data = bytearray((folder / f"raw.{part}").read_bytes())
        if part == "hdr" and kind is nib.Nifti1Pair:
            data[344:347] = magic
            if magic == b"n+1":  # a header that was cut off a single file
                data[108:112] = np.float32(352).tobytes()
        (folder / f"{name}{end}").write_bytes(gzip.compress(data) if end.lower().endswith(".gz") else data)
        (folder / f"raw.{part}").unlink()
    return folder / f"{name}{header}", folder / f"{name}{voxels}"


def same(volume):
    stored = volume.to_stored(volume.voxels)
    return np.array_equal(stored, VOXELS) and np.allclose(volume.stored_affine(), AFFINE, atol=1e-5)


ENDS = [(".hdr", ".img"), (".hdr.gz", ".img.gz"), (".hdr", ".img.gz"), (".HDR", ".IMG"), (".hdr.gz", ".img")]


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("magic", [b"ni1", b"n+1"])
def test_a_pair_is_one_scan_from_either_half_and_in_a_tree(ends, magic, tmp_path):
    header, voxels = pair(tmp_path, header=ends[0], voxels=ends[1], magic=magic)
    for named in (header, voxels):
        assert same(io.read(named))
        (case,) = find_cases(named)
        assert case.files == (header, voxels)
        assert case.place.as_posix() == "scan"
    (case,) = find_cases(tmp_path)
    assert same(case.read())
    (tmp_path / "list.txt").write_text(f"{header.name}\n{voxels.name}\n")
    (listed,) = find_cases(tmp_path / "list.txt")
    assert listed.files == (header, voxels)
    for pattern in ("*.img*", "*.IMG*", "*.hdr*", "*.HDR*"):
        if any(path.match(pattern) for path in (header, voxels)):
            assert len(find_cases(tmp_path, include=[pattern])) == 1


def test_nifti_2_pairs_volumes_of_4d_and_offsets_are_read(tmp_path):
    header, _ = pair(tmp_path, "two", kind=nib.Nifti2Pair)
    assert same(read_nifti(header))
    many = np.stack([VOXELS, VOXELS + 1], axis=-1)
    nib.save(nib.Nifti1Pair(many, AFFINE), tmp_path / "four.img")
    with pytest.raises(NotRestorable, match="2 volumes"):
        io.read(tmp_path / "four.img")
    assert np.array_equal(io.read(tmp_path / "four.hdr", volume_index=1).voxels, io.read(header).voxels + 1)
    header, voxels = pair(tmp_path, "later")
    voxels.write_bytes(b"\0" * 16 + voxels.read_bytes())
    content = bytearray(header.read_bytes())
    content[108:112] = np.float32(16).tobytes()
    header.write_bytes(content)
    assert same(io.read(voxels))


def test_half_a_pair_is_a_sentence(tmp_path):
    header, voxels = pair(tmp_path)
    size = voxels.stat().st_size
    voxels.write_bytes(voxels.read_bytes()[: size // 2])
    with pytest.raises(InputError, match=r"scan\.img is truncated"):
        io.read(header)
    voxels.unlink()
    with pytest.raises(InputError, match=r"scan\.img does not lie beside it"):
        io.read(header)
    assert not find_cases(header)[0].broken  # it fails when it is read, as other damaged scans do
    header.rename(tmp_path / "away")
    voxels.write_bytes(b"\0" * size)
    with pytest.raises(NotRestorable, match="medldm reads"):
        io.read(voxels)
    nib.save(nib.AnalyzeImage(VOXELS, AFFINE), tmp_path / "old.img")
    with pytest.raises(NotRestorable, match="left from right"):
        io.read(tmp_path / "old.img")
    assert "left from right" in find_cases(tmp_path / "old.img")[0].skip


@pytest.mark.parametrize("name", ["scan", "1.2.840.10008", "scan.gz", "scan.dat", "scan.zip", "a.b.NII.GZ"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, lambda data: twice(data)])
def test_a_scan_is_recognised_whatever_it_is_called_and_however_it_is_packed(name, pack, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(pack(content))
    assert same(io.read(path))
    (case,) = find_cases(tmp_path)
    assert same(case.read())
    assert case.place.as_posix() == {"scan.gz": "scan", "a.b.NII.GZ": "a.b"}.get(name, name)
    assert case.target(tmp_path / "out").name == f"{case.place}.nii.gz"


def twice(data):
    return gzip.compress(gzip.compress(data))


def test_names_that_belong_to_packings_go_from_the_stem(content, tmp_path):
    for end, pack in ((".nii.bz2", bz2.compress), (".nii.xz", lzma.compress)):
        (tmp_path / f"scan{end}").write_bytes(pack(content))
        assert same(io.read(tmp_path / f"scan{end}"))
    assert [case.place.name for case in find_cases(tmp_path)] == ["scan", "scan-2"]
    assert [stem(tmp_path / name) for name in ("x.nii.zst", "x.1.5mm", "x.IMG.GZ")] == ["x", "x.1.5mm", "x"]


def test_zstd_is_read_where_a_module_for_it_is_installed_and_named_where_none_is(content, tmp_path, monkeypatch):
    path = tmp_path / "scan.nii.zst"
    path.write_bytes(stored_as_zstd(content))
    if any(importlib.util.find_spec(name.split(".")[0]) for name in compression.ZSTD_MODULES[1:]):
        assert same(io.read(path))
    monkeypatch.setattr(compression, "ZSTD_MODULES", ("no_module_of_this_name",))
    with pytest.raises(InputError, match=r"backports\.zstd.*unzstd"):
        read_nifti(path)
    (case,) = find_cases(tmp_path)
    with pytest.raises(InputError, match=r"backports\.zstd"):
        case.read()


def stored_as_zstd(data):
    """A zstd frame of raw blocks, as RFC 8878 has them: no compressor is needed to write one."""
    frame = b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little")
    pieces = [data[start : start + 100_000] for start in range(0, len(data), 100_000)]
    for number, piece in enumerate(pieces, 1):
        frame += (len(piece) << 3 | (number == len(pieces))).to_bytes(3, "little") + piece
    return frame


@pytest.mark.parametrize("tail", [b"\0" * 700, b"appended by a transfer program", b"\0\0\0\0some words", b"\x1f\x8b?"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_bytes_after_the_packed_data_are_not_damage(tail, pack, content, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(pack(content) + tail)
    assert same(io.read(tmp_path / "scan.nii.gz"))


def test_members_that_follow_each_other_are_one_scan(content, tmp_path):
    pieces = [content[start : start + 400] for start in range(0, len(content), 400)]
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "scan.nii.gz").write_bytes(b"".join(map(pack, pieces)) + b"\0" * 9)
        assert same(io.read(tmp_path / "scan.nii.gz"))
        (tmp_path / "scan.nii.gz").write_bytes(b"".join(map(pack, pieces))[:-15])
        with pytest.raises(InputError, match="truncated or damaged"):
            io.read(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_damaged_packings_are_a_sentence(pack, content, tmp_path):
    whole = pack(content)
    for data in (whole[: len(whole) // 2], whole[:-3], whole[:200] + bytes(40) + whole[240:]):
        (tmp_path / "scan.nii.gz").write_bytes(data)
        with pytest.raises(InputError, match=r"scan\.nii\.gz .*(truncated|damaged)"):
            read_nifti(tmp_path / "scan.nii.gz")


def test_dicom_and_archives_that_are_called_nifti_are_what_they_are(content, tmp_path):
    folder = phantoms_dicom.write_series(tmp_path / "series", VOXELS)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{number}.nii")
    (case,) = find_cases(folder)
    assert case.kind == "dicom"
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "inside").write_bytes(content)
    shutil.make_archive(tmp_path / "packed", "zip", tmp_path / "t")
    (tmp_path / "packed.zip").rename(tmp_path / "packed.nii.gz")
    assert same(io.read(tmp_path / "packed.nii.gz"))


def test_what_is_no_scan_stays_none(tmp_path):
    (tmp_path / "radiance.hdr").write_text("#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 2\n")
    (tmp_path / "disc.img").write_bytes(b"\0" * 5000)
    (tmp_path / "notes.gz").write_bytes(gzip.compress(b"words" * 300))
    (tmp_path / "size").write_bytes((348).to_bytes(4, "little") + b"\0" * 2000)
    assert [nifti_files(path) for path in sorted(tmp_path.iterdir())] == [None] * 4
    (case,) = find_cases(tmp_path)
    assert case.foreign
    assert "disc.img, radiance.hdr" in case.skip


@pytest.mark.parametrize("name", ["-", "x.nii.lz4", "x.img", "x.raw", "x.mnc", "x.zip", "x.gz", ".nii.gz", ".nrrd"])
def test_a_result_that_cannot_be_called_so_is_refused_before_anything_is_read(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scan = phantoms.save(tmp_path / "scan.nii", phantoms.brain((16, 16, 8)))
    assert main(["denoise", "scan.nii", name]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]
    with pytest.raises(UsageError):
        io.write(io.read(scan), name)


def test_a_folder_that_is_there_may_be_called_anything(tmp_path):
    (tmp_path / "study.img").mkdir()
    check_result_name(tmp_path / "study.img")
    check_result_name(tmp_path / "0.5mm")
    assert main(["inspect", "-"]) == 3


def test_a_pair_goes_through_the_command_line_and_can_be_rerun(stub_network, tmp_path, capsys):
    brain = phantoms.brain((24, 24, 12)).astype(np.int16)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    nib.save(nib.Nifti1Pair(brain, np.diag([1, 1, 4.0, 1])), tmp_path / "in" / "deep" / "scan.img")
    (tmp_path / "in" / "deep" / "bare").write_bytes(
        gzip.compress(nib.Nifti1Image(brain, np.diag([1, 1, 4.0, 1])).to_bytes())
    )
    assert main(["denoise", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    for name in ("scan", "bare"):
        result = nib.load(tmp_path / "out" / "deep" / f"{name}.nii.gz")
        assert np.array_equal(np.asanyarray(result.dataobj), brain + 1)
    record = tmp_path / "out" / "deep" / "scan_medldm.json"
    assert json.loads(record.read_text())["input"]["count"] == 2
    again = tmp_path / "again.nii.gz"
    assert main(["rerun", str(record), str(again)]) == 0
    assert again.read_bytes() == (tmp_path / "out" / "deep" / "scan.nii.gz").read_bytes()
    voxels = tmp_path / "in" / "deep" / "scan.img"
    voxels.write_bytes(voxels.read_bytes()[:-2] + b"\1\1")
    assert main(["rerun", str(record), str(tmp_path / "more.nii.gz")]) == 3
    assert "has changed" in capsys.readouterr().err


@pytest.mark.slow
def test_an_unchanged_scan_is_copied_under_a_name_that_says_what_it_is(tmp_path):
    """A pair, a gzipped .nii, a bzip2: none of them is what the name of the result promises."""
    brain = phantoms.brain((24, 24, 24)).astype(np.int16)
    plain = phantoms.save(tmp_path / "plain.nii", brain)
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Pair(brain, np.eye(4)), tmp_path / "in" / "pair.img")
    (tmp_path / "in" / "packed.nii").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "in" / "bare").write_bytes(bz2.compress(plain.read_bytes()))
    (tmp_path / "in" / "good.nii").write_bytes(plain.read_bytes())
    assert main(["super-resolve", str(tmp_path / "in"), str(tmp_path / "out"), "--spacing", "1"]) == 0
    for name in ("pair.nii.gz", "packed.nii", "bare.nii.gz", "good.nii"):
        path = tmp_path / "out" / name
        assert np.array_equal(np.asanyarray(nib.load(path).dataobj), brain)
        assert path.read_bytes()[:2] == (b"\x1f\x8b" if name.endswith(".gz") else (348).to_bytes(2, "little"))
    assert (tmp_path / "out" / "good.nii").read_bytes() == plain.read_bytes()


def test_a_mask_may_be_a_pair(stub_network, tmp_path):
    scan = phantoms.save(tmp_path / "scan.nii", phantoms.brain((16, 16, 8)))
    nib.save(nib.Nifti1Pair(np.ones((16, 16, 8), np.uint8), np.eye(4)), tmp_path / "mask.img")
    assert main(["inpaint", str(scan), str(tmp_path / "out.nii"), "--mask", str(tmp_path / "mask.hdr")]) == 0


def test_a_file_that_is_the_input_is_not_replaced_by_either_half(tmp_path):
    header, voxels = pair(tmp_path)
    before = (header.read_bytes(), voxels.read_bytes())
    assert main(["denoise", str(voxels), str(header)]) == 2
    assert (header.read_bytes(), voxels.read_bytes()) == before
    write_nifti(read_nifti(header), tmp_path / "scan.nii")  # beside the pair is a place like any other
    assert sorted(case.place.name for case in find_cases(tmp_path)) == ["scan", "scan-2"]
