"""NRRD and MetaImage in and out, in one file or with a detached header.

SimpleITK writes them. They are read here: ITK follows a header to any file, reserves any memory that it asks for, takes
truncated packed data for whole, and ends the process at some damaged headers (decision 0040).
"""

from __future__ import annotations

import abc
import bz2
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from medldm.data.volume import Affine, Volume, Voxels
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.compression import kind_of_packing
from medldm.io.image_format import HEAD, MOST_PACKED, Format, ImageFiles, Loaded, Probe, must_hold
from medldm.io.restored_before import mark_text, tasks_of

LONGEST_HEADER = 2**20  # bytes; diffusion scans list their gradients there
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world to RAS and back
MARK = "medldm"  # key in the header of a result
PIECE = 2**22  # bytes unpacked at once
MOST_AXES = 7
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
UNITS = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 0.001, "µm": 0.001, "micron": 0.001}
SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1), "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
SPATIAL_KINDS = ("domain", "space", "???", "none")
VECTORS = {"vector": 1007, "matrix": 1004, "point": 1007, "gradient": 1007, "normal": 1007, "quaternion": 1007}


@dataclass(frozen=True)
class Layout:
    """What a header says of data and place.

    Parameters
    ----------
    sizes : of the axes as stored, the fastest first
    order : the axes as `Probe.shape` has them: three in space, -1 where the file has none, then those of volumes and
        components
    dtype : with its byte order
    packing : ``"raw"``, ``"gzip"`` (or zlib), ``"bzip2"``, ``"text"`` or ``"hex"``
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
        if not 0 < len(layout.sizes) <= MOST_AXES or min(layout.sizes) < 1:
            raise InputError(
                f"{path} claims a size of {' x '.join(map(str, layout.sizes))} voxels; its header is damaged or it "
                "holds no image."
            )
        most = {"raw": 1.0, "gzip": MOST_PACKED, "text": layout.dtype.itemsize, "hex": 0.5}
        must_hold(layout.bytes, files, most.get(layout.packing, math.inf))
        return Probe(files, layout, layout.shape, layout.dtype.newbyteorder("="), self.intent(fields))

    def load(self, probe: Probe, index: int) -> Loaded:
        """See `Format.load`."""
        layout: Layout = probe.header
        path = probe.files.voxels
        try:
            with path.open("rb") as raw:
                start = layout.start if layout.start is not None else path.stat().st_size - layout.bytes
                raw.seek(max(start, 0))
                data = _unpacked(raw, layout, path)
        except OSError as problem:
            raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
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
        try:
            with path.open("rb") as raw:
                start = raw.read(LONGEST_HEADER)
        except OSError as problem:
            raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
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


class Nrrd(ItkFormat):
    """NRRD; with a detached header NHDR."""

    name, title = "nrrd", "NRRD"
    suffixes = (".nrrd", ".nhdr")
    part_suffixes = (".raw", ".raw.gz", ".raw.bz2")
    written = (".nrrd", ".nhdr")
    kept = (".nrrd",)
    detached, data = ".nhdr", ".raw.gz"

    def sniff(self, head: bytes) -> bool:
        """By the magic at its start."""
        return head.startswith(b"NRRD00")

    def fields(self, path: Path, text: str) -> tuple[dict[str, str], int]:
        """See `ItkFormat.fields`."""
        end = re.search(r"\r?\n\r?\n", text)
        fields: dict[str, str] = {}
        for line in text[: end.start() if end else None].splitlines()[1:]:
            if line.startswith(f"{MARK}:="):
                fields[MARK] = line.removeprefix(f"{MARK}:=")
            elif match := re.match(r"([^#:=][^:=]*):(?!=)\s*(.*)", line):
                _put(fields, match[1].strip().lower().replace("datafile", "data file"), match[2].strip(), path)
        return fields, end.end() if end else len(text)

    def layout(self, fields: dict[str, str], start: int, path: Path) -> Layout:
        """See `ItkFormat.layout`."""
        sizes = _whole_numbers(fields.get("sizes", ""), path)
        kinds = fields.get("kinds", "").lower().split()
        directions = re.findall(r"\(.*?\)|none", fields.get("space directions", ""))
        # Axes along which no voxel lies beside another hold volumes, components or colours.
        other = [axis for axis, kind in enumerate(kinds) if kind not in SPATIAL_KINDS]
        other += [axis for axis, direction in enumerate(directions) if direction == "none" and axis not in other]
        spatial = [axis for axis in range(len(sizes)) if axis not in other]
        rest = [*spatial[3:], *(axis for axis in other if axis < len(sizes))]
        dtype = DTYPES.get(fields.get("type", "").lower())
        what = " ".join(kinds[axis] for axis in other if axis < len(kinds))
        if "complex" in what:
            raise NotRestorable(f"{path} holds complex numbers; compute the magnitude image and restore that.")
        if "color" in what or (dtype == np.uint8 and [sizes[axis] for axis in rest] in ([3], [4])):
            raise NotRestorable(f"{path} is a colour image (RGB); medldm restores scans with one value per voxel.")
        if dtype is None:
            raise InputError(f"{path} has voxels of a type that is not known here ({fields.get('type')}).")
        encoding = fields.get("encoding", "raw").lower()
        encoding = {"gz": "gzip", "bz2": "bzip2", "txt": "text", "ascii": "text"}.get(encoding, encoding)
        lines, skip = (_whole_numbers(fields.get(f"{name} skip", "0"), path)[0] for name in ("line", "byte"))
        if lines:
            raise InputError(f"{path} has data after {lines} lines to skip, which is not read. Convert it first.")
        raw = encoding == "raw"
        return Layout(
            sizes=tuple(sizes),
            order=(*spatial[:3], *(-1,) * (3 - len(spatial)), *rest),
            dtype=dtype.newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<"),
            packing=encoding,
            start=None if raw and skip == -1 else start + (skip if raw else 0),
            skip=0 if raw else max(skip, 0),
            affine=self._affine(fields, spatial[:3], directions, path),
            note=()
            if self._turn(fields)
            else (f"{path} does not say how the patient lay (its space is unset): left and right are a guess.",),
            restored_by=tasks_of(f"{MARK} {fields.get(MARK, '')}"),
        )

    def intent(self, fields: dict[str, str]) -> int:
        """See `ItkFormat.intent`."""
        return next((code for kind, code in VECTORS.items() if kind in fields.get("kinds", "").lower()), 0)

    def data_name(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.data_name`."""
        return fields.get("data file", "")

    def _turn(self, fields: dict[str, str]) -> tuple[int, int, int] | None:
        """Signs that turn the space of the file into RAS; None where it does not say which one it is."""
        return SPACES.get(fields.get("space", "").lower().removesuffix("-time").removesuffix("t"))

    def _affine(self, fields: dict[str, str], spatial: list[int], directions: list[str], path: Path) -> Affine:
        affine = np.eye(4)
        if directions:
            for column, axis in enumerate(spatial):
                direction = _numbers(directions[axis] if axis < len(directions) else "", path)
                affine[: len(direction[:3]), column] = direction[:3]
            if len(spatial) == 2:  # one slice in space
                normal = np.cross(affine[:3, 0], affine[:3, 1])
                affine[:3, 2] = normal / (np.linalg.norm(normal) or 1)
            origin = _numbers(fields.get("space origin", "(0,0,0)"), path)[:3]
            affine[: len(origin), 3] = origin
        else:
            spacings = fields.get("spacings", "").split()
            for column, axis in enumerate(spatial):
                affine[column, column] = _numbers(spacings[axis] if axis < len(spacings) else "", path)[0]
        units = re.findall(r'"(.*?)"', fields.get("space units", ""))
        unit_mm = UNITS.get(units[0].strip().lower(), 1.0) if units else 1.0
        turned: Affine = np.diag([*(self._turn(fields) or SPACES["lps"]), 1.0]) @ affine
        turned[:3] *= unit_mm
        return turned


