"""NRRD and MetaImage in and out, in one file or with a detached header, through SimpleITK.

The header is read here first: SimpleITK would follow it to any file and reserve any memory that it asks for.
"""

from __future__ import annotations

import abc
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from medldm.data.volume import Affine, Volume, Voxels
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.compression import kind_of_packing
from medldm.io.image_format import HEAD, MOST_PACKED, Format, ImageFiles, Loaded, Probe, must_hold
from medldm.io.restored_before import mark_text, tasks_of

LONGEST_HEADER = 2**20  # bytes; diffusion scans list their gradients there
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world to RAS and back
MARK = "medldm"  # key in the header of a result
MOST_AXES = 5
PIECE = 2**22  # bytes unpacked at once
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
SPACES = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps")
VECTORS = {"vector": 1007, "matrix": 1004, "point": 1007, "gradient": 1007, "normal": 1007, "quaternion": 1007}


class ItkFormat(Format):
    """What NRRD and MetaImage have in common."""

    reader: ClassVar[str]  # ITK's name of it
    detached: ClassVar[str]  # suffix of a header without data
    data: ClassVar[str]  # suffix of the data of a result with a detached header

    @abc.abstractmethod
    def fields(self, path: Path) -> dict[str, str]:
        """The header, field names in lower case.

        Raises
        ------
        InputError
        """

    @abc.abstractmethod
    def layout(self, fields: dict[str, str], path: Path) -> Probe:
        """Shape and voxel type by the header; `Probe.header` holds sentences worth telling.

        Raises
        ------
        InputError, NotRestorable
        """

    @abc.abstractmethod
    def data_name(self, fields: dict[str, str]) -> str:
        """The file that a header names for its data; empty where they follow the header."""

    @abc.abstractmethod
    def packing(self, fields: dict[str, str]) -> str:
        """How the data are packed: ``"raw"``, ``"gzip"``, or another word."""

    @abc.abstractmethod
    def data_start(self, fields: dict[str, str], files: ImageFiles) -> int:
        """Byte of the data file at which the data begin."""

    def _check_packed(self, probe: Probe) -> None:
        """Unpack the data once: ITK takes truncated ones for whole, and does not look at their checksum."""
        files, fields = probe.files, self.fields(probe.files.header)
        if self.packing(fields) != "gzip":
            return
        left = math.prod(probe.shape) * probe.dtype.itemsize
        unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib
        with files.voxels.open("rb") as raw:
            raw.seek(self.data_start(fields, files))
            try:
                while not (unpacker.eof and left <= 0) and (some := unpacker.unused_data or raw.read(PIECE)):
                    if unpacker.eof:
                        unpacker = zlib.decompressobj(wbits=47)
                    while some:
                        left -= len(unpacker.decompress(some, PIECE))
                        some = unpacker.unconsumed_tail
                left -= len(unpacker.flush())
            except zlib.error as problem:
                raise InputError(f"{files.voxels} is damaged. Copy it again from its source.") from problem
            except OSError as problem:
                raise InputError(f"{files.voxels} cannot be read: {problem.strerror or problem}.") from problem
        if left > 0 or not unpacker.eof:
            raise InputError(f"{files.voxels} is truncated or damaged. Copy it again from its source.")

    def files(self, path: Path, head: bytes) -> ImageFiles | None:
        """See `Format.files`."""
        if self.sniff(head):
            try:
                return self._files(path)
            except InputError:  # told when it is read
                return ImageFiles(path, path)
        lower = path.name.lower()
        end = next((end for end in self.part_suffixes if lower.endswith(end)), None)
        if end is None:
            return None
        header = path.with_name(path.name[: -len(end)] + self.detached)
        try:
            found = self._files(header) if header.is_file() else None
        except InputError:
            return None
        return found if found and found.voxels == path else None

    def result_files(self, path: Path) -> tuple[Path, ...]:
        """See `Format.result_files`."""
        if not path.name.lower().endswith(self.detached):
            return (path,)
        return path.with_name(path.name[: -len(self.detached)] + self.data), path

    def probe(self, path: Path) -> Probe:
        """See `Format.probe`."""
        fields, files = self.fields(path), self._files(path)
        if not files.voxels.is_file():
            raise InputError(
                f"{path} says that its voxels are in {files.voxels.name}, which does not lie beside it. "
                "Copy both into one folder."
            )
        probe = self.layout(fields, path)
        if len(probe.shape) > MOST_AXES or min(probe.shape, default=0) < 1:
            raise InputError(
                f"{path} claims a size of {' x '.join(map(str, probe.shape))} voxels; its header is damaged or it "
                "holds no image."
            )
        most = {"raw": 1.0, "gzip": MOST_PACKED}.get(self.packing(fields), math.inf)
        must_hold(math.prod(probe.shape) * probe.dtype.itemsize, files, most)
        return Probe(files, probe.header, probe.shape, probe.dtype, probe.intent)

    def load(self, probe: Probe, index: int) -> Loaded:
        """See `Format.load`."""
        import SimpleITK as sitk

        path = probe.files.header
        self._check_packed(probe)
        reader = sitk.ImageFileReader()
        reader.SetImageIO(self.reader)
        reader.SetFileName(str(path))
        told_before = sitk.ProcessObject.GetGlobalWarningDisplay()
        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        try:
            reader.ReadImageInformation()
            if _stripped(_shape(reader)) != _stripped(probe.shape):  # it reads the header otherwise than we do
                raise InputError(f"{path} has a header that contradicts itself. Export it again.")
            affine = _affine(reader)
            if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
                return Loaded(np.zeros((1, 1, 1), probe.dtype), affine)  # refused with a sentence about its geometry
            array = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as problem:
            raise InputError(
                f"{path} is truncated or damaged, or of a kind of {self.title} that is not known here. Copy it again "
                "from its source."
            ) from problem
        finally:
            sitk.ProcessObject.SetGlobalWarningDisplay(told_before)
        components = array.shape[-1:] if reader.GetNumberOfComponents() > 1 else ()
        axes = array.shape[: array.ndim - len(components)]
        # SimpleITK has the slowest axis first, components last.
        array = array.reshape(-1, *(1,) * (3 - len(axes)), *axes[-3:], math.prod(components))
        frame, component = divmod(index, array.shape[-1])
        restored = f"{MARK} {reader.GetMetaData(MARK)}" if reader.HasMetaDataKey(MARK) else ""
        unit_mm, note = probe.header
        affine[:3] *= unit_mm
        voxels = array[frame, ..., component].transpose()
        return Loaded(voxels, affine, None, note, tasks_of(restored))

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

    def _files(self, path: Path) -> ImageFiles:
        name = self.data_name(self.fields(path))
        return ImageFiles(path, _beside(path, name) if name else path)

    def _text(self, path: Path) -> str:
        """The start of a file, which must not be packed."""
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
        return start.decode("utf-8", "replace")


