"""How a widget looks: its rows, and how they lie; what they do is for the panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSlider, Label, ProgressBar, PushButton
from napari.layers import Image, Labels, Layer, Shapes
from qtpy.QtCore import Qt
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QApplication, QComboBox, QSizePolicy

from medldm.tasks import TASKS, Need
from napari_medldm.form_fields import Rows

WIDTH = 440  # pixels; below that rows are cut off, the bar that scrolls down included
LARGER = 1.25  # napari's letters beside those of the system
SLICE, ALL, ONE = "current slice", "all volumes", "current volume"


class Form(Container):  # type: ignore[misc]
    """Rows of one verb, from the scan at the top to the model's memory at the end.

    Parameters
    ----------
    viewer : whose layers can be chosen
    """

    verb: ClassVar[str] = "restore"

    def __init__(self, viewer: Any) -> None:
        super().__init__(scrollable=True)
        self.viewer = viewer
        self.rows = Rows(TASKS[self.verb].settings)
        self.needs_scan = Need.SCAN in TASKS[self.verb].needs
        self.scan = ComboBox(label="scan", choices=lambda _: self._layers(Image))
        self.series = ComboBox(label="series", choices=[ONE, ALL], value=ONE, visible=False)
        self.plan = _text()
        self.model_file = PushButton(text="Model from file...")
        self.card = _text()
        self.where = ComboBox(label="preview of", choices=lambda _: [SLICE, *self._layers(Shapes)])
        self.preview = PushButton(text="Preview")
        self.button = PushButton(text=TASKS[self.verb].labels.title)
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.unload = PushButton(text="Unload model")
        self.uncertainty = CheckBox(text="uncertainty layers", value=False)
        self.difference = CheckBox(text="difference layer", value=False)
        self.bar = ProgressBar(label="", value=0, min=0, max=100)
        self.status = _text()
        self.compare = FloatSlider(
            label="before / after",
            min=0,
            max=1,
            value=1,
            enabled=False,
            tooltip="after a run: from the scan to its result",
        )
        self.copy_command = PushButton(text="Copy as command line")
        self.copy_python = PushButton(text="Copy as Python")
        self.more = CheckBox(text="more settings", value=False)
        self.advanced = Container(widgets=[*self.rows.shared[1:], self.model_file], visible=False)
        self._build()

    @property
    def native(self) -> Any:
        """The Qt widget to dock: the scroll area, which magicgui calls root, and not what is inside of it."""
        return self.root_native_widget

    @property
    def title(self) -> str:
        """Name of the task in menus."""
        return TASKS[self.verb].labels.title

    def extras(self) -> list[Any]:
        """Rows that only one verb has; for subclasses."""
        return []

    def _layers(self, kind: type[Layer]) -> list[Any]:
        return [layer for layer in self.viewer.layers if isinstance(layer, kind) and not isinstance(layer, Labels)]

    def _build(self) -> None:
        self.extend([self.scan, self.series, *self.rows.own, *self.extras(), self.rows.widgets["model"], self.card])
        self.extend([self.more, self.advanced, self.plan, self.uncertainty, self.difference, self.where])
        self.append(_line(self.preview, self.button, self.cancel))
        self.extend([self.bar, self.status, self.compare])
        self.append(_line(self.copy_command, self.copy_python))
        self.append(self.unload)
        # What a high window has to spare goes to the end, and not between the rows.
        self.native.widget().layout().addStretch(1)
        _align([*self, *self.advanced])
        for widget in (self.scan, self.rows.widgets["model"], self.where):
            # A long name or path must not push the picture off the screen.
            widget.native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            widget.native.setMinimumContentsLength(12)
        self.native.setMinimumWidth(WIDTH)
        about_scan = (self.scan, self.uncertainty, self.difference, self.where, self.preview, self.compare)
        for widget in () if self.needs_scan else (*about_scan, self.copy_command, self.copy_python):
            widget.visible = False


def _text() -> Any:
    """A label that breaks its lines."""
    label = Label(value="")
    label.native.setWordWrap(True)
    label.native.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
    label.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
    return label


def _align(rows: Sequence[Any]) -> None:
    """Make all labels as wide as the widest, in the larger letters that napari will give them."""
    labeled = [row._labeled_widget() for row in rows if row._labeled_widget() is not None]
    letters = QFontMetrics(QApplication.font())
    widest = max(letters.horizontalAdvance(field._inner_widget.label) for field in labeled)
    for field in labeled:
        field.label_width = round(LARGER * widest)


def _line(*widgets: Any) -> Any:
    line = Container(widgets=list(widgets), layout="horizontal", labels=False)
    line.margins = (0, 0, 0, 0)
    return line
