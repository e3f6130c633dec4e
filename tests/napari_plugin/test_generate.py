"""Scans of nobody in the dock: words, a run, and a layer that says what it is."""

import shlex

import medldm_widgets as hands
import numpy as np
import phantoms
import pytest
import toy_generator
from magicgui.widgets import CheckBox
from napari_medldm import panel as panels
from napari_medldm import text
from napari_medldm.jobs import Order, carry_out
from napari_medldm.layers import SYNTHETIC, volume_of
from napari_medldm.widgets import MedldmWidget
from qtpy.QtWidgets import QApplication

from medldm.errors import ModelError
from medldm.provenance import RunRecord

PROMPT = "T1w hippocampus, female, 34 years"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The card of a generator that was trained for a moment on drawn cut-outs."""
    return str(toy_generator.train_toy(tmp_path_factory.mktemp("toy")))


def quiet(*news):
    """Progress that nobody sees."""


def test_a_scan_of_nobody_is_a_layer_that_says_so(toy):
    options = {"prompt": PROMPT, "model": toy, "steps": 2, "device": "cpu"}
    outcome = carry_out(Order("generate", None, options), quiet)
    ((data, arguments, kind),) = outcome.layers
    assert kind == "image"
    assert data.shape == toy_generator.SHAPE
    assert arguments["name"] == f"Synthetic {PROMPT}"
    assert arguments["metadata"][SYNTHETIC]
    assert RunRecord.of_step(arguments["metadata"]["medldm"].history[-1]).synthetic
    assert outcome.text.startswith("synthetic, of nobody, cpu")
    assert text.legend(outcome) == "Synthetic, of nobody: every voxel was drawn, none was measured."


def test_the_plan_names_what_is_drawn_and_the_model(toy):
    outcome = carry_out(Order("draw", None, {"prompt": PROMPT, "model": toy}), quiet)
    said = "contrast T1w, region hippocampus, sex female, age 34"
    assert outcome.text == f"Draw a scan of nobody with toy-generator: {said}."
    outcome = carry_out(Order("draw", None, {"prompt": "T1w", "age": 99.0, "model": toy}), quiet)
    assert "what it draws for 99 years is a guess" in outcome.text


def test_without_a_model_that_draws_the_dock_says_so_in_its_own_words(monkeypatch):
    monkeypatch.setattr("medldm.inference.generation.cards", list)
    with pytest.raises(ModelError) as problem:
        carry_out(Order("draw", None, {"prompt": "T1w brain"}), quiet)
    said = text.for_dock(str(problem.value))
    assert said.startswith("No model that draws scans is shipped.")
    assert said.endswith('choose it with "Model from a file...".')
    assert "--" not in said


def test_a_copied_run_is_one_that_the_command_line_takes():
    from medldm.cli import build_parser

    options = {"prompt": PROMPT, "sex": "female", "watermark": False, "ignore_unknown": True}
    line = text.command_of(None, "generate", options, None, ())
    arguments = build_parser().parse_args(shlex.split(line)[1:])
    assert (arguments.prompt, arguments.sex, arguments.watermark) == (PROMPT, "female", False)
    assert arguments.ignore_unknown
    assert text.python_of(None, "generate", {"prompt": "T1w"}, None, ()).startswith(
        "import medldm\n\nscan = medldm.generate(prompt='T1w')\n"
    )


@pytest.fixture
def dock(make_napari_viewer, monkeypatch):
    """A docked widget, and what it said in napari's notifications."""
    said = []
    monkeypatch.setattr(panels, "show_error", said.append)
    monkeypatch.setattr(panels, "show_info", said.append)

    def make(verb, *layers):
        viewer = make_napari_viewer(show=True)
        for layer in layers:
            viewer.add_layer(layer)
        widget = MedldmWidget(viewer, verb)
        widget.said = said
        viewer.window.add_dock_widget(widget, name="medldm")
        widget.shared["device"].value = "cpu"
        return viewer, widget

    return make


@pytest.mark.gui
@pytest.mark.timeout(900)
def test_from_words_to_a_scan_beside_another(dock, qtbot, toy, as_layer):
    viewer, widget = dock("generate", as_layer(phantoms.phantom()))
    rows = widget.rows.widgets
    assert not widget.preview.native.isVisible()
    assert not {"fidelity", "samples", "tile", "axis"} & set(rows)
    assert isinstance(rows["watermark"], CheckBox)
    assert rows["steps"].value == 32  # of a generator, whatever those of a sample are
    assert not widget.shared["steps"].native.isVisibleTo(widget.widget())
    qtbot.waitUntil(lambda: "Words that count" in widget.plan.value)
    widget.choose_model(toy)
    rows["prompt"].value = "T1w hippocampus, happy"
    qtbot.waitUntil(lambda: "Not understood: 'happy'" in widget.plan.value)
    assert '"Ignore unknown words"' in widget.plan.value
    rows["prompt"].value = PROMPT
    rows["steps"].value = 2
    qtbot.waitUntil(lambda: widget.plan.value.startswith("Draw a scan of nobody with"), timeout=hands.LONG)
    hands.run(qtbot, widget)
    result = hands.last_image(viewer)
    assert widget.said == []
    assert result.name == f"Synthetic {PROMPT}"
    assert widget.scan.value is result
    assert result.name_overlay.visible
    assert [layer.name for layer in viewer.layers][1:] == [result.name]  # and nothing orange
    assert widget.legend.value.startswith("Synthetic, of nobody")
    middle = result.world_to_data(viewer.dims.point)
    assert np.allclose(middle, np.array(result.data.shape) // 2, atol=0.6)
    assert volume_of(result).history[-1].task == "generate"
    widget.folds["Repeat"].expand(animate=False)
    hands.click(qtbot, widget.copy_command)
    assert QApplication.clipboard().text().startswith(f"medldm generate '{PROMPT}' SYNTHETIC.nii.gz --model")


@pytest.mark.gui
@pytest.mark.timeout(900)
def test_a_region_is_drawn_anew(dock, qtbot, as_layer, tiny_model):
    scan = as_layer(phantoms.phantom((32, 32, 12)))
    viewer, widget = dock("edit", scan)
    widget.choose_model(str(tiny_model))
    labels = viewer.add_labels(np.zeros(scan.data.shape, np.uint8), scale=scan.scale, translate=scan.translate)
    labels.data[5:7, 10:20, 10:20] = 1
    widget.page.region_layer.value = labels
    widget.rows.widgets["strength"].value = 1.0
    hands.run(qtbot, widget)
    result = hands.last_image(viewer)
    assert widget.said == []
    assert result.name.endswith("edited")
    outside = labels.data == 0
    assert np.array_equal(result.data[outside], scan.data[outside])
    assert not np.array_equal(result.data, scan.data)
    widget.rows.widgets["prompt"].value = "T1w brain"
    hands.click(qtbot, widget.preview)
    hands.finish(qtbot, widget)
    assert widget.said == ["Words, another scan and models that draw are followed on the whole scan only. Press Run."]
