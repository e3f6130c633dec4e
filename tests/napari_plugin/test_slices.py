"""The slice on the screen is the slice that is previewed, marked, outlined and read out, however the scan lies."""

import numpy as np
import phantoms
import pytest
from medldm_widgets import click, run
from napari.layers import Image
from napari_medldm import display, view
from napari_medldm.display import SWAP
from napari_medldm.layers import layer_data, snapshot
from napari_medldm.regions import box_of, current_slice, drawn, filled
from napari_medldm.widgets import MedldmWidget
from scipy.spatial.transform import Rotation

from medldm.io.arrays import from_array

pytestmark = [pytest.mark.gui, pytest.mark.timeout(900)]
SHAPE = (24, 28, 16)  # as stored
MM = (1.0, 1.0, 3.0)


def rotated(**degrees):
    """An affine with spacing `MM`, turned about the patient's axes."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [degrees.get(axis, 0) for axis in "xyz"], degrees=True).as_matrix()
    affine[:3, :3] *= MM
    affine[:3, 3] = [-11, 7, 30]
    return affine


def across(columns, signs=(1, 1, 1)):
    """An affine whose stored axes run along the patient's axes named by `columns`."""
    affine = np.zeros((4, 4))
    for stored, (patient, sign) in enumerate(zip(columns, signs, strict=True)):
        affine[patient, stored] = sign * MM[stored]
    affine[:3, 3], affine[3, 3] = [40, -20, 10], 1
    return affine


LIE = {
    "straight": rotated(),
    "oblique": rotated(x=17),
    "doubly oblique": rotated(x=17, y=-12),
    "rolled": rotated(z=25),
    "flipped": across((0, 1, 2), (-1, -1, 1)),
    "upside down": across((0, 1, 2), (1, 1, -1)),
    "permuted": across((1, 0, 2)),
    "sagittal": across((1, 2, 0), (1, -1, 1)),
    "coronal": across((0, 2, 1), (-1, 1, 1)),
}


def scan_of(affine):
    """Every voxel holds its stored slice number, times 10, plus a little structure."""
    slices = np.broadcast_to(10.0 * np.arange(SHAPE[2]), SHAPE)
    return from_array(slices.astype(np.float32), affine, name="scan")


@pytest.fixture
def dock(make_napari_viewer, tiny_model):
    """A viewer with a scan, and the dock."""

    def make(lie, *, true_geometry):
        viewer = make_napari_viewer()
        data, arguments, _ = layer_data(scan_of(LIE[lie]))
        layer = viewer.add_layer(Image(data, **arguments))
        widget = MedldmWidget(viewer, "fill-slices")
        viewer.window.add_dock_widget(widget, name="medldm")
        widget.choose_model(str(tiny_model))
        widget.shared["device"].value = "cpu"
        widget.true_geometry.value = true_geometry
        (hidden,) = viewer.dims.not_displayed
        low, high, step = viewer.dims.range[hidden]
        viewer.dims.set_point(hidden, low + round(0.6 * (high - low) / step) * step)
        return viewer, layer, widget

    return make


def on_canvas(layer):
    """What napari has drawn: its own slice of the layer, whichever slice that is."""
    shown = np.unique(np.asarray(layer._slice.image.raw))
    assert shown.size == 1
    return int(shown[0]) // 10


