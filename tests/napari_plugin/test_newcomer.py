"""Somebody who sees the plugin for the first time gets from a DICOM folder to a saved result, in few clicks."""

import medldm_widgets as hands
import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pytest
from napari_medldm import panel as panels
from napari_medldm.widgets import opened
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(900)]
CLICKS = (
    9  # one for each of: preview, run, compare, results, place, repeat, copy, and two in napari's menu for the dock
)


def test_from_a_dicom_folder_to_a_copied_command(make_napari_viewer, qtbot, tmp_path, monkeypatch):
    errors = []
    monkeypatch.setattr(panels, "show_error", errors.append)
    monkeypatch.setattr(panels, "show_info", errors.append)
    voxels = np.rint(phantoms.rician(phantoms.brain((48, 48, 20)), 40)).astype(np.int16)
    voxels[:, :, 9:11] = 0
    phantoms_dicom.write_series(tmp_path / "scan", voxels, spacing=(1, 1, 1))
    viewer = make_napari_viewer()
    viewer.window.resize(1024, 700)
    clicks = 2  # Plugins > medldm

    def click(button):
        nonlocal clicks
        clicks += 1
        hands.click(qtbot, button)

    def unfold(name):
        nonlocal clicks
        clicks += 1
        qtbot.mouseClick(widget.folds[name].toggleButton(), Qt.MouseButton.LeftButton)

    viewer.open(str(tmp_path / "scan"), plugin="medldm")  # dropped into the window
    widget = opened(viewer, "restore")
    widget.shared["model"].value = "brain-mri-2d-fast"  # for the sake of the test's time
    widget.shared["device"].value = "cpu"
    qtbot.waitUntil(lambda: "\u2022" in widget.plan.value, timeout=hands.LONG)
    assert "\u2022 Fill slices: 2 slices are missing (9-10)" in widget.plan.value
    assert "--" not in widget.plan.value

    viewer.dims.set_current_step(0, 9)
    click(widget.preview)
    hands.finish(qtbot, widget)
    assert [layer.name.split(", ")[-1].split(" ")[-1] for layer in viewer.layers][1] == "preview"

    click(widget.button)
    hands.finish(qtbot, widget)
    result = hands.last_image(viewer)
    assert result.name.endswith("restored")
    assert result.data[9].any()

    clicks += 1
    widget.compare.slider.value = 0.4
    assert result.opacity == pytest.approx(0.4)

    unfold("Results")
    assert widget.legend.value == "Orange: 2 slices that nobody measured."
    clicks += 1
    row = widget.look_here.visualItemRect(widget.look_here.item(0)).center()
    qtbot.mouseClick(widget.look_here.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(row))
    assert round(viewer.dims.point[0] / result.scale[0] - result.translate[0] / result.scale[0]) in (9, 10)

    unfold("Repeat")
    click(widget.copy_command)
    assert QApplication.clipboard().text().startswith(f"medldm restore {tmp_path / 'scan'}")

    (saved,) = result.save(str(tmp_path / "restored.nii.gz"), plugin="medldm")
    assert nib.load(saved).shape == (48, 48, 20)
    assert errors == []
    assert clicks == CLICKS
