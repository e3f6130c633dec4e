"""Make the screenshots of the plugin's README: a noisy brain, previewed on one slice; and the tabs of the dock.

Run as ``xvfb-run -a -s "-screen 0 1600x1000x24" python napari_plugin/screenshot.py FOLDER [MODEL]``; it writes
``napari.png`` and ``napari_verbs.png``.
"""

import sys
import time
from pathlib import Path

import napari
import numpy as np
from napari_medldm import samples
from napari_medldm.compare import SWIPE
from napari_medldm.engine import ENGINE
from napari_medldm.widgets import MedldmWidget
from PIL import Image
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtTest import QTest

PATIENCE_S = 540


def wait(until, seconds=PATIENCE_S):
    """Let Qt work until something is true."""
    begun = time.monotonic()
    while not until():
        if time.monotonic() - begun > seconds:
            raise TimeoutError("the widget is not ready in time")
        QTest.qWait(100)


def docked(viewer, verb: str) -> MedldmWidget:
    """The dock of a viewer."""
    widget = MedldmWidget(viewer, verb)
    viewer.window.add_dock_widget(widget, name="medldm")
    return widget


def preview(out: Path, model: str) -> None:
    """A noisy brain, one slice of it denoised, wiped half way."""
    viewer = napari.Viewer(show=True)
    ((data, arguments, _),) = samples.noisy_sample()
    viewer.add_image(data, **arguments)
    viewer.window.resize(1400, 800)
    widget = docked(viewer, "denoise")
    if model:
        widget.choose_model(model)
    widget.rows.widgets["noise"].value = samples.NOISE
    viewer.dims.set_current_step(0, 75)
    widget.run_preview()
    wait(lambda: widget.run_now is None)
    if len(viewer.layers) < 2:
        raise RuntimeError(widget.status.value)
    print(widget.status.value)
    widget.compare.mode.value = SWIPE
    widget.compare.slider.value = 0.5
    widget.folds["Results"].expand(animate=False)
    viewer.reset_view()
    QTest.qWait(1500)
    viewer.screenshot(str(out), canvas_only=False, flash=False)
    viewer.close()


def verbs(out: Path) -> None:
    """The tabs of five tasks side by side."""
    pictures = [tab(verb) for verb in ("restore", "super-resolve", "fill-slices", "inpaint", "generate")]
    row = QPixmap(sum(picture.width() for picture in pictures), max(picture.height() for picture in pictures))
    painter, left = QPainter(row), 0
    for picture in pictures:
        painter.drawPixmap(left, 0, picture)
        left += picture.width()
    painter.end()
    row.save(str(out))


def tab(verb: str) -> QPixmap:
    """The dock with the scan that a task is made for."""
    viewer = napari.Viewer(show=True)
    sample = samples.gap_sample if verb == "fill-slices" else samples.thick_sample
    ((data, arguments, _),) = sample()
    viewer.add_image(data, **arguments)
    if verb == "inpaint":
        viewer.add_labels(np.zeros(data.shape, np.uint8), name="region", scale=arguments["scale"])
    widget = docked(viewer, verb)
    viewer.window.resize(1150, 620)
    if verb == "generate":
        widget.rows.widgets["prompt"].value = "T1w hippocampus"
        wait(lambda: "Draw a scan of nobody" in widget.plan.value)
    wait(lambda: widget.plan.value and "looking" not in widget.plan.value)
    if verb == "fill-slices":
        widget.page.find_missing()
        wait(lambda: "missing" in widget.options() and "Fill 4" in widget.plan.value)
    QTest.qWait(1500)
    picture = widget.grab()
    viewer.close()
    return picture


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    preview(folder / "napari.png", sys.argv[2] if len(sys.argv) > 2 else "")
    verbs(folder / "napari_verbs.png")
    for picture in folder.glob("napari*.png"):  # 256 colours are enough, and half the bytes
        Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(picture, optimize=True)
    ENGINE.unload()
