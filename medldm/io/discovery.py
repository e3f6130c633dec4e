"""Find scans in a file, folder, zip or list, and say where their results go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medldm.errors import InputError, UsageError
from medldm.io.archives import is_zip, unpack
from medldm.io.case import Case, output_path
from medldm.io.content import not_a_scan
from medldm.io.dicom import Series, find_series, is_dicom
from medldm.io.foreign import by_folder, foreign, regular, what_is_wrong
from medldm.io.formats import Image, find_image, format_by_name, stem, titles
from medldm.io.image_format import ImageFiles
from medldm.io.lists import is_list, named_paths, plain, read_list
from medldm.io.sidecars import SENT
from medldm.io.walk import may_hold, walk, wanted

__all__ = ["Case", "find_cases", "image_files", "output_path"]

LOGS = "logs"
PIPE = "is a pipe, a socket or a device, not a file. Write what comes out of it to a file first."


def find_cases(source: Path | Sequence[Path], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Case]:
    """All scans below a path or several, in a stable order; headers are read, voxels are not.

    Places of several paths are relative to the folder that holds all of them, so that equal names stay apart.

    A 4D file is no reason to skip yet: whether one of its volumes was asked for is known when it is read.

    Parameters
    ----------
    source : image file or half of a pair, DICOM file or folder, zip, a tree of all of them, a list, or several paths
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
        cases = _cases_below(source, source if source.is_dir() else source.parent, include, exclude)
        if source.is_file() and len(cases) == 1 and cases[0].broken:
            raise InputError(cases[0].broken)
    if not cases:
        raise InputError(_nothing(source, bool(include or exclude)))
    cases = _distinct(sorted(_not_among_sent(cases), key=lambda case: str(case.place)))
    return [replace(case, alone=len(cases) == 1) for case in cases]


def image_files(folder: Path) -> list[Path]:
    """Image files below a folder by content or name, sorted, without looking at DICOM; of a pair, the header.

    Parameters
    ----------
    folder : to look into; one that is not there holds none
    """
    return sorted({image.files.header for path in walk(folder, {}) if (image := _image_in(path))})


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
    there = {path: inside for path, inside in below.items() if os.path.exists(path) and path not in endless}
    files = list(dict.fromkeys(file for inside in there.values() for file in inside))
    cases = _sorted_out(files, root, include, exclude, problems)
    known = {file for case in cases for file in case.files} | {path for path in files if _is_archive(path)}
    known |= set(problems)
    homes = {at for case in cases for at in (case.source, *case.source.parents)} | set(problems)
    for path, inside in below.items():
        place = path.relative_to(root)
        if os.path.isdir(path):
            if path not in homes and known.isdisjoint(inside) and not (include or exclude):
                cases.append(Case(path, place, broken=_nothing(path, False)))
        elif known.isdisjoint(inside) and wanted(place, include, exclude):
            # It fails when it is read, with a sentence, and the others go on.
            cases.append(Case(path, place.with_name(stem(path))))
    return cases


def _cases_below(
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
    images = {path: image for path in files if path not in zips and (image := _image_in(path))}
    scans = {image.files: image for image in images.values()}  # both halves of a pair name one scan
    cases = [_image_case(image, root) for image in scans.values()]
    halves = {file for pair in scans for file in pair.files}
    others = [path for path in files if path not in images and path not in halves]
    dicom = [path for path in others if is_dicom(path)]
    beside = [case.source for case in cases if not case.skip] + [path for path in others if path in zips and not packed]
    cases += _dicom_cases(dicom, root, beside)
    known = {file for case in cases for file in case.files}
    folders = {path.parent for path in dicom if path in known}
    for path in others:
        if path in zips:
            place = path.relative_to(root)
            place = place.with_suffix("") if place.suffix.lower() == ".zip" else place
            cases += _zipped(path, place, include, exclude, root, packed=packed)
        elif path not in known and (wrong := what_is_wrong(path, beside_dicom=path.parent in folders)):
            problems[path] = wrong
    problems = {path: wrong for path, wrong in problems.items() if wanted(path.relative_to(root), include, exclude)}
    cases += [Case(path, path.relative_to(root), broken=why) for path, why in by_folder(problems)]
    unknown = [path for path in others if path not in known and path not in problems]
    return cases + [Case(path, path.relative_to(root), skip=why, foreign=True) for path, why in foreign(unknown)]


def _is_archive(path: Path) -> bool:
    """Whether a file is a zip, whatever image it is called like; a scan that is called .zip is none."""
    return is_zip(path) and find_image(path) is None


def _image_in(path: Path) -> Image | None:
    """The image of a file, by its content; by its name where the content is nothing else that is known.

    What only the name speaks for fails when it is read, with a sentence that says what is wrong.
    """
    image = find_image(path)
    if image is None and (form := format_by_name(path)) and not is_dicom(path):
        return Image(form, ImageFiles(path, path))
    return image


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
    inside = _cases_below(unpacked.folder, unpacked.folder, include, exclude, packed=True)
    return [
        replace(case, place=below / case.place, keep=unpacked, broken=unpacked.named(case.broken)) for case in inside
    ]


def _image_case(image: Image, root: Path) -> Case:
    path = image.files.header
    place = path.relative_to(root)
    skip = not_a_scan(path) or image.format.reason_to_skip(path)
    half = image.files.voxels if image.files.is_pair else None
    return Case(path, place.with_name(stem(path)), format=image.format.name, skip=skip, half=half)


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
        cases.append(Case(folder, place, replace(series, name=name), skip=skip))
    return cases


def _all_series(files: list[Path]) -> list[Series]:
    """Series may be spread over folders; but a folder that was copied is a second scan, not twice the slices."""
    series: list[Series] = []
    for one in find_series(files):
        folders = sorted({path.parent for path in one.files})
        if one.verdict not in ("duplicate", "mixed") or len(folders) < 2:
            series.append(one)
            continue
        parts = [
            part for folder in folders for part in find_series([path for path in one.files if path.parent == folder])
        ]
        # Under the same UIDs lie a scan and what another program made of it, say; parts of one scan do not coincide.
        shapes = {part.shape for part in parts if part.restorable}
        whole = len(shapes) == 1 and all(part.restorable for part in parts)
        series += parts if one.verdict == "duplicate" or whole else [one]
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
        return f"{source} is neither {titles(' nor ')}, nor a zip or a list of paths. Check what the file really is."
    if not any(source.iterdir()):
        return f"{source} is an empty folder. Check the path."
    return f"{source} holds no NIfTI or DICOM scan. Check the path."
