"""Make the screenshots of the plugin's README: a noisy brain, previewed on one slice; and the widget of every verb.

Run as ``xvfb-run -a -s "-screen 0 1600x1000x24" python napari_plugin/screenshot.py FOLDER [MODEL]``; it writes
``napari.png`` and ``napari_verbs.png``.
"""

import sys
import time
from pathlib import Path

import napari
from napari_medldm import samples
from napari_medldm.engine import ENGINE
from napari_medldm.widgets import DenoiseWidget, FillSlicesWidget, InpaintWidget, RestoreWidget, SuperResolveWidget
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

PATIENCE_S = 540


def wait(until, seconds=PATIENCE_S):
    """Let Qt work until something is true."""
    begun = time.monotonic()
    while not until():
        if time.monotonic() - begun > seconds:
            raise TimeoutError("the widget is not ready in time")
        QTest.qWait(100)


def preview(out: Path, model: str) -> None:
    """A noisy brain, one slice of it denoised, side by side."""
    viewer = napari.Viewer(show=True)
    ((data, arguments, _),) = samples.noisy_sample()
    viewer.add_image(data, **arguments)
    widget = DenoiseWidget(viewer)
    viewer.window.add_dock_widget(widget.native, name="Denoise (medldm)")
    viewer.window.resize(1500, 800)
    if model:
        widget.rows.choose_model(model)
    widget.rows.widgets["noise"].value = samples.NOISE
    viewer.dims.set_current_step(0, 75)
    widget.run_preview()
    wait(lambda: widget.run_now is None)
    if len(viewer.layers) < 2:
        raise RuntimeError(widget.status.value)
    print(widget.status.value)
    begun = time.monotonic()
    widget.run_preview()
    wait(lambda: widget.run_now is None)
    print(f"second preview, model loaded: {time.monotonic() - begun:.1f} s from button to layer")
    viewer.layers.pop()
    viewer.grid.enabled = True
    viewer.dims.set_current_step(0, 75)
    QTest.qWait(1500)
    viewer.screenshot(str(out), canvas_only=False, flash=False)
    viewer.close()


def verbs(out: Path) -> None:
    """The widgets side by side, the brain in thick slices behind them."""
    viewer = napari.Viewer(show=True)
    ((data, arguments, _),) = samples.thick_sample()
    viewer.add_image(data, **arguments)
    kinds = (RestoreWidget, SuperResolveWidget, FillSlicesWidget, InpaintWidget)
    widgets = [kind(viewer) for kind in kinds]
    docks = [viewer.window.add_dock_widget(widget.native, name=widget.title) for widget in widgets]
    for left, right in (docks[:2], docks[2:]):
        viewer.window._qt_window.splitDockWidget(left, right, Qt.Orientation.Horizontal)
    viewer.window.resize(1580, 960)
    wait(lambda: "1." in widgets[0].plan.value or "Nothing" in widgets[0].plan.value)
    QTest.qWait(1500)
    viewer.screenshot(str(out), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    preview(folder / "napari.png", sys.argv[2] if len(sys.argv) > 2 else "")
    verbs(folder / "napari_verbs.png")
    ENGINE.unload()
