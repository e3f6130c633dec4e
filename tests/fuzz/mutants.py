"""Seeds drawn from phantoms, and what can go wrong with their bytes; mutant number N is the same on every machine."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import phantoms_dicom
import pydicom
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

NAME, NUMBER = "Doe^Jane", "SECRET-17"  # phantoms_dicom plants them into every header
PLACES = (0, 1, 2, 3, 4, 7, 8, 16, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
TEXTS = (
    b"",
    b"0",
    b"-1",
    b"nan",
    b"1e999",
    b"1\\2",
    b"\\\\\\",
    b"99999999999999999999",
    b"\xff\xfe",
    b"\0\0",
    b"a" * 64,
)


class Seed(NamedTuple):
    """One good input.

    Parameters
    ----------
    kind : ``"nifti"``, ``"dicom"`` or ``"zip"``
    name : of the file that is damaged
    data : its bytes
    head : bytes that are header; most damage is done there
    beside : whole files that lie beside it
    """

    kind: str
    name: str
    data: bytes
    head: int
    beside: tuple[tuple[str, bytes], ...] = ()


def seeds(folder: Path) -> list[Seed]:
    """All seeds, written below a folder and read back."""
    draw = np.random.default_rng(7)
    voxels = draw.integers(0, 900, (9, 8, 4)).astype(np.int16)
    return [*_niftis(voxels), *_series(voxels, folder), *_zips(folder)]


def _niftis(voxels) -> list[Seed]:
    rotated = np.array([[0, 0, 3.0, -20], [-1.1, 0.1, 0, 30], [0.1, 1.1, 0, 5], [0, 0, 0, 1]])
    made = []
    for kind, size in ((nib.Nifti1Image, 352), (nib.Nifti2Image, 544)):
        for dtype in (np.int16, np.float32):
            image = kind(voxels.astype(dtype), rotated, dtype=dtype)
            image.header.set_xyzt_units("mm")
            image.set_qform(rotated, code=1, strip_shears=True)
            image.set_sform(rotated, code=1)
            if dtype is np.int16:
                image.header.set_slope_inter(0.5, -3)
            made.append(Seed("nifti", "scan.nii", image.to_bytes(), size))
    packed = gzip.compress(made[0].data, mtime=0)
    return [*made, Seed("nifti", "scan.nii.gz", packed, len(packed))]


def _series(voxels, folder: Path) -> list[Seed]:
    made = []
    syntaxes = (("plain", None), ("rle", RLELossless), ("jpeg2000", JPEG2000Lossless), ("jpegls", JPEGLSLossless))
    for name, syntax in syntaxes:
        # OpenJPEG wants a plane that can be halved five times.
        planes = np.tile(voxels, (4, 5, 1)) if syntax == JPEG2000Lossless else voxels
        at = phantoms_dicom.write_series(folder / name, planes, slope=0.5, intercept=-7, shuffled=False)
        made.append(_damaged_slice(_packed(at, syntax)))
    at = phantoms_dicom.write_series(folder / "jpeg", voxels, shuffled=False)
    made.append(_damaged_slice(phantoms_dicom.jpeg_lossless(at)))
    at = phantoms_dicom.write_series(
        folder / "ct", voxels, modality="CT", missing=(2,), orientation=(0, 1, 0, 0, 0, -1)
    )
    made.append(_damaged_slice(at))
    at = phantoms_dicom.without_preamble(phantoms_dicom.write_series(folder / "bare", voxels))
    made.append(_damaged_slice(at))
    at = phantoms_dicom.write_enhanced(folder / "enhanced", voxels, slopes=[1, 2, 3, 4])
    made.append(_damaged_slice(at))
    return made


def _packed(folder: Path, syntax) -> Path:
    if syntax is not None:
        for path in folder.iterdir():
            image = pydicom.dcmread(path)
            image.compress(syntax)
            image.save_as(path)
    return folder


def _damaged_slice(folder: Path) -> Seed:
    files = sorted(folder.iterdir())
    data = files[1 % len(files)].read_bytes()
    pixels = data.rfind(b"\xe0\x7f\x10\x00")
    beside = tuple((path.name, path.read_bytes()) for path in files if path != files[1 % len(files)])
    return Seed("dicom", files[1 % len(files)].name, data, pixels + 12, beside)


def _zips(folder: Path) -> list[Seed]:
    path = folder / "scans.zip"
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/scan.nii", image.to_bytes())
        for slice_path in sorted((folder / "plain").iterdir())[:2]:
            archive.writestr(f"b/{slice_path.name}", slice_path.read_bytes())
    data = path.read_bytes()
    return [Seed("zip", "scans.zip", data, len(data))]


def mutant(number: int, undamaged: list[Seed]) -> Seed:
    """Input number N: a seed with one to six damages; number 0 to len(seeds) - 1 are the seeds themselves."""
    if number < len(undamaged):
        return undamaged[number]
    draw = np.random.default_rng([2026, number])
    seed = undamaged[int(draw.integers(len(undamaged)))]
    repack = seed.name.endswith(".gz") and draw.random() < 0.8  # else the packed bytes themselves are damaged
    data = bytearray(gzip.decompress(seed.data) if repack else seed.data)
    head = 352 if repack else seed.head
    for _ in range(int(draw.integers(1, 7))):
        _DAMAGES[int(draw.integers(len(_DAMAGES)))](data, head, draw)
    return seed._replace(data=gzip.compress(bytes(data), 1, mtime=0) if repack else bytes(data))


def _spot(data: bytearray, head: int, draw) -> int:
    """Where to hit: nine times in ten in the header."""
    end = min(head, len(data)) if draw.random() < 0.9 else len(data)
    return int(draw.integers(max(1, end)))


def _flip(data, head, draw) -> None:
    if data:
        data[_spot(data, head, draw) % len(data)] ^= 1 << int(draw.integers(8))


def _byte(data, head, draw) -> None:
    if data:
        data[_spot(data, head, draw) % len(data)] = int(draw.choice([0, 1, 0x7F, 0x80, 0xFF, 0x5C]))


def _number(data, head, draw) -> None:
    at, value = _spot(data, head, draw), int(draw.choice(PLACES))
    form = str(draw.choice(["<H", "<I", ">H", ">I"]))
    data[at : at + struct.calcsize(form)] = struct.pack(form, value & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))


def _real(data, head, draw) -> None:
    at, value = _spot(data, head, draw) & ~3, float(draw.choice([np.nan, np.inf, 0, -1, 1e-30, 1e30, 0.5, 1000]))
    data[at : at + 4] = struct.pack("<f", value)


def _text(data, head, draw) -> None:
    at, word = _spot(data, head, draw), TEXTS[int(draw.integers(len(TEXTS)))]
    data[at : at + len(word)] = word


def _insert(data, head, draw) -> None:
    at = _spot(data, head, draw)
    data[at:at] = draw.bytes(int(draw.integers(1, 9)))


def _delete(data, head, draw) -> None:
    at = _spot(data, head, draw)
    del data[at : at + int(draw.integers(1, 9))]


def _cut(data, head, draw) -> None:
    del data[int(draw.integers(len(data) + 1)) :]


def _repeat(data, head, draw) -> None:
    at, size = _spot(data, head, draw), int(draw.integers(4, 200))
    data[at:at] = data[at : at + size] * int(draw.integers(1, 4))


def _length(data, head, draw) -> None:
    """A DICOM length, or whatever stands after a value type."""
    at = data.find(bytes(draw.choice([b"DS", b"US", b"SQ", b"OW", b"UI", b"IS", b"CS"])), _spot(data, head, draw))
    if at > 0:
        data[at + 2 : at + 4] = struct.pack("<H", int(draw.choice(PLACES)) & 0xFFFF)


def _sequence(data, head, draw) -> None:
    """Sequences of undefined length inside one another, never closed."""
    at = data.find(b"\x08\x00", _spot(data, head, draw))
    if at > 0:
        item = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        data[at:at] = item * int(draw.choice([1, 3, 50, 3000]))


_DAMAGES = (
    _flip,
    _flip,
    _byte,
    _byte,
    _number,
    _number,
    _real,
    _text,
    _insert,
    _delete,
    _cut,
    _repeat,
    _length,
    _sequence,
)
