"""Find scans in a file, folder, zip or list, and say where their results go."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from medldm.data.volume import Volume
from medldm.errors import InputError, MedldmError, NotRestorable, UsageError
from medldm.io.archives import Members, is_zip, unpack
from medldm.io.content import not_a_scan
from medldm.io.dicom import Series, find_series, is_dicom, read_series
from medldm.io.foreign import by_folder, foreign, regular, what_is_wrong
from medldm.io.formats import NiftiFiles, called_nifti, check_result_name, is_nifti, nifti_files, stem
from medldm.io.lists import is_list, named_paths, plain, read_list
from medldm.io.nifti import header as headers
from medldm.io.nifti.reader import probe_nifti, read_nifti
from medldm.io.sidecars import SENT
from medldm.io.walk import may_hold, walk, wanted

LOGS = "logs"
PIPE = "is a pipe, a socket or a device, not a file. Write what comes out of it to a file first."


@dataclass(frozen=True)
class Case:
    """One scan to work on.

    Parameters
    ----------
    source : NIfTI file (the header of a pair), or folder (or file) of the DICOM series
    place : where its result goes below OUT, without suffix
    series : the DICOM series, None for NIfTI
    skip : reason to leave it alone; empty when it is to be restored
    broken : what a person must hear, where a scan may have been and none can be read; empty otherwise
    alone : whether it is the only scan that was found
    foreign : whether it stands for files in formats that medldm does not read
    half : the file with the voxels of a .hdr/.img pair
    keep : the folder that its archive was unpacked to, which must live as long as the case; None outside of archives
    """

    source: Path
    place: Path
    series: Series | None = None
    skip: str = ""
    broken: str = ""
    alone: bool = False
    foreign: bool = False
    half: Path | None = None
    keep: Members | None = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> str:
        """``"nifti"`` or ``"dicom"``."""
        return "dicom" if self.series else "nifti"

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
        return headers.volumes_of(probe_nifti(self.source).shape) > 1

    @property
    def voxels(self) -> int:
        """Voxels of one volume, by its header."""
        return math.prod(self.series.shape if self.series else probe_nifti(self.source).shape[:3])

    def named(self, words: str) -> str:
        """A sentence in which the files of an archive are called by their names in it."""
        return self.keep.named(words) if self.keep is not None else words

    @contextmanager
    def own_names(self) -> Iterator[None]:
        """Refusals that come up inside call the files of an archive by their names in it."""
        try:
            yield
        except MedldmError as problem:
            problem.args = tuple(self.named(each) if isinstance(each, str) else each for each in problem.args)
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
                found = read_nifti(self.source, volume_index=volume, fix=fix)
            else:
                found = read_series(self.series, fix=fix, volume_index=volume)
        notes = tuple(map(self.named, found.stored.note))
        return found if notes == found.stored.note else replace(found, stored=replace(found.stored, note=notes))

    def target(self, out: Path, form: str | None = None) -> Path:
        """Result of this case below a folder: a NIfTI file, or a folder for a derived series."""
        if form == "dicom" or (form is None and self.series is not None):
            return out / SENT / self.place
        # Packings and pairs are read, not written.
        suffix = ".nii" if self.series is None and self.source.name.lower().endswith(".nii") else ".nii.gz"
        return out / self.place.with_name(self.place.name + suffix)


def find_cases(source: Path | Sequence[Path], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Case]:
    """All scans below a path or several, in a stable order; headers are read, voxels are not.

    Places of several paths are relative to the folder that holds all of them, so that equal names stay apart.

    A 4D file is no reason to skip yet: whether one of its volumes was asked for is known when it is read.

    Parameters
    ----------
    source : NIfTI file or half of a pair, DICOM file or folder, zip, a tree of all of them, a list, or several paths
    include, exclude : glob patterns on the path below `source`; a file must match one of the first, if there are
        any, and none of the second

    Raises
    ------
    InputError
        The path does not exist, cannot be read, or holds no scan at all; of several, none does.
    """
    if not isinstance(source, str | Path) and len(source) > 1:
        return _several(list(map(Path, source)), include, exclude)
    source = Path(source if isinstance(source, str | Path) else source[0])
    _must_be_there(source)
    if is_list(source):
        cases = _listed(read_list(source), include, exclude)
    else:
        cases = _found(source, source if source.is_dir() else source.parent, include, exclude)
        if source.is_file() and len(cases) == 1 and cases[0].broken:
            raise InputError(cases[0].broken)
    if not cases:
        raise InputError(_nothing(source, bool(include or exclude)))
    cases = _distinct(sorted(_not_among_sent(cases), key=lambda case: str(case.place)))
    return [replace(case, alone=len(cases) == 1) for case in cases]


def _several(sources: list[Path], include: Sequence[str], exclude: Sequence[str]) -> list[Case]:
    """Cases of several paths; one that cannot be found is a case that fails, and the others go on."""
    if not any(map(os.path.exists, sources)):
        raise InputError(f"None of the {len(sources)} inputs exists, the first being {sources[0]}. Check the paths.")
    cases = _listed(named_paths(sources), include, exclude)
    if not cases:
        several = f"The {len(sources)} inputs hold no"
        raise InputError(
            f"{several} scan that --include and --exclude let through."
            if include or exclude
            else f"{several} NIfTI or DICOM scan. Check the paths."
        )
    return _distinct(sorted(_not_among_sent(cases), key=lambda case: str(case.place)))


def _must_be_there(source: Path) -> None:
    if str(source) == "-":
        raise InputError("IN is `-`, but scans are not read from standard input. Write it to a file first.")
    try:
        source.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as problem:
        raise InputError(f"{source} does not exist. Check the path.") from problem
    except OSError as problem:
        raise InputError(f"{source} cannot be opened: {problem.strerror}.") from problem
    if not source.is_dir() and not regular(source):
        raise InputError(f"{source} {PIPE}")


def output_path(case: Case, out: Path, form: str | None = None) -> Path:
    """Where the result of a case goes: OUT itself when it names an image and there is one scan, else a place below it.

    Parameters
    ----------
    case : from `find_cases`
    out : as given on the command line
    form : ``"nifti"``, ``"dicom"`` or None for the format of the input

    Raises
    ------
    UsageError
        A file for several scans, or a format that the place or the scan cannot have.
    """
    if form == "dicom" and case.series is None:
        raise UsageError(
            f"{case.source} is NIfTI: there is no patient or study to derive a DICOM series from. Leave --format out."
        )
    check_result_name(out)
    if not is_nifti(out):
        return case.target(out, form)
    if not case.alone:
        raise UsageError(f"{out} is one file, but there are several scans. Name a folder as OUT.")
    if form == "dicom":
        raise UsageError(f"{out} is a NIfTI file, but --format says dicom. Name a folder as OUT.")
    return out


def _listed(paths: list[Path], include: Sequence[str], exclude: Sequence[str]) -> list[Case]:
    """Cases of a list: its DICOM files are one heap, from which series are made as from a folder."""
    paths = list(dict.fromkeys(map(plain, paths)))
    try:
        root = Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as problem:  # Windows
        raise UsageError("The inputs lie on different drives. Run one command for each drive.") from problem
    problems: dict[Path, str] = {}
    below = {path: list(walk(path, problems)) if os.path.isdir(path) else [path] for path in paths}
    endless = [path for path in below if os.path.exists(path) and not (path.is_dir() or regular(path))]
    problems |= dict.fromkeys(endless, "a pipe, a socket or a device")
    there = {path: found for path, found in below.items() if os.path.exists(path) and path not in endless}
    files = list(dict.fromkeys(file for found in there.values() for file in found))
    cases = _sorted_out(files, root, include, exclude, problems)
    known = {file for case in cases for file in case.files} | {path for path in files if _is_archive(path)}
    known |= set(problems)
    homes = {at for case in cases for at in (case.source, *case.source.parents)} | set(problems)
    for path, found in below.items():
        place = path.relative_to(root)
        if os.path.isdir(path):
            if path not in homes and known.isdisjoint(found) and not (include or exclude):
                cases.append(Case(path, place, broken=_nothing(path, False)))
        elif known.isdisjoint(found) and wanted(place, include, exclude):
            # It fails when it is read, with a sentence, and the others go on.
            cases.append(Case(path, place.with_name(stem(path))))
    return cases


def _found(
    source: Path, root: Path, include: Sequence[str], exclude: Sequence[str], *, packed: bool = False
) -> list[Case]:
    """Cases below one path, places relative to a root; in the folder of an archive no other is opened."""
    problems: dict[Path, str] = {}
    if source.is_file() and _is_archive(source):
        return _zipped(source, Path(), include, exclude)
    files = list(walk(source, problems)) if source.is_dir() else [source]
    if source in problems:
        raise InputError(f"{source} cannot be opened: {problems[source]}.")
    return _sorted_out(files, root, include, exclude, problems, packed=packed)


def _sorted_out(
    files: list[Path],
    root: Path,
    include: Sequence[str],
    exclude: Sequence[str],
    problems: dict[Path, str],
    *,
    packed: bool = False,
) -> list[Case]:
    """Cases of some files; what may have been one and cannot be read is noted and becomes a case that fails."""
    # Patterns are about scans: an archive is opened to see what is inside.
    zips = {path for path in files if _is_archive(path)}  # asked once: it opens files, and there may be many
    files = [path for path in files if wanted(path.relative_to(root), () if path in zips else include, exclude)]
    found = {path: _nifti_in(path) for path in files if path not in zips}
    scans = dict.fromkeys(each for each in found.values() if each)  # both halves of a pair name one scan
    cases = [_nifti_case(each, root) for each in scans]
    halves = {file for each in scans for file in each.files}
    others = [path for path in files if not found.get(path) and path not in halves]
    dicom = [path for path in others if is_dicom(path)]
    beside = [case.source for case in cases if not case.skip] + [path for path in others if path in zips and not packed]
    cases += _dicom_cases(dicom, root, beside)
    images = {file for case in cases for file in case.files}
    folders = {path.parent for path in dicom if path in images}
    for path in others:
        if path in zips:
            place = path.relative_to(root)
            place = place.with_suffix("") if place.suffix.lower() == ".zip" else place
            cases += _zipped(path, place, include, exclude, root, packed=packed)
        elif path not in images and (wrong := what_is_wrong(path, beside_dicom=path.parent in folders)):
            problems[path] = wrong
    problems = {path: wrong for path, wrong in problems.items() if wanted(path.relative_to(root), include, exclude)}
    cases += [Case(path, path.relative_to(root), broken=told) for path, told in by_folder(problems)]
    unknown = [path for path in others if path not in images and path not in problems]
    return cases + [Case(path, path.relative_to(root), skip=told, foreign=True) for path, told in foreign(unknown)]


def _is_archive(path: Path) -> bool:
    """Whether a file is a zip, whatever it is called like NIfTI; a scan that is called .zip is none."""
    return is_zip(path) and nifti_files(path) is None


def _nifti_in(path: Path) -> NiftiFiles | None:
    """The NIfTI image of a file, by its content; by its name where the content is nothing else that is known.

    What only the name speaks for fails when it is read, with a sentence that says what is wrong.
    """
    found = nifti_files(path)
    if found is None and called_nifti(path) and not is_dicom(path):
        return NiftiFiles(path, path)
    return found


def _zipped(
    path: Path,
    below: Path,
    include: Sequence[str],
    exclude: Sequence[str],
    root: Path | None = None,
    *,
    packed: bool = False,
) -> list[Case]:
    """Cases of an archive; one that cannot be opened is a case that fails, below a root, or an error without one."""
    try:
        if packed and root is not None:
            raise InputError(
                f"{path.relative_to(root)} is an archive in an archive, and is not opened. Unpack the outer one."
            )
        unpacked = unpack(path)
    except InputError as problem:
        if root is None:
            raise
        return [Case(path, below, broken=str(problem))] if may_hold(below, include) else []
    inside = _found(unpacked.folder, unpacked.folder, include, exclude, packed=True)
    return [
        replace(case, place=below / case.place, keep=unpacked, broken=unpacked.named(case.broken)) for case in inside
    ]


def _nifti_case(found: NiftiFiles, root: Path) -> Case:
    path = found.header
    place = path.relative_to(root)
    skip = not_a_scan(path) or _header_speaks_against(path)
    half = found.voxels if found.is_pair else None
    return Case(path, place.with_name(stem(path)), skip=skip, half=half)


def _header_speaks_against(path: Path) -> str:
    """Why a readable NIfTI file is left alone; what cannot be read fails later, with its own sentence."""
    try:
        return headers.intent_reason(probe_nifti(path).header) or ""
    except NotRestorable as reason:
        return str(reason)
    except InputError:
        return ""


def _dicom_cases(files: list[Path], root: Path, others: list[Path]) -> list[Case]:
    """Series of all files; a place is the series' folder, and its name where that folder holds anything else.

    A derived series is a folder of its own: the result of no other case may lie in it.

    Parameters
    ----------
    files : DICOM
    root : that places are relative to
    others : files of other cases
    """
    placed = [(_folder(series), series) for series in _all_series(files)]
    folders = [folder for folder, _ in placed] + [path.parent for path in others]
    within = Counter(at for folder in folders for at in (folder, *folder.parents))
    cases, seen = [], dict[tuple[Path, str], int]()
    for folder, series in placed:
        number = series.number
        base = f"series-{number:03d}" if number is not None and number >= 0 else "series"
        seen[folder, base] = seen.get((folder, base), 0) + 1
        name = base if seen[folder, base] == 1 else f"{base}-{seen[folder, base]}"
        below = folder.relative_to(root)
        place = below / name if within[folder] > 1 or folder == root else below
        if place.parts[0] == LOGS:  # a batch keeps its own there
            place = Path(f"{LOGS}-2", *place.parts[1:])
        # One of several volumes may be asked for when it is read.
        skip = series.reason if series.verdict == "not a volume" and not series.volumes else ""
        cases.append(Case(folder, place, replace(series, name=name), skip))
    return cases


def _all_series(files: list[Path]) -> list[Series]:
    """Series may be spread over folders; but a folder that was copied is a second scan, not twice the slices."""
    series: list[Series] = []
    for found in find_series(files):
        folders = sorted({path.parent for path in found.files})
        if found.verdict not in ("duplicate", "mixed") or len(folders) < 2:
            series.append(found)
            continue
        apart = [find_series([path for path in found.files if path.parent == folder]) for folder in folders]
        # Under the same UIDs lie a scan and what another program made of it, say; parts of one scan do not coincide.
        shapes = {each.shape for inside in apart for each in inside if each.restorable}
        whole = len(shapes) == 1 and all(each.restorable for inside in apart for each in inside)
        series += [each for inside in apart for each in inside] if found.verdict == "duplicate" or whole else [found]
    return series


def _folder(series: Series) -> Path:
    return Path(os.path.commonpath([path.parent for path in series.files]))


def _not_among_sent(cases: list[Case]) -> list[Case]:
    """Beside series, no other result or record may come to lie in the folder of OUT that holds DICOM only."""
    if all(case.series is None for case in cases):
        return cases
    return [
        replace(case, place=Path(f"{SENT}-2", *case.place.parts[1:]))
        if case.place.parts[0] == SENT and len(case.place.parts) > 1
        else case
        for case in cases
    ]


def _distinct(cases: list[Case]) -> list[Case]:
    """Two cases never share a place: the second gets -2, as two scans with one stem in one folder do."""
    taken: set[Path] = set()
    distinct = []
    for case in cases:
        place, count = case.place, 1
        while place in taken:
            count += 1
            place = case.place.with_name(f"{case.place.name}-{count}")
        taken.add(place)
        distinct.append(replace(case, place=place))
    return distinct


def _nothing(source: Path, filtered: bool) -> str:
    if filtered:
        return f"{source} holds no scan that --include and --exclude let through."
    if source.is_file() and _is_archive(source):
        return f"{source} holds no NIfTI or DICOM scan. Check what is in it."
    if not source.is_dir():
        return f"{source} is neither NIfTI nor DICOM, nor a zip or a list of paths. Check what the file really is."
    if not any(source.iterdir()):
        return f"{source} is an empty folder. Check the path."
    return f"{source} holds no NIfTI or DICOM scan. Check the path."
