"""How the dock looks: what stands where, from the scan at the top to the settings, folded away, at the end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from magicgui.widgets import CheckBox, ComboBox, Container, Label, ProgressBar, PushButton
from napari.layers import Image, Labels, Layer, Shapes
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QFrame,
    QLayout,
    QListWidget,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from medldm.settings import Settings
from medldm.tasks import TASKS
from napari_medldm.compare import Compare
from napari_medldm.form_fields import Rows, align
from napari_medldm.pages import TaskPage, page
from napari_medldm.present import NEUROLOGICAL, PLANES, RADIOLOGICAL
from napari_medldm.runs_view import RunsView
from napari_medldm.tabs import Tabs
from napari_medldm.windows import PRESETS

WIDTH = 384  # pixels; below that rows are cut off, the bar that scrolls down included
SETTLING_MS = 50  # after which rows that were shown or got other letters know how large they are
UNLIMITED = (1 << 24) - 1  # QWIDGETSIZE_MAX
LISTED = 4  # rows of a list that are seen at once
SLICE, ALL, ONE = "slice on the screen", "all volumes", "volume on the screen"
OPENED, FILE = "as opened", "of the file"  # grey windows


class Form(QScrollArea):
    """One dock for all tasks, a tab each.

    Parameters
    ----------
    viewer : whose layers can be chosen
    verb : name of the task that is shown first
    """

    def __init__(self, viewer: Any, verb: str) -> None:
        self.aligned: list[Any] = []  # containers whose labels are as wide as the widest of each
        self.head: tuple[QWidget, ...] = ()  # what stands above the folds
        self.realigning = QTimer()
        self.realigning.setSingleShot(True)
        self.realigning.setInterval(SETTLING_MS)
        super().__init__()
        self.realigning.timeout.connect(self._realign)
        self.viewer = viewer
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        shared = Rows(Settings)
        self.shared = shared.widgets
        self.scan = ComboBox(label="Scan", choices=self._images)
        self.series = ComboBox(label="Series", choices=[ONE, ALL], value=ONE, visible=False)
        self.where = ComboBox(label="Preview of", choices=lambda _: [SLICE, *self._of(Shapes)])
        self.preview = PushButton(text="Preview", tooltip="a first look with the fastest model, then refined")
        self.button = PushButton(text="Run", tooltip="on the whole scan")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.remedy = PushButton(text="", visible=False, tooltip="adds the scan as it can be restored")
        self.use_all = PushButton(
            text="Use all volumes", visible=False, tooltip="as one layer, of which one or all can be restored"
        )
        self.remedies = _line(self.remedy, self.use_all)
        self.plan, self.status, self.card, self.legend, self.readout, self.notes = (_text() for _ in range(6))
        self.legend.value = "No result yet."
        self.readout.value = "Point at a voxel to read its place and value."
        self.notes.visible = self.remedies.visible = False
        self.bar = ProgressBar(label="", value=0, min=0, max=100)
        self.about = PushButton(text="i", tooltip="what the model is, what it has seen and its limits")
        self.model_file = PushButton(text="Model from a file...")
        self.unload = PushButton(text="Unload model", tooltip="free its memory")
        self.refine = CheckBox(
            text="Refine previews", value=True, tooltip="after the first look, with the chosen model"
        )
        self.uncertainty = CheckBox(
            text="Uncertainty layers", value=False, tooltip="standard deviation and half width of the 90 % interval"
        )
        self.difference = CheckBox(text="Difference layer", value=False)
        self.plane = ComboBox(label="Plane", choices=["", *PLANES], value="")
        self.convention = ComboBox(
            label="Patient's right",
            choices=[("left (radiological)", RADIOLOGICAL), ("right (neurological)", NEUROLOGICAL)],
            value=RADIOLOGICAL,
        )
        self.window_of = ComboBox(label="Grey window", choices=[OPENED, FILE, *PRESETS], value=OPENED, visible=False)
        self.true_geometry = CheckBox(
            text="True geometry", value=False, tooltip="in the world, as the patient lay; slices may be cut obliquely"
        )
        self.copy_command = PushButton(text="Copy as command")
        self.copy_python = PushButton(text="Copy as Python")
        self.compare = Compare(viewer)
        self.look_here = QListWidget()
        self.tabs = Tabs()
        self.pages: dict[str, TaskPage] = {name: page(name, self, self.shared) for name in in_order()}  # type: ignore[arg-type]
        self._build()
        self.choose(verb)

    @property
    def native(self) -> QWidget:
        """The Qt widget to dock."""
        return self

    @property
    def verb(self) -> str:
        """Name of the task that is shown."""
        return list(self.pages)[self.tabs.current]

    @property
    def page(self) -> TaskPage:
        """The page that is shown."""
        return self.pages[self.verb]

    @property
    def rows(self) -> Rows:
        """The settings of the task that is shown."""
        return self.page.rows

    @property
    def model(self) -> str:
        """The chosen model, as ``--model`` takes it."""
        return str(self.shared["model"].value)

    @property
    def several(self) -> bool:
        """Whether the chosen layer holds several volumes; Qt calls the row of a hidden window invisible."""
        layer = self.scan.value
        return layer is not None and layer.ndim > 3 and not layer.rgb

    def _ask_for_model(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        path, _ = QFileDialog.getOpenFileName(self, "A trained model", "", "Models (*.json *.safetensors)")
        if path:
            self.choose_model(path)

    def choose_model(self, path: str) -> None:
        """Offer a trained model on disk, and choose it."""
        self.shared["model"].choose(path)

    def choose(self, verb: str) -> None:
        """Show the page of a task.

        Parameters
        ----------
        verb : name of the task
        """
        number = list(self.pages).index(verb)
        if number != self.tabs.current:
            self.tabs.current = number
        else:
            self._turn_page(number)

    def changeEvent(self, event: Any) -> None:
        """Make labels as wide as their letters, when these have changed."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self.realigning.start()  # its labels get their letters after it

    def resizeEvent(self, event: Any) -> None:
        """Keep the buttons in sight where unfolded settings in large letters are wider than the dock."""
        super().resizeEvent(event)
        self._keep_head_in_sight()

    def showEvent(self, event: Any) -> None:
        """Lay the rows out by the letters of the window, which a hidden dock does not have."""
        super().showEvent(event)
        self.realigning.start()

    def _keep_head_in_sight(self) -> None:
        for widget in self.head:
            widget.setMaximumWidth(max(self.viewport().width() - 12, widget.minimumSizeHint().width()))

    def _realign(self) -> None:
        with suppress(RuntimeError):  # the dock may be gone by now
            for rows in self.aligned:
                align(list(rows), shown=True)
            # What was hidden when the letters grew keeps the height that it had with small ones.
            for widget in self.inside.findChildren(QWidget):
                widget.updateGeometry()
            for layout in self.inside.findChildren(QLayout):
                layout.invalidate()
            for fold in self.folds.values():
                if fold.isExpanded():  # it keeps the height that its rows had when it was opened
                    fold.content().setMaximumHeight(UNLIMITED)
            # Qt asks for the height at this width, and so counts rows of a fold as high as they were.
            self.inside.setMinimumHeight(self.inside.layout().sizeHint().height())
            self._keep_head_in_sight()

    def _images(self, _: Any = None) -> list[Any]:
        return [layer for layer in self._of(Image) if not layer.name.endswith(", swiped")]

    def _of(self, kind: type[Layer]) -> list[Any]:
        return [layer for layer in self.viewer.layers if isinstance(layer, kind) and not isinstance(layer, Labels)]

    def _build(self) -> None:
        self.stack, self.settings_stack = QStackedWidget(), QStackedWidget()
        for one in self.pages.values():
            self.tabs.add(one.task.labels.title)
            for stack, rows in ((self.stack, one.container), (self.settings_stack, one.settings)):
                stack.addWidget(rows.native)
                rows.native.layout().addStretch(1)
        self.tabs.currentChanged.connect(self._turn_page)
        self.inside = QWidget()
        lines = QVBoxLayout(self.inside)
        lines.setContentsMargins(6, 6, 6, 6)
        lines.setSpacing(4)
        self.top = self._rows(self.scan, self.series)
        self.run_rows = self._rows(self.where)
        self.head = (
            self.top.native,
            self.tabs,
            self.stack,
            self.plan.native,
            self.remedies.native,
            self.run_rows.native,
            _line(self.preview, self.button, self.cancel).native,
            self.bar.native,
            self.status.native,
            self._rows(self.compare).native,
        )
        for widget in self.head:
            lines.addWidget(widget)
        self.folds = {
            "Results": _fold(
                "Results",
                self.notes.native,
                self.legend.native,
                self.look_here,
                self.uncertainty.native,
                self.difference.native,
            ),
            "Display": _fold(
                "Display", self._rows(self.plane, self.convention, self.window_of).native, self.true_geometry.native,
                self.readout.native,
            ),
            "Settings": _fold(
                "Settings",
                self.settings_stack,
                self._rows(_labelled("Model", self.shared["model"], self.about)).native,
                self.card.native,
                self._rows(*(row for name, row in self.shared.items() if name != "model")).native,
                self.refine.native,
                _line(self.model_file, self.unload).native,
            ),
            "Runs": _fold("Runs", RunsView()),
            "Repeat": _fold("Repeat elsewhere", _line(self.copy_command, self.copy_python).native),
        }  # fmt: skip
        for fold in self.folds.values():
            lines.addWidget(fold)
            fold.toggled.connect(lambda _: self.realigning.start())
        # What a high window has to spare goes to the end, and not between the rows.
        lines.addStretch(1)
        self.setWidget(self.inside)
        self.card.visible = False
        self.about.native.setFixedWidth(2 * QFontMetrics(QApplication.font()).height())
        self.look_here.setFixedHeight(LISTED * QFontMetrics(QApplication.font()).lineSpacing() * 3 // 2)
        self.look_here.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.look_here.setToolTip("the widest 90 % intervals; click to go there")
        self.look_here.setVisible(False)
        for widget in (self.scan, self.shared["model"], self.where, self.convention):
            # A long name or path must not push the picture off the screen.
            widget.native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            widget.native.setMinimumContentsLength(8)
        self.setMinimumWidth(WIDTH)
        self.aligned += [rows for one in self.pages.values() for rows in (one.container, one.settings)]

    def _rows(self, *widgets: Any) -> Any:
        rows = Container(widgets=list(widgets), labels=True)
        rows.margins = (0, 0, 0, 0)
        align(list(rows))
        self.aligned.append(rows)
        return rows

    def _turn_page(self, number: int) -> None:
        for stack in (self.stack, self.settings_stack):
            stack.setCurrentIndex(number)
            for index in range(stack.count()):
                # A stack is as high as its highest page, unless the others want no room.
                policy = QSizePolicy.Policy.Preferred if index == number else QSizePolicy.Policy.Ignored
                stack.widget(index).setSizePolicy(QSizePolicy.Policy.Preferred, policy)
            stack.adjustSize()
            stack.setVisible(stack.widget(number).layout().count() > 1)
        needs = self.page.needs_scan
        for widget in (
            self.top, self.run_rows, self.preview, self.compare, self.uncertainty, self.difference, self.refine
        ):  # fmt: skip
            widget.visible = needs
        for name, row in self.shared.items():
            row.visible = name in self.page.rows.shared
        self.button.text = "Run"
        self.realigning.start()
        self.turned_page()

    def turned_page(self) -> None:
        """Another page is shown; for subclasses."""


def in_order() -> list[str]:
    """Tasks as the tabs show them: first the one that makes a plan of the others."""
    return sorted(TASKS, key=lambda name: TASKS[name].plan is None)


def _fold(title: str, *widgets: QWidget) -> QCollapsible:
    fold = QCollapsible(title, expandedIcon="\u25bc", collapsedIcon="\u25b6")
    fold.setDuration(0)  # what moves cannot be clicked
    for widget in widgets:
        fold.addWidget(widget)
        widget.removeEventFilter(fold)  # it would bind the height to what it was before the letters grew
    fold.toggled.connect(fold.content().setVisible)  # what is folded away is not there for the keyboard either
    fold.collapse(animate=False)
    fold.content().setVisible(False)
    return fold


def _text() -> Any:
    """A label that breaks its lines."""
    label = Label(value="")
    label.native.setWordWrap(True)
    label.native.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
    label.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)
    return label


def _line(*widgets: Any) -> Any:
    line = Container(widgets=list(widgets), layout="horizontal", labels=False)
    line.margins = (0, 0, 0, 0)
    return line


def _labelled(label: str, *widgets: Any) -> Any:
    """Several widgets in a row with one label."""
    line = _line(*widgets)
    line.label = label
    return line
