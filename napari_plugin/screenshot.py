"""Make the screenshot of the plugin's README: open the shipped scan, denoise it, take a picture.

Run as ``xvfb-run -a -s "-screen 0 1600x1000x24" python napari_plugin/screenshot.py OUT.png [MODEL]``.
"""

import sys
from pathlib import Path

import napari
import numpy as np
from napari_medldm.layers import layer_data
from napari_medldm.widgets import DenoiseWidget
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest

import medldm
from medldm.samples import sample_path


def main(out: Path, model: str = "auto") -> None:
    """Open, run, wait, take the picture."""
    scan = medldm.read(sample_path("mr"))
    draw = np.random.default_rng(0)
    level = 0.07 * float(np.percentile(scan.voxels[scan.voxels > 0], 99.5))
    noisy = np.hypot(scan.voxels + draw.normal(0, level, scan.shape), draw.normal(0, level, scan.shape))
    viewer = napari.Viewer(show=True)
    data, arguments, _ = layer_data(scan.with_voxels(noisy.astype(np.float32)), name="noisy scan")
    viewer.add_image(data, **arguments)
    widget = DenoiseWidget(viewer)
    viewer.window.add_dock_widget(widget.native, name="Denoise (medldm)")
    widget.more["model"] = model
    QTimer.singleShot(500, widget.run)
    for _ in range(6000):
        QTest.qWait(100)
        if len(viewer.layers) == 2:
            break
    viewer.grid.enabled = True
    QTest.qWait(1000)
    viewer.screenshot(str(out), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
