"""Stands in for a person at napari: the real window opens, Plugins > medldm is taken, and the window is closed."""

import os
import sys
from pathlib import Path

import napari
from napari.__main__ import main
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

VERBS = ("Restore", "Denoise", "Super-resolve", "Fill slices", "Inpaint")
real_run = napari.run


def visit():
    """What a person would see: a widget for every verb. Written down, then the window is closed."""
    viewer = napari.current_viewer()
    if viewer is None:
        QTimer.singleShot(200, visit)
        return
    messages = []
    for verb in VERBS:
        dock, _ = viewer.window.add_plugin_dock_widget("medldm", verb)
        dock.raise_()  # they share a tab bar
        QApplication.processEvents()
        messages += [verb] * dock.isVisible()
    Path(os.environ["STANDIN_NAPARI"]).write_text("\n".join(messages))
    viewer.close()


def run(*arguments, **options):
    QTimer.singleShot(500, visit)
    return real_run(*arguments, **options)


napari.run = run
sys.argv = ["napari"]
raise SystemExit(main())
