"""What runs brought, as layers: added beside their scan, and faded between before and after."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from napari.layers import Image
from qtpy.QtCore import QTimer

from napari_medldm.jobs import Outcome
from napari_medldm.layers import measure_like

FRAME_MS = 20  # between two steps; at 0 Qt would take the next one before it draws or listens


class Results:
    """Layers that runs added.

    Parameters
    ----------
    viewer : that they are added to
    slider : between before and after
    """

    def __init__(self, viewer: Any, slider: Any) -> None:
        self.viewer, self.slider = viewer, slider
        self.pair: tuple[Any, Any] = (_nothing, _nothing)
        slider.changed.connect(self._blend)

    def show(self, outcome: Outcome, before: Any) -> Iterator[None]:
        """Add results step by step, to be taken `in_turns`.

        Parameters
        ----------
        outcome : of a run
        before : layer that was restored, or None
        """
        added = []
        for data, arguments, _ in outcome.layers:
            # Hidden for now: drawing a new layer takes about as long as adding it.
            added.append(Image(data, **arguments | {"visible": False}))
            if before is not None:
                # napari shows layers of several units apart, or warns.
                measure_like(before, added[-1])
            yield
        result = added[0]
        if before in self.viewer.layers:
            result.contrast_limits_range = before.contrast_limits_range
            result.contrast_limits, result.colormap = before.contrast_limits, before.colormap
        for layer in added:
            self._add(layer)
            yield
        if result in self.viewer.layers:
            self.viewer.layers.selection.active = result
            yield
        result.visible = True
        yield
        self._pair(before, result)

    def _add(self, layer: Any) -> None:
        """Add a layer and leave selected what is: napari would also put the controls of the new one on the screen."""
        selection = self.viewer.layers.selection
        chosen = set(selection)
        with selection.events.changed.blocker():
            self.viewer.add_layer(layer)
            selection.clear()
            selection.update(chosen)

    def _pair(self, before: Any, result: Any) -> None:
        if before in self.viewer.layers and result in self.viewer.layers:
            self.viewer.layers.link_layers([before, result], ("contrast_limits", "gamma"))
            self.pair = (weakref.ref(before), weakref.ref(result))
            self.slider.enabled, self.slider.value = True, 1

    def relist(self) -> None:
        """Layers came or went: where one of a pair is gone, there is nothing to compare."""
        if not self._both():
            self.slider.enabled = False

    def _both(self) -> bool:
        return all(reference() in self.viewer.layers for reference in self.pair)

    def _blend(self, share: float) -> None:
        if self._both():
            before, after = self.pair[0](), self.pair[1]()
            before.visible = after.visible = True
            before.opacity, after.opacity = 1.0, share


def in_turns(steps: Iterator[None]) -> None:
    """Take steps one by one and let the window work in between, so that it is never held up for longer than by one.

    Parameters
    ----------
    steps : a generator that yields after each
    """
    if next(steps, steps) is not steps:
        QTimer.singleShot(FRAME_MS, lambda: in_turns(steps))


def _nothing() -> None:
    """A weak reference to nothing."""
