"""What nobody measured is marked, and the most uncertain places are named and found."""

from types import SimpleNamespace

import numpy as np
import phantoms
import pytest
from medldm_widgets import run
from napari.layers import Image, Labels
from napari_medldm import text
from napari_medldm.findings import not_measured, widest
from napari_medldm.jobs import PREVIEW, Order, Outcome, carry_out
from napari_medldm.layers import layer_data, snapshot
from napari_medldm.results import Results
from napari_medldm.widgets import MedldmWidget

from medldm.data.volume import Volume

SHAPE = (32, 40, 20)


def quiet(done, total, what):
    pass


def test_slices_are_marked_where_the_file_counts_them():
    scan = phantoms.phantom(SHAPE)
    assert np.flatnonzero(not_measured(scan, scan, [3, 4], None).voxels.any((0, 1))).tolist() == [3, 4]


def test_on_a_finer_grid_the_thin_slices_of_a_gap_are_marked():
    thick = phantoms.phantom((16, 16, 8), spacing=(1, 1, 4))
    affine = thick.affine.copy()
    affine[:3, 2] /= 4
    affine[2, 3] -= 1.5
    fine = Volume(np.ones((16, 16, 32), np.float32), affine)
    marked = not_measured(thick, fine, [3], None).voxels
    assert np.flatnonzero(marked.all((0, 1))).tolist() == [12, 13, 14, 15]


def test_the_widest_intervals_are_named_widest_first_and_apart():
    scan = phantoms.phantom((48, 48, 48))
    width = np.ones(scan.shape, np.float32)
    width[10:14, 20:24, 30:34] = 9
    width[36:40, 8:12, 5:9] = 20
    places = widest(scan.with_voxels(scan.voxels, half_width=width), count=2)
    assert len(places) == 2
    assert np.abs(np.subtract(places[0].index, (6.5, 9.5, 37.5))).max() <= 2
    assert np.abs(np.subtract(places[1].index, (31.5, 21.5, 11.5))).max() <= 2
    assert places[0].half_width > places[1].half_width
    assert widest(scan) == ()


def test_what_was_not_computed_is_no_place():
    scan = phantoms.phantom((24, 24, 24))
    width = np.full(scan.shape, np.nan, np.float32)
    width[:, :, 12] = 1
    width[5, 6, 12] = 8
    assert {place.index[0] for place in widest(scan.with_voxels(scan.voxels, half_width=width))} == {12}


def test_a_filling_says_how_many_slices_nobody_measured(as_layer, tiny_model):
    gap = phantoms.with_missing_slices(phantoms.phantom(SHAPE), [9, 10])
    order = Order("fill-slices", snapshot(as_layer(gap)), {"model": str(tiny_model), "device": "cpu"}).loaded()
    outcome = carry_out(order, quiet)
    data, arguments, kind = outcome.layers[-1]
    assert kind == "labels"
    assert np.flatnonzero(data.any((1, 2))).tolist() == [9, 10]
    assert arguments["name"] == "phantom, not measured"
    assert text.legend(outcome) == "Orange: 2 slices that nobody measured."


def test_denoising_marks_nothing(as_layer, tiny_model):
    order = Order("denoise", snapshot(as_layer(phantoms.phantom(SHAPE))), {"model": str(tiny_model), "device": "cpu"})
    outcome = carry_out(order.loaded(), quiet)
    assert [kind for _, _, kind in outcome.layers] == ["image"]
    assert text.legend(outcome) == ""


@pytest.mark.gui
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_click_in_the_list_goes_to_the_place(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()
    gap = phantoms.with_missing_slices(phantoms.oblique_phantom((48, 48, 20)), [9, 10])
    data, arguments, _ = layer_data(gap)
    viewer.add_layer(Image(data, **arguments))
    widget = MedldmWidget(viewer, "fill-slices")
    viewer.window.add_dock_widget(widget, name="medldm")
    widget.shared["model"].value = "brain-mri-2d-fast"
    widget.shared["device"].value = "cpu"
    run(qtbot, widget)
    assert widget.look_here.count() == len(widget.viewing.places) > 0
    assert isinstance(viewer.layers[-1], Labels)
    item = widget.look_here.item(0)
    widget.look_here.itemClicked.emit(item)
    result = widget.viewing.places_of()
    shown = snapshot(result, viewer).on_screen
    assert shown == {0: widget.viewing.places[0].index[0]}
    assert widget.viewing.places[0].index[0] in (9, 10)
    viewer.layers.remove(result)
    assert widget.look_here.count() == 0


@pytest.mark.gui
def test_the_overlay_of_a_preview_stays_and_shows_what_the_run_invented(viewer, as_layer):
    """napari crashes in Mesa when a labels layer takes the place of another one."""
    volume = phantoms.phantom((8, 8, 4))
    scan = viewer.add_layer(as_layer(volume))
    results = Results(viewer, SimpleNamespace(pair=lambda *_: None))
    overlays = []
    for part, slices in ((True, [1]), (False, [1, 2])):
        mask = np.zeros(volume.shape, np.uint8)
        mask[:, :, slices] = 1
        made = [layer_data(volume, name="result"), layer_data(volume.with_voxels(mask), kind="labels", name="marked")]
        for _, arguments, _ in made:
            arguments["metadata"] = arguments["metadata"] | {PREVIEW: part}
        for _ in results.show(Outcome(tuple(made)), scan):
            pass
        overlays.append(next(layer for layer in viewer.layers if isinstance(layer, Labels)))
        assert len(viewer.layers) == 3
        assert viewer.layers[-1] is overlays[-1]
        assert np.flatnonzero(overlays[-1].data.any(axis=(1, 2))).tolist() == slices
    assert overlays[0] is overlays[1]
