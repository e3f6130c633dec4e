"""How much memory a call takes at its peak."""

from __future__ import annotations

import gc
import threading
from types import TracebackType

import psutil
import torch

EVERY_S = 0.02


class PeakMemory:
    """Watches this process while a block runs: ``with PeakMemory() as peak: ...; peak.megabytes``.

    Resident memory above what was there before, sampled every 20 ms, so that a method does not pay for those before
    it; plus the accelerator's own peak where there is one.
    """

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._process, self._done = psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        """Begin to watch; what others left behind is cleared first, or a method would seem to free it."""
        gc.collect()
        self._before = self._highest = self._process.memory_info().rss
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell what was seen."""
        self._done.set()
        self._thread.join()
        self._highest = max(self._highest, self._process.memory_info().rss)
        device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        self.megabytes = (self._highest - self._before + device) / 1024**2

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            self._highest = max(self._highest, self._process.memory_info().rss)
