"""The page on architecture shows the code as it is."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def architecture():
    pytest.importorskip("grimp")
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagram_is_drawn_from_todays_imports(architecture):
    assert architecture.PICTURE.read_text() == architecture.picture(), "run python docs/architecture.py"


def test_an_arrow_that_follows_from_others_is_left_out(architecture):
    rooms = [name for layer in architecture.layers() for name in layer]
    arrows = architecture.imports(rooms)
    assert ("medldm.inference", "medldm.models") in arrows
    assert ("medldm.tasks", "medldm.models") not in arrows


def test_every_path_on_the_page_exists():
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = {
        path for path in re.findall(r"`((?:medldm|tests|docs|napari_plugin)/[^`\s]+)`", text) if "NAME" not in path
    }
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
