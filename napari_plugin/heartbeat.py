"""Measure how long the GUI thread is held up, at rest and during a run: a timer that should fire every 10 ms.

Run as ``xvfb-run -a python napari_plugin/heartbeat.py [MODEL]``. The first run loads torch and the model. Gaps at rest
are the machine's own; only what a run adds to them is ours.
"""

import sys
import time

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
    heart = Heartbeat()
    QTest.qWait(1000 * REST_S)
    print(heart.words("at rest"))
    for what in ("first run, loading torch and the model", "second run"):
        heart.gaps.clear()
        widget.run()
        while widget.run_now is not None:
            QTest.qWait(50)
        print(heart.words(what), "|", widget.status.value, flush=True)
    viewer.close()
    ENGINE.unload()


if __name__ == "__main__":
    main(*sys.argv[1:2])
