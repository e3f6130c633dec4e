"""Members by name: our own, those that a program adds, and those that installed packages offer as entry points.

The group of the entry points is named after the registry, ``medldm.tasks`` for instance. They are loaded when the
registry is first read, so that each process knows them: also a Dask worker, and the one that computes for napari.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import cache
from typing import Any, TypeVar

from medldm.errors import shown

log = logging.getLogger(__name__)
Member = TypeVar("Member")


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
