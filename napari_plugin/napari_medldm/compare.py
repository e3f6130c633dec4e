"""Before and after on one place of the screen: faded, in turns, or side by side along a line that moves."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from magicgui.widgets import ComboBox, Container, FloatSlider
from napari.layers import Image
from qtpy.QtCore import QTimer

BLINK_MS = 500
FADE, BLINK, SWIPE = "fade", "blink", "swipe"


class Swiped:
    """Voxels of a result, on one side of a line; NaN, which napari leaves clear, on the other.

    Parameters
    ----------
    data : (..., Z, Y, X) of the result
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self.shape, self.ndim, self.dtype = data.shape, data.ndim, np.dtype(np.float32)
        self.axis, self.low, self.high = data.ndim - 1, 0, data.shape[-1]

    def __getitem__(self, key: Any) -> Any:
        """A part, as of an array."""
        part = np.array(np.asarray(self.data[key]), np.float32)
        keys = [*(key if isinstance(key, tuple) else (key,))]
        keys += [slice(None)] * (self.ndim - len(keys))
        if isinstance(keys[self.axis], slice):
            place = sum(isinstance(one, slice) for one in keys[: self.axis])
            numbers = np.arange(self.shape[self.axis])[keys[self.axis]]
            hidden = np.moveaxis(part, place, 0)
            hidden[(numbers < self.low) | (numbers >= self.high)] = np.nan
        return part

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """All of it."""
        return np.asarray(self[(slice(None),) * self.ndim], dtype)


class Compare(Container):  # type: ignore[misc]
    """A slider from the scan to its result, and how it is meant.

    Parameters
    ----------
    viewer : of napari
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.slider = FloatSlider(
            min=0, max=1, value=1, step=0.01, enabled=False, readout=False, tooltip="from the scan to its result"
        )
        self.mode = ComboBox(choices=[FADE, SWIPE, BLINK], value=FADE, enabled=False, tooltip="how the two are shown")
        super().__init__(
            layout="horizontal", labels=False, label="Before / after", widgets=[self.slider, self.mode],
            tooltip="from the scan to its result",
        )  # fmt: skip
        self.margins = (0, 0, 0, 0)
        self.two: tuple[Any, Any] = (_nothing, _nothing)
        self.swipe: Any = None
        self.blinker = QTimer()
        self.blinker.setInterval(BLINK_MS)
        self.blinker.timeout.connect(self._turn)
        self.slider.changed.connect(lambda _: self.show())
        self.mode.changed.connect(lambda _: self.show())
        viewer.dims.events.order.connect(self._reordered)

    def pair(self, before: Any, result: Any) -> None:
        """Compare a scan and its result from now on."""
        self._end_swipe()
        if before in self.viewer.layers and result in self.viewer.layers:
            self.viewer.layers.link_layers([before, result], ("contrast_limits", "gamma"))
            self.two = (weakref.ref(before), weakref.ref(result))
            self.slider.enabled = self.mode.enabled = True
            self.slider.value = 1
            self.show()

    def relist(self) -> None:
        """Layers came or went: where one of a pair is gone, there is nothing to compare."""
        if not self.both():
            self.slider.enabled = self.mode.enabled = False
            self.blinker.stop()
            self._end_swipe()

    def both(self) -> bool:
        """Whether both of a pair are there."""
        return all(reference() in self.viewer.layers for reference in self.two)

    def show(self) -> None:
        """Show what slider and mode say; a scan is never hidden by its result for good."""
        if not self.both():
            return
        before, after = self.two[0](), self.two[1]()
        mode, share = self.mode.value, self.slider.value
        if mode != SWIPE:
            self._end_swipe()
        if mode == BLINK:
            self.blinker.start()
            return
        self.blinker.stop()
        before.visible = True
        before.opacity = 1.0
        if mode == FADE:
            after.visible, after.opacity = True, share
        else:
            self._wipe(after, share)

    def _turn(self) -> None:
        if self.both():
            after = self.two[1]()
            after.opacity, after.visible = 1.0, not after.visible

    def _wipe(self, after: Any, share: float) -> None:
        if self.swipe is None or self.swipe not in self.viewer.layers:
            self.swipe = Image(
                Swiped(after.data), name=f"{after.name}, swiped", scale=after.scale, translate=after.translate,
                affine=after.affine, units=after.units, contrast_limits=after.contrast_limits, colormap=after.colormap,
                metadata=dict(after.metadata),
            )  # fmt: skip
            self.viewer.add_layer(self.swipe)
        after.visible = False
        lines = self.swipe.data
        shown = [axis - self.viewer.dims.ndim + lines.ndim for axis in self.viewer.dims.displayed]
        lines.axis = shown[-1]
        count = lines.shape[lines.axis]
        line = round(share * count)
        leftwards = scene(self.viewer).camera.orientation2d[1] == "left"
        lines.low, lines.high = (0, line) if not leftwards else (count - line, count)
        self.swipe.refresh()

    def _reordered(self, _: Any = None) -> None:
        if self.mode.value == SWIPE:
            self.show()

    def _end_swipe(self) -> None:
        swipe, self.swipe = self.swipe, None
        if swipe is not None and swipe in self.viewer.layers:
            self.viewer.layers.remove(swipe)
            if self.both():
                self.two[1]().visible = True

    def close(self) -> None:
        """Show both for good, and follow the viewer no longer."""
        self.blinker.stop()
        self._end_swipe()
        self.viewer.dims.events.order.disconnect(self._reordered)


def scene(viewer: Any) -> Any:
    """What holds the camera: the viewer's scene since napari 0.9, before it the viewer."""
    return getattr(viewer, "scene", viewer)


def _nothing() -> None:
    """A weak reference to nothing."""
