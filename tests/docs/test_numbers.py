"""Numbers of README and docs/benchmarks are those of the scores beside them."""

import importlib.util
from pathlib import Path

import pytest

from medldm.benchmark.tables import markdown

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "docs" / "benchmarks"
RECOMPUTED = ("### Noise level estimate", "### Sets of planes")  # from scans and features, by notebook 06


def script(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def published():
    return script("published")


def test_writing_the_tables_of_readme_and_docs_changes_nothing(published):
    pages = published.pages()
    assert published.ROOT / "README.md" in pages
    for page in pages:
        assert published.filled(page.read_text()) == page.read_text(), page


def test_another_number_is_put_right_and_every_table_has_a_place(published):
    pages = {page: page.read_text() for page in published.pages()}
    text = pages[published.ROOT / "README.md"]
    right = f"| {published.mean('thick-4mm', 'medldm'):.1f} |"
    assert published.filled(text.replace(right, "| 99.9 |")) == text != text.replace(right, "| 99.9 |")
    asked = [place[2] for text in pages.values() for place in published.PLACE.finditer(text)]
    assert sorted(asked) == sorted(published.TABLES)


@pytest.mark.parametrize("name", ["core", "more", "ct", "baselines", "lesions"])
def test_a_benchmarks_tables_are_those_of_its_scores(published, name):
    made = markdown(published.scores(name), {}, "").splitlines()
    for part in (BENCHMARKS / name / "table.md").read_text().split("\n\n###"):
        if f"###{part}".startswith(RECOMPUTED) or "\n| " not in part:
            continue
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert not set(lines) - set(made), part.splitlines()[0]


@pytest.mark.slow
def test_one_command_makes_every_benchmarks_table_again():
    """`docs/benchmarks/all.py`: what the scores say is there already, line by line."""
    every, published = script("all"), script("published")
    assert set(every.ledgers()) >= {"core", "more", "ct", "baselines", "lesions"}
    for name in every.ledgers():
        page = (BENCHMARKS / name / "table.md").read_text()
        assert every.refreshed(page, published.scores(name)) == page, name
        wrong = page.replace("\n| nothing", "\n| something").replace("0", "9")
        assert every.refreshed(wrong, published.scores(name)).split("### ")[1:] != wrong.split("### ")[1:]
    assert sum("medldm benchmark" in command for command in every.commands("DATA")) == len(every.ledgers())


def test_every_aim_stands_beside_what_was_reached_and_every_miss_is_explained():
    aims = script("aims")
    lines = aims.lines()
    assert aims.PAGE.read_text() == aims.page(lines)
    assert {line.met for line in lines} == {True, False}  # a page without a miss would need another look
    with pytest.raises(KeyError):
        aims.why("Colours")


@pytest.mark.parametrize(
    ("name", "table", "page"),
    [
        ("coverage", "coverage/table.md", "page"),
        ("ood", "ood/table.md", "table"),
        ("finetune", "finetune.md", "table"),
        ("speed", "speed.md", "table"),
        ("noise", "noise.md", "page"),
        ("gallery", "gallery/cases.md", "page"),
    ],
)
def test_a_page_is_made_of_its_scores(name, table, page):
    module = script(name)
    assert (BENCHMARKS / table).read_text() == getattr(module, page)(module.read())


def test_the_worst_cases_are_those_of_the_scores():
    gallery = script("gallery")
    worst = gallery.worst_files()
    shown = {case["row"]: case for case in gallery.read() if case["kind"] == "worst"}
    assert {row: file for row, (file, _) in worst.items()} == {row: case["scan"] for row, case in shown.items()}
