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
        # Without a window, the bar would be written to the terminal.
        self.bar: Any = _Bar(desc=title, total=PARTS, file=io.StringIO())
        self.bar.stop = cancel

    def show(self, share: float) -> None:
        """Show how much is done; napari lets Qt work meanwhile.

        Parameters
        ----------
        share : 0 to 1
        """
        more = int(PARTS * share) - self.bar.n
        if more and not self.bar.disable:  # as it is when its window was closed
            self.bar.update(more)

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()


class _Bar(cancelable_progress):  # type: ignore[misc]
    """napari's own calls back only from a loop that it runs itself."""

    stop: Callable[[], None]

    def cancel(self) -> None:
        super().cancel()
        self.stop()
