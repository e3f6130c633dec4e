"""napari's own doors: its menus open, show and save; and a copied run is the same run."""

import os
import shlex
import subprocess
import sys

import medldm_widgets as hands
import nibabel as nib
import numpy as np
import phantoms
import phantoms_dicom
import pytest
from napari_medldm import form
from napari_medldm import panel as panels
from napari_medldm.widgets import opened as opened_dock
from qtpy.QtWidgets import QApplication

import medldm
from medldm.cli import main

pytestmark = [pytest.mark.gui, pytest.mark.timeout(900)]
SHAPE = (32, 40, 20)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def opened(viewer, tiny_model, monkeypatch):
    """A widget from the menu, for a file that was opened as by dragging it in."""
    said = []
    monkeypatch.setattr(panels, "show_error", said.append)
    monkeypatch.setattr(panels, "show_info", said.append)

    def make(verb, *paths):
        for path in paths:
            viewer.open(str(path), plugin="medldm")
        widget = opened_dock(viewer, verb)
        widget.said = said
        widget.choose_model(str(tiny_model))
        widget.shared["device"].value = "cpu"
        return widget

    return make


def copied(qtbot, button):
    hands.click(qtbot, button)
    return QApplication.clipboard().text()


def same_as_copied(qtbot, widget, layer, folder, monkeypatch):
    """Run what was copied, and compare every voxel with the layer as napari saves it."""
    monkeypatch.chdir(folder)
    (saved,) = layer.save(str(folder / "layer.nii.gz"), plugin="medldm")
    expected = nib.load(saved)
    assert expected.get_data_dtype() == widget.scan.value.metadata["medldm"].stored.dtype
    for button, do in ((widget.copy_command, by_command), (widget.copy_python, by_python)):
        code = copied(qtbot, button)
        do(code)
        result = nib.load(folder / "RESTORED.nii.gz")
        assert np.array_equal(np.asanyarray(result.dataobj), np.asanyarray(expected.dataobj)), code
        assert np.allclose(result.affine, expected.affine, atol=1e-4)
        (folder / "RESTORED.nii.gz").unlink()


def by_command(code):
    for line in code.splitlines():
        command = shlex.split(line)
        assert command[0] == "medldm"
        assert main(command[1:]) == 0, line


def by_python(code):
    exec(compile(code, "copied", "exec"), {})


@pytest.fixture
def thick_file(tmp_path):
    scan = phantoms.brain((32, 40, 8))
    affine = np.diag([-1, 1, 4.0, 1])
    return phantoms.save(tmp_path / "thick.nii.gz", scan + 3, affine, dtype=np.int16)


@pytest.fixture
def noisy_file(tmp_path):
    noisy = phantoms.rician(phantoms.brain(SHAPE), 50)
    return phantoms.save(tmp_path / "noisy.nii.gz", noisy, phantoms.OBLIQUE, dtype=np.float32)


def test_a_copied_denoising_gives_the_same_voxels(opened, viewer, qtbot, noisy_file, tmp_path, monkeypatch):
    widget = opened("denoise", noisy_file)
    widget.rows.widgets["seed"].value = 5
    hands.run(qtbot, widget)
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)


def test_a_copied_refinement_gives_the_same_voxels(opened, viewer, qtbot, thick_file, tmp_path, monkeypatch):
    widget = opened("super-resolve", thick_file)
    widget.rows.widgets["spacing"].value = "1,1,1.3"
    hands.run(qtbot, widget)
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)


def test_a_copied_restoration_gives_the_same_voxels(opened, viewer, qtbot, thick_file, tmp_path, monkeypatch):
    widget = opened("restore", thick_file)
    qtbot.waitUntil(lambda: "apart" in widget.plan.value or "thick" in widget.plan.value, timeout=hands.LONG)
    hands.run(qtbot, widget)
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)


