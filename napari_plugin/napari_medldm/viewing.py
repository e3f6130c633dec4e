"""How the dock shows a scan: plane, grey window, geometry, the voxel under the mouse, and places worth a look."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Layer
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error

from medldm.errors import MedldmError
from napari_medldm import display, text, view, windows
from napari_medldm.findings import Place
from napari_medldm.form import FILE
from napari_medldm.layers import LayerTuple, contrast, snapshot
from napari_medldm.present import Presentation
from napari_medldm.refused import all_volumes, remedied

if TYPE_CHECKING:
    from napari_medldm.panel import Panel


class Viewing:
    """What the *Display* and *Results* parts of the dock do.

    Parameters
    ----------
    panel : the dock
    """

    def __init__(self, panel: Panel) -> None:
        self.panel, self.viewer = panel, panel.viewer
        self.presentation = Presentation(self.viewer)
        self.places: tuple[Place, ...] = ()
        self.places_of: Any = _nothing  # the layer that they are of
        panel.plane.changed.connect(self._show_plane)
        panel.convention.changed.connect(self.presentation.orient)
        panel.window_of.changed.connect(self._set_window)
        panel.true_geometry.changed.connect(self._lay)
        self.followed = [
            (self.viewer.cursor.events.position, self._read_out),
            (self.viewer.dims.events.order, self._name_plane),
        ]

    def present(self, layer: Any) -> None:
        """Show a scan as people expect it; see `Presentation.present`.

        Parameters
        ----------
        layer : napari layer
        """
        panel, now = self.panel, display.shown(layer)
        self.presentation.present(layer)
        self._name_plane()
        panel.true_geometry.visible = now is not None
        with panel.true_geometry.changed.blocked():
            panel.true_geometry.value = now is not None and not now.along

    def choose(self, layer: Any) -> None:
        """Choose a layer that was made of no scan, and look at its middle.

        Parameters
        ----------
        layer : napari image
        """
        self.panel.scan.value = layer
        view.go_to(self.viewer, layer, [n // 2 for n in layer.data.shape[-3:]])

    def _show_plane(self, plane: str) -> None:
        if plane and plane != self.presentation.plane:
            self.presentation.show_plane(plane)

    def _name_plane(self, _: Any = None) -> None:
        """Name the plane that the viewer shows."""
        if not self.panel.closed:
            with self.panel.plane.changed.blocked():
                self.panel.plane.value = self.presentation.plane

    def _set_window(self, chosen: str) -> None:
        layer = self.panel.scan.value
        if layer is None:
            return
        limits = windows.limits(*windows.PRESETS[chosen]) if chosen in windows.PRESETS else None
        frame = layer.metadata.get("medldm")
        if chosen == FILE and frame is not None:
            limits = windows.of_file(frame)
            if limits is None:
                self.panel.status.value = "The file names no window."
        if limits is None:
            limits = contrast(np.asarray(snapshot(layer).data))
        low, high = layer.contrast_limits_range
        layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
        layer.contrast_limits = limits

    def _lay(self, true_geometry: bool) -> None:
        for layer in self.viewer.layers:
            display.show_along(layer, not true_geometry)
        self.viewer.reset_view()
        self.presentation.present(self.panel.scan.value)

    def _read_out(self, _: Any = None) -> None:
        """Say which voxel lies under the mouse, and where in the patient."""
        panel = self.panel
        if panel.closed or panel.scan.value is None or not panel.folds["Display"].isExpanded():
            return
        with suppress(MedldmError, ValueError):
            scan = panel.snapshot()
            index = view.voxel(self.viewer, panel.scan.value, self.viewer.cursor.position)
            panel.readout.value = text.position(scan, index)

    def list_places(self, places: Sequence[Place], layer: Any) -> None:
        """Name the places with the widest intervals, each a click away.

        Parameters
        ----------
        places : the widest first
        layer : that they are of; None for none
        """
        self.places, self.places_of = tuple(places), weakref.ref(layer) if layer is not None else _nothing
        rows = self.panel.look_here
        rows.clear()
        rows.addItems([text.place(one, layer) for one in self.places])
        rows.setVisible(bool(self.places))

    def relist(self) -> None:
        """Layers came or went: a list of what is gone goes too."""
        if self.places and self.places_of() not in self.viewer.layers:
            self.list_places((), None)

    def go_to(self, number: int) -> None:
        """Show a place of the list.

        Parameters
        ----------
        number : of the place, the widest interval first
        """
        layer = self.places_of()
        if layer in self.viewer.layers and number < len(self.places):
            view.go_to(self.viewer, layer, self.places[number].index)

    def repair(self) -> None:
        """Add the scan as it can be restored, and choose it."""
        layer = self.panel.scan.value
        self._add_later(layer, remedied, layer, self.viewer.dims.point)

    def use_all(self) -> None:
        """Add all volumes of the scan as one layer that can be restored, and choose it."""
        self._add_later(self.panel.scan.value, all_volumes, self.panel.scan.value)

    def _add_later(self, before: Any, make: Callable[..., LayerTuple], *arguments: Any) -> None:
        """Add what another thread makes of a scan: files are read again, and resampling takes seconds."""
        panel = self.panel
        self._waits(True)
        panel.status.value = "reading the scan again..."
        worker = create_worker(_outcome_of, make, *arguments)
        worker.returned.connect(lambda made: self._add(before, made))
        worker.start()

    def _add(self, before: Any, made: LayerTuple | Exception) -> None:
        panel = self.panel
        if panel.closed:
            return
        self._waits(False)
        panel.status.value = ""
        if isinstance(made, Exception):
            panel.status.value = text.for_dock(str(made))
            show_error(panel.status.value)
            return
        scan = Layer.create(*made)
        display.lie_like(before, scan)
        self.viewer.add_layer(scan)
        panel.scan.value = scan

    def _waits(self, waits: bool) -> None:
        self.panel.remedy.enabled = self.panel.use_all.enabled = not waits

    def close(self) -> None:
        """Write no letters any more."""
        self.presentation.close()


def _outcome_of(make: Callable[..., LayerTuple], *arguments: Any) -> LayerTuple | Exception:
    """What a function makes, or the error that is meant for the user."""
    try:
        return make(*arguments)
    except (MedldmError, ValueError) as problem:
        return problem


def _nothing() -> None:
    """A weak reference to nothing."""
