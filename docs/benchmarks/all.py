"""Every table and figure of this folder, and the tables of README and docs: one command.

`python docs/benchmarks/all.py` makes the tables again from the scores beside them, in seconds.
`python docs/benchmarks/all.py ../shared/data` runs everything that is scored first. The benchmarks resume: of what
their ledgers hold nothing is computed again unless weights changed. From nothing it takes a night on two cores;
`medldm benchmark` writes the head of each table: command, commit, subjects.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from published import newest, scores, script

from medldm.benchmark.ledger import read_scores
from medldm.benchmark.tables import figure, markdown

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LEDGERS = ("core", "more", "ct", "baselines", "lesions")  # folders of `medldm benchmark`
# Scans: two dozen rows, or methods that take an hour, on all would take nights.
AT_MOST = {"core": 11, "more": 6, "baselines": 4}
PAGES = {"gates": "gates/table.md", "coverage": "coverage/table.md", "ood": "ood/table.md",
         "gallery": "gallery/cases.md", "finetune": "finetune.md", "noise": "noise.md",
         "speed": "speed.md"}  # fmt: skip
# Not means of scores: made of scans and features, by running the benchmark.
RECOMPUTED = ("Noise level estimate", "Sets of planes", "Planes compared in pairs")


def commands(data: str) -> list[str]:
    """Everything that makes scores; rows and methods of a benchmark are those that its ledger holds."""
    lines = []
    for name in ledgers():
        every = newest(read_scores(HERE / name / "scores.csv"))
        rows, methods = (",".join(dict.fromkeys(score[key] for score in every)) for key in ("row", "method"))
        few = f" --scans {AT_MOST[name]}" if name in AT_MOST else ""
        lines.append(f"-m medldm benchmark {data} --out docs/benchmarks/{name}{few} --tasks {rows} --methods {methods}")
    lines += [f"docs/benchmarks/{name}.py {data}" for name in ("gates", "coverage", "ood", "gallery", "noise")]
    return [
        *lines, f"docs/benchmarks/finetune.py {data} build/finetune --minutes 12 --more 5", "docs/benchmarks/speed.py"
    ]  # fmt: skip


def ledgers() -> list[str]:
    """The benchmarks that have been run."""
    return [name for name in LEDGERS if (HERE / name / "scores.csv").is_file()]


def refreshed(table: str, known: list[dict[str, Any]]) -> str:
    """A page of tables with those that scores make made again; its head, and what scans make, stay.

    Parameters
    ----------
    table : Markdown, as it lies there
    known : scores of its ledger
    """
    head = table.split("### ")[0]
    kept = [part for part in re.split(r"^### ", table, flags=re.MULTILINE)[1:] if part.startswith(RECOMPUTED)]
    made = markdown(known, {}, "").split("### ", 1)
    # Titles name the network behind the perceptual distance.
    tables = f"### {made[1]}" if len(made) > 1 else ""
    return head + tables + "".join(f"\n### {part.rstrip()}\n" for part in kept)


def main(data: str | None) -> None:
    """Make the scores, where the place of the scans is given; then all tables."""
    for command in commands(data) if data else ():
        print(command, flush=True)
        subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, check=True)
    for name in ledgers():
        page = HERE / name / "table.md"
        page.write_text(refreshed(page.read_text(), scores(name)))
        if (HERE / name / "figure.png").is_file():
            figure(scores(name), HERE / name / "figure.png")
        print(page.relative_to(ROOT))
    for name, place in PAGES.items():
        module = script(name)
        page = HERE / place
        page.write_text(getattr(module, "page" if hasattr(module, "page") else "table")(module.read()))
        print(page.relative_to(ROOT))
    script("aims").main()
    script("published").main()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
