"""Every state of the widgets, as it is shown: nothing is cut off and nothing overlaps.

Set MEDLDM_SCREENSHOTS to a folder, as CI does, and a picture of each state is left there, to be looked at.
"""

import os
from contextlib import suppress
from pathlib import Path

import medldm_widgets as hands
import numpy as np
import phantoms
import pytest
from napari.layers import Image
from napari.settings import get_settings
from napari_medldm import form, samples
from napari_medldm import panel as panels
from napari_medldm.layers import layer_data, series_data
from napari_medldm.widgets import MedldmWidget
from qtpy.QtCore import QPoint, QRect
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QLabel, QWidget
from superqt import QElidingLabel

pytestmark = [pytest.mark.gui, pytest.mark.timeout(900)]
SHAPE = (48, 56, 40)
VERBS = ["restore", "denoise", "super-resolve", "fill-slices", "inpaint", "generate", "edit"]


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1500, 950)
    return viewer


@pytest.fixture
def appear(viewer):
    """Another size of the window, theme and letters; as before when the test ends."""
    appearance = get_settings().appearance
    usual = appearance.font_size

    def change(size, theme, percent):
        viewer.window.resize(*size)
        appearance.font_size = round(usual * percent / 100)
        viewer.theme = theme

    yield change
    appearance.font_size = usual


@pytest.fixture
def dock(viewer, tiny_model):
    """A widget with the tiny model, in the viewer."""

    def make(verb, *layers):
        for layer in layers:
            viewer.add_layer(layer)
        widget = MedldmWidget(viewer, verb)
        viewer.window.add_dock_widget(widget, name="medldm")
        widget.choose_model(str(tiny_model))
        widget.shared["device"].value = "cpu"
        return widget

    return make


