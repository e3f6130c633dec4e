"""What the notebooks share: crops of the shipped samples, pictures beside each other, and figures that must not change."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Image as Picture
from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.patches import Circle
from PIL import Image

import medldm
from medldm.samples import sample_path

EXPECTED = Path(__file__).parent / "expected"
TOLERANCE = 6.0  # mean grey levels of 255, over the figure averaged to 120 pixels; fonts and rounding stay below 2
plt.rcParams |= {"figure.dpi": 64, "image.cmap": "gray", "figure.facecolor": "white", "font.size": 11}


def crop(name: str, box: Sequence[slice]) -> medldm.Volume:
    """A part of a shipped sample, at its place in the world.

    Parameters
    ----------
    name : ``"mr"`` or ``"ct"``
    box : three slices, voxels
    """
    scan = medldm.read(sample_path(name))
    affine = np.array(scan.affine)
    affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in box]
    return medldm.Volume(np.asarray(scan.voxels[tuple(box)], np.float32), affine, name=name, stored=scan.stored)


def side_by_side(
    images: dict[str, Any],
    spacing: Sequence[float] = (1, 1),
    window: Sequence[float] = (0, 1),
    colours: str = "gray",
    rows: int = 1,
    ring: Sequence[float] = (),
    odd_high: float = 0.25,
    panel: float = 3.4,
) -> Any:
    """Planes beside each other, upright, in one grey window.

    Parameters
    ----------
    images : title to plane, (X, Y); the second axis points up
    spacing : mm along both axes
    window : darkest and brightest value; titles that begin with "error" or "uncertainty" get their own
    colours : matplotlib colour map of the others
    rows : in which they stand
    ring : pixel to draw a ring around; empty for none
    odd_high : of errors and uncertainties, the brightest value, share of the window
    panel : width of a plane at most, inches

    Returns
    -------
    the figure
    """
    across = -(-len(images) // rows)
    wide, tall = (np.asarray(next(iter(images.values()))).shape[axis] * spacing[axis] for axis in (0, 1))
    width = min(panel, 13.6 / across)
    size = (width * across, rows * (width * tall / wide + 0.42))
    figure, axes = plt.subplots(rows, across, figsize=size, layout="constrained", squeeze=False)
    for each, (title, plane) in zip(axes.flat, images.items(), strict=True):
        odd = title.startswith(("error", "uncertainty"))
        low, high = (0, odd_high * (window[1] - window[0])) if odd else window
        each.imshow(
            np.asarray(plane).T, origin="lower", vmin=low, vmax=high, cmap="inferno" if odd else colours,
            aspect=spacing[1] / spacing[0], interpolation="nearest",
        )  # fmt: skip
        if len(ring):
            each.add_patch(Circle(tuple(ring), 9, fill=False, edgecolor="orange", linewidth=1.5))
        each.set_title(f"{title}, 0 to {high:g}" if odd else title)
        each.set_axis_off()
    return figure


def keep(figure: Any, name: str, tolerance: float = TOLERANCE) -> None:
    """Compare a figure with the one that is expected, then show it.

    ``MEDLDM_FIGURES=write`` makes what was drawn the expected one.

    Parameters
    ----------
    figure : of matplotlib
    name : of the expected PNG
    tolerance : mean difference, grey levels of 255

    Raises
    ------
    AssertionError
        The figure changed by more than that.
    """
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=40)
    drawn = Image.open(held).convert("L")
    drawn = drawn.resize((120, max(1, round(120 * drawn.height / drawn.width))), Image.Resampling.BOX)
    path = EXPECTED / f"{name}.png"
    if os.environ.get("MEDLDM_FIGURES") == "write":
        EXPECTED.mkdir(exist_ok=True)
        drawn.save(path, optimize=True)
    wanted = Image.open(path)
    far = np.abs(np.asarray(drawn.resize(wanted.size), float) - np.asarray(wanted, float)).mean()
    assert far < tolerance, f"{name} changed: {far:.1f} grey levels on average, {tolerance} are allowed"
    shown = io.BytesIO()
    figure.savefig(shown, format="png", dpi=56)
    small = io.BytesIO()
    Image.open(shown).convert("RGB").quantize(48).save(small, format="png", optimize=True)
    plt.close(figure)
    display(Picture(small.getvalue()))


def look_around(volume: medldm.Volume) -> Any:
    """A viewer to turn and scroll in, where ipyniivue is installed; else nothing."""
    try:
        import nibabel as nib
        from ipyniivue import NiiVue, Volume
    except ImportError:
        return None
    viewer = NiiVue()
    image = nib.Nifti1Image(np.asarray(volume.voxels), volume.affine)
    viewer.load_volumes([Volume(name=f"{volume.name}.nii", data=image.to_bytes())])
    return viewer
