"""Measure how long the GUI thread is held up, at rest and during a run: a timer that should fire every 10 ms.

Run as ``xvfb-run -a python napari_plugin/heartbeat.py [MODEL]``. The first run loads torch and the model. Gaps at rest
are the machine's own; only what a run adds to them is ours. How long it takes napari to add any layer is measured too,
because the end of a run adds one. Last comes the time from the button to the preview of a slice, model loaded.
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

    def words(self, what: str) -> str:
        """The longest gap and how many were too long, and start anew."""
        gaps, self.gaps = np.array(self.gaps[1:]), []
        late = int((gaps > 50).sum())
        return f"{what}: longest gap {gaps.max():.0f} ms, {late} of {gaps.size} beats over 50 ms"


class Stopwatch:
    """A function that knows how long its last call took."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.ms = 0.0

    def __call__(self, *given: object) -> None:
        """Call it."""
        begun = time.perf_counter()
        self.function(*given)
        self.ms = 1000 * (time.perf_counter() - begun)


def main(model: str = "") -> None:
    """Rest, run cold, run warm."""
    viewer = napari.Viewer(show=True)
    ((data, arguments, _),) = samples.noisy_sample()
    viewer.add_image(data[60:80], **arguments)
    widget = DenoiseWidget(viewer)
    viewer.window.add_dock_widget(widget.native, name="Denoise (medldm)")
    if model:
        widget.rows.choose_model(model)
    QTest.qWait(2000)
    print(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores of {os.cpu_count()}")
    heart = Heartbeat()
    QTest.qWait(1000 * REST_S)
    print(heart.words("at rest"))
    for what in ("first", "second"):
        viewer.add_image(data[60:80].copy(), **arguments)
        QTest.qWait(1000)
        print(heart.words(f"napari adds its {what} layer, nothing runs"))
        viewer.layers.pop()
        QTest.qWait(1000)
    showing = Stopwatch(widget._show)
    widget._show = showing
    for what in ("first run, loading torch and the model", "second run"):
        heart.gaps.clear()
        widget.run()
        while widget.run_now is not None:
            QTest.qWait(50)
        QTest.qWait(500)
        print(f"{heart.words(what)}; adding the result took {showing.ms:.0f} ms | {widget.status.value}", flush=True)
    begun = time.perf_counter()
    widget.run_preview()
    while widget.run_now is not None:
        QTest.qWait(10)
    print(f"preview of one slice: {time.perf_counter() - begun:.1f} s from button to layer | {widget.status.value}")
    print(f"load after: {os.getloadavg()[0]:.1f}")
    viewer.close()
    ENGINE.unload()


if __name__ == "__main__":
    main(*sys.argv[1:2])