def test_a_copied_filling_gives_the_same_voxels(opened, viewer, qtbot, tmp_path, monkeypatch):
    gap = phantoms.brain(SHAPE)
    gap[:, :, 9] = 0
    widget = opened("fill-slices", phantoms.save(tmp_path / "gap.nii.gz", gap, np.diag([1, -1, 2, 1.0])))
    widget.rows.widgets["missing"].value = "9,12"
    hands.run(qtbot, widget)
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)


def test_a_copied_inpainting_takes_the_file_of_the_mask_until_it_is_painted_on(
    opened, viewer, qtbot, noisy_file, tmp_path, monkeypatch
):
    mask = np.zeros(SHAPE, np.uint8)
    mask[12:18, 15:22, 9:11] = 1
    mask_file = phantoms.save(tmp_path / "lesion_mask.nii.gz", mask, phantoms.OBLIQUE)
    widget = opened("inpaint", noisy_file, mask_file)
    assert widget.page.region_layer.value.name.startswith("lesion")
    hands.run(qtbot, widget)
    assert str(mask_file) in copied(qtbot, widget.copy_command)
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)
    widget.page.region_layer.value.data[0, 0, 0] = 1
    assert "--mask MASK.nii.gz" in copied(qtbot, widget.copy_command)
    assert "save the region as MASK.nii.gz first" in widget.status.value


def test_a_drawn_region_is_copied_by_a_labels_layer_that_can_be_saved(
    opened, viewer, qtbot, noisy_file, tmp_path, monkeypatch
):
    widget = opened("inpaint", noisy_file)
    scan = viewer.layers[0]
    corner = np.array([[9, 12, 10], [9, 12, 18], [9, 24, 18], [9, 24, 10.0]])
    place = {"scale": scan.scale, "translate": scan.translate}
    widget.page.region_layer.value = viewer.add_shapes([corner], shape_type="rectangle", name="drawn", **place)
    hands.run(qtbot, widget)
    result = hands.last_image(viewer)
    code = copied(qtbot, widget.copy_command)
    viewer.layers["drawn as labels"].save(str(tmp_path / "MASK.nii.gz"), plugin="medldm")
    assert "--mask MASK.nii.gz" in code
    same_as_copied(qtbot, widget, result, tmp_path, monkeypatch)


def test_one_volume_of_a_series_and_all_of_them_are_copied(opened, viewer, qtbot, tmp_path, monkeypatch):
    data = np.stack([phantoms.brain(SHAPE), phantoms.brain(SHAPE) * 0.8], -1)
    path = tmp_path / "bold.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1.0])), path)
    widget = opened("denoise", path)
    viewer.dims.set_point(0, 1)
    hands.run(qtbot, widget)
    assert "--volume 1" in copied(qtbot, widget.copy_command)
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)
    widget.series.value = form.ALL
    hands.run(qtbot, widget)
    for button, do in ((widget.copy_command, by_command), (widget.copy_python, by_python)):
        do(copied(qtbot, button))
        for number in (0, 1):
            scan = medldm.read(tmp_path / f"RESTORED-{number}.nii.gz").voxels
            assert np.array_equal(scan.transpose(2, 1, 0), hands.last_image(viewer).data[number])
            (tmp_path / f"RESTORED-{number}.nii.gz").unlink()


def test_what_lies_in_no_file_is_saved_first_and_keeps_what_dicom_said(opened, viewer, qtbot, tmp_path, monkeypatch):
    voxels = np.rint(phantoms.brain((32, 40, 8))).astype(np.int16) + 5
    phantoms_dicom.write_series(tmp_path / "in", voxels)
    widget = opened("super-resolve", tmp_path / "in")
    assert str(tmp_path / "in") in copied(qtbot, widget.copy_command)
    scan = viewer.layers[0]
    scan.translate = scan.translate + np.array([0, 3.0, 0])
    code = copied(qtbot, widget.copy_command)
    assert "SCAN.nii.gz" in code
    assert "save the scan as SCAN.nii.gz first" in widget.status.value
    assert f"--modality {scan.metadata['medldm'].stored.modality}" in code
    hands.run(qtbot, widget)
    scan.save(str(tmp_path / "SCAN.nii.gz"), plugin="medldm")
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)


