"""Find scans in a file, folder, zip or list, and say where their results go."""

from __future__ import annotations

import csv
import fnmatch
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medldm.errors import InputError
from medldm.io.content import not_a_scan
from medldm.io.dicom import Series, find_series, is_dicom, read_series
from medldm.io.nifti import is_nifti, read_nifti, stem
from medldm.volume import Volume

OURS = ("_medldm.json", "_std.nii.gz", "_preview.png")
LARGEST_ZIP = 64 * 2**30  # bytes after unpacking
LIST_SUFFIXES = (".txt", ".csv")


@dataclass(frozen=True)
class Case:
    """One scan to work on.

    Parameters
    ----------
    source : NIfTI file, or folder (or file) of the DICOM series
    place : where its result goes below OUT, without suffix
    series : the DICOM series, None for NIfTI
    skip : reason to leave it alone; empty when it is to be restored
    """

    source: Path
    place: Path
    series: Series | None = None
    skip: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the scan is read from."""
        return self.series.files if self.series else (self.source,)

    def read(self, volume: int | None = None) -> Volume:
        """The scan itself."""
        return read_series(self.series) if self.series else read_nifti(self.source, volume_index=volume)

    def target(self, out: Path, form: str | None = None) -> Path:
        """Result of this case below a folder: a NIfTI file, or a folder for a derived series."""
        if form == "dicom" or (form is None and self.series is not None):
            return out / self.place
        suffix = ".nii" if self.series is None and self.source.name.lower().endswith(".nii") else ".nii.gz"
        return out / self.place.with_name(self.place.name + suffix)


def find_cases(source: Path, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Case]:
    """All scans below a path, in a stable order; headers of DICOM files are read, voxels are not.

    Parameters
    ----------
    source : NIfTI file, DICOM file or folder, a tree of both, or a .txt/.csv list of paths
    include, exclude : glob patterns on the path below `source`; a file must match one of the first, if there are
        any, and none of the second

    Raises
    ------
    InputError
        The path does not exist or holds no scan at all.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist.")
    if source.is_file() and source.suffix.lower() in LIST_SUFFIXES:
        cases = [case for path in read_list(source) for case in find_cases(path, include, exclude)]
        return _distinct(cases)
    root = source if source.is_dir() else source.parent
    files = sorted(_walk(source)) if source.is_dir() else [source]
    files = [path for path in files if _wanted(path.relative_to(root), include, exclude)]
    cases = [_nifti_case(path, root) for path in files if is_nifti(path)]
    folders: dict[Path, list[Path]] = {}
    for path in files:
        if not is_nifti(path) and is_dicom(path):
            folders.setdefault(path.parent, []).append(path)
    for folder, members in folders.items():
        found = find_series(members)
        alone = len(found) == 1 and folder != root and source.is_dir()
        for series in found:
            below = folder.relative_to(root)
            place = below if alone else below / series.name
            skip = "" if series.verdict != "not a volume" else series.reason
            cases.append(Case(folder, place, series, skip))
    if not cases:
        raise InputError(f"{source} holds no NIfTI or DICOM scan. Look at it with `medldm inspect {source}`." if source.is_dir() else f"{source} is neither NIfTI nor DICOM.")
    return _distinct(sorted(cases, key=lambda case: str(case.place)))


def _nifti_case(path: Path, root: Path) -> Case:
    place = path.relative_to(root)
    return Case(path, place.with_name(stem(path)), skip=not_a_scan(path))


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not path.name.endswith(OURS) and path.is_file():
            yield path


def _wanted(path: Path, include: Sequence[str], exclude: Sequence[str]) -> bool:
    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatch(str(path), pattern) or fnmatch.fnmatch(path.name, pattern) for pattern in patterns)

    return (not include or matches(include)) and not matches(exclude)


def _distinct(cases: list[Case]) -> list[Case]:
    """Two cases never share a place: the second gets -2, as two scans with one stem in one folder do."""
    seen: dict[Path, int] = {}
    distinct = []
    for case in cases:
        seen[case.place] = seen.get(case.place, 0) + 1
        count = seen[case.place]
        place = case.place if count == 1 else case.place.with_name(f"{case.place.name}-{count}")
        distinct.append(Case(case.source, place, case.series, case.skip))
    return distinct


def read_list(path: Path) -> list[Path]:
    """Paths of a .txt list (one a line, # for remarks) or of the first column of a .csv (a column `path` if named)."""
    with path.open(newline="", errors="replace") as lines:
        if path.suffix.lower() == ".csv":
            rows = list(csv.reader(lines))
            column = rows[0].index("path") if rows and "path" in rows[0] else 0
            words = [row[column] for row in rows if len(row) > column]
            words = words[1:] if rows and "path" in rows[0] else words
        else:
            words = [line.strip() for line in lines]
    words = [word for word in words if word and not word.startswith("#")]
    if not words:
        raise InputError(f"{path} lists no scan.")
    return [(path.parent / word) for word in words]


def unpack(archive: Path) -> Path:
    """A zip archive in a temporary folder that the caller removes; nothing lands outside it.

    Raises
    ------
    InputError
        Damaged, too large, or with names that lead out of the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="medldm-zip-"))
    try:
        with zipfile.ZipFile(archive) as packed:
            if sum(info.file_size for info in packed.infolist()) > LARGEST_ZIP:
                raise InputError(f"{archive} unpacks to more than {LARGEST_ZIP / 2**30:.0f} GiB; unpack it yourself and give the folder.")
            for info in packed.infolist():
                parts = PurePosixPath(info.filename.replace("\\", "/")).parts
                if info.is_dir():
                    continue
                if ".." in parts or PurePosixPath(info.filename).is_absolute() or (info.external_attr >> 28) == 0xA:
                    raise InputError(f"{archive} holds {info.filename!r}, which leads out of the archive.")
                packed.extract(info, folder)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as problem:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"{archive} cannot be unpacked: {problem}") from problem
    except InputError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
