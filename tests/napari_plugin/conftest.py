"""Fixtures of the plugin's tests; without napari, or without a display, what needs them is left out."""

import importlib.util
import os
import sys

import pytest

if importlib.util.find_spec("napari") is None:
    collect_ignore_glob = ["test_*.py"]

NO_DISPLAY = sys.platform.startswith("linux") and not os.environ.get("DISPLAY")


def pytest_collection_modifyitems(items):
    for item in items:
        if NO_DISPLAY and item.get_closest_marker("gui"):
            item.add_marker(pytest.mark.skip(reason="no display: run under xvfb-run"))


@pytest.fixture
def as_layer():
    """A volume as a napari layer."""
    from napari.layers import Image, Labels
    from napari_medldm.layers import layer_data

    def make(volume, **more):
        data, arguments, kind = layer_data(volume, **more)
        return Image(data, **arguments) if kind == "image" else Labels(data, **arguments)

    return make


@pytest.fixture
def viewer(make_napari_viewer):
    """An empty viewer."""
    return make_napari_viewer()


@pytest.fixture
def engine(monkeypatch):
    """An engine whose runs the test moves on by hand."""
    from medldm_widgets import ByHand
    from napari_medldm import worker

    by_hand = ByHand()
    monkeypatch.setattr(worker, "engine_of", lambda order: by_hand)
    return by_hand


@pytest.fixture
def runs(engine):
    """A list of runs of its own."""
    from napari_medldm.runs import RunList

    return RunList()
