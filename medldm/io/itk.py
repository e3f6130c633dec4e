"""What NRRD and MetaImage have in common: a header of text, voxels after it or in a file that it names, ITK's world.

SimpleITK writes them. They are read here: ITK follows a header to any file, reserves any memory that it asks for, takes
truncated packed data for whole, and ends the process at some damaged headers (decision 0040).
"""

from __future__ import annotations

import abc
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from medldm.data.volume import Affine, Volume, Voxels
from medldm.errors import GeometryError, InputError
from medldm.io.checks import check_shape, must_fit, must_have, must_hold
from medldm.io.compression import finish, kind_of_packing, opened, skip
from medldm.io.image_format import HEAD, Format, ImageFiles, Loaded, Probe
from medldm.io.restored_before import mark_text

LONGEST_HEADER = 2**20  # bytes; diffusion scans list their gradients there
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world to RAS and back
MARK = "medldm"  # key in the header of a result
PACKINGS = ("", "gzip", "bzip2", "text", "hex")
SPELLINGS = {
    "int8": "signed char, int8, int8_t, met_char", "uint8": "uchar, unsigned char, uint8, uint8_t, met_uchar",
    "int16": "short, short int, signed short, signed short int, int16, int16_t, met_short",
    "uint16": "ushort, unsigned short, unsigned short int, uint16, uint16_t, met_ushort",
    "int32": "int, signed int, int32, int32_t, met_int, met_long",
    "uint32": "uint, unsigned int, uint32, uint32_t, met_uint, met_ulong",
    "int64": "longlong, long long, long long int, signed long long, int64, int64_t, met_long_long",
    "uint64": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t, met_ulong_long",
    "float32": "float, met_float", "float64": "double, met_double",
}  # fmt: skip
DTYPES = {spelling: np.dtype(name) for name, spellings in SPELLINGS.items() for spelling in spellings.split(", ")}


@dataclass(frozen=True)
class Layout:
    """What a header says of data and place.

    Parameters
    ----------
    sizes : of the axes as stored, the fastest first
    order : the axes as `Probe.shape` has them: three in space, -1 where the file has none, then those of volumes and
        components
    dtype : with its byte order
    packing : empty for none, ``"gzip"`` (or zlib), ``"bzip2"``, ``"text"`` or ``"hex"``
    start : byte of the data file at which the data begin; None for data at its end
    skip : bytes to pass over in the unpacked data
    affine : (4, 4), stored index to RAS+ mm
    note : sentences worth telling
    restored_by : what medldm did to the scan before
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]
    dtype: np.dtype[Any]
    packing: str
    start: int | None
    skip: int
    affine: Affine
    note: tuple[str, ...]
    restored_by: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Three axes in space, then volumes and components."""
        return tuple(self.sizes[axis] if axis >= 0 else 1 for axis in self.order)

    @property
    def bytes(self) -> int:
        """Of the unpacked voxels."""
        return math.prod(self.sizes) * self.dtype.itemsize


