"""One case in three steps. In a tree every error but an interruption becomes a row; alone it is raised."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medldm.batch.caselog import NOTED, concerning, note, write_log
from medldm.batch.options import Run
from medldm.batch.steps import ALREADY, Ready, compute, dry_run, finish, prepare
from medldm.batch.summary import Row
from medldm.data.volume import Volume
from medldm.errors import Cancelled, MedldmError, ResourceError, ending, place_of, traced
from medldm.io.atomic import FULL
from medldm.io.discovery import Case, output_path

log = logging.getLogger(__name__)


@dataclass
class Work:
    """A case in work; a step does nothing once the outcome is known.

    Parameters
    ----------
    run : what is asked
    case : scan
    out : folder of the batch
    row : outcome, None while there is none
    full : whether the disk is full, so that no other case is begun
    crowded : whether it lacked memory
    """

    run: Run
    case: Case
    out: Path
    row: Row | None = None
    full: bool = False
    crowded: bool = False
    ready: Ready | None = None
    result: Volume | None = None
    lines: list[str] = field(default_factory=list)

    def read(self) -> Work:
        """First step."""
        if self.case.skip:
            self.row = Row(self.case.place.as_posix(), "skipped", message=self.case.skip)
        elif self.case.broken:
            self.row = Row(self.case.place.as_posix(), "failed", message=self._sentence(self.case.broken))
        return self._step(self._read)

    def again(self) -> Work:
        """The first step once more, when memory is free again."""
        self.row, self.crowded, self.lines = None, False, []
        return self.read()

    def restore(self) -> Work:
        """Second step, the network."""
        return self._step(self._restore)

    def write(self) -> Work:
        """Last step; afterwards there is a row."""
        self._step(self._write)
        self.ready = self.result = None
        assert self.row is not None
        idle = self.row.status == "skipped" or self.row.message.startswith(ALREADY)
        if not idle and not self.run.options.dry_run:
            write_log(self.out, self.row, self.lines)
        return self

    def _read(self) -> None:
        outcome = prepare(self.run, self.case, output_path(self.case, self.out, self.run.options.format))
        if isinstance(outcome, Row):
            self.row = outcome
        else:
            self.ready = outcome

    def _restore(self) -> None:
        assert self.ready is not None
        if self.run.options.dry_run:
            self.row = dry_run(self.run, self.ready)
        else:
            self.result = compute(self.run, self.ready)

    def _write(self) -> None:
        assert self.ready is not None
        assert self.result is not None
        self.row = finish(self.run, self.ready, self.result)

    def _step(self, step: Callable[[], None]) -> Work:
        if self.row is not None:
            return self
        started = time.monotonic()
        with concerning(self.lines, self.case.place.as_posix()):
            try:
                step()
            except (Cancelled, KeyboardInterrupt):
                raise
            except MedldmError as problem:
                self._end(ending(problem), self._sentence(str(problem)), started, problem)
                self.full = isinstance(problem.__cause__, OSError) and problem.__cause__.errno in FULL
                self.crowded = isinstance(problem, ResourceError)
            except MemoryError as problem:
                message = "it needs more memory than is free; crop it, or use a larger machine"
                self._end("failed", message, started, problem)
                self.crowded = True
            except OSError as problem:  # a disk or network that failed, not a bug
                self.full = problem.errno in FULL
                message = f"{problem.filename or self.case.source}: {problem.strerror or type(problem).__name__}"
                self._end("failed", self._sentence(f"it could not be read or written: {message}"), started, problem)
            except Exception as problem:
                message = f"a bug in medldm ({place_of(problem)}); please report it, run with -v for details"
                self._end("failed", message, started, problem)
        return self

    def _end(self, status: str, message: str, started: float, problem: Exception) -> None:
        before = self.ready.seconds if self.ready else 0.0
        self.row = Row(self.case.place.as_posix(), status, round(before + time.monotonic() - started, 2), message)
        if status != "skipped":
            log.debug("details of %s", self.row.case)
            for line in self._sentence(traced(problem)).splitlines():
                note(line)
            for line in self._sentence(traced(problem, quoting=True)).splitlines():  # -v shows it, no file keeps it
                log.debug("%s", line, extra=NOTED)
        self.ready = self.result = None

    def _sentence(self, problem: str) -> str:
        """What went wrong; files of an archive by their names in it, not by where they were unpacked to."""
        return self.case.named(problem)


def one_case(run: Run, case: Case, target: Path) -> Row:
    """Restore one case, or say why there is nothing to do.

    Parameters
    ----------
    run : what is asked
    case : scan
    target : of the result

    Raises
    ------
    MedldmError
    """
    with case.own_names():
        ready = prepare(run, case, target)
        if isinstance(ready, Row):
            return ready
        return dry_run(run, ready) if run.options.dry_run else finish(run, ready, compute(run, ready))
