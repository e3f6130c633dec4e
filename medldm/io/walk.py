"""Files below a folder, and which of them --include and --exclude let through."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medldm.io.foreign import regular
from medldm.io.sidecars import is_companion


def walk(folder: Path, problems: dict[Path, str]) -> Iterator[Path]:
    """Files below a folder, sorted, links followed once; what is hidden or made by us is left out.

    Parameters
    ----------
    folder : to look into
    problems : gets the folders that cannot be opened, and why
    """
    been: set[str] = set()

    def closed(problem: OSError) -> None:
        problems[Path(problem.filename)] = problem.strerror or type(problem).__name__

    for at, below, names in os.walk(folder, followlinks=True, onerror=closed):
        true = os.path.realpath(at)
        if true in been:
            below.clear()
            continue
        been.add(true)
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "__MACOSX")
        present = set(names)
        yield from (
            path
            for name in sorted(names)
            if not name.startswith(".") and not is_companion(path := Path(at, name), present) and regular(path)
        )


def wanted(path: Path, include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Whether --include and --exclude let a file through.

    Parameters
    ----------
    path : below IN
    include, exclude : glob patterns; a file must match one of the first, if there are any, and none of the second
    """

    def matches(patterns: Iterable[str]) -> bool:
        names = (path.as_posix(), path.name)
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in names)

    return (not include or matches(include)) and not matches(exclude)


def may_hold(folder: Path, include: Sequence[str]) -> bool:
    """Whether any file below a folder could match a pattern; one without a slash may match by name.

    Parameters
    ----------
    folder : below IN
    include : glob patterns
    """
    starts = [re.split(r"[*?\[]", pattern)[0] for pattern in include if "/" in pattern]
    within = f"{folder.as_posix()}/"
    return (
        len(starts) < len(include)
        or not include
        or any(within.startswith(start) or start.startswith(within) for start in starts)
    )
