"""The dock widget that all verbs share: it holds choices and shows progress; the work happens elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, FloatSlider, Label, ProgressBar, PushButton
from napari.layers import Image, Labels, Layer, Shapes
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QApplication, QComboBox, QSizePolicy

from medldm.errors import MedldmError, ModelError
from medldm.settings import VERBS, make
from napari_medldm import words
from napari_medldm.engine import ENGINE
from napari_medldm.jobs import Order, Outcome
from napari_medldm.layers import Snapshot, measure_like, millimetres, snapshot
from napari_medldm.regions import Corners, around, current_slice, drawn
from napari_medldm.rows import Rows
from napari_medldm.worker import End, Failure, Run, start

SETTLED_MS = 400  # a plan is made when nothing was changed for this long
WIDTH = 440  # pixels; below that rows are cut off, the bar that scrolls down included
UNSAVED = {"the scan": "SCAN.nii.gz", "the region": "MASK.nii.gz"}  # names in a copied run of what lies in no file
LARGER = 1.25  # napari's letters beside those of the system
SLICE, ALL, ONE = "current slice", "all volumes", "current volume"


class Panel(Container):  # type: ignore[misc]
    """Choose a scan and settings, see the plan, preview, run, compare.

    Parameters
    ----------
    napari_viewer : given by napari
    """

    verb: ClassVar[str] = "restore"
    title: ClassVar[str] = "Restore"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(scrollable=True)
        self.viewer = napari_viewer
        self.run_now: Run | None = None
        self.clock = words.Clock()
        self.closed = False
        self.questions: dict[int, Run] = {}  # the newest question for each label; older answers come too late
        self.rows = Rows(VERBS[self.verb])
        self.scan = ComboBox(label="scan", choices=lambda _: self._layers(Image))
        self.series = ComboBox(label="series", choices=[ONE, ALL], value=ONE, visible=False)
        self.plan = _text()
        self.model_file = PushButton(text="Model from file...")
        self.card = _text()
        self.where = ComboBox(label="preview of", choices=lambda _: [SLICE, *self._layers(Shapes)])
        self.preview = PushButton(text="Preview")
        self.button = PushButton(text=self.title)
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.unload = PushButton(text="Unload model")
        self.difference = CheckBox(text="difference layer", value=False)
        self.bar = ProgressBar(label="", value=0, min=0, max=100)
        self.status = _text()
        self.compare = FloatSlider(label="before / after", min=0, max=1, value=1, enabled=False)
        self.copy_command = PushButton(text="Copy as command line")
        self.copy_python = PushButton(text="Copy as Python")
        self.more = CheckBox(text="more settings", value=False)
        self.advanced = Container(widgets=[*self.rows.shared[1:], self.model_file], visible=False)
        self.pair: tuple[Any, Any] = (_nothing, _nothing)
        self.timer = QTimer()
        self.timer.setSingleShot(True)
        self._build()
        self._connect()
        self.changed_scan()
        self.describe()

    @property
    def native(self) -> Any:
        """The Qt widget to dock: the scroll area, which magicgui calls root, and not what is inside of it."""
        return self.root_native_widget

    def extras(self) -> list[Any]:
        """Rows that only one verb has; for subclasses."""
        return []

    def mask(self) -> Any:
        """What `inpaint` fills; for subclasses."""
        return None

    def mask_path(self) -> str | None:
        """The file of the mask in a copied run, None for verbs without one; for subclasses."""
        return None

    def _build(self) -> None:
        self.extend([self.scan, self.series, *self.rows.own, *self.extras(), self.rows.widgets["model"], self.card])
        self.extend([self.more, self.advanced, self.plan, self.difference, self.where])
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

    def _connect(self) -> None:
        self.button.clicked.connect(self.run)
        self.preview.clicked.connect(self.run_preview)
        self.cancel.clicked.connect(self.stop)
        self.unload.clicked.connect(self.free)
        self.copy_command.clicked.connect(lambda: self._copy(words.command_line))
        self.copy_python.clicked.connect(lambda: self._copy(words.python))
        self.compare.changed.connect(self._blend)
        self.more.changed.connect(lambda on: setattr(self.advanced, "visible", on))
        self.model_file.clicked.connect(self._ask_for_model)
        self.scan.changed.connect(lambda _: self.changed_scan())
        self.rows.on_change(self.later)
        self.timer.timeout.connect(self.describe)
        layers = self.viewer.layers.events
        layers.inserted.connect(self._relist)
        layers.removed.connect(self._relist)
        self.native.setMinimumWidth(WIDTH)
        # The widget dies with its window; what still runs must not talk to it afterwards.
        me = weakref.ref(self)
        self.native.destroyed.connect(lambda: _close(me))

    # What is chosen

    def _layers(self, kind: type[Layer]) -> list[Any]:
        return [layer for layer in self.viewer.layers if isinstance(layer, kind) and not isinstance(layer, Labels)]

    def _relist(self, _: Any = None) -> None:
        if self.closed:
            return
        for widget in (self.scan, self.where):
            widget.reset_choices()
        if self.pair[1]() not in self.viewer.layers or self.pair[0]() not in self.viewer.layers:
            self.compare.enabled = False

    @property
    def point(self) -> tuple[float, ...]:
        """World coordinates of what the viewer shows, mm."""
        return self.in_mm(self.viewer.dims.point)

    def in_mm(self, position: Sequence[float]) -> tuple[float, ...]:
        """A position of the viewer, in mm; it counts in the units that layers agree on, else in those of the scan."""
        factors = np.ones(len(position))
        units = getattr(self.viewer.layers.extent, "units", None)  # napari 0.6 has none
        if units is None and self.scan.value is not None:
            units = self.scan.value.units
        if units is not None:
            factors[-len(units) :] = millimetres(units[-len(position) :])
        return tuple((np.asarray(position) * factors).tolist())

    def snapshot(self) -> Snapshot:
        """The chosen layer as it is now.

        Raises
        ------
        ValueError
            None is chosen, or it is no scan.
        """
        if self.scan.value is None:
            raise ValueError("Open or choose a scan first.")
        return snapshot(self.scan.value, self.point)

    def options(self) -> dict[str, Any]:
        """Settings that differ from the defaults, checked.

        Raises
        ------
        UsageError
        """
        found = self.rows.options()
        make(VERBS[self.verb], found)
        return found

    def _order(self, where: Corners | None = None) -> Order:
        scan = self.snapshot()
        every = self.several and self.series.value == ALL and where is None
        return Order(self.verb, scan, self.options(), self.mask(), where, every, self.difference.value)

    def _ask_for_model(self) -> None:
        from qtpy.QtWidgets import QFileDialog

        path, _ = QFileDialog.getOpenFileName(self.native, "A trained model", "", "Models (*.json *.safetensors)")
        if path:
            self.rows.choose_model(path)

    # What will happen

    @property
    def several(self) -> bool:
        """Whether the chosen layer holds several volumes; Qt calls the row of a hidden window invisible."""
        layer = self.scan.value
        return layer is not None and layer.ndim > 3 and not layer.rgb

    def changed_scan(self) -> None:
        """Another layer was chosen."""
        self.series.visible = self.several
        self.later()

    def later(self) -> None:
        """Make the plan anew, once the user has stopped turning knobs."""
        if not self.closed:
            self.timer.start(SETTLED_MS)

    def describe(self) -> None:
        """Say the plan and the model."""
        if self.closed:
            return
        self._forget(self.plan)
        try:
            self._say_card()
            if self.scan.value is None:
                self.plan.value = "Open or choose a scan first."
                return
            self._say_plan(self.options())
        except (MedldmError, ValueError) as problem:
            self.plan.value = str(problem)

    def _say_card(self) -> None:
        try:
            self.card.value = words.describe(self.rows.widgets["model"].value, self.modality, self.verb)
        except ModelError as problem:
            self.card.value = str(problem)

    @property
    def modality(self) -> str:
        """Of the chosen scan, as chosen or as it seems; MR while there is none."""
        said = self.rows.widgets["modality"].value
        if said != "auto":
            return str(said)
        return "mr" if self.scan.value is None else self.snapshot().modality

    def _say_plan(self, options: dict[str, Any]) -> None:
        scan = self.snapshot().empty
        self.plan.value = words.intent(self.verb, scan, options)
        with suppress(ModelError):  # the card says it already
            self.plan.value += " " + words.unfit(self.rows.widgets["model"].value, self.modality, scan, self.verb)

    def ask(self, verb: str, options: dict[str, Any], answered: Callable[[Outcome], None], into: Any) -> None:
        """Ask the computing process something short: a plan, a noise level.

        Parameters
        ----------
        verb : one of `jobs.ASKED`
        options : of the verb
        answered : gets the outcome
        into : label that tells the wait, or what went wrong
        """

        def done(end: End) -> None:
            if self.closed or self.questions.get(id(into)) is not asked:
                return
            if isinstance(end, Outcome):
                answered(end)
            else:
                into.value = "" if end is None else end.words

        order = Order(verb, self.snapshot(), options)
        self._forget(into)
        into.value = "looking at the scan..."
        self.questions[id(into)] = asked = start(order, told=lambda _: None, done=done)

    def _forget(self, into: Any) -> None:
        """Wait no longer for what was asked for a label; a question that still waits for its turn is dropped."""
        older = self.questions.pop(id(into), None)
        if older is not None:
            older.stop()

    def _ask_simply(self, verb: str, options: dict[str, Any], answered: Callable[[Outcome], None]) -> None:
        try:
            self.ask(verb, options, answered, self.status)
        except (MedldmError, ValueError) as problem:
            self.status.value = str(problem)

    # The run

    def run(self) -> None:
        """Restore the whole volume, unless something runs already."""
        self._begin(lambda: self._order())

    def run_preview(self) -> None:
        """Restore the current slice, or the box that was drawn."""
        self._begin(lambda: self._order(self.region()))

    def region(self) -> Corners:
        """Where the preview looks, in the world."""
        scan = self.snapshot()
        chosen = self.where.value
        if isinstance(chosen, Shapes):
            outlines = drawn(chosen, self.point).outlines
            if not outlines:
                raise ValueError(f"Draw a rectangle in {chosen.name} first.")
            return around(np.concatenate(outlines), scan)
        dims = self.viewer.dims
        # The axis of space that is not shown; the first one where all are (in 3D), whatever else a slider moves.
        hidden = [axis - dims.ndim + 3 for axis in dims.not_displayed if axis >= dims.ndim - 3]
        return current_slice(scan, (0.0, *self.point), min(hidden, default=0))

    def _begin(self, order: Callable[[], Order]) -> None:
        if self.run_now is not None:
            show_info("A restoration is running already. Cancel it, or wait for its end.")
            return
        try:
            wanted = order()
        except (MedldmError, ValueError) as problem:
            show_error(str(problem))
            return
        self._forget(self.status)
        self.clock = words.Clock()
        self._busy(True)
        self.status.value = "starting"
        before = weakref.ref(self.scan.value)
        self.run_now = start(wanted, told=self._told, done=lambda end: self._done(end, before))

    def stop(self) -> None:
        """Stop the run, within two seconds."""
        if self.run_now is not None:
            self.run_now.stop()
            self.status.value = "cancelling"

    def free(self) -> None:
        """Free the model's memory."""
        if ENGINE.busy:
            show_info("The model is at work. Cancel the run first.")
            return
        ENGINE.unload()
        self.status.value = "The model is unloaded."

    def _busy(self, on: bool) -> None:
        self.button.enabled, self.preview.enabled, self.cancel.enabled = not on, not on, on
        self.bar.value = 0

    def _told(self, news: tuple[int, int, str]) -> None:
        if self.closed or self.run_now is None or self.run_now.wish.is_set():
            return
        done, total, _ = news
        self.bar.value = round(100 * done / max(1, total))
        self.status.value = self.clock.words(*news)

    def _done(self, end: End, before: Any) -> None:
        self.run_now = None
        if self.closed:
            return
        self._busy(False)
        if end is None:
            self.status.value = "cancelled"
        elif isinstance(end, Failure):
            self.status.value = end.words
            show_error(end.words)
        else:
            self.bar.value = 100
            self.status.value = end.words
            self._show(end, before())

    def _show(self, outcome: Outcome, before: Any) -> None:
        added = [Image(data, **arguments) for data, arguments, _ in outcome.layers]
        if not added:
            show_info(outcome.words)
            return
        for layer in added[1:]:
            layer.visible = False
        self._add(before, added)
        result = added[0]
        if before is None or before not in self.viewer.layers:
            show_info("The scan was removed during the run; its result was added all the same.")
            return
        result.contrast_limits_range = before.contrast_limits_range
        result.contrast_limits, result.colormap = before.contrast_limits, before.colormap
        self.viewer.layers.link_layers([before, result], ("contrast_limits", "gamma"))
        self.pair = (weakref.ref(before), weakref.ref(result))
        self.compare.enabled, self.compare.value = True, 1
        self.viewer.layers.selection.active = result

    def _add(self, before: Any, layers: list[Any]) -> None:
        """Add results, in the units of the scan: napari shows layers of several units apart, or warns."""
        for layer in layers:
            if before is not None:
                measure_like(before, layer)
            self.viewer.add_layer(layer)

    def _blend(self, share: float) -> None:
        before, after = self.pair[0](), self.pair[1]()
        if before in self.viewer.layers and after in self.viewer.layers:
            before.visible = after.visible = True
            before.opacity, after.opacity = 1.0, share

    def _copy(self, spell: Callable[..., str]) -> None:
        try:
            scan, options = self.snapshot(), self.options()
            path = scan.file
            options = scan.said(self.verb, path) | options
            text = spell(self.verb, options, path, mask=self.mask_path(), volumes=self._numbers(scan))
        except (MedldmError, ValueError) as problem:
            show_error(str(problem))
            return
        QApplication.clipboard().setText(text)
        first = [f"{what} as {name}" for what, name in UNSAVED.items() if name in text]
        self.status.value = f"copied; save {' and '.join(first)} first" if first else "copied"

    def _numbers(self, scan: Snapshot) -> tuple[int, ...]:
        """Which volumes of a 4D file are restored; none for a file of one volume."""
        if not scan.current:
            return ()
        sizes = scan.data.shape[:-3]
        if self.series.value == ALL:
            return tuple(range(int(np.prod(sizes))))
        return (int(np.ravel_multi_index(scan.current, sizes)),)


def _close(panel: weakref.ref[Panel]) -> None:
    """The window is gone: stop what runs, and say nothing any more."""
    me = panel()
    if me is not None:
        me.closed = True
        for run in [*me.questions.values(), *([me.run_now] if me.run_now is not None else [])]:
            run.stop()


def _nothing() -> None:
    """A weak reference to nothing."""


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
    widest = max(letters.horizontalAdvance(each._inner_widget.label) for each in labeled)
    for each in labeled:
        each.label_width = round(LARGER * widest)


def _line(*widgets: Any) -> Any:
    line = Container(widgets=list(widgets), layout="horizontal", labels=False)
    line.margins = (0, 0, 0, 0)
    return line
