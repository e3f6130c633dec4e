"""How a viewer presents a scan: its acquisition plane first, anterior or superior up, letters at the edges."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import QLabel, QMainWindow, QWidget

from medldm.data.volume import Volume
from napari_medldm import display
from napari_medldm.compare import scene
from napari_medldm.jobs import MAP

RADIOLOGICAL, NEUROLOGICAL = "radiological", "neurological"
PLANES = {"sagittal": 2, "coronal": 1, "axial": 0}  # the patient's axis (z, y, x) across each
LETTERS = (("S", "I"), ("A", "P"), ("R", "L"))  # towards which the patient's z, y, x grow, and the other way
EDGES = ("top", "bottom", "left", "right")
MARGIN = 8  # pixels between a letter and the edge
# On a dark ground, since the canvas of a light theme is white.
LETTERING = "color: #ffd966; background: rgba(0, 0, 0, 120); font-weight: bold; font-size: 14pt; padding: 1px 3px"
BELOW_BAR = 178  # pixels from the top of the canvas to what stands below napari's colour bar


class Presentation(QObject):
    """Orientation of the viewer, and letters that say it.

    Parameters
    ----------
    viewer : of napari
    """

    def __init__(self, viewer: Any) -> None:
        super().__init__()
        self.viewer = viewer
        self.layer: Any = None
        self.convention = RADIOLOGICAL
        self.labels: dict[str, QLabel] = {}
        self.canvas: Any = None
        dims, camera = viewer.dims.events, scene(viewer).camera.events
        self.events = (dims.order, dims.ndisplay, dims.ndim, camera.orientation)
        for event in self.events:
            event.connect(self._letter)
        self.unit: QLabel | None = None
        self.layers = viewer.layers.events
        self.layers.inserted.connect(self._follow)
        self.layers.removed.connect(self._name_bar)

    def _follow(self, event: Any) -> None:
        if event.value.metadata.get(MAP):
            event.value.events.visible.connect(self._name_bar)
            self._name_bar()

    def _name_bar(self, _: Any = None) -> None:
        """Write below napari's colour bar what it is of; its unit is at the end."""
        if self.unit is None:
            return
        maps = [layer for layer in self.viewer.layers if layer.metadata.get(MAP) and layer.visible]
        self.unit.setText("\n".join(dict.fromkeys(str(layer.metadata[MAP]) for layer in maps)))
        self.unit.adjustSize()
        self._place()

    def letter_on(self, widget: QWidget) -> None:
        """Write the letters on the picture of the window that a widget belongs to; once.

        Parameters
        ----------
        widget : the dock, shown
        """
        above: Any = widget
        while above is not None and not isinstance(above, QMainWindow):
            above = above.parentWidget()
        canvas = above.findChild(QOpenGLWidget) if above is not None else None
        if canvas is None or self.canvas is not None:
            return
        self.canvas = canvas
        for edge in EDGES:
            label = self.labels[edge] = QLabel(canvas)
            label.setStyleSheet(LETTERING)
            label.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
            label.setObjectName(f"medldm-{edge}")
        self.unit = QLabel(canvas)
        self.unit.setStyleSheet("color: white; background: rgba(0, 0, 0, 120); padding: 2px")
        self.unit.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.unit.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        canvas.installEventFilter(self)
        self._letter()
        self._name_bar()

    def present(self, layer: Any) -> None:
        """Show a scan of ours as people expect it: the plane in which it was acquired, the right way up.

        Parameters
        ----------
        layer : napari layer; of another one nothing is known, and the viewer stays as it is
        """
        known = display.shown(layer) is not None if layer is not None else False
        fresh = known and layer is not self.layer
        self.layer = layer if known else None
        if fresh:
            frame = layer.metadata.get("medldm")
            self._show_axis(2 - frame.slice_axis if isinstance(frame, Volume) else 0)
            self.orient(self.convention)
        self._letter()

    def orient(self, convention: str) -> None:
        """Turn the viewer: the patient's right on the left of the screen, or on the right.

        Parameters
        ----------
        convention : ``"radiological"`` or ``"neurological"``
        """
        self.convention = convention
        camera = scene(self.viewer).camera
        # Two flips of napari's own orientation stay right-handed; with one, depth is flipped too.
        radiological = convention == RADIOLOGICAL
        camera.orientation = ("towards", "up", "left") if radiological else ("away", "up", "right")
        self._letter()

    def show_plane(self, plane: str) -> None:
        """Show an anatomical plane.

        Parameters
        ----------
        plane : one of `PLANES`
        """
        self._show_axis(next(axis for axis in range(3) if self._patient_axis(axis)[0] == PLANES[plane]))

    @property
    def plane(self) -> str:
        """The anatomical plane that is shown; empty in 3D, or of a layer that nothing is known of."""
        dims = self.viewer.dims
        hidden = [axis - dims.ndim + 3 for axis in dims.not_displayed if axis >= dims.ndim - 3]
        if self.layer is None or len(hidden) != 1:
            return ""
        across = self._patient_axis(hidden[0])[0]
        return next(name for name, axis in PLANES.items() if axis == across)

    def _show_axis(self, hidden: int) -> None:
        dims = self.viewer.dims
        first = dims.ndim - 3
        if first < 0:
            return
        rest = [first + axis for axis in range(3) if axis != hidden]
        dims.order = (*range(first), first + hidden, *rest)
        self.viewer.reset_view()

    def _patient_axis(self, axis: int) -> tuple[int, bool]:
        """The patient's axis (z, y, x) that an axis of the viewer is nearest to, and whether both grow together."""
        turn = display.left_out(self.layer) if self.layer is not None else np.eye(4)
        nearest = int(np.argmax(np.abs(turn[:3, axis])))
        return nearest, bool(turn[nearest, axis] > 0)

    def _letter(self, _: Any = None) -> None:
        """Write the letters for what the viewer shows now."""
        letters = dict.fromkeys(EDGES, "")
        dims = self.viewer.dims
        if self.layer is not None and self.layer in self.viewer.layers and dims.ndisplay == 2:
            vertical, horizontal = (axis - dims.ndim + 3 for axis in dims.displayed)
            up, side = scene(self.viewer).camera.orientation2d
            letters |= self._pair(vertical, up == "down", ("top", "bottom"))
            letters |= self._pair(horizontal, side == "right", ("left", "right"))
        for edge, label in self.labels.items():
            label.setText(letters[edge])
            label.adjustSize()
        self._place()

    def _pair(self, axis: int, grows_along: bool, edges: tuple[str, str]) -> dict[str, str]:
        """Letters at two edges: coordinates grow from the first to the second where they grow along the screen."""
        if axis < 0:
            return {}
        patient, together = self._patient_axis(axis)
        grown, other = LETTERS[patient] if together else LETTERS[patient][::-1]
        first, second = edges
        return {first: other, second: grown} if grows_along else {first: grown, second: other}

    def _place(self) -> None:
        if self.canvas is None:
            return
        wide, high = self.canvas.width(), self.canvas.height()
        for edge, label in self.labels.items():
            x, y = (wide - label.width()) // 2, (high - label.height()) // 2
            x = {"left": MARGIN, "right": wide - label.width() - MARGIN}.get(edge, x)
            y = {"top": MARGIN, "bottom": high - label.height() - MARGIN}.get(edge, y)
            label.move(x, y)
            label.setVisible(bool(label.text()))
            label.raise_()
        if self.unit is not None:
            self.unit.move(wide - self.unit.width() - MARGIN, BELOW_BAR)
            self.unit.setVisible(bool(self.unit.text()))
            self.unit.raise_()

    def eventFilter(self, _: QObject | None, event: QEvent | None) -> bool:
        """Keep the letters at the edges when the canvas changes its size."""
        if event is not None and event.type() == QEvent.Type.Resize:
            self._place()
        return False

    def close(self) -> None:
        """Write no letters any more."""
        for event in self.events:
            event.disconnect(self._letter)
        self.layers.inserted.disconnect(self._follow)
        self.layers.removed.disconnect(self._name_bar)
        for layer in self.viewer.layers:
            if layer.metadata.get(MAP):
                layer.events.visible.disconnect(self._name_bar)
        if self.canvas is not None:
            with suppress(RuntimeError):  # the canvas may have gone with its window
                self.canvas.removeEventFilter(self)
                for label in self.labels.values():
                    label.deleteLater()
                if self.unit is not None:
                    self.unit.deleteLater()
