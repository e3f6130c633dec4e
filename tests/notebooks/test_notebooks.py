"""What is committed of the notebooks; `make notebooks` runs them and compares their figures."""

import json
import re
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[2] / "notebooks"
BOOKS = sorted(ROOM.glob("*.ipynb"))


def cells(book):
    return json.loads(book.read_text())["cells"]


def test_there_are_eight():
    assert [book.name[:2] for book in BOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08"]


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_is_small_ran_to_its_end_and_names_no_machine(book):
    assert book.stat().st_size < 400_000
    code = [cell for cell in cells(book) if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] == number for number, cell in enumerate(code, 1))
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert "image/png" in outputs
    assert not re.search(r'"output_type": "error"', outputs)
    text = re.sub(r'"image/png": "[^"]*"', "", outputs) + json.dumps([cell["source"] for cell in cells(book)])
    assert not re.search(r"(?<![\w.])/(?:root|home|work|tmp|Users|mnt)/", text)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_compares_its_figures_and_fixes_its_seeds(book):
    source = "".join("".join(cell["source"]) for cell in cells(book))
    kept = re.findall(r'keep\(figure, "([^"]+)"', source)
    assert kept
    assert all((ROOM / "expected" / f"{name}.png").is_file() for name in kept)
    assert "assert" in source or book.name.startswith("07")
    assert source.count("torch.Generator()") == source.count("manual_seed(")
