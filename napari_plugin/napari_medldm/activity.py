"""A run in napari's activity dock."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from napari.utils.progress import cancelable_progress

PARTS = 100  # a dock's bar is a few hundred pixels wide


class Activity:
    """A bar in napari's activity dock, with its Cancel button.

    Parameters
    ----------
    title : what runs
    cancel : called when the user presses Cancel there
    """

    def __init__(self, title: str, cancel: Callable[[], None]) -> None:
        self.latest = 0
        self.busy = self.closed = False
        # Without a window, the bar would be written to the terminal.
        self.bar: Any = _Bar(desc=title, total=PARTS, file=io.StringIO())
        self.bar.stop = cancel

    def show(self, share: float) -> None:
        """Show how much is done.

        Parameters
        ----------
        share : 0 to 1
        """
        self.latest = int(PARTS * share)
        # napari lets Qt work while it draws the bar, so the next step, or the end, may arrive in the middle of this.
        if self.busy:
            return
        self.busy = True
        try:
            while self.latest != self.bar.n and not self.closed and not self.bar.disable:
                self.bar.update(self.latest - self.bar.n)
        finally:
            self.busy = False
            if self.closed:
                self.bar.close()

    def close(self) -> None:
        """Take the bar away."""
        self.closed = True
        if not self.busy:
            self.bar.close()


class _Bar(cancelable_progress):  # type: ignore[misc]
    """napari's own calls back only from a loop that it runs itself."""

    stop: Callable[[], None]

    def cancel(self) -> None:
        super().cancel()
        self.stop()