@pytest.mark.parametrize("true_geometry", [False, True], ids=["along", "true"])
@pytest.mark.parametrize("lie", LIE)
def test_mark_preview_mouse_and_outline_mean_the_slice_that_is_drawn(lie, true_geometry, dock, qtbot):
    viewer, layer, widget = dock(lie, true_geometry=true_geometry)
    drawn_slice = on_canvas(layer)  # one stored slice, and not a plane across all: the acquisition plane comes first
    click(qtbot, widget.page.mark)
    assert widget.rows.widgets["missing"].value == f"{drawn_slice}"
    click(qtbot, widget.page.mark)
    assert not widget.rows.widgets["missing"].value

    scan = snapshot(layer, viewer)
    volume = scan.volumes()[0]
    box = box_of(current_slice(scan), volume)
    assert np.unique(volume.voxels[tuple(slice(*span) for span in box)]).tolist() == [10.0 * drawn_slice]

    low, high = np.array(viewer.dims.range).T[:2]
    displayed, hidden = list(viewer.dims.displayed), list(viewer.dims.not_displayed)
    corners = np.zeros((4, 3))
    corners[:, hidden] = np.array(viewer.dims.point)[hidden]
    widget.folds["Display"].expand(animate=False)
    viewer.cursor.position = tuple(np.where(np.isin(range(3), hidden), viewer.dims.point, (low + high) / 2))
    index = view.voxel(viewer, layer, viewer.cursor.position)
    assert layer.data[tuple(index)] == 10 * drawn_slice
    x, y, z = (scan.affine @ [*index[::-1], 1])[:3]
    said = f"{'LR'[int(x > 0)]} {abs(x):.1f}, {'PA'[int(y > 0)]} {abs(y):.1f}, {'IS'[int(z > 0)]} {abs(z):.1f} mm"
    assert said in widget.readout.value
    assert widget.readout.value.endswith(f" {10 * drawn_slice}")

    a, b = (low + 0.4 * (high - low))[displayed], (low + 0.6 * (high - low))[displayed]
    corners[:, displayed] = [[a[0], a[1]], [a[0], b[1]], [b[0], b[1]], [b[0], a[1]]]
    shapes = viewer.add_shapes([corners], shape_type="polygon", units=layer.units)
    mask = filled(drawn(shapes, scan), scan).data
    assert np.unique(layer.data[mask > 0]).tolist() == [10 * drawn_slice]
    assert mask.sum() > 8


@pytest.mark.parametrize("lie", LIE)
def test_toggling_the_true_geometry_moves_nothing(lie, dock):
    _, layer, widget = dock(lie, true_geometry=False)
    before = snapshot(layer).affine
    for true_geometry in (True, False, True):
        widget.true_geometry.value = true_geometry
        assert np.allclose(snapshot(layer).affine, before, atol=1e-6)
    assert np.allclose(display.left_out(layer), np.eye(4))
    assert np.allclose(
        layer.extent.world.mean(0), (SWAP @ before @ SWAP @ [*(np.array(layer.data.shape) - 1) / 2, 1])[:3], atol=1e-3
    )


@pytest.mark.parametrize("lie", ["oblique", "flipped", "sagittal"])
def test_a_click_on_a_slice_from_the_side_marks_it(lie, dock):
    viewer, layer, widget = dock(lie, true_geometry=False)
    scan = snapshot(layer, viewer)
    stack, _ = scan.stack(2)
    widget.presentation._show_axis(next(axis for axis in range(3) if axis != stack))  # slices are lines now
    widget.page.click.value = True
    index = np.array(scan.shape) // 2
    index[stack] = 5
    event = type("Event", (), {"position": layer.data_to_world(tuple(index))})()
    (listening,) = [call for call in viewer.mouse_drag_callbacks if call == widget.page._clicked]
    listening(viewer, event)
    assert widget.rows.widgets["missing"].value == f"{int(layer.data[tuple(index)]) // 10}"
    widget.page.toggle_shown()
    assert "across the slices" in widget.status.value


def test_a_preview_lies_over_its_scan_and_is_replaced_by_the_next(make_napari_viewer, qtbot, tiny_model):
    viewer = make_napari_viewer()
    volume = phantoms.oblique_phantom((32, 40, 20))
    data, arguments, _ = layer_data(volume)
    layer = viewer.add_layer(Image(data, **arguments))
    widget = MedldmWidget(viewer, "denoise")
    viewer.window.add_dock_widget(widget, name="medldm")
    widget.choose_model(str(tiny_model))
    widget.shared["device"].value = "cpu"
    for index in (8, 12):
        viewer.dims.set_current_step(0, index)
        run(qtbot, widget, widget.preview)
        _, preview = viewer.layers
        assert preview.data.shape == layer.data.shape
        assert np.allclose(preview.extent.world, layer.extent.world, atol=1e-4)
        assert np.flatnonzero(np.isfinite(preview.data).any(axis=(1, 2))).tolist() == [index]
    assert viewer.dims.range[0].stop == pytest.approx(layer.extent.world[1][0])