def test_a_restoration_copied_from_a_moved_dicom_layer_keeps_the_thickness_of_its_slices(
    opened, viewer, qtbot, tmp_path, monkeypatch
):
    voxels = np.rint(phantoms.brain((32, 40, 8))).astype(np.int16) + 5
    phantoms_dicom.write_series(tmp_path / "in", voxels, spacing=(0.9, 0.8, 4.0), SliceThickness=2.5)
    widget = opened("restore", tmp_path / "in")
    scan = viewer.layers[0]
    assert scan.metadata["medldm"].stored.thickness_mm == 2.5
    scan.translate = scan.translate + np.array([0, 3.0, 0])
    assert "--slice-thickness 2.5" in copied(qtbot, widget.copy_command)
    hands.run(qtbot, widget)
    scan.save(str(tmp_path / "SCAN.nii.gz"), plugin="medldm")
    same_as_copied(qtbot, widget, hands.last_image(viewer), tmp_path, monkeypatch)


def test_voxels_that_were_changed_are_not_taken_from_the_file(opened, viewer, qtbot, noisy_file):
    widget = opened("denoise", noisy_file)
    assert str(noisy_file) in copied(qtbot, widget.copy_command)
    viewer.layers[0].data[3, 4, 5] += 1
    assert "SCAN.nii.gz" in copied(qtbot, widget.copy_python)


def test_a_dicom_result_is_saved_as_a_derived_series_from_the_menu(opened, viewer, qtbot, tmp_path):
    voxels = np.rint(phantoms.brain((24, 20, 6))).astype(np.int16) + 5
    phantoms_dicom.write_series(tmp_path / "in", voxels)
    widget = opened("super-resolve", tmp_path / "in")
    widget.rows.widgets["spacing"].value = "1"
    hands.run(qtbot, widget)
    result = hands.last_image(viewer)
    assert result.data.shape[0] > 6
    result.save(str(tmp_path / "out.dcm"), plugin="medldm")
    (again,) = viewer.open(str(tmp_path / "out"), plugin="medldm")
    assert again.data.shape == result.data.shape
    assert np.allclose(again.extent.world, result.extent.world, atol=1e-2)


def test_every_sample_of_the_menu_opens(viewer):
    from npe2 import PluginManager

    keys = [sample.key for sample in PluginManager.instance().get_manifest("medldm").contributions.sample_data]
    assert len(keys) == 8
    for key in keys:
        (layer,) = viewer.open_sample("medldm", key)
        assert [str(unit) for unit in layer.units] == ["millimeter"] * 3
        viewer.layers.clear()