class ItkFormat(Format):
    """What NRRD and MetaImage have in common."""

    detached: ClassVar[str]  # suffix of a header without data
    data: ClassVar[str]  # suffix of the data of a result with a detached header

    @abc.abstractmethod
    def fields(self, path: Path, text: str) -> tuple[dict[str, str], int]:
        """The header, field names in lower case, and the byte at which it ends.

        Raises
        ------
        InputError
        """

    @abc.abstractmethod
    def layout(self, fields: dict[str, str], start: int, path: Path) -> Layout:
        """What the header says of data and place; `start` is where the data begin if it does not say otherwise.

        Raises
        ------
        InputError, NotRestorable
        """

    @abc.abstractmethod
    def data_name(self, fields: dict[str, str]) -> str:
        """The file that a header names for its data; empty where they follow the header."""

    def intent(self, fields: dict[str, str]) -> int:
        """NIfTI code of what several volumes are."""
        return 0

    def files(self, path: Path, head: bytes) -> ImageFiles | None:
        """See `Format.files`."""
        if self.sniff(head):
            try:
                return self._opened(path)[2]
            except InputError:  # its sentence comes when it is read
                return ImageFiles(path, path)
        lower = path.name.lower()
        end = next((end for end in self.part_suffixes if lower.endswith(end)), None)
        if end is None:
            return None
        header = path.with_name(path.name[: -len(end)] + self.detached)
        try:
            files = self._opened(header)[2] if header.is_file() else None
        except InputError:
            return None
        return files if files and files.voxels == path else None

    def result_files(self, path: Path) -> tuple[Path, ...]:
        """See `Format.result_files`."""
        if not path.name.lower().endswith(self.detached):
            return (path,)
        return path.with_name(path.name[: -len(self.detached)] + self.data), path

    def probe(self, path: Path) -> Probe:
        """See `Format.probe`."""
        fields, start, files = self._opened(path)
        if not files.voxels.is_file():
            raise InputError(
                f"{path} says that its voxels are in {files.voxels.name}, which does not lie beside it. "
                "Copy both into one folder."
            )
        layout = self.layout(fields, 0 if files.is_pair else start, path)
        check_shape(layout.sizes, str(path))
        must_hold(layout.bytes, files.voxels, layout.packing)
        spacing = tuple(np.linalg.norm(layout.affine[:3, :3], axis=0).tolist())
        return Probe(files, layout, layout.shape, layout.dtype.newbyteorder("="), self.intent(fields), spacing)

    def load(self, probe: Probe, index: int) -> Loaded:
        """See `Format.load`."""
        layout: Layout = probe.header
        must_fit(layout.bytes, probe.files.header)
        data = _all_voxels(layout, probe.files.voxels)
        array = data.reshape(layout.sizes, order="F").transpose([axis for axis in layout.order if axis >= 0])
        array = array.reshape(*layout.shape[:3], -1, order="F")[..., index]
        voxels = array.astype(layout.dtype.newbyteorder("="))
        return Loaded(voxels, layout.affine, None, layout.note, layout.restored_by)

    def save(self, voxels: Voxels, volume: Volume, path: Path) -> None:
        """See `Format.save`."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose()))
        affine = LPS @ volume.stored_affine()
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(affine[:3, 3].tolist())
        if text := mark_text(volume):
            image.SetMetaData(MARK, text.removeprefix(f"{MARK} "))
        sitk.WriteImage(image, str(path), True)

    def _opened(self, path: Path) -> tuple[dict[str, str], int, ImageFiles]:
        """Header, where it ends, and the files of the image."""
        with opened(path, packing="") as stream:
            start = stream.read(LONGEST_HEADER)
        if kind_of_packing(start):
            raise InputError(f"{path} is {self.title} that was packed as a whole. Unpack it first.")
        if not self.sniff(start[:HEAD]):
            raise InputError(
                f"{path} is no {self.title} file: its content does not start with such a header. Check what it really "
                "is."
            )
        fields, end = self.fields(path, start.decode("latin-1"))
        name = self.data_name(fields)
        return fields, end, ImageFiles(path, _beside(path, name) if name else path)


def _all_voxels(layout: Layout, path: Path) -> Voxels:
    """All voxels of a file, as stored, in one row; packed data are read as far as their checksum."""
    if layout.packing not in PACKINGS:
        raise InputError(f"{path} is packed in a way that is not known here ({layout.packing}). Convert it first.")
    start = path.stat().st_size - layout.bytes if layout.start is None else layout.start
    written_out = layout.packing in ("text", "hex")
    with opened(path, start=max(start, 0), packing="" if written_out else layout.packing) as stream:
        if not written_out:
            skip(stream, layout.skip)
        data = stream.read(-1 if written_out else layout.bytes)
        if not finish(stream):
            raise InputError(f"{path} is damaged: it holds far more than its header says. Copy it again.")
    count = math.prod(layout.sizes)
    try:
        if layout.packing == "hex":
            data = bytes.fromhex(data.decode("ascii"))[layout.skip :]
        elif layout.packing == "text":
            number = int if layout.dtype.kind in "iu" else float
            data = np.array([number(token) for token in data.split()[:count]]).astype(layout.dtype).tobytes()
    except (ValueError, OverflowError) as problem:
        raise InputError(f"{path} is damaged: its data are no numbers. Copy it again from its source.") from problem
    return np.frombuffer(must_have(data, layout.bytes, path), layout.dtype, count)


def put(fields: dict[str, str], name: str, value: str, path: Path) -> None:
    """Add a field to a header; two of one name could mean one thing here and another elsewhere."""
    value = value.encode("latin-1").decode("utf-8", "replace")
    if fields.get(name, value) != value and name:
        raise InputError(f"{path} says {name} twice; its header is damaged. Export it again.")
    fields[name] = value


def whole_numbers(text: str, path: Path) -> list[int]:
    """Whole numbers, at least one; sizes that need more than 63 bits are no sizes."""
    tokens = text.split()
    if not tokens or not all(re.fullmatch(r"[-+]?\d{1,18}", token) for token in tokens):
        raise InputError(f"{path} has a size that is no number ({text or 'nothing'}); its header is damaged.")
    return [int(token) for token in tokens]


def numbers(text: str, path: Path) -> list[float]:
    """Sizes and directions of voxels, which must be there and be numbers."""
    try:
        values = [float(token) for token in re.split(r"[\s,()]+", text) if token]
    except ValueError:
        values = []
    if not values or not np.isfinite(values).all():
        raise GeometryError(
            f"{path} does not say where its voxels lie and how large they are ({text or 'nothing'}). Export it again."
        )
    return values


def _beside(header: Path, name: str) -> Path:
    """The data file that a header names, which must lie in its folder or below.

    Raises
    ------
    InputError
        Several files, or a place that the header has no business with.
    """
    if name.split()[0].upper() == "LIST" or "%" in name:
        raise InputError(f"{header} lists several files with its voxels, which is not read. Convert it to one file.")
    folder = header.absolute().parent
    place = Path(os.path.normpath(folder / name))
    if os.path.isabs(name) or not name.isprintable() or not place.is_relative_to(folder) or place == folder:
        raise InputError(
            f"{header} says that its voxels are in {name!r}, outside of its folder, which is not read. Put both into "
            "one folder, and correct the name in the header."
        )
    return header.parent / place.relative_to(folder)
