"""Markdown has lines of at most 100 characters: `python docs/wrapping.py` names pages and notebooks with longer ones.

`--fix` wraps them. Tables, headings, code and links stay as they are, and so does a paragraph without a long line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

WIDTH = 100
FENCE = re.compile(r"\s*(```|~~~)")
AS_IT_IS = re.compile(r"#|\s*\||\s*<!--|:::")  # headings, tables, comments, mkdocstrings
ITEM = re.compile(r"\s*(?:[-*+]|\d+\.) +")
ATOM = re.compile(r"(?:`[^`]*`|!?\[[^\]]*\]\([^)]*\)|\S)+")  # code and links are not broken
AT_NO_START = re.compile(r"[-+*>|=]+|#+|\d+[.)]")  # would begin a list, a heading or a table


def wrapped(text: str) -> str:
    """Markdown whose paragraphs have no line of more than 100 characters that can be broken."""
    return "".join(f"{line}\n" for part in _parts(text.splitlines()) for line in part)


def _parts(lines: list[str]) -> Iterator[list[str]]:
    """Paragraphs and items of lists, filled; other lines one by one."""
    paragraph: list[str] = []
    code = False
    for line in lines:
        fence = bool(FENCE.match(line))
        kept = code or fence or not line.strip() or AS_IT_IS.match(line)
        item = ITEM.match(line)
        if paragraph and (kept or item):
            yield _filled(paragraph)
            paragraph = []
        if kept or (not paragraph and not item and line.startswith("    ")):
            yield [line]
            code ^= fence
            continue
        paragraph.append(line)
        if line.endswith("  "):  # a line break
            yield _filled(paragraph)
            paragraph = []
    if paragraph:
        yield _filled(paragraph)


def _filled(paragraph: list[str]) -> list[str]:
    """A paragraph or an item of a list, wrapped where it has a long line."""
    head = ITEM.match(paragraph[0])
    begin = head[0] if head else paragraph[0][: -len(paragraph[0].lstrip())]
    atoms: list[str] = []
    for atom in ATOM.findall(" ".join(paragraph)[len(begin) :]):
        if atoms and AT_NO_START.fullmatch(atom):
            atoms[-1] += f" {atom}"
        else:
            atoms.append(atom)
    if max(map(len, paragraph)) <= WIDTH or len(atoms) <= 2:  # two: a word and a command
        return paragraph
    lines = [begin + atoms[0]]
    for atom in atoms[1:]:
        if len(lines[-1]) + 1 + len(atom) <= WIDTH:
            lines[-1] += f" {atom}"
        else:
            lines.append(" " * len(begin) + atom)
    lines[-1] += "  " if paragraph[-1].endswith("  ") else ""
    return lines


def rewritten(page: Path) -> str:
    """A page or a notebook, its Markdown wrapped."""
    content = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return wrapped(content)
    notebook = json.loads(content)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = wrapped("".join(cell["source"])).removesuffix("\n").splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Exit status: 1 when a page has a long line."""
    listed = subprocess.run(["git", "ls-files", "*.md", "*.ipynb"], capture_output=True, text=True, check=True).stdout
    pages = [page for page in map(Path, listed.splitlines()) if page.exists()]
    long = [page for page in pages if rewritten(page) != page.read_text(encoding="utf-8")]
    for page in long:
        if "--fix" in sys.argv:
            page.write_text(rewritten(page), encoding="utf-8")
        else:
            print(f"{page}: lines of more than {WIDTH} characters; python docs/wrapping.py --fix wraps them")
    return bool(long) and "--fix" not in sys.argv


if __name__ == "__main__":
    raise SystemExit(main())
