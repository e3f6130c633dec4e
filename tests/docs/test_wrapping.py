"""Long lines of Markdown are wrapped, and nothing else is."""

import importlib.util
from pathlib import Path

import pytest

LONG = "slices " * 30


@pytest.fixture(scope="module")
def wrapped():
    spec = importlib.util.spec_from_file_location("wrapping", Path(__file__).parents[2] / "docs" / "wrapping.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.wrapped


@pytest.mark.parametrize(
    "kept",
    [
        f"| {LONG} | 1 |",
        f"# {LONG}",
        f"<!-- {LONG} -->",
        f"```bash\n{LONG}\n\n- {LONG}\n```",
        f"    {LONG}",
        f"Command: `{LONG}`  ",
        "a short line\nand another one",
    ],
)
def test_what_is_no_long_paragraph_stays_as_it_is(kept, wrapped):
    assert wrapped(f"{kept}\n") == f"{kept}\n"


def test_items_of_a_list_keep_their_indentation(wrapped):
    lines = wrapped(f"intro\n\n1. one\n2. {LONG}\n\n- 3 {LONG} - 4\n").splitlines()
    assert lines[:3] == ["intro", "", "1. one"]
    assert lines[3].startswith("2. slices")
    assert lines[4].startswith("   slices")
    assert lines[-1].startswith("  slices")
    assert lines[-1].endswith("slices - 4")
    assert max(map(len, lines)) <= 100


def test_code_and_links_are_not_broken(wrapped):
    code, link = f"`{'a b ' * 20}`", "[what is said there](somewhere.md)"
    assert f"\n{code}" in wrapped(f"{LONG[:60]} {code} {link}\n")
    assert link in wrapped(f"{LONG[:88]} {link} {LONG}\n")
