"""Measure how long the GUI thread is held up, at rest and during a run: a timer that should fire every 10 ms.

Run on a quiet machine as ``xvfb-run -a python napari_plugin/heartbeat.py [MODEL]``; it prints a table.
The first run loads torch and the model. Gaps at rest are the machine's own; only what a run adds to them is
ours. How long it takes napari to add any layer is measured too, because the end of a run adds one: what comes after
the last beat of a run is a row of its own. Last comes the time from the button to the preview of a slice, model loaded,
three times.
"""

import os
import sys
import time
from collections.abc import Callable

import napari
import numpy as np
from napari_medldm import samples
from napari_medldm.engine import ENGINE
from napari_medldm.widgets import DenoiseWidget
from qtpy.QtCore import Qt, QTimer
from qtpy.QtTest import QTest

BEAT_MS = 10
REST_S = 10
LIMIT_MS = 50
PREVIEWS = 3


class Heartbeat:
    """Gaps between the beats of a timer on the GUI thread."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.last = time.perf_counter()
        self.timer = QTimer()
        self.timer.setTimerType(Qt.TimerType.PreciseTimer)
        self.timer.timeout.connect(self.beat)
        self.timer.start(BEAT_MS)

    def beat(self) -> None:
        """Note how long ago the last beat was."""
        now = time.perf_counter()
        self.gaps.append(1000 * (now - self.last))
        self.last = now

    def row(self, what: str, more: str = "") -> None:
        """Print a line of the table, and start anew."""
        gaps, self.gaps = np.array(self.gaps[1:]), []
        late = int((gaps > LIMIT_MS).sum())
        line(what, gaps.size, f"{gaps.max(initial=0):.0f}", late, f"{np.percentile(gaps, 99):.0f}", more)


class Watched:
    """A function that notes the beats before it, and how long it took itself."""

    def __init__(self, heart: Heartbeat, what: str, function: Callable[..., None]) -> None:
        self.heart, self.what, self.function = heart, what, function

    def __call__(self, *given: object) -> None:
        """Call it."""
        self.heart.beat()
        self.heart.row(self.what)
        begun = time.perf_counter()
        self.function(*given)
        self.heart.last = time.perf_counter()
        line("  napari adds its result", 1, f"{1000 * (self.heart.last - begun):.0f}")


def line(what: str, *cells: object) -> None:
    """One line of the table."""
    print(" | ".join([f"{what:44}", *(f"{cell!s:>11}" for cell in cells)]).rstrip(" |"), flush=True)


def main(model: str = "") -> None:
    """Rest, run cold, run warm, preview."""
    viewer = napari.Viewer(show=True)
    ((data, arguments, _),) = samples.noisy_sample()
    viewer.add_image(data[60:80], **arguments)
    widget = DenoiseWidget(viewer)
    viewer.window.add_dock_widget(widget.native, name="Denoise (medldm)")
    if model:
        widget.rows.choose_model(model)
    QTest.qWait(2000)
    print(f"napari {napari.__version__}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before")
    line("state of the window", "beats", "longest, ms", f"over {LIMIT_MS} ms", "99 %, ms")
    heart = Heartbeat()
    QTest.qWait(1000 * REST_S)
    heart.row("at rest")
    for what in ("first", "second"):
        viewer.add_image(data[60:80].copy(), **arguments)
        QTest.qWait(1000)
        heart.row(f"napari adds its {what} layer, nothing runs")
        viewer.layers.pop()
        QTest.qWait(1000)
    show = widget._show
    for what in ("first run: torch and the model are loaded", "second run"):
        heart.gaps.clear()
        widget._show = Watched(heart, what, show)
        finish(widget, widget.run)
        QTest.qWait(500)
        heart.row("  the half second after it")
    widget._show = show
    for number in range(PREVIEWS):
        begun = time.perf_counter()
        finish(widget, widget.run_preview)
        print(f"preview {number + 1} of one slice: {time.perf_counter() - begun:.2f} s from button to layer")
    print(f"last status: {widget.status.value}")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    viewer.close()
    ENGINE.unload()


def finish(widget: DenoiseWidget, begin: Callable[[], None]) -> None:
    """Begin a run and let Qt work until its end."""
    begin()
    while widget.run_now is not None:
        QTest.qWait(10)


if __name__ == "__main__":
    main(*sys.argv[1:2])