class MetaImage(ItkFormat):
    """MetaImage; with a detached header MHD."""

    name, title = "mha", "MetaImage"
    suffixes = (".mha", ".mhd")
    part_suffixes = (".raw", ".zraw")
    written = (".mha", ".mhd")
    kept = (".mha",)
    detached, data = ".mhd", ".zraw"

    def sniff(self, head: bytes) -> bool:
        """By the first fields: there is no magic."""
        start = re.match(rb"\s*(ObjectType|ObjectSubType|Comment|NDims|BinaryData)\s*=", head)
        return bool(start and re.search(rb"^\s*NDims\s*=", head, re.MULTILINE))

    def fields(self, path: Path, text: str) -> tuple[dict[str, str], int]:
        """See `ItkFormat.fields`."""
        fields: dict[str, str] = {}
        end = 0
        for line in text.split("\n"):
            end += len(line) + 1
            name, _, value = line.partition("=")
            _put(fields, name.strip().lower(), value.strip(), path)
            if name.strip().lower() == "elementdatafile":
                return fields, end
        raise InputError(f"{path} does not say where its voxels are; its header is damaged. Export it again.")

    def layout(self, fields: dict[str, str], start: int, path: Path) -> Layout:
        """See `ItkFormat.layout`."""
        axes = _whole_numbers(fields.get("dimsize", ""), path)
        count = len(axes)
        if _whole_numbers(fields.get("ndims", ""), path) != [count]:
            raise InputError(f"{path} contradicts itself about its axes; its header is damaged. Export it again.")
        kind = fields.get("elementtype", "").lower()
        dtype = DTYPES.get(kind.removesuffix("_array")) if kind.startswith("met_") else None
        if dtype is None:
            raise InputError(f"{path} has voxels of a type that is not known here ({fields.get('elementtype')}).")
        channels = _whole_numbers(fields.get("elementnumberofchannels", "1"), path)[0]
        if dtype == np.uint8 and channels in (3, 4):
            raise NotRestorable(f"{path} is a colour image (RGB); medldm restores scans with one value per voxel.")
        several = channels != 1  # components are stored together, before the axes
        order = [axis + several for axis in range(count)]
        order = [*order[:3], *(-1,) * (3 - count), *order[3:], *([0] if several else [])]
        packed = _is_true(fields.get("compresseddata", "false"))
        packing = "gzip" if packed else "raw" if _is_true(fields.get("binarydata", "true")) else "text"
        header_size = _whole_numbers(fields.get("headersize", "0"), path)[0]
        if header_size < 0 and packed:
            raise InputError(f"{path} has packed data at an unknown place, which are not read. Convert it first.")
        big = _first(fields, "binarydatabyteordermsb", "elementbyteordermsb") or "false"
        matrix = _first(fields, "transformmatrix", "orientation", "rotation")
        note = () if matrix else (f"{path} does not say how the patient lay: left and right are a guess.",)
        return Layout(
            sizes=(*([channels] if several else []), *axes),
            order=tuple(order),
            dtype=dtype.newbyteorder(">" if _is_true(big) else "<"),
            packing=packing,
            start=None if header_size < 0 else header_size or start,
            skip=0,
            affine=self._affine(fields, matrix, count, path),
            note=note,
            restored_by=tasks_of(f"{MARK} {fields.get(MARK, '')}"),
        )

    def data_name(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.data_name`."""
        name = fields["elementdatafile"]
        return "" if name.lower() == "local" else name or "."

    def _affine(self, fields: dict[str, str], matrix: str, count: int, path: Path) -> Affine:
        spacing = _numbers(_first(fields, "elementspacing", "elementsize"), path)
        offset = _numbers(_first(fields, "offset", "origin", "position") or "0 " * count, path)
        directions = _numbers(matrix, path) if matrix else list(np.eye(count).ravel())
        if len(spacing) < count or len(offset) < count or len(directions) != count**2:
            raise GeometryError(f"{path} does not say where each of its {count} axes leads. Export it again.")
        axes = min(count, 3)
        affine = np.eye(4)
        # A row of the matrix is the direction of an axis.
        affine[:axes, :axes] = np.reshape(directions, (count, count)).T[:axes, :axes] * spacing[:axes]
        affine[:axes, 3] = offset[:axes]
        turned: Affine = LPS @ affine
        return turned


def _unpacked(raw: BinaryIO, layout: Layout, path: Path) -> Voxels:
    """All voxels of a file, as stored, in one row; packed data are read as far as their checksum.

    Raises
    ------
    InputError
    """
    count, wanted = math.prod(layout.sizes), layout.skip + layout.bytes
    try:
        if layout.packing == "text":
            tokens = raw.read().split()[:count]
            integer = layout.dtype.kind in "iu"
            array = np.array([int(token) if integer else float(token) for token in tokens]).astype(layout.dtype)
            data = array.tobytes()
            wanted = layout.bytes
        elif layout.packing == "hex":
            data = bytes.fromhex(raw.read().decode("ascii"))
        elif layout.packing == "raw":
            data = raw.read(wanted)
        elif layout.packing in ("gzip", "bzip2"):
            data = b"".join(_pieces(raw, layout.packing, wanted))
        else:
            raise InputError(f"{path} is packed in a way that is not known here ({layout.packing}). Convert it first.")
    except (zlib.error, ValueError, OverflowError, EOFError, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise
        raise InputError(f"{path} is damaged: its data cannot be unpacked. Copy it again from its source.") from problem
    if len(data) < wanted:
        raise InputError(
            f"{path} is truncated or damaged: {len(data):,} of {wanted:,} bytes of voxels are there. Copy it again "
            "from its source."
        )
    return np.frombuffer(data, layout.dtype, count, layout.skip if layout.packing != "text" else 0)


def _pieces(raw: BinaryIO, packing: str, wanted: int) -> Iterator[bytes]:
    """Unpacked data in pieces: no more than wanted, and to the end of their last member, where the checksum is."""

    def member() -> Any:
        return zlib.decompressobj(wbits=47) if packing == "gzip" else bz2.BZ2Decompressor()  # 47: gzip or zlib

    unpacker, data, surplus = member(), b"", 0
    while not (unpacker.eof and wanted <= 0) and surplus <= PIECE:
        if unpacker.eof:
            data, unpacker = unpacker.unused_data, member()
        if not data and (packing == "gzip" or unpacker.needs_input) and not (data := raw.read(PIECE)):
            break
        piece = unpacker.decompress(data, PIECE)
        data = unpacker.unconsumed_tail if packing == "gzip" else b""
        surplus += max(0, len(piece) - max(wanted, 0))
        yield piece[: max(wanted, 0)]
        wanted -= len(piece)
    if packing == "gzip" and not unpacker.eof:
        yield unpacker.flush()[: max(wanted, 0)]
    if not unpacker.eof:
        raise EOFError


def _put(fields: dict[str, str], name: str, value: str, path: Path) -> None:
    """Add a field to a header; two of one name could mean one thing here and another elsewhere."""
    value = value.encode("latin-1").decode("utf-8", "replace")
    if fields.get(name, value) != value and name:
        raise InputError(f"{path} says {name} twice; its header is damaged. Export it again.")
    fields[name] = value


def _first(fields: dict[str, str], *names: str) -> str:
    return next((fields[name] for name in names if fields.get(name)), "")


def _is_true(text: str) -> bool:
    return text.lower().startswith(("t", "1", "y"))


def _whole_numbers(text: str, path: Path) -> list[int]:
    """Whole numbers, at least one; sizes that need more than 63 bits are no sizes."""
    tokens = text.split()
    if not tokens or not all(re.fullmatch(r"[-+]?\d{1,18}", token) for token in tokens):
        raise InputError(f"{path} has a size that is no number ({text or 'nothing'}); its header is damaged.")
    return [int(token) for token in tokens]


def _numbers(text: str, path: Path) -> list[float]:
    """Sizes and directions of voxels, which must be there and be numbers."""
    try:
        numbers = [float(word) for word in re.split(r"[\s,()]+", text) if word]
    except ValueError:
        numbers = []
    if not numbers or not np.isfinite(numbers).all():
        raise GeometryError(
            f"{path} does not say where its voxels lie and how large they are ({text or 'nothing'}). Export it again."
        )
    return numbers


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