def test_a_sagittal_scan_of_three_slices_is_not_taken_for_colours(opened, viewer, qtbot, tmp_path):
    affine = np.array([[0, 0, 3.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # slices count along the body's x
    path = phantoms.save(tmp_path / "sagittal.nii.gz", phantoms.brain((32, 40, 3)), affine, dtype=np.float32)
    widget = opened("denoise", path)
    (scan,) = viewer.layers
    assert scan.data.shape == (40, 32, 3)
    assert not scan.rgb
    hands.run(qtbot, widget)
    assert viewer.layers[1].data.shape == scan.data.shape


def test_a_scan_that_is_not_restored_as_it_is_opens_with_its_remedy(viewer, tmp_path):
    phantoms_dicom.write_series(tmp_path / "tilted", np.ones((12, 10, 6), np.int16), shear=0.5)
    (layer,) = viewer.open(str(tmp_path / "tilted"), plugin="medldm")
    assert layer.metadata["medldm_refused"].remedy == "Shear back and resample"


def test_a_tilted_scan_is_shown_not_restored_and_sheared_back_by_a_button(opened, viewer, qtbot, tmp_path):
    voxels = np.rint(phantoms.brain((32, 36, 12))).astype(np.int16) + 5
    phantoms_dicom.write_series(tmp_path / "tilted", voxels, shear=0.5)
    widget = opened("denoise", tmp_path / "tilted")
    (scan,) = viewer.layers
    qtbot.waitUntil(lambda: not widget.button.enabled, timeout=hands.LONG)
    assert "tilt" in widget.plan.value
    assert "--" not in widget.plan.value
    widget.run()
    assert widget.said[-1] == widget.plan.value
    assert widget.remedy.text == "Shear back and resample"
    hands.click(qtbot, widget.remedy)
    assert not widget.remedy.enabled  # until another thread has read the files again
    qtbot.waitUntil(lambda: widget.scan.value is not scan, timeout=hands.LONG)
    qtbot.waitUntil(lambda: widget.button.enabled, timeout=hands.LONG)
    hands.run(qtbot, widget)
    assert hands.last_image(viewer).name.endswith("sheared back denoised")


def test_all_volumes_of_a_dynamic_series_become_one_scan_by_a_button(opened, viewer, qtbot, tmp_path):
    voxels = np.rint(phantoms.brain((24, 20, 9))).astype(np.int16) + 5
    for number in range(2):
        phantoms_dicom.write_series(
            tmp_path / "bold" / str(number), voxels + 100 * number, stamp=str(number), uid="1.2.3",
            TemporalPositionIdentifier=number + 1,
        )  # fmt: skip
    widget = opened("denoise", tmp_path / "bold")
    (scan,) = viewer.layers
    qtbot.waitUntil(lambda: not widget.button.enabled, timeout=hands.LONG)
    hands.click(qtbot, widget.use_all)
    qtbot.waitUntil(lambda: widget.scan.value is not scan and widget.button.enabled, timeout=hands.LONG)
    widget.series.value = form.ALL
    hands.run(qtbot, widget)
    assert hands.last_image(viewer).data.shape == (2, 9, 20, 24)


def test_every_widget_is_in_the_filter_menu(viewer):
    from npe2 import PluginManager

    commands = [item.command for item in PluginManager.instance().iter_menu("napari/layers/filter")]
    assert {f"medldm.{verb}" for verb in ("restore", "denoise", "super_resolve", "fill_slices", "inpaint")} <= {
        *commands
    }


LOOKING = """
import sys
import napari
from qtpy.QtTest import QTest
from napari_medldm.engine import ENGINE

viewer = napari.Viewer(show=False)
viewer.open(sys.argv[1], plugin="medldm")
viewer.open_sample("medldm", "gap")
widget = viewer.window.add_plugin_dock_widget("medldm", "medldm")[1]
widget.shared["model"].value = "brain-mri-2d-fast"
widget.shared["seed"].value = 3
for verb in ("denoise", "super-resolve", "fill-slices", "inpaint", "restore"):
    widget.choose(verb)
    widget.copy_command.native.click()
    widget.copy_python.native.click()
    if verb == "denoise":
        widget.page.measure()
    if verb == "fill-slices":
        widget.page.find_missing()
    while "looking" in widget.status.value:
        QTest.qWait(50)
widget.describe()
while not widget.plan.value or "looking" in widget.plan.value:
    QTest.qWait(50)
maps = open(f"/proc/{ENGINE.process.pid}/maps").read()
heavy = [name for name in ("torch", "monai") if name in sys.modules]
print("here", heavy, "there", "libtorch" in maps, flush=True)
viewer.close()
ENGINE.unload()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="looks at libraries through /proc")
def test_opening_reading_planning_and_measuring_load_no_torch_in_either_process(scan_file):
    process = subprocess.run(
        [sys.executable, "-c", LOOKING, str(scan_file)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert "here [] there False" in process.stdout, process.stdout + process.stderr
