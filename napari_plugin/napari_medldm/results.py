"""What runs brought, as layers: added beside their scan, one preview at a time, and taken away again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QTimer

from napari_medldm import display
from napari_medldm.jobs import MAP, PREVIEW, Outcome
from napari_medldm.layers import SYNTHETIC, measure_like

FRAME_MS = 20  # between two steps; at 0 Qt would take the next one before it draws or listens
ORANGE = "#ff8c1a"  # of what nobody measured
SMALL = 8  # points, of a name beside the letter at the edge
OPACITY = 0.2  # of the overlay: the result below is what people look at
OF = "medldm_of"  # in a layer's metadata, a weak reference to the scan that it was made of


class Results:
    """Layers that runs added.

    Parameters
    ----------
    viewer : that they are added to
    compare : gets each scan and its result
    """

    def __init__(self, viewer: Any, compare: Any) -> None:
        self.viewer, self.compare = viewer, compare

    def show(self, outcome: Outcome, before: Any, made: list[Any] | None = None) -> Iterator[None]:
        """Add results step by step, to be taken `in_turns`.

        Parameters
        ----------
        outcome : of a run
        before : layer that was restored, or None
        made : gets the layers that were added
        """
        added = []
        for data, arguments, kind in outcome.layers:
            # Hidden for now: drawing a new layer takes about as long as adding it.
            layer = _overlay(data, arguments) if kind == "labels" else Image(data, **arguments | {"visible": False})
            added.append(layer)
            display.lie_like(before, layer)
            if before is not None:
                # napari shows layers of several units apart, or warns.
                measure_like(before, layer)
                layer.metadata = dict(layer.metadata) | {OF: weakref.ref(before)}
            yield
        result = added[0]
        added = self._replace_previews(before, added)
        yield
        if before in self.viewer.layers:
            result.contrast_limits_range = before.contrast_limits_range
            result.contrast_limits, result.colormap = before.contrast_limits, before.colormap
        for layer in added:
            self._add(layer)
            _explain_colours(layer)
            if made is not None:
                made.append(layer)
            yield
        if result in self.viewer.layers:
            self.viewer.layers.selection.active = result
            yield
        result.visible = True
        yield
        for layer in added:
            if isinstance(layer, Labels) and layer in self.viewer.layers:
                layer.visible = True
                yield
        self.compare.pair(before, result)

    def _replace_previews(self, before: Any, added: list[Any]) -> list[Any]:
        """Take away what earlier previews of a scan added: one preview at a time, and none beside the whole.

        Their overlay stays and shows the new voxels: where Mesa draws in software, napari crashes when a labels layer
        takes the place of another one.

        Parameters
        ----------
        before : scan
        added : new layers

        Returns
        -------
        new layers, in place of an overlay the one that stays
        """
        if before is None:
            return added
        gone = [one for one in self.viewer.layers if _of(one) is before and _belongs_to_preview(one)]
        kept = next((one for one in gone if isinstance(one, Labels)), None)
        new = next((one for one in added if isinstance(one, Labels)), None)
        with _in_place(self.viewer.dims):
            if kept is not None and new is not None and _alike(kept, new):
                kept.visible = False  # until the result lies below it
                kept.data, kept.metadata, kept.name = new.data, new.metadata, new.name
                added = [kept if one is new else one for one in added]
                gone.remove(kept)
            for layer in gone:
                self.viewer.layers.remove(layer)
        return added

    def _add(self, layer: Any) -> None:
        """Add a layer and leave selected what is: napari would also put the controls of the new one on the screen."""
        layers = self.viewer.layers
        if layer in layers:  # an overlay that stays, on top of the result
            layers.move(layers.index(layer), len(layers))
            return
        selection = layers.selection
        chosen = set(selection)
        with selection.events.changed.blocker(), _in_place(self.viewer.dims):
            self.viewer.add_layer(layer)
            selection.clear()
            selection.update(chosen)


@contextmanager
def _in_place(dims: Any) -> Iterator[None]:
    """Keep the viewer where it is: on a finer or coarser grid napari would keep the number of the slice instead."""
    point = dims.point
    yield
    if len(point) == dims.ndim:
        dims.point = point


def _alike(one: Any, other: Any) -> bool:
    """Whether two layers have their voxels in the same places."""
    return one.data.shape == other.data.shape and all(
        np.allclose(a, b)
        for a, b in (
            (one.scale, other.scale),
            (one.translate, other.translate),
            (one.affine.affine_matrix, other.affine.affine_matrix),
        )
    )


def _overlay(data: Any, arguments: dict[str, Any]) -> Labels:
    """Marked voxels, clear enough to see what lies below."""
    colours = DirectLabelColormap(color_dict={None: "transparent", 1: ORANGE})
    return Labels(data, **arguments, colormap=colours, opacity=OPACITY, visible=False)


def _explain_colours(layer: Any) -> None:
    """Show napari's colour bar beside a layer whose colours are numbers, while it is shown; napari 0.6 has none."""
    if layer.metadata.get(MAP) and hasattr(layer, "colorbar"):
        layer.colorbar.visible = True
    if layer.metadata.get(SYNTHETIC) and hasattr(layer, "name_overlay"):
        layer.name_overlay.position, layer.name_overlay.font_size = "bottom_left", SMALL
        layer.name_overlay.visible = True  # whoever sees the picture also sees that it shows nobody


def _of(layer: Any) -> Any:
    reference = layer.metadata.get(OF)
    return reference() if isinstance(reference, weakref.ref) else None


def _belongs_to_preview(layer: Any) -> bool:
    return bool(layer.metadata.get(PREVIEW))


def in_turns(steps: Iterator[None]) -> None:
    """Take steps one by one and let the window work in between, so that it is never held up for longer than by one.

    Parameters
    ----------
    steps : a generator that yields after each
    """
    if next(steps, steps) is not steps:
        QTimer.singleShot(FRAME_MS, lambda: in_turns(steps))
