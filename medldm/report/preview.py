"""Before and after in one picture: three planes, one grey window, invented slices marked at the margin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medldm.data.volume import Volume, Voxels
from medldm.io.atomic import whole_file
from medldm.provenance import RunRecord

TILE = 300  # height of a picture, pixels
WIDEST = 4 * TILE  # a single slice, seen from its side, would be as wide as it is thin
EDGE, MARGIN, HEAD, FOOT = 10, 90, 34, 26  # around pictures, left of them, above, below, pixels
INK, PAPER, INVENTED = (235, 235, 235), (18, 20, 24), (255, 150, 40)
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # matplotlib's inferno, five of it
PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))


class Row(NamedTuple):
    """One volume on the sheet.

    Parameters
    ----------
    label : beside the pictures
    volume : that they show
    marked : slices along the stored third axis that get a mark at the margin
    pictures : one per `PLANES`
    """

    label: str
    volume: Volume
    marked: tuple[int, ...]
    pictures: list[Image.Image]


def write_preview(
    before: Volume,
    after: Volume,
    path: Path,
    *,
    reference: Volume | None = None,
    record: RunRecord | None = None,
) -> None:
    """Write the picture.

    Parameters
    ----------
    before, after : scan and result
    path : PNG
    reference : the scan before it was damaged, where one is known
    record : of the run when ``after`` does not carry them
    """
    record = record or (RunRecord.of_step(after.history[-1]) if after.history else RunRecord())
    invented = record.invented_slices or ()
    lost = record.filled_slices or (invented if before.shape == after.shape else ())
    # A scan that was only filled is cut where it was; one that was thinned too shows its slices in the middle.
    at = focus(before, lost if before.shape == after.shape else ())
    shown = [("before", before, lost), ("restored", after, invented)]
    if reference is not None:
        shown.append(("reference", reference, ()))
    window = grey_window(before)
    rows = [
        Row(label, volume, marked, [plane(volume, axis, window, at[axis]) for _, axis in PLANES])
        for label, volume, marked in shown
    ]
    doubt, meaning = uncertainty_of(after)
    if doubt is not None:
        top = float(np.percentile(doubt.voxels, 99.5)) or 1.0
        pictures = [heated(plane(doubt, axis, (0.0, top), at[axis])) for _, axis in PLANES]
        rows.append(Row("uncertainty", doubt, (), pictures))
        meaning = f"{meaning}, black 0 to yellow {top:.3g}. "
    note = "orange: slices lost (before), slices with voxels that nobody measured (restored). " if invented else ""
    with whole_file(path) as temporary:
        _sheet(rows, note + meaning + "Restored voxels are estimates. Research use only.").save(temporary, format="PNG")


def _sheet(rows: list[Row], note: str) -> Image.Image:
    """All pictures on one sheet: planes side by side, one row a volume, a note at the foot."""
    widths = [max(row.pictures[column].width for row in rows) for column in range(len(PLANES))]
    heights = [max(picture.height for picture in row.pictures) for row in rows]
    width = MARGIN + sum(widths) + EDGE * (len(PLANES) + 1)
    sheet = Image.new("RGB", (width, HEAD + sum(heights) + EDGE * (len(rows) + 1) + FOOT), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    lefts = [MARGIN + EDGE + sum(widths[:column]) + EDGE * column for column in range(len(PLANES))]
    for (name, _), left, wide in zip(PLANES, lefts, widths, strict=True):
        draw.text((left + wide // 2, 10), name, fill=INK, font=font, anchor="ma")
    y = HEAD
    for row, height in zip(rows, heights, strict=True):
        draw.text((EDGE, y + height // 2), row.label, fill=INK, font=font, anchor="lm")
        for (_, axis), picture, left, wide in zip(PLANES, row.pictures, lefts, widths, strict=True):
            corner = left + (wide - picture.width) // 2, y
            sheet.paste(picture, corner)
            if axis != row.volume.slice_axis and row.marked:
                _mark(draw, row.volume, axis, row.marked, corner, picture.size)
        y += height + EDGE
    draw.text((EDGE, sheet.height - 24), note, fill=(150, 150, 150), font=font)
    return sheet


def uncertainty_of(after: Volume) -> tuple[Volume | None, str]:
    """The uncertainty of a result as a volume, and what its numbers are; None where only one sample was drawn.

    Parameters
    ----------
    after : restored
    """
    if after.half_width is not None:
        return after.with_voxels(np.nan_to_num(after.half_width)), "Uncertainty: half width of the 90 % interval"
    if after.std is not None:
        return after.with_voxels(np.nan_to_num(after.std)), "Uncertainty: standard deviation, not calibrated"
    return None, ""


def heated(picture: Image.Image) -> Image.Image:
    """A grey picture in colours from black over red to yellow.

    Parameters
    ----------
    picture : RGB, grey
    """
    grey = np.asarray(picture)[..., 0]
    stops = np.linspace(0, 255, len(HEAT))
    colours = [np.interp(grey, stops, [stop[channel] for stop in HEAT]) for channel in range(3)]
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8))


def grey_window(volume: Volume) -> tuple[float, float]:
    """Grey levels from the scan before it was restored, so that both pictures share them."""
    values = volume.voxels[np.isfinite(volume.voxels)] if volume.voxels.dtype.kind == "f" else volume.voxels.ravel()
    if values.min() < -500:
        return -160.0, 240.0  # CT soft tissue, HU
    bright = values[values > 0]
    return 0.0, float(np.percentile(bright, 99.7)) if bright.size else 1.0


def focus(before: Volume, lost: tuple[int, ...]) -> tuple[float, float, float]:
    """Where to cut, as a share of the axes: the middle, but through a lost slice where there is one.

    Parameters
    ----------
    before : scan
    lost : slices counted along the stored third axis
    """
    at = [0.5, 0.5, 0.5]
    if lost:
        axis = before.slice_axis
        count = before.shape[axis]
        chosen = min(lost, key=lambda place: abs(place - count / 2))
        place = count - 1 - chosen if before.stored.flips[before.stored.axes.index(axis)] else chosen
        at[axis] = (place + 0.5) / count
    return at[0], at[1], at[2]


def plane(volume: Volume, axis: int, window: tuple[float, float], at: float = 0.5) -> Image.Image:
    """One plane across an axis, in millimetres, front or top up; `TILE` pixels high unless it is very wide.

    Parameters
    ----------
    volume : scan
    axis : of ``voxels``, that the plane is cut across
    window : values that become black and white
    at : its place, as a share of the axis
    """
    middle = min(int(volume.shape[axis] * at), volume.shape[axis] - 1)
    image: Voxels = np.nan_to_num(np.take(volume.voxels, middle, axis=axis).astype(np.float32), nan=window[0])
    darkest, brightest = window
    grey = (np.clip((image - darkest) / max(brightest - darkest, 1e-9), 0, 1) * 255).astype(np.uint8)
    size = [count * mm for a, (count, mm) in enumerate(zip(volume.shape, volume.spacing, strict=True)) if a != axis]
    scale = min(TILE / max(size[1], 1e-6), WIDEST / max(size[0], 1e-6))
    shown = Image.fromarray(grey.T[::-1])
    # Nearest: a preview that interpolates would restore too.
    wide, high = (max(1, round(mm * scale)) for mm in size)
    return shown.resize((wide, high), Image.Resampling.NEAREST).convert("RGB")


def _mark(
    draw: Any, volume: Volume, axis: int, invented: tuple[int, ...], corner: tuple[int, int], size: tuple[int, int]
) -> None:
    across = volume.slice_axis
    count = volume.shape[across]
    shown = [a for a in range(3) if a != axis]
    flip = volume.stored.flips[volume.stored.axes.index(across)]
    for stored in invented:
        place = count - 1 - stored if flip else stored
        if shown.index(across) == 1:
            top = corner[1] + size[1] * (count - 1 - place) / count
            draw.rectangle([corner[0] - 5, top, corner[0] - 2, top + size[1] / count], fill=INVENTED)
        else:
            left = corner[0] + size[0] * place / count
            draw.rectangle([left, corner[1] - 5, left + size[0] / count, corner[1] - 2], fill=INVENTED)