@pytest.fixture
def state(viewer, qtbot):
    """Look at a widget as it is now; leave a picture of the window."""

    def check(name, widget, *, settled=True):
        if settled:
            qtbot.waitUntil(
                lambda: not widget.timer.isActive() and "looking" not in widget.plan.value, timeout=hands.LONG
            )
        QTest.qWait(100)
        with suppress(qtbot.TimeoutError):  # Qt lays rows out anew a while after their words changed
            qtbot.waitUntil(lambda: not flaws(widget.widget()), timeout=10_000)
        folder = os.environ.get("MEDLDM_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            viewer.screenshot(str(Path(folder) / f"state_{name}.png"), canvas_only=False, flash=False)
        assert flaws(widget.widget()) == []

    return check


def flaws(inside):
    """What is cut off or lies on something else, in words."""
    faults = []
    for child in inside.findChildren(QWidget):
        if not child.isVisible() or not hasattr(child, "text") or not child.text():
            continue
        needed = QRect(0, 0, 0, 0)
        if isinstance(child, QElidingLabel):
            continue  # it shortens its text itself, and its tooltip has all of it
        if isinstance(child, QLabel) and child.wordWrap():
            needed = QRect(0, 0, child.width(), child.heightForWidth(child.width()))
        elif isinstance(child, QLabel | QAbstractButton):
            needed = child.fontMetrics().boundingRect(child.text())
        if child.height() < needed.height() or child.width() < needed.width():
            faults.append(f"cut off: {child.text()} in {child.size()}")
    for parent in [inside, *inside.findChildren(QWidget)]:
        beside = [child for child in parent.children() if isinstance(child, QWidget) and child.isVisible()]
        if parent.layout() is None:
            continue
        places = [QRect(child.mapTo(inside, QPoint(0, 0)), child.size()) for child in beside]
        for number, place in enumerate(places):
            for other in range(number):
                if place.intersects(places[other]):
                    faults.append(f"{beside[number]} lies on {beside[other]}")
    return faults


def noisy(shape=SHAPE):
    clean = phantoms.phantom(shape)
    data, arguments, _ = layer_data(clean.with_voxels(phantoms.rician(clean.voxels, 60).astype(np.float32)))
    return Image(data, **arguments)


@pytest.mark.parametrize("verb", VERBS)
def test_without_a_scan_with_one_and_with_all_settings(verb, dock, state):
    widget = dock(verb)
    state(f"{verb}_empty", widget)
    widget.viewer.add_layer(noisy())
    state(f"{verb}_plan", widget)
    for fold in widget.folds.values():
        fold.expand(animate=False)
    state(f"{verb}_settings", widget)


APPEARANCES = [
    ((1024, 700), "light", 100),
    ((1024, 700), "dark", 200),
    ((1500, 950), "light", 200),
    ((1900, 1150), "light", 100),
]


@pytest.mark.parametrize("appearance", APPEARANCES, ids=["small", "small, large letters", "large letters", "large"])
@pytest.mark.parametrize("verb", VERBS)
def test_in_small_windows_and_in_large_letters(verb, appearance, dock, appear, state, viewer):
    appear(*appearance)
    widget = dock(verb, noisy())
    size, theme, percent = appearance
    name = f"{verb}_{size[0]}_{theme}_{percent}"
    state(name, widget)
    if percent == 100:
        for button in (widget.preview, widget.button, widget.cancel):
            assert widget.viewport().rect().contains(button.native.mapTo(widget.viewport(), QPoint(0, 0)))
    for fold in widget.folds.values():
        fold.expand(animate=False)
    state(f"{name}_settings", widget)
    if percent == 100:  # in large letters, napari's own controls push the window apart
        window = viewer.window._qt_window
        assert window.width() <= size[0]
        assert window.height() <= size[1] + 60


@pytest.mark.parametrize("verb", VERBS)
def test_with_a_shipped_model_and_scan(verb, dock, state):
    ((data, arguments, _),) = samples.thick_sample()
    widget = dock(verb, Image(data, **arguments))
    widget.shared["model"].value = "auto"
    state(f"{verb}_shipped", widget)


def test_of_a_ct_scan(dock, state):
    ((data, arguments, _),) = samples.ct_sample()
    widget = dock("denoise", Image(data, **arguments))
    widget.shared["model"].value = "auto"
    state("denoise_ct", widget)


def test_during_a_run_cancelled_and_done(dock, state, qtbot, viewer):
    widget = dock("denoise", noisy((96, 96, 96)))
    widget.rows.widgets["samples"].value = 8
    hands.click(qtbot, widget.button)
    state("running_start", widget)
    qtbot.waitUntil(lambda: "planes" in widget.status.value and "left" in widget.status.value, timeout=hands.LONG)
    assert 0 <= widget.bar.value < 100
    state("running_progress", widget, settled=False)
    hands.click(qtbot, widget.cancel)
    assert widget.status.value == "cancelling"
    hands.finish(qtbot, widget)
    state("cancelled", widget)
    viewer.layers.clear()
    viewer.add_layer(noisy())
    widget.rows.widgets["samples"].value = 4
    widget.difference.value = widget.uncertainty.value = True
    hands.run(qtbot, widget)
    assert widget.bar.value == 100
    state("result", widget)
    widget.compare.slider.value = 0.5
    state("compared", widget)
    *_, spread, difference = viewer.layers
    for name, layer in (("uncertainty", spread), ("difference", difference)):
        for result in viewer.layers:
            result.visible = result is layer
        viewer.layers.selection.active = layer
        state(name, widget)
    hands.click(qtbot, widget.copy_command)
    state("copied", widget)
    hands.click(qtbot, widget.unload)
    state("unloaded", widget)


def test_previews(dock, state, qtbot, viewer):
    widget = dock("denoise", noisy())
    viewer.dims.set_point(0, 20)
    hands.run(qtbot, widget, widget.preview)
    state("preview_slice", widget)
    box = np.array([[20, 10, 8], [20, 10, 39], [20, 29, 39], [20, 29, 8.0]])
    like = {
        "face_color": "transparent",
        "edge_color": "red",
        "units": viewer.layers[0].units,
    }  # as its button
    widget.where.value = viewer.add_shapes([box], shape_type="rectangle", **like)
    hands.run(qtbot, widget, widget.preview)
    state("preview_box", widget)
    hands.click(qtbot, widget.page.estimate)
    qtbot.waitUntil(lambda: "noise" in widget.options(), timeout=hands.LONG)
    state("noise_estimated", widget)


def test_missing_slices(dock, state, qtbot, viewer):
    gap = phantoms.with_missing_slices(phantoms.phantom(SHAPE), [9, 10])
    data, arguments, _ = layer_data(gap)
    widget = dock("fill-slices", Image(data, **arguments))
    hands.click(qtbot, widget.page.find)
    qtbot.waitUntil(lambda: "missing" in widget.options(), timeout=hands.LONG)
    viewer.dims.set_point(0, 9)
    state("missing_found", widget)
    hands.run(qtbot, widget)
    state("missing_filled", widget)
    widget.rows.widgets["missing"].value = "99"
    state("missing_impossible", widget)


def test_a_region(dock, state, qtbot, viewer):
    scan = noisy()
    widget = dock("inpaint", scan)
    labels = viewer.add_labels(np.zeros(scan.data.shape, np.uint8), scale=scan.scale, units=scan.units, name="lesion")
    labels.data[18:23, 15:35, 12:30] = 1
    labels.refresh()
    widget.page.region_layer.value = labels
    viewer.dims.set_point(0, 20)
    state("region_painted", widget)
    hands.run(qtbot, widget)
    labels.visible = False
    state("region_filled", widget)


def test_a_series(dock, state):
    data, arguments, _ = series_data([phantoms.phantom(SHAPE)] * 3)
    widget = dock("denoise", Image(data, **arguments))
    state("series_asks", widget)
    assert widget.series.visible
    assert tuple(widget.series.choices) == (form.ONE, form.ALL)


def test_an_error(dock, state, qtbot, tmp_path, monkeypatch):
    monkeypatch.setattr(panels, "show_error", lambda arguments: None)  # a test fails when napari is told of an error
    widget = dock("denoise", noisy())
    model = phantoms.tiny_model(tmp_path / "model")
    next(model.parent.glob("*.safetensors")).unlink()
    widget.choose_model(str(model))
    hands.run(qtbot, widget)
    assert "weights of tiny-2d are missing" in widget.status.value
    state("weights_missing", widget)
