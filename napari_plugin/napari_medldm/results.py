"""What runs brought, as layers: added beside their scan, and faded between before and after."""

from __future__ import annotations

import weakref
from typing import Any

from napari.layers import Image

from napari_medldm.jobs import Outcome
from napari_medldm.layers import measure_like


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

    def show(self, outcome: Outcome, before: Any) -> None:
        """Add results.

        Parameters
        ----------
        outcome : of a run
        before : layer that was restored, or None
        """
        added = [Image(data, **arguments) for data, arguments, _ in outcome.layers]
        for layer in added[1:]:
            layer.visible = False
        for layer in added:
            if before is not None:
                # napari shows layers of several units apart, or warns.
                measure_like(before, layer)
            self.viewer.add_layer(layer)
        result = added[0]
        if before not in self.viewer.layers:
            return
        result.contrast_limits_range = before.contrast_limits_range
        result.contrast_limits, result.colormap = before.contrast_limits, before.colormap
        self.viewer.layers.link_layers([before, result], ("contrast_limits", "gamma"))
        self.pair = (weakref.ref(before), weakref.ref(result))
        self.slider.enabled, self.slider.value = True, 1
        self.viewer.layers.selection.active = result

    def relist(self) -> None:
        """Layers came or went: where one of a pair is gone, there is nothing to compare."""
        if not self._both():
            self.slider.enabled = False

    def _both(self) -> bool:
        return all(each() in self.viewer.layers for each in self.pair)

    def _blend(self, share: float) -> None:
        if self._both():
            before, after = self.pair[0](), self.pair[1]()
            before.visible = after.visible = True
            before.opacity, after.opacity = 1.0, share


def _nothing() -> None:
    """A weak reference to nothing."""
