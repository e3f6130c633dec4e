"""Progress on stderr: one bar a scan, with what is counted and the time that is left."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from medldm.batch import Watch
from medldm.errors import shown
from medldm.report import write_page, write_preview


@contextmanager
def watching(arguments: argparse.Namespace) -> Iterator[Watch]:
    """A `Watch` that talks as the options ask: a bar on a terminal, lines elsewhere, nothing with -q.

    Parameters
    ----------
    arguments : parsed command line with quiet and no_progress
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, soft_wrap=True, highlight=False)

    def say(line: str) -> None:
        if not arguments.quiet:
            with suppress(OSError):  # a log on a full disk stops no run; what was finished is whole
                console.print(shown(line), markup=False)

    if arguments.quiet or arguments.no_progress or not sys.stderr.isatty():
        yield Watch(say=say, preview=write_preview, report=write_page)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        scan = bars.add_task("loading", total=None)
        cases = bars.add_task("scans", total=None, visible=False)

        def case(number: int, total: int, name: str) -> None:
            bars.update(cases, completed=number - 1, total=total, visible=total > 1, description="scans")
            bars.reset(scan, description=escape(shown(name)[-40:]), total=None)

        def progress(done: int, total: int, what: str) -> None:
            bars.update(scan, completed=done, total=total, description=what)

        yield Watch(case=case, progress=progress, say=say, preview=write_preview, report=write_page)