class Nrrd(ItkFormat):
    """NRRD; with a detached header NHDR."""

    name, title = "nrrd", "NRRD"
    suffixes = (".nrrd", ".nhdr")
    part_suffixes = (".raw", ".raw.gz")
    written = (".nrrd", ".nhdr")
    kept = (".nrrd",)
    reader, detached, data = "NrrdImageIO", ".nhdr", ".raw.gz"

    def sniff(self, head: bytes) -> bool:
        """By the magic at its start."""
        return head.startswith(b"NRRD00")

    def fields(self, path: Path) -> dict[str, str]:
        """See `ItkFormat.fields`."""
        fields: dict[str, str] = {}
        for line in re.split(r"\r?\n\r?\n", self._text(path), maxsplit=1)[0].splitlines()[1:]:
            match = re.match(r"([^#:=][^:]*):(?!=)\s*(.*)", line)
            if match:
                name = match[1].strip().lower().replace("datafile", "data file")
                if name in fields:
                    raise InputError(f"{path} says {name} twice; its header is damaged. Export it again.")
                fields[name] = match[2].strip()
        return fields

    def layout(self, fields: dict[str, str], path: Path) -> Probe:
        """See `ItkFormat.layout`."""
        sizes = _numbers(fields.get("sizes", ""), path)
        kinds = fields.get("kinds", "").lower().split()
        directions = re.findall(r"\(.*?\)|none", fields.get("space directions", ""))
        _check_numbers(" ".join(part for part in directions if part != "none") or fields.get("spacings", ""), path)
        # Axes along which no voxel lies beside another hold volumes, components or colours.
        other = [axis for axis, kind in enumerate(kinds) if kind not in ("domain", "space", "time", "???", "none")]
        other += [axis for axis, direction in enumerate(directions) if direction == "none" and axis not in other]
        what = " ".join(kinds[axis] for axis in other if axis < len(kinds))
        dtype = DTYPES.get(fields.get("type", "").lower())
        if "complex" in what:
            raise NotRestorable(f"{path} holds complex numbers; compute the magnitude image and restore that.")
        components = [sizes[axis] for axis in other if axis < len(sizes)]
        if "color" in what or (dtype == np.uint8 and components in ([3], [4])):
            raise NotRestorable(f"{path} is a colour image (RGB); medldm restores scans with one value per voxel.")
        if dtype is None:
            raise InputError(f"{path} has voxels of a type that is not known here ({fields.get('type')}).")
        intent = next((code for word, code in VECTORS.items() if word in what), 0)
        shape = [size for axis, size in enumerate(sizes) if axis not in other]
        shape += [1] * (3 - len(shape) if other else 0) + components
        units = re.findall(r'"(.*?)"', fields.get("space units", ""))
        unit_mm = UNITS.get(units[0].strip().lower(), 1.0) if units else 1.0
        return Probe(ImageFiles(path, path), (unit_mm, self._note(fields, path)), tuple(shape), dtype, intent)

    def _note(self, fields: dict[str, str], path: Path) -> tuple[str, ...]:
        space = fields.get("space", "").lower().removesuffix("-time")
        if space in SPACES:
            return ()
        return (f"{path} does not say how the patient lay (its space is unset): left and right are a guess.",)

    def data_name(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.data_name`."""
        return fields.get("data file", "")

    def data_start(self, fields: dict[str, str], files: ImageFiles) -> int:
        """See `ItkFormat.data_start`."""
        if files.is_pair:
            return 0
        return _end_of(rb"\r?\n\r?\n", files.header)

    def packing(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.packing`."""
        encoding = fields.get("encoding", "raw").lower()
        return "gzip" if encoding == "gz" else encoding


class MetaImage(ItkFormat):
    """MetaImage; with a detached header MHD."""

    name, title = "mha", "MetaImage"
    suffixes = (".mha", ".mhd")
    part_suffixes = (".raw", ".zraw")
    written = (".mha", ".mhd")
    kept = (".mha",)
    reader, detached, data = "MetaImageIO", ".mhd", ".zraw"

    def sniff(self, head: bytes) -> bool:
        """By the magic at its start."""
        start = re.match(rb"\s*(ObjectType|ObjectSubType|Comment|NDims|BinaryData)\s*=", head)
        return bool(start and re.search(rb"^\s*NDims\s*=", head, re.MULTILINE))

    def fields(self, path: Path) -> dict[str, str]:
        """See `ItkFormat.fields`."""
        fields: dict[str, str] = {}
        for line in self._text(path).splitlines():
            name, _, value = line.partition("=")
            if (name := name.strip().lower()) in fields:
                raise InputError(f"{path} says {name} twice; its header is damaged. Export it again.")
            fields[name] = value.strip()
            if name == "elementdatafile":
                return fields
        raise InputError(f"{path} does not say where its voxels are; its header is damaged. Export it again.")

    def layout(self, fields: dict[str, str], path: Path) -> Probe:
        """See `ItkFormat.layout`."""
        shape = _numbers(fields.get("dimsize", ""), path)
        kind = fields.get("elementtype", "").lower()
        dtype = DTYPES.get(kind.removesuffix("_array")) if kind.startswith("met_") else None
        if dtype is None:
            raise InputError(f"{path} has voxels of a type that is not known here ({fields.get('elementtype')}).")
        channels = _numbers(fields.get("elementnumberofchannels", "1"), path)
        if dtype == np.uint8 and channels in ([3], [4]):
            raise NotRestorable(f"{path} is a colour image (RGB); medldm restores scans with one value per voxel.")
        if channels != [1]:
            shape += [1] * (3 - len(shape)) + channels
        _check_numbers(fields.get("elementspacing", fields.get("elementsize", "")), path)
        oriented = {"transformmatrix", "orientation", "rotation"} & set(fields)
        note = f"{path} does not say how the patient lay (no TransformMatrix): left and right are a guess."
        return Probe(ImageFiles(path, path), (1.0, () if oriented else (note,)), tuple(shape), dtype)

    def data_name(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.data_name`."""
        name = fields["elementdatafile"]
        return "" if name.lower() == "local" else name

    def data_start(self, fields: dict[str, str], files: ImageFiles) -> int:
        """See `ItkFormat.data_start`."""
        start = (_numbers(fields.get("headersize", ""), files.header) or [0])[0]
        if start < 0:
            packed = _numbers(fields.get("compresseddatasize", ""), files.header)
            return max(0, files.voxels.stat().st_size - sum(packed))
        if files.is_pair:
            return start
        return _end_of(rb"(?im)^\s*ElementDataFile\s*=[^\n]*\n", files.header)

    def packing(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.packing`."""
        if fields.get("compresseddata", "").lower().startswith("t"):
            return "gzip"
        return "text" if fields.get("binarydata", "true").lower().startswith("f") else "raw"


def _affine(reader: Any) -> Affine:
    """(4, 4) index to RAS+, in the unit of the file; of 2D images as one slice."""
    axes = min(reader.GetDimension(), 3)
    direction = np.reshape(reader.GetDirection(), [reader.GetDimension()] * 2)[:axes, :axes]
    affine = np.eye(4)
    with np.errstate(invalid="ignore"):
        affine[:axes, :axes] = direction * np.asarray(reader.GetSpacing())[:axes]
        affine[:axes, 3] = reader.GetOrigin()[:axes]
        turned: Affine = LPS @ affine
    return turned


def _shape(reader: Any) -> tuple[int, ...]:
    """Shape as in `Probe.shape`: components after three axes or more."""
    shape, components = reader.GetSize(), reader.GetNumberOfComponents()
    return (*shape, *(1,) * (3 - len(shape)), components)


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones."""
    return shape[: max((axis + 1 for axis, size in enumerate(shape) if size > 1), default=0)]


def _end_of(pattern: bytes, path: Path) -> int:
    """Where the first match in a file ends."""
    with path.open("rb") as raw:
        match = re.search(pattern, raw.read(LONGEST_HEADER))
    return match.end() if match else 0


def _check_numbers(text: str, path: Path) -> None:
    """Refuse sizes and directions of voxels that are missing or no numbers: ITK would take 1 mm for them."""
    try:
        numbers = [float(word) for word in re.split(r"[\s,()]+", text) if word]
    except ValueError:
        numbers = []
    if not numbers or not np.isfinite(numbers).all():
        raise GeometryError(f"{path} does not say how large its voxels are ({text or 'nothing'}). Export it again.")


def _numbers(text: str, path: Path) -> list[int]:
    try:
        return [int(word) for word in text.split()]
    except ValueError as problem:
        raise InputError(f"{path} has a size that is no number ({text}); its header is damaged.") from problem


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
