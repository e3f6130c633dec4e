"""The list of runs as a widget, clicked as a user clicks it.

Set MEDLDM_SCREENSHOTS to a folder and a picture of each state is left there, to be looked at.
"""

import os
from pathlib import Path

import phantoms
import pytest
from medldm_widgets import LONG
from napari.qt import get_stylesheet
from napari_medldm import runs_view
from napari_medldm.engine import Failure
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import layer_data, snapshot
from napari_medldm.runs_view import RunsView
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QPushButton

from medldm.errors import InputError

pytestmark = pytest.mark.gui
WIDTH = 440
RESULT = Outcome((layer_data(phantoms.phantom((8, 8, 4)), name="phantom denoised"),), "cpu, 2 s, 400 MB")
LONG_NAME = "sub-0123_ses-baseline_acq-highres_run-02_T1w"


@pytest.fixture
def begin(viewer, runs, as_layer):
    scan = viewer.add_layer(as_layer(phantoms.phantom((8, 8, 4))))

    def make(title="Denoise phantom", **more):
        return runs.start(
            Order("denoise", snapshot(scan), {"model": "brain-mri-2d", "noise": 0.05}), title=title, scan=scan, **more
        )

    return make


@pytest.fixture
def view(qtbot, runs):
    view = RunsView(runs)
    qtbot.addWidget(view)
    view.resize(WIDTH, 560)
    view.show()
    qtbot.waitExposed(view)
    return view


def press(qtbot, button):
    assert button.isEnabled(), button.toolTip()
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def choose(qtbot, view, entry):
    place = view.list.visualItemRect(view._item(entry)).center()
    qtbot.mouseClick(view.list.viewport(), Qt.MouseButton.LeftButton, pos=place)
    assert view.selected is entry


def picture(view, name):
    folder = os.environ.get("MEDLDM_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        assert view.grab().save(str(Path(folder) / f"runs_{name}.png"))


def row(view, entry):
    return view._row(view._item(entry))


def test_before_the_first_run_it_says_what_it_is_for(view):
    assert view.empty.isVisible()
    assert not view.list.isVisible()
    assert not any(button.isVisible() or button.isEnabled() for button in view.findChildren(QPushButton))
    picture(view, "empty")


def test_a_run_is_followed_cancelled_and_started_again(qtbot, view, begin, engine, runs):
    entry = begin()
    assert view.selected is entry
    engine.jobs[0].progress(12, 40, "planes, pass 3")
    qtbot.waitUntil(lambda: row(view, entry).bar.isVisible(), timeout=LONG)
    assert row(view, entry).bar.value() == 30
    assert row(view, entry).state.text().startswith("running, ")
    assert "12 of 40 planes" in row(view, entry).toolTip()
    assert not view.again.isEnabled()
    assert "not ended" in view.again.toolTip()
    press(qtbot, view.cancel)
    qtbot.waitUntil(lambda: row(view, entry).state.text() == "cancelled", timeout=LONG)
    assert not row(view, entry).bar.isVisible()
    press(qtbot, view.again)
    assert len(runs.entries) == len(engine.jobs) == 2
    assert view.selected is runs.entries[1]


def test_undo_takes_the_layers_of_the_selected_run_away(qtbot, view, begin, engine, viewer):
    first, second = begin(), begin()
    for job in engine.jobs:
        job.ended(RESULT)
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=LONG)
    kept = second.shown[0]
    choose(qtbot, view, first)
    assert "cpu, 2 s, 400 MB" in view.details.toPlainText()
    assert "model: brain-mri-2d\nnoise: 0.05" in view.details.toPlainText()
    press(qtbot, view.undo)
    assert kept in viewer.layers
    assert len(viewer.layers) == 2
    assert not view.undo.isEnabled()
    choose(qtbot, view, second)
    assert view.undo.isEnabled()
    viewer.layers.remove(kept)  # by the user
    assert not view.undo.isEnabled()
    assert "No layers" in view.undo.toolTip()


