"""One scan that was found, and where its result goes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from medldm.data.volume import Volume
from medldm.errors import InputError, MedldmError, UsageError
from medldm.io.archives import Members
from medldm.io.checks import volumes_of
from medldm.io.dicom import Series, read_series
from medldm.io.formats import DICOM, FORMATS, check_format, check_result_name, result_format, result_suffix
from medldm.io.images import read_image
from medldm.io.sidecars import SENT


@dataclass(frozen=True)
class Case:
    """One scan to work on.

    Parameters
    ----------
    source : image file (the header, where it is detached), or folder (or file) of the DICOM series
    place : where its result goes below OUT, without suffix
    series : the DICOM series, None for an image file
    format : name of the format of an image file, in `medldm.io.formats.FORMATS`
    skip : reason to leave it alone; empty when it is to be restored
    broken : what a person must hear, where a scan may have been and none can be read; empty otherwise
    alone : whether it is the only scan that was found
    foreign : whether it stands for files in formats that medldm does not read
    half : the file with the voxels of a detached header
    result : format of its result where it is not that of the scan
    keep : the folder that its archive was unpacked to, which must live as long as the case; None outside of archives
    """

    source: Path
    place: Path
    series: Series | None = None
    format: str = "nifti"
    skip: str = ""
    broken: str = ""
    alone: bool = False
    foreign: bool = False
    half: Path | None = None
    result: str | None = None
    keep: Members | None = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> str:
        """``"dicom"``, or the name of a file format."""
        return DICOM if self.series else self.format

    @property
    def is_image(self) -> bool:
        """Whether it stands for an image, rather than for files beside one that cannot be read."""
        return not (self.broken or self.foreign)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the scan is read from."""
        if self.series:
            return self.series.files
        return (self.source, self.half) if self.half else (self.source,)

    @property
    def is_4d(self) -> bool:
        """Whether it holds several volumes, by its header."""
        if self.series is not None:
            return bool(self.series.volumes)
        return volumes_of(self.stored_shape) > 1

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of an image file by its header, volumes after the three axes."""
        return FORMATS[self.format].probe(self.source).shape

    @property
    def voxels(self) -> int:
        """Voxels of one volume, by its header."""
        return math.prod(self.series.shape if self.series else self.stored_shape[:3])

    def named(self, text: str) -> str:
        """A sentence in which the files of an archive are called by their names in it."""
        return self.keep.named(text) if self.keep is not None else text

    @contextmanager
    def own_names(self) -> Iterator[None]:
        """Refusals that come up inside call the files of an archive by their names in it."""
        try:
            yield
        except MedldmError as problem:
            problem.args = tuple(self.named(part) if isinstance(part, str) else part for part in problem.args)
            raise

    def read(self, volume: int | None = None, *, fix: bool = False) -> Volume:
        """The scan itself.

        Parameters
        ----------
        volume : which one of a 4D file or series, counted from 0; beside other scans, a 3D one is read as it is
        fix : repair what can be repaired (duplicate, irregular, tilted DICOM; contradictory NIfTI forms)

        Raises
        ------
        InputError
        """
        if self.broken:
            raise InputError(self.broken)
        with self.own_names():
            if volume is not None and not self.alone and not self.is_4d:
                volume = None  # in a tree, --volume is about what is 4D
            if self.series is None:
                scan = read_image(self.source, volume_index=volume, fix=fix)
            else:
                scan = read_series(self.series, fix=fix, volume_index=volume)
        notes = tuple(map(self.named, scan.stored.note))
        return scan if notes == scan.stored.note else replace(scan, stored=replace(scan.stored, note=notes))

    def target(self, out: Path, form: str | None = None) -> Path:
        """Result of this case below a folder: an image file, or a folder for a derived series."""
        if form == DICOM or (form is None and self.series is not None):
            return out / SENT / self.place
        source, own = (None, None) if self.series else (self.source, self.format)
        suffix = result_suffix(form or self.result, source, own)
        return out / self.place.with_name(self.place.name + suffix)


def output_path(case: Case, out: Path, form: str | None = None) -> Path:
    """Where the result of a case goes: OUT itself when it names an image and there is one scan, else a place below it.

    Parameters
    ----------
    case : from `find_cases`
    out : as given on the command line
    form : ``"dicom"``, the name of a file format, or None for the format of the input

    Raises
    ------
    UsageError
        A file for several scans, or a format that the place or the scan cannot have.
    """
    check_format(form)
    if form == DICOM and case.series is None:
        raise UsageError(
            f"{case.source} is {FORMATS[case.format].title}: there is no patient or study to derive a DICOM series "
            "from. Leave --format out."
        )
    check_result_name(out)
    named = result_format(out)
    if named is None:
        return case.target(out, form)
    if not case.alone:
        raise UsageError(f"{out} is one file, but there are several scans. Name a folder as OUT.")
    if form not in (None, named.name):
        raise UsageError(f"{out} is a {named.title} file, but --format says {form}. Name a folder as OUT.")
    return out
