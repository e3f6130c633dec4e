"""How tests press the buttons of the napari widgets."""

from napari_medldm.engine import Job
from qtpy.QtCore import Qt

LONG = 200_000  # ms; the machine may be busy, and the first run loads torch


def click(qtbot, button):
    """Click a button as a user does."""
    qtbot.mouseClick(button.native, Qt.MouseButton.LeftButton)


def finish(qtbot, widget):
    """Wait for the end of a run."""
    qtbot.waitUntil(lambda: widget.run_now is None, timeout=LONG)


def run(qtbot, widget, button=None):
    """Click, and wait for the end."""
    click(qtbot, button or widget.button)
    assert widget.run_now is not None
    finish(qtbot, widget)


class ByHand:
    """An engine whose jobs report what the test says, when it says so."""

    busy = False

    def __init__(self):
        self.jobs = []

    def run(self, order, progress, ended):
        """Take an order."""
        self.jobs.append(Job(order, progress, ended))
        return self.jobs[-1]

    def stop(self, job):
        """End a job at once."""
        job.ended(None)


def last_image(viewer):
    """The newest image layer: a result, and not what marks it."""
    from napari.layers import Image

    return [layer for layer in viewer.layers if isinstance(layer, Image)][-1]