def test_again_says_why_it_is_not_possible_when_the_scan_is_gone(qtbot, view, begin, engine, viewer):
    begin()
    engine.jobs[0].ended(None)
    qtbot.waitUntil(view.again.isEnabled, timeout=LONG)
    viewer.layers.clear()
    assert not view.again.isEnabled()
    assert "no longer in the viewer" in view.again.toolTip()


def test_a_run_is_copied_as_text(qtbot, view, begin, monkeypatch):
    said = []
    monkeypatch.setattr(runs_view, "show_error", said.append)
    begin(command=lambda: "medldm denoise scan.nii.gz", python=lambda: "import medldm")
    press(qtbot, view.copy_command)
    assert QApplication.clipboard().text() == "medldm denoise scan.nii.gz"
    press(qtbot, view.copy_python)
    assert QApplication.clipboard().text() == "import medldm"

    def fail():
        raise InputError("Save the scan first.")

    begin(command=fail)
    press(qtbot, view.copy_command)
    assert said == ["Save the scan first."]
    assert not view.copy_python.isEnabled()


def test_the_clock_ticks_only_while_something_runs_that_can_be_seen(qtbot, view, begin, engine):
    assert not view.timer.isActive()
    begin()
    assert view.timer.isActive()
    view.hide()
    assert not view.timer.isActive()
    view.show()
    assert view.timer.isActive()
    engine.jobs[0].ended(None)
    qtbot.waitUntil(lambda: not view.timer.isActive(), timeout=LONG)


def test_a_view_that_is_gone_hears_nothing_and_another_one_shows_all(qtbot, runs, begin, engine):
    view = RunsView(runs)
    entry = begin()
    heard = runs.receivers(runs.changed)
    view.close()
    view.deleteLater()
    qtbot.waitUntil(lambda: runs.receivers(runs.changed) == heard - 1)
    engine.jobs[0].ended(Failure("It did not work."))
    qtbot.waitUntil(lambda: entry.over, timeout=LONG)
    again = RunsView(runs)
    qtbot.addWidget(again)
    assert row(again, entry).what.text() == "It did not work."


@pytest.mark.parametrize("percent", [100, 200])
def test_nothing_is_cut_off_in_a_narrow_dock_nor_with_large_letters(percent, qtbot, view, begin, engine, viewer):
    points = 9 * percent // 100
    view.setStyleSheet(get_stylesheet("dark") + f"QWidget {{ font-size: {points}pt; }}")
    titles = [
        "Denoise phantom",
        f"Super-resolve {LONG_NAME}",
        "Restore phantom",
        "Fill slices phantom",
        "Denoise chest",
    ]
    entries = [begin(title, command=str, python=str) for title in titles]
    engine.jobs[0].progress(1, 2, "planes")
    engine.jobs[0].ended(RESULT)
    engine.jobs[1].ended(Failure("The scan has a gap of 12.0 mm after slice 31. Fill it, or leave this series out."))
    engine.jobs[2].ended(None)
    engine.jobs[3].progress(12, 40, "planes, pass 3")
    engine.jobs[4].progress(0, 1, "waiting for another run")
    qtbot.waitUntil(lambda: row(view, entries[3]).bar.isVisible(), timeout=LONG)
    choose(qtbot, view, entries[1])
    view.resize(WIDTH, 560 * percent // 100)
    qtbot.wait(300)
    picture(view, f"{percent}_percent")
    assert view.width() == WIDTH
    assert row(view, entries[4]).state.text() == "queued"
    assert not row(view, entries[4]).what.isVisible()
    for button in view.findChildren(QPushButton):
        assert button.width() >= button.fontMetrics().horizontalAdvance(button.text())
        assert view.rect().contains(button.geometry().translated(button.parentWidget().pos()))
    for entry in entries:
        line = row(view, entry)
        assert line.width() <= view.list.viewport().width()
        assert line.height() >= line.minimumSizeHint().height()
        assert line.state.width() >= line.state.fontMetrics().horizontalAdvance(line.state.text())
        assert line.toolTip()
