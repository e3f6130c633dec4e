"""What a batch is asked to do, and whom it notifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medldm.batch.outputs import Protected
from medldm.batch.summary import Row
from medldm.data.volume import Volume
from medldm.settings import Progress, Settings, silent


@dataclass(frozen=True, kw_only=True)
class Options:
    """What concerns files rather than voxels; named as on the command line."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    format: str | None = None
    volume: int | None = None
    uncertainty: bool = False
    preview: bool = False
    report: bool = False
    overwrite: bool = False
    fail_fast: bool = False
    dry_run: bool = False
    fix: bool = False
    shard: tuple[int, int] = (1, 1)
    workers: int = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class Watch:
    """Who is notified of what.

    Parameters
    ----------
    case : called with (number, total, name) when a case begins
    progress : called with (done, total, what) within a case
    say : one line for the user
    preview, report : draw a picture of one case, a page of them all; a room beside this one does that
    """

    case: Callable[[int, int, str], None] = lambda number, total, name: None
    progress: Progress = silent
    say: Callable[[str], None] = lambda line: None
    preview: Callable[[Volume, Volume, Path], None] = lambda before, after, path: None
    report: Callable[[list[Row], Path], Any] = lambda rows, folder: None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is the same for every case of one command.

    Parameters
    ----------
    verb : task
    settings : of the verb
    options : about files
    watch : who is notified
    sources : IN as the user gave it, one path or several
    protected : files that no result may replace
    """

    verb: str
    settings: Settings
    options: Options = field(default_factory=Options)
    watch: Watch = field(default_factory=Watch)
    sources: tuple[Path, ...] = ()
    protected: Protected = field(default_factory=Protected)

    @property
    def mask(self) -> Path | None:
        """The mask that was named, for a task that has such an option."""
        mask = getattr(self.settings, "mask", None)
        return Path(mask) if mask else None
