"""Short questions to the computing process, a plan or a noise level: the newest one for each label counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_medldm.jobs import Order, Outcome
from napari_medldm.worker import End, Run, start


class Queries:
    """What is being asked; an answer that comes too late is not told."""

    def __init__(self) -> None:
        self.open: dict[int, Run] = {}  # by the label that waits

    def ask(self, order: Order, answered: Callable[[Outcome], None], into: Any) -> None:
        """Ask.

        Parameters
        ----------
        order : of one of `jobs.ASKED`
        answered : gets the outcome
        into : label that tells the wait, or what went wrong
        """

        def done(end: End) -> None:
            if self.open.get(id(into)) is not asked:
                return
            if isinstance(end, Outcome):
                answered(end)
            else:
                into.value = "" if end is None else end.text

        self.forget(into)
        into.value = "looking at the scan..."
        self.open[id(into)] = asked = start(order, progress=lambda _: None, done=done)

    def forget(self, into: Any) -> None:
        """Wait no longer for what was asked for a label; a question that still waits for its turn is dropped."""
        older = self.open.pop(id(into), None)
        if older is not None:
            older.stop()

    def close(self) -> None:
        """Wait for nothing any more."""
        for run in self.open.values():
            run.stop()
        self.open.clear()
