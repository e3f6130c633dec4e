"""The plugin in a real viewer, its geometry without one."""

import os
import sys

import numpy as np
import phantoms
import pytest

napari = pytest.importorskip("napari", reason="napari is not installed: pip install medldm[napari]")

from napari.layers import Image  # noqa: E402
from napari_medldm.layers import layer_data, volume_of  # noqa: E402
from napari_medldm.readers import get_reader  # noqa: E402
from napari_medldm.writers import write_image  # noqa: E402

NO_DISPLAY = sys.platform.startswith("linux") and not os.environ.get("DISPLAY")
gui = pytest.mark.skipif(NO_DISPLAY, reason="no display: run under xvfb-run")


def as_layer(volume, **more):
    data, arguments, _ = layer_data(volume, **more)
    return Image(data, **arguments)


@pytest.mark.parametrize("make", [phantoms.phantom, phantoms.oblique_phantom])
def test_a_volume_survives_being_a_layer(make):
    volume = make()
    again = volume_of(as_layer(volume))
    assert np.array_equal(again.voxels, volume.voxels)
    assert np.allclose(again.affine, volume.affine, atol=1e-4)


def test_an_upright_scan_says_its_millimetres_to_other_plugins():
    layer = as_layer(phantoms.phantom(spacing=(1, 2, 3)))
    assert tuple(layer.scale) == (3, 2, 1)
    assert [str(unit) for unit in layer.units] == ["millimeter"] * 3


def test_a_moved_layer_is_saved_where_it_is(tmp_path):
    import medldm

    layer = as_layer(phantoms.phantom())
    layer.translate = layer.translate + np.array([0, 0, 7.0])
    data, attributes, _ = layer.as_layer_data_tuple()
    write_image(str(tmp_path / "moved.nii.gz"), data, attributes)
    assert medldm.read(tmp_path / "moved.nii.gz").affine[0, 3] == pytest.approx(phantoms.phantom().affine[0, 3] + 7)


def test_the_reader_takes_scans_by_content_and_leaves_the_rest(scan_file, tmp_path):
    (tmp_path / "words.txt").write_text("words")
    assert get_reader(str(tmp_path / "words.txt")) is None
    (data, arguments, kind), *_ = get_reader(str(scan_file))(str(scan_file))
    assert kind == "image"
    assert data.shape == (40, 56, 48)
    assert arguments["units"] == ("mm", "mm", "mm")


@gui
@pytest.mark.gui
def test_denoising_in_the_viewer(make_napari_viewer, qtbot, tiny_model, monkeypatch):
    from napari_medldm.widgets import DenoiseWidget

    monkeypatch.setattr(
        "medldm.tasks.pipeline.best", lambda *_, **__: __import__("medldm.zoo").zoo.card(str(tiny_model))
    )
    viewer = make_napari_viewer()
    viewer.add_layer(as_layer(phantoms.phantom()))
    widget = DenoiseWidget(viewer)
    viewer.window.add_dock_widget(widget.native)
    widget.run()
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=60_000)
    assert viewer.layers[1].name == "phantom denoised"
    assert volume_of(viewer.layers[1]).history[-1].task == "denoise"
    assert widget.button.enabled


@gui
@pytest.mark.gui
def test_cancel_leaves_the_viewer_as_it_was(make_napari_viewer, qtbot, tiny_model, monkeypatch):
    from napari_medldm.widgets import DenoiseWidget

    monkeypatch.setattr(
        "medldm.tasks.pipeline.best", lambda *_, **__: __import__("medldm.zoo").zoo.card(str(tiny_model))
    )
    viewer = make_napari_viewer()
    viewer.add_layer(as_layer(phantoms.phantom((96, 96, 96))))
    widget = DenoiseWidget(viewer)
    widget.run()
    widget.stop()
    qtbot.waitUntil(lambda: widget.button.enabled, timeout=60_000)
    assert len(viewer.layers) == 1
