"""What a generator draws: samples in a grid, and samples beside the training scans that are nearest to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medldm.benchmark.generation.sets import Array, ScanSet, Sets
from medldm.io.atomic import whole_file

SHOWN, COLUMNS = 16, 4  # samples in the grid
NEIGHBOURS = 8  # samples beside their nearest training scans
HEIGHT, GAP, LINE = 96, 4, 18  # of a plane, between pictures, of a line of text, pixels
INK, PAPER = (235, 235, 235), (18, 20, 24)


def write_samples(samples: ScanSet, path: Path) -> None:
    """Sixteen samples in a grid, the middle plane of each orientation.

    Parameters
    ----------
    samples : drawn
    path : PNG
    """
    tiles = [
        _labelled(planes(samples.volume(number)), f"{samples.files[number]}: {samples.descriptions[number]}")
        for number in range(min(SHOWN, len(samples)))
    ]
    _write(tiles, COLUMNS, path)


def write_neighbours(sets: Sets, nearest: Sequence[dict[str, Any]], path: Path) -> None:
    """The samples that are nearest to training scans, each left of the scan that it is nearest to.

    Parameters
    ----------
    sets : scans
    nearest : of each sample, as in the JSON file
    path : PNG
    """
    order = sorted(range(len(nearest)), key=lambda number: -nearest[number]["correlation"])[:NEIGHBOURS]
    tiles = []
    for number in order:
        entry = nearest[number]
        scan = sets.training.volume(entry["number"])
        side = ", mirrored" if entry["mirrored"] else ""
        tiles += [
            _labelled(planes(sets.samples.volume(number)), entry["sample"]),
            _labelled(
                planes(scan[::-1] if entry["mirrored"] else scan),
                f"{entry['correlation']:.3f} {entry['training_scan']}{side}",
            ),
        ]
    _write(tiles, 2, path)


def planes(volume: Array) -> Image.Image:
    """The three middle planes of a volume beside each other.

    Parameters
    ----------
    volume : (X, Y, Z) scaled intensity, of which 0 is black and 1 white
    """
    pictures = []
    for axis in (2, 1, 0):
        plane = np.rot90(np.take(volume, volume.shape[axis] // 2, axis))
        grey = Image.fromarray(np.round(255 * np.clip(plane, 0, 1)).astype(np.uint8))
        width = max(1, round(grey.width * HEIGHT / grey.height))
        pictures.append(grey.resize((width, HEIGHT), Image.Resampling.BICUBIC))
    sheet = Image.new("RGB", (sum(p.width for p in pictures) + GAP * (len(pictures) - 1), HEIGHT), PAPER)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    return sheet


def _labelled(picture: Image.Image, text: str) -> Image.Image:
    sheet = Image.new("RGB", (picture.width, picture.height + LINE), PAPER)
    sheet.paste(picture, (0, LINE))
    ImageDraw.Draw(sheet).text((2, 2), text, INK, font=ImageFont.load_default(11))
    return sheet


def _write(tiles: Sequence[Image.Image], columns: int, path: Path) -> None:
    """Tiles of one size in rows."""
    width, height = tiles[0].width + 3 * GAP, tiles[0].height + 3 * GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (min(columns, len(tiles)) * width, rows * height), PAPER)
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * width + GAP, number // columns * height + GAP))
    with whole_file(path) as temporary:
        sheet.save(temporary, format="PNG")
