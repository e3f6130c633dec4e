"""Names that are forbidden in our code, with what the field says instead.

usage: python .ci/names.py [FOLDER ...]
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("medldm", "napari_plugin", "tests", "docs", ".ci")
INSTEAD = {
    "told": "what it is: progress, facts, conditions, residual",
    "found": "what was found: matches, scans, slices",
    "words": "text, message, arguments",
    "each": "the thing itself: scan, path, row",
    "look": "orientation",
    "looks": "orientations",
    "way": "orientation",
    "ways": "orientations",
    "turned": "to_planes",
    "rival": "baseline",
    "rivals": "baselines",
    "chain": "pipeline",
    "white": "noise",
    "drawing": "Tiling",
    "guard": "ood",
    "novelty": "ood",
    "untold": "missing reference",
    "team": "distributed",
    "widen": "Net2Net widening",
    "inflate": "2D-to-3D inflation",
    "session": "trainer",
    "agree": "all_reduce",
    "apart": "decode worker",
    "verbatim": "attributes",
    "declared": "derivation",
    "errands": "queue",
    "patiently": "retry",
    "hushed": "log filter",
    "lonely": "an interval with its unit",
    "haste": "an interval with its unit",
    "sight": "view",
    "questions": "queries",
}
# Also as a part of a name: `noise_told`, `words_of`.
NOWHERE = {"told", "found", "words", "rival", "rivals", "untold", "novelty", "hushed", "errands", "patiently"}
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module names itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name


def problems(path: Path) -> Iterator[str]:
    """One line for each forbidden name of a module."""
    # Scripts beside published tables keep the paths that the tables name.
    stem = [] if "docs" in path.parts else [(1, path.stem)]
    for line, name in [*stem, *named(ast.parse(path.read_text(encoding="utf-8")))]:
        if name.startswith("test_"):
            continue  # the name of a test is a sentence
        parts = {part.lower() for part in PART.findall(name)}
        for word in sorted(parts & NOWHERE | {name.lower().strip("_")} & set(INSTEAD)):
            yield f"{path}:{line}: {name}: say {INSTEAD[word]}"


def main() -> int:
    """Exit status: 1 when a name is forbidden."""
    folders = sys.argv[1:] or FOLDERS
    lines = [line for folder in folders for path in sorted(Path(folder).rglob("*.py")) for line in problems(path)]
    print("\n".join(lines))
    return bool(lines)


if __name__ == "__main__":
    raise SystemExit(main())
