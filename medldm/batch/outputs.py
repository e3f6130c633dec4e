"""Where results may lie: never where a scan lies, never where they cannot be written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from medldm.errors import InputError, OutputError, UsageError
from medldm.io import is_image_name
from medldm.io.atomic import LEFTOVER, partial_name, sentence, staged_name
from medldm.io.discovery import Case
from medldm.io.formats import check_result_name, result_files
from medldm.io.lists import named_paths

SWEEP_AFTER_S = 24 * 3600
MARKS = re.compile(r"\.tries-[0-9a-f]{32}$")  # of `dask_queue`


def check_out(sources: Sequence[Path], out: Path) -> None:
    """Refuse an OUT that cannot be right, before anything is searched.

    Raises
    ------
    UsageError
        A name that no result can have.
    OutputError
    """
    check_result_name(out)
    if out.resolve() in [source.resolve() for source in sources]:
        raise OutputError(f"OUT is IN ({out}); results never replace the scan they come from. Choose another OUT.")
    if len(sources) > 1 and (is_image_name(out) or out.is_file()):
        raise OutputError(
            f"{len(sources)} inputs need a folder as OUT, the last path, and {out} is "
            f"{'a file' if out.is_file() else 'the name of one file'}. Name a folder after them."
        )
    if not is_image_name(out) and out.is_file():
        raise OutputError(f"OUT ({out}) is a file that is not an image. Give a folder, or a name that ends in .nii.gz.")
    check_writable(out, out.parent if is_image_name(out) else out)


def check_writable(target: Path, folder: Path) -> None:
    """Refuse a place below a folder that cannot be made or written to.

    Parameters
    ----------
    target : of a result
    folder : that it lies in, or that is to be made for it

    Raises
    ------
    OutputError
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{target} cannot be written: {folder} is no folder. Choose another OUT.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{target} cannot be written: {folder} is read-only. Choose another OUT.")


def check_target(target: Path) -> None:
    """Refuse a result that could not be written; what fails here would fail after the network has worked for it.

    Parameters
    ----------
    target : image file, or folder of a DICOM series

    Raises
    ------
    OutputError
    """
    check_writable(target, target.parent)
    if target.is_dir() and any(not path.name.endswith(".dcm") for path in target.iterdir()):
        raise OutputError(f"{target} holds other files. Choose another OUT, or move them away.")
    if hasattr(os, "pathconf"):
        folder = next(parent for parent in target.parents if parent.exists())
        hidden = partial_name(staged_name(target)).name  # longest name that a result has while it is written
        if len(os.fsencode(hidden)) > os.pathconf(folder, "PC_NAME_MAX"):
            raise sentence(OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)), target)


def sweep(out: Path) -> None:
    """Take away what runs left that were killed more than a day ago; a younger file may be in use on another machine.

    Parameters
    ----------
    out : folder of the batch
    """
    for at, below, names in os.walk(out):
        for name in [*below, *names]:
            path = Path(at, name)
            with contextlib.suppress(OSError):
                if (LEFTOVER.match(name) or MARKS.match(name)) and time.time() - last_touched(path) > SWEEP_AFTER_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def last_touched(path: Path) -> float:
    """When a file was changed, or anything in a folder; marks of a batch that lives lie deep in an old folder.

    Parameters
    ----------
    path : file or folder
    """
    inside = list(path.rglob("*")) if path.is_dir() else []
    return max(item.stat().st_mtime for item in [path, *inside])


def inputs_only(cases: list[Case], sources: Sequence[Path], out: Path) -> list[Case]:
    """The cases without results of an earlier run inside a tree (`medldm restore . out`); what was named stays.

    Raises
    ------
    InputError
        Nothing else is there.
    """
    inside, named = out.resolve(), [path.resolve() for path in named_paths(sources)]
    if is_image_name(out) or not any(inside.is_relative_to(path) for path in named):
        return cases
    own = [path for path in named if path.is_relative_to(inside)]

    def is_result(case: Case) -> bool:
        place = case.source.resolve()
        return place.is_relative_to(inside) and not any(place.is_relative_to(path) for path in own)

    left = [case for case in cases if not is_result(case)]
    if not left:
        raise InputError(f"{sources[0]} holds nothing but results in {out}. Check IN.")
    return left


def named_alone(cases: list[Case], sources: Sequence[Path], out: Path) -> bool:
    """Whether IN is one scan rather than a tree or several paths.

    Raises
    ------
    UsageError
        One file as OUT for several scans.
    """
    if len(sources) > 1:
        return False
    (source,) = sources
    images = [case for case in cases if case.is_image]
    if is_image_name(out) and len(images) > 1:
        raise UsageError(
            f"OUT ({out.name}) is a file, but {source} holds {len(images)} images. Give a folder, or choose one with "
            "--include."
        )
    if is_image_name(out):
        return True
    (case, *others) = cases
    whole_folder = case.series is not None and case.source.resolve() == source.resolve()
    return not others and (source.is_file() or whole_folder or not case.is_image)


class Protected:
    """Files that no result may replace.

    Parameters
    ----------
    files : scans of the batch, masks
    """

    def __init__(self, files: Iterable[Path] = ()) -> None:
        folders: dict[Path, Path] = {}  # a series has hundreds of files in one folder
        self.files = set()
        for path in files:
            real = folders.get(path.parent) or folders.setdefault(path.parent, path.parent.resolve())
            self.files.add(real / path.name)
        self.folders = set(folders.values())

    def check(self, target: Path) -> None:
        """Refuse a result that would replace one of them.

        Raises
        ------
        OutputError
        """
        parent = target.parent.resolve()
        real = parent / target.name
        hit = any(parent / path.name in self.files for path in result_files(target)) or (
            not is_image_name(target) and any(folder.is_relative_to(real) for folder in self.folders)
        )
        if hit:
            raise OutputError(
                f"{target} would replace a scan that is read from there; results never do. Choose another OUT."
            )
