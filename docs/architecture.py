"""Draw which room imports which: `python docs/architecture.py` writes docs/images/architecture.svg.

The rows are the layers of the import contract in setup.cfg, the arrows come from the import statements. An arrow that
follows from others (A imports B, B imports C, A imports C) is left out.
"""

from __future__ import annotations

import configparser
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, ROW, BOX, LETTER = 760, 74, 32, 7.6  # pixels


def layers() -> list[list[str]]:
    """Rooms from the top layer to the lowest."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["importlinter:contract:rooms"]["layers"].split("\n")
    return [[name.strip() for name in line.split("|")] for line in lines if line.strip()]


def imports(rooms: list[str]) -> set[tuple[str, str]]:
    """Which room imports which, without what follows from other arrows.

    Raises
    ------
    ValueError
        A room is in no layer.
    """
    graph = grimp.build_graph("medldm", "napari_medldm", cache_dir=None)

    def room(module: str) -> str:
        parts = module.split(".")
        return parts[0] if parts[0] == "napari_medldm" else ".".join(parts[:2])

    pairs = {(room(a), room(b)) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)}
    pairs = {(a, b) for a, b in pairs if a != b and a not in ("medldm", "medldm.__main__")}
    if unknown := {name for pair in pairs for name in pair} - set(rooms):
        raise ValueError(f"{', '.join(sorted(unknown))} is in no layer of setup.cfg.")
    below: dict[str, set[str]] = {name: set() for name in rooms}
    for name in reversed(rooms):  # a room imports from lower layers only
        for a, b in pairs:
            if a == name:
                below[name] |= {b} | below[b]
    return {(a, b) for a, b in pairs if not any(b in below[c] for d, c in pairs if d == a and c != b)}


def picture() -> str:
    """The diagram as SVG."""
    rows = layers()
    height = ROW * len(rows)
    place: dict[str, tuple[float, float, float]] = {}  # centre and width
    for number, names in enumerate(rows):
        widths = [LETTER * len(short(name)) + 22 for name in names]
        gap = (WIDTH - sum(widths)) / (len(names) + 1)
        left = gap
        for name, width in zip(names, widths, strict=True):
            place[name] = left + width / 2, ROW * (number + 0.5), width
            left += width + gap
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Which room of medldm imports which</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#607d8b"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>',
    ]
    for a, b in sorted(imports([name for names in rows for name in names])):
        (x, y, _), (to_x, to_y, _) = place[a], place[b]
        start, end = y + BOX / 2, to_y - BOX / 2
        bend = min(ROW / 2, (end - start) / 2)
        curve = f"M{x:.0f} {start:.0f}C{x:.0f} {start + bend:.0f} {to_x:.0f} {end - bend:.0f} {to_x:.0f} {end:.0f}"
        text.append(f'<path d="{curve}" fill="none" stroke="#607d8b" stroke-width="1.2" marker-end="url(#head)"/>')
    for name, (x, y, width) in place.items():
        text.append(
            f'<rect x="{x - width / 2:.0f}" y="{y - BOX / 2:.0f}" width="{width:.0f}" height="{BOX}" rx="5" '
            f'fill="#e0f2f1" stroke="#00796b"/><text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" '
            f'font-family="monospace" font-size="12.5" fill="#102a26">{short(name)}</text>'
        )
    return "\n".join([*text, "</svg>\n"])


def short(name: str) -> str:
    """A room without the package's name."""
    return name.removeprefix("medldm.")


if __name__ == "__main__":
    PICTURE.write_text(picture())
    print(PICTURE.relative_to(ROOT))
