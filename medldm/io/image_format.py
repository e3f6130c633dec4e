"""What a file format has to say of itself; `medldm.io.formats` holds those that medldm knows."""

from __future__ import annotations

import abc
import contextlib
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from medldm.data.volume import Affine, Stored, Volume, Voxels
from medldm.errors import InputError, MedldmError, NotRestorable, OutputError, ResourceError
from medldm.io.arrays import nearest_ras, scaling_of, scanner_values, stored_float, to_dtype
from medldm.io.atomic import whole_file, whole_files
from medldm.io.checks import check_affine, must_be_file, same_place, volume_grid
from medldm.io.compression import opened
from medldm.modality import modality_by_name

log = logging.getLogger(__name__)

HEAD = 1024  # bytes that `sniff` gets; a NIfTI header alone is shorter, an image is longer


@dataclass(frozen=True)
class ImageFiles:
    """Where an image lies.

    Parameters
    ----------
    header : file that begins with the header
    voxels : file with the voxels: the same one, or that of a detached header (.hdr/.img, .nhdr/.raw)
    """

    header: Path
    voxels: Path

    @property
    def is_pair(self) -> bool:
        """Whether the header has a file of its own."""
        return self.header != self.voxels

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file, or both."""
        return (self.header, self.voxels) if self.is_pair else (self.header,)


@dataclass(frozen=True)
class Probe:
    """What the header of a file says; no voxel was read.

    Parameters
    ----------
    files : where header and voxels lie
    header : as the format keeps it
    shape : stored shape, trailing ones included; volumes and components come after the three axes
    dtype : stored voxel type
    intent : NIfTI code of what several volumes are (1007: vectors), 0 for none
    spacing : of the three axes as the header has it, for those who choose among files; empty where it does not say
    fix : whether `Format.load` may repair what can be repaired
    """

    files: ImageFiles
    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    intent: int = 0
    spacing: tuple[float, ...] = ()
    fix: bool = False


@dataclass(frozen=True)
class Loaded:
    """One volume of a file.

    Parameters
    ----------
    voxels : (X, Y, Z), as stored, native byte order
    affine : (4, 4), stored index to mm in RAS+ world space
    header : what `Format.save` needs to write a result the same way
    note : sentences worth telling the user
    restored_by : what medldm did to the scan before, as the header says
    scaling : slope and intercept from stored to scanner values
    """

    voxels: Voxels
    affine: Affine
    header: Any = None
    note: tuple[str, ...] = ()
    restored_by: str = ""
    scaling: tuple[float, float] = (1.0, 0.0)


class Format(abc.ABC):
    """A file format. A new one derives from this, in a file of its own, and gets a line in `medldm.io.formats`.

    Needed are the attributes, `sniff`, `probe` and `load`; and `save` where results can have the format.

    Parameters
    ----------
    name : as in ``--format nrrd``, in `Stored.container` and in records
    title : as in sentences
    suffixes : in lower case; a file that is called so should be one, and counts as damaged where it is none
    part_suffixes : of headers and data that belong to one image; what is called so may be something else
    written : suffixes that a result may have, the first unless another is asked for; empty where it cannot be written
    kept : those among them that a result takes over from its source
    why_not_written : sentence for a format that is only read
    dtypes : voxel types that a file can hold, smallest first; empty for all
    scales : whether its header can scale stored integers, as that of the source did
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    part_suffixes: ClassVar[tuple[str, ...]] = ()
    written: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[tuple[str, ...]] = ()
    why_not_written: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]] = ()
    scales: ClassVar[bool] = False

    @abc.abstractmethod
    def sniff(self, head: bytes) -> bool:
        """Whether a file is of this format, by its first bytes (1024 of them, unpacked)."""

    @abc.abstractmethod
    def probe(self, path: Path) -> Probe:
        """The header of a file, checked against the size of the file, without its voxels.

        Raises
        ------
        InputError
            Damaged, or a header that promises more voxels than the file can hold.
        NotRestorable
            Colours or complex numbers.
        """

    @abc.abstractmethod
    def load(self, probe: Probe, index: int) -> Loaded:
        """One volume of a file.

        Parameters
        ----------
        probe : of the file
        index : which of several volumes, counted from 0

        Raises
        ------
        InputError, ResourceError
        """

    def save(self, voxels: Voxels, volume: Volume, path: Path) -> None:
        """Write voxels, as they are to be stored, with the affine `volume.stored_affine()`; equal calls, equal bytes.

        Parameters
        ----------
        voxels : (X, Y, Z), of a type in `dtypes`
        volume : that they come from: its geometry, its header, its history
        path : temporary name, with the suffix of the final one
        """
        raise NotImplementedError(self.why_not_written)

    def files(self, path: Path, head: bytes) -> ImageFiles | None:
        """The image that a file holds or is a part of, by content; None when it is none.

        Parameters
        ----------
        path : any file
        head : its first 1024 bytes, unpacked
        """
        return ImageFiles(path, path) if self.sniff(head) else None

    def result_files(self, path: Path) -> tuple[Path, ...]:
        """The files of a result of some name, its header last; a result is there when its header is."""
        return (path,)

    def reason_to_skip(self, path: Path) -> str:
        """Why a readable file is left alone; what cannot be read fails later, with its own sentence."""
        try:
            self.probe(path)
        except NotRestorable as reason:
            return str(reason)
        except InputError:
            pass
        return ""

    def read(self, path: Path, *, volume_index: int | None = None, fix: bool = False) -> Volume:
        """One 3D volume of a file; integers stay integers, float64 stays float64, infinite voxels count as missing.

        Parameters
        ----------
        path : file, or part of a detached image
        volume_index : which volume of a 4D file, counted from 0
        fix : repair what can be repaired

        Returns
        -------
        volume, axes nearest to RAS, mm

        Raises
        ------
        InputError, GeometryError, NotRestorable, UsageError, ResourceError
        """
        must_be_file(path, self.title)
        probe = replace(self.probe(path), fix=fix)
        grid, index = volume_grid(probe.shape, volume_index, str(path), probe.intent)
        loaded = self.load(probe, index)
        check_affine(loaded.affine, grid, str(path))
        voxels, note = scanner_values(loaded.voxels, loaded.scaling, str(path))
        stored = Stored(
            dtype=probe.dtype.newbyteorder("=") if probe.dtype.kind in "iu" else stored_float(probe.dtype),
            container=self.name,
            header=loaded.header,
            modality=modality_by_name(path),
            note=(*loaded.note, *note),
            restored_by=loaded.restored_by,
        )
        return nearest_ras(voxels, loaded.affine, without(path, (*self.suffixes, *self.part_suffixes)), stored)

    def suffix_for(self, source: Path | None = None) -> str:
        """The suffix of a result: that of its source where it is kept, else the usual one.

        Parameters
        ----------
        source : that the result is made from; None where it is no single file
        """
        own = source.name.lower() if source else ""
        return next((suffix for suffix in self.kept if own.endswith(suffix)), self.written[0])

    def writes(self, path: Path) -> bool:
        """Whether a result may be called so."""
        return path.name.lower().endswith(self.written)

    def check_writes(self, path: Path) -> None:
        """Refuse a name that says another format.

        Raises
        ------
        OutputError
        """
        if not self.written:
            raise OutputError(self.why_not_written)
        if not self.writes(path):
            names = " or ".join(self.kept or self.written[:2])
            raise OutputError(f"{path} does not end in {names}. Choose such a name for a {self.title} result.")

    def write(self, volume: Volume, path: Path) -> int:
        """A volume in the orientation and voxel type that it was read with, read again before it takes its name.

        Parameters
        ----------
        volume : scan
        path : name with one of `written`

        Returns
        -------
        number of voxels that had to be clipped to the integer range

        Raises
        ------
        OutputError, ResourceError
        """
        path = Path(path)
        self.check_writes(path)
        voxels, clipped = self._as_stored(volume, path)
        files = self.result_files(path)
        with whole_file(path) if len(files) == 1 else whole_files(files) as temporary:
            try:
                self.save(voxels, volume, temporary)
            except RuntimeError as problem:  # of C++
                _no_space_for(voxels, path, problem)
                raise OutputError(f"{path} cannot be written. Choose another place for the result.") from problem
            self._check_written(temporary, path, voxels, volume)
        return clipped

    def copy(self, source: Path, volume: Volume, path: Path) -> int:
        """A scan that nothing was done to, under another name; byte for byte where that gives a sound file.

        Parameters
        ----------
        source : file that `volume` was read from
        volume : as read
        path : name with one of `written`

        Returns
        -------
        number of voxels that had to be clipped to the integer range

        Raises
        ------
        OutputError, ResourceError
        """
        if volume.stored.container == self.name and self.is_sound(source, path):
            with contextlib.suppress(OutputError), whole_file(path) as temporary:
                shutil.copyfile(source, temporary)
                self._check_written(temporary, path, None, volume)
                return 0
        return self.write(volume, path)  # says what is wrong where it is the place rather than the copy

    def is_sound(self, source: Path, path: Path) -> bool:
        """Whether the bytes of a file are what a result of some name should be.

        Parameters
        ----------
        source : of this format
        path : of the result
        """
        one = len(self.result_files(path)) == 1 and not self.probe(source).files.is_pair
        return one and source.suffix.lower() == path.suffix.lower()

    def objection(self, probe: Probe, volume: Volume) -> str:
        """Why other programs would read a result otherwise than we do; empty where nothing speaks against it.

        Parameters
        ----------
        probe : of the result, under its temporary name
        volume : that was written
        """
        return ""

    def _as_stored(self, volume: Volume, path: Path) -> tuple[Voxels, int]:
        """Voxels as they will lie in the file, and how many were clipped."""
        wanted, scaling = volume.stored.dtype, scaling_of(volume)
        if not self.scales and scaling != (1.0, 0.0) and wanted.kind in "iu":
            wanted, scaling = stored_float(volume.voxels.dtype), (1.0, 0.0)
        dtypes = [np.dtype(dtype) for dtype in self.dtypes] or [wanted]
        held = next((dtype for dtype in dtypes if np.can_cast(wanted, dtype, "safe")), None)
        if held is None:
            held = [dtype for dtype in dtypes if dtype.kind == ("f" if wanted.kind == "f" else "i")][-1]
        voxels, clipped = to_dtype(volume.to_stored(volume.voxels), held, *scaling)
        if self.dtypes and voxels.dtype not in dtypes:  # floats, since a voxel is missing
            voxels = voxels.astype(dtypes[-1])
        if voxels.dtype != wanted:
            why = "missing voxels" if wanted.kind in "iu" and voxels.dtype.kind == "f" else f"this type in {self.title}"
            log.warning("%s is written as %s: %s has no value for %s", path.name, voxels.dtype, wanted, why)
        return voxels, clipped

    def _check_written(self, written: Path, path: Path, voxels: Voxels | None, volume: Volume) -> None:
        """Open a result again before it takes its name; `voxels` is what must be in it, None for a copy."""
        try:
            probe = replace(self.probe(written), fix=True)
            grid, index = volume_grid(probe.shape, None, str(path))
            loaded = self.load(probe, index)
            again = loaded.voxels
            if voxels is None:
                voxels = volume.to_stored(volume.voxels)
                again, _ = scanner_values(again, loaded.scaling, str(path))
            if not np.array_equal(again, voxels, equal_nan=again.dtype.kind == "f"):
                reason = "its voxels are not those that were written"
            elif not same_place(loaded.affine, volume.stored_affine(), grid):
                reason = "its affine is another one"
            elif not (reason := self.objection(probe, volume)):
                return
        except MedldmError as problem:
            reason = str(problem)
        raise OutputError(
            f"{path} could not be opened again and was not kept ({reason}). Check the disk, and try again."
        )


def head_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked; empty where it cannot be read."""
    try:
        with opened(path) as stream:
            return stream.read(HEAD)
    except (MedldmError, OSError):
        return b""


def without(path: Path, suffixes: Iterable[str]) -> str:
    """File name without the longest of some suffixes, in any case; never empty.

    Parameters
    ----------
    path : file
    suffixes : in lower case
    """
    lower = path.name.lower()
    longest = max((end for end in suffixes if lower.endswith(end) and len(lower) > len(end)), key=len, default="")
    return path.name[: len(path.name) - len(longest)]


def _no_space_for(voxels: Voxels, path: Path, problem: Exception) -> None:
    """Libraries in C++ say only that writing failed: where no space is left, say so."""
    if shutil.disk_usage(path.parent).free < voxels.nbytes:
        raise ResourceError(
            f"The disk is full: {path} was not written. Free some space, then run the same command again."
        ) from problem
