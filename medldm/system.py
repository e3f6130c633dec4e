"""What this process may use: memory and cores (of the machine, its limits, its container), and installed plugins.

A registry holds members by name: our own, those that a program adds, and those that installed packages offer as entry
points. The group of the entry points is named after the registry, ``medldm.tasks`` for instance. They are loaded when
the registry is first read, so that each process knows them: also a Dask worker, and the one that computes for napari.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from medldm.errors import shown

log = logging.getLogger(__name__)
Member = TypeVar("Member")

ROOT = Path("/")  # of the file system that tells of control groups
# Each library reads its own; OpenBLAS, MKL and PyTorch follow OMP_NUM_THREADS where nothing else is set.
THREAD_COUNTS = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def free_bytes() -> int:
    """Memory this process may still take, bytes: of the machine, of its limits, of its control groups."""
    import psutil

    free = [int(psutil.virtual_memory().available)]
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free.append(limit - int(psutil.Process().memory_info().vms))
    except ImportError:
        pass  # Windows has no such limits
    free += [left for group in _groups("memory") if (left := _memory_left(group)) is not None]
    return max(0, min(free))


def peak_memory_mb() -> int:
    """Largest resident memory of this process so far, MB."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return round(float(psutil.Process().memory_info().peak_wset) / 1024**2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1024 if sys.platform != "darwin" else peak / 1024**2)


def cores() -> int:
    """CPU cores this process may use: its affinity, and the CPU time of its control groups, rounded up.

    Returns
    -------
    at least 1; a quota of 2.5 cores gives 3 threads, which then share 2.5 cores
    """
    quotas = [quota for group in _groups("cpu") if (quota := _cpu_quota(group)) is not None]
    return max(1, min([_affinity(), *(math.ceil(quota) for quota in quotas)]))


def set_thread_defaults(environment: MutableMapping[str, str]) -> None:
    """How threads behave in a process of ours; before torch, NumPy and ITK are loaded, which read it only then.

    A variable that the user set stays as it is.

    Parameters
    ----------
    environment : of this process, or of one that it starts; changed in place
    """
    # Threads that spin while they wait take the cores from another job: two jobs on two cores then stand still.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if cores() < _affinity():
        # The libraries see the affinity themselves, and choose one thread a physical core; a quota they do not see.
        count = str(min(cores(), _physical_cores()))
        for name in THREAD_COUNTS:
            environment.setdefault(name, count)


def _affinity() -> int:
    """Cores that the scheduler gives to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_cores() -> int:
    import psutil

    return int(psutil.cpu_count(logical=False) or os.cpu_count() or 1)


def _memory_left(group: Path) -> int | None:
    """Bytes below the limit of one control group, of either version; None without a limit."""
    limits = [_number(group / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    named = [limit for limit in limits if limit is not None]
    used = _number(group / "memory.current")
    used = _number(group / "memory.usage_in_bytes") if used is None else used
    if not named or used is None:
        return None
    # Cached files count as used there, but the kernel gives them back.
    cached = dict(pair for line in _lines(group / "memory.stat") if len(pair := line.split()) == 2)
    inactive = cached.get("total_inactive_file", cached.get("inactive_file", "0"))
    return min(named) - used + (int(inactive) if inactive.isdigit() else 0)


def _cpu_quota(group: Path) -> float | None:
    """Cores that one control group may use, of either version; None without a quota."""
    said = " ".join(_lines(group / "cpu.max")).split()
    if len(said) == 2:
        quota, period = (float(word) if word.isdigit() else None for word in said)
    else:
        quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that hold this process, innermost first.

    A limit of any of them holds, in whichever version of the interface it was set.

    Parameters
    ----------
    controller : ``"memory"`` or ``"cpu"``
    """
    paths = {}  # controllers, "" for version 2, to the group of this process
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), path))
    for line in _lines(ROOT / "proc/self/mountinfo"):
        mount, _, kind = (part.split() for part in line.partition(" - "))
        if not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        wanted = "" if kind[0] == "cgroup2" else controller
        if kind[0] == "cgroup" and controller not in kind[-1].split(","):
            continue
        top, folder = mount[3], ROOT / mount[4].lstrip("/")
        path = paths.get(wanted, "/")
        # A container may see its own group as the top of the tree, or be told a path outside it.
        inside = path[len(top.rstrip("/")) :] if (path + "/").startswith(top.rstrip("/") + "/") else ""
        steps = [step for step in inside.split("/") if step]
        for depth in range(len(steps), -1, -1) if ".." not in steps else [0]:
            yield folder.joinpath(*steps[:depth])


def _lines(path: Path) -> list[str]:
    """Lines of a small file of the kernel; none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []


def _number(path: Path) -> int | None:
    """The number in a file of the kernel; None for ``max``, for anything else, and without the file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


class Registry(MutableMapping[str, Member]):
    """A dictionary that loads entry points when it is first read.

    Parameters
    ----------
    group : of the entry points; each names a member, which is called like its attribute ``name``, else like the
        entry point
    fits : whether an object can be a member
    members : our own
    """

    def __init__(self, group: str, fits: Callable[[Any], bool], members: Mapping[str, Member]) -> None:
        self.group, self.fits, self._members, self._read = group, fits, dict(members), False

    def _all(self) -> dict[str, Member]:
        if not self._read:
            self._read = True  # before: what is loaded may read this registry
            for offer in offers(self.group):
                try:
                    self._add(offer)
                except Exception as problem:  # somebody else's code; medldm works without it
                    package = f" of {offer.dist.name}" if offer.dist else ""
                    log.warning(
                        shown(
                            f"The plugin {offer.name}{package} is left out: {type(problem).__name__}: {problem}. "
                            "Install it again, or remove it."
                        )
                    )
        return self._members

    def _add(self, offer: Any) -> None:
        """Load an entry point.

        Raises
        ------
        Exception
            Whatever the module raises; TypeError for an object that is no member, ValueError for a name that is taken.
        """
        member = offer.load()
        if not self.fits(member):
            raise TypeError(f"{offer.value} is nothing for {self.group}")
        name = getattr(member, "name", offer.name)
        if self._members.setdefault(name, member) is not member:
            raise ValueError(f"{self.group} has {name!r} already")

    def __getitem__(self, name: str) -> Member:
        return self._all()[name]

    def __setitem__(self, name: str, member: Member) -> None:
        self._members[name] = member

    def __delitem__(self, name: str) -> None:
        del self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def offers(group: str) -> Iterable[Any]:
    """Entry points of a group."""
    if not _any_offers():
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=group)


@cache
def _any_offers() -> bool:
    """Whether any installed package offers something; importlib.metadata takes five times as long to say so."""
    for folder in sys.path:
        try:
            packages = [name for name in os.listdir(folder or ".") if name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        for package in packages:
            try:
                with open(os.path.join(folder, package, "entry_points.txt"), "rb") as file:
                    if b"[medldm." in file.read():
                        return True
            except OSError:
                continue  # most have no such file
    return False
