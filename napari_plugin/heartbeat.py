"""Measure how long the GUI thread is held up, at rest and during a run: a timer that should fire every 10 ms.

Run on a quiet machine as ``xvfb-run -a python napari_plugin/heartbeat.py [MODEL]``; it prints a table.
The first run loads torch and the model. Gaps at rest are the machine's own; only what a run adds to them is
ours. How long it takes napari to add any layer is measured too, because the end of a run adds one: from the end of the
computation to half a second later is a row of its own. *Computing* is the time that the GUI thread itself spent in a
gap: the rest of it, other programs had the processor. Last comes the time from the button to the preview of a slice,
model loaded, three times.
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import napari
import numpy as np
from napari_medldm import samples
from napari_medldm.engine import ENGINE
from napari_medldm.widgets import MedldmWidget
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest

BEAT_MS = 10
REST_S = 10
LIMIT_MS = 50
PREVIEWS = 3


class Heartbeat:
    """Gaps between the beats of a timer on the GUI thread."""

    def __init__(self) -> None:
        self.begin()
        self.timer = QTimer()
        self.timer.setTimerType(Qt.TimerType.PreciseTimer)
        self.timer.timeout.connect(self.beat)
        self.timer.start(BEAT_MS)

    def begin(self) -> None:
        """Forget all gaps."""
        self.gaps: list[tuple[float, float]] = []
        self.last = time.perf_counter(), time.thread_time()

    def beat(self) -> None:
        """Note how long ago the last beat was, and for how much of that this thread was at work."""
        now = time.perf_counter(), time.thread_time()
        self.gaps.append((1000 * (now[0] - self.last[0]), 1000 * (now[1] - self.last[1])))
        self.last = now

    def row(self, what: str) -> None:
        """Print a line of the table, and start anew."""
        gaps, computing = np.array(self.gaps).reshape(-1, 2).T
        late = int((gaps > LIMIT_MS).sum())
        longest = [f"{times.max(initial=0):.0f}" for times in (gaps, computing)]
        line(what, gaps.size, longest[0], late, f"{np.percentile(gaps, 99):.0f}", longest[1])
        self.begin()


def line(what: str, *cells: object) -> None:
    """One line of the table."""
    print(" | ".join([f"{what:44}", *(f"{cell!s:>11}" for cell in cells)]).rstrip(" |"), flush=True)


def main(model: str = "") -> None:
    """Rest, run cold, run warm, preview."""
    viewer = napari.Viewer(show=True)
    ((data, arguments, _),) = samples.noisy_sample()
    viewer.add_image(data[60:80], **arguments)
    widget = MedldmWidget(viewer, "denoise")
    viewer.window.add_dock_widget(widget, name="medldm")
    widget.refine.value = False  # the first look is what people wait for
    if model:
        widget.choose_model(model)
    QTest.qWait(2000)
    print(f"napari {napari.__version__}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before")
    line("state of the window", "beats", "longest, ms", f"over {LIMIT_MS} ms", "99 %, ms", "computing")
    heart = Heartbeat()
    QTest.qWait(1000 * REST_S)
    heart.row("at rest")
    for what in ("first", "second"):
        viewer.add_image(data[60:80].copy(), **arguments)
        QTest.qWait(1000)
        heart.row(f"napari adds its {what} layer, nothing runs")
        viewer.layers.pop()
        QTest.qWait(1000)
        heart.begin()
    done = widget._done

    def computed(what: str, *given: Any) -> None:
        heart.row(what)
        done(*given)

    for what in ("first run: torch and the model are loaded", "second run"):
        heart.begin()
        widget._done = partial(computed, what)
        finish(widget, widget.run)
        QTest.qWait(500)
        heart.row("  its result is added")
    widget._done = done
    for number in range(PREVIEWS):
        begun = time.perf_counter()
        finish(widget, widget.run_preview)
        print(f"preview {number + 1} of one slice: {time.perf_counter() - begun:.2f} s from button to layer")
    print(f"last status: {widget.status.value}")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    viewer.close()
    ENGINE.unload()


def finish(widget: MedldmWidget, begin: Callable[[], None]) -> None:
    """Begin a run and let Qt work until its end."""
    begin()
    while widget.run_now is not None:
        QTest.qWait(10)


if __name__ == "__main__":
    main(*sys.argv[1:2])
