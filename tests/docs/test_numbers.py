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
def claims():
    return script("claims")


def test_the_readme_says_what_the_scores_say(claims):
    assert claims.wrong(claims.README.read_text()) == []


def test_another_number_is_noticed_and_put_right(claims):
    text = claims.README.read_text()
    right = f"Slices of 4 mm gain {claims.gain('thick-4mm'):.1f} dB"
    boast = text.replace(right, "Slices of 4 mm gain 9.9 dB")
    assert any("9.9" in each for each in claims.wrong(boast))
    assert claims.corrected(boast) == text


def test_a_number_from_nowhere_is_noticed(claims):
    text = claims.README.read_text().replace("## How good is it\n", "## How good is it\n\nIt is 17 times as good.\n")
    assert any("17 times" in each for each in claims.wrong(text))


def test_the_readmes_tables_are_those_of_the_scores():
    shown = (ROOT / "README.md").read_text().split("<!-- scores -->\n")[1].split("<!-- /scores -->")[0]
    assert shown.strip() == script("quote").tables(BENCHMARKS / "core").strip()


@pytest.mark.parametrize("name", ["core", "more", "ct", "rivals", "lesions", "ablation"])
def test_a_benchmarks_tables_are_those_of_its_scores(claims, name):
    made = markdown(claims.scores(name), {}, "").splitlines()
    for part in (BENCHMARKS / name / "table.md").read_text().split("\n\n###"):
        if f"###{part}".startswith(RECOMPUTED) or "\n| " not in part:
            continue
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert not set(lines) - set(made), part.splitlines()[0]


@pytest.mark.slow
def test_one_command_makes_every_benchmarks_table_again():
    """`docs/benchmarks/all.py`: what the scores say is there already, line by line."""
    every, claims = script("all"), script("claims")
    assert set(every.ledgers()) >= {"core", "more", "ct", "rivals", "lesions", "ablation"}
    for name in every.ledgers():
        page = (BENCHMARKS / name / "table.md").read_text()
        assert every.refreshed(page, claims.scores(name)) == page, name
        wrong = page.replace("\n| nothing", "\n| something").replace("0", "9")
        assert every.refreshed(wrong, claims.scores(name)).split("### ")[1:] != wrong.split("### ")[1:]
    assert sum("medldm benchmark" in each for each in every.commands("DATA")) == len(every.ledgers())


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
        ("guard", "guard/table.md", "table"),
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
