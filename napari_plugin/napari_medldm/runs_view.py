"""The list of runs as a widget: what waits, what goes on, what came of it, and what can be done about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QSize, Qt, QTimer, Signal, Slot
from qtpy.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QElidingLabel, QFlowLayout

from medldm.errors import MedldmError
from napari_medldm.engine import PENDING
from napari_medldm.runs import DONE, FAILED, RUNNING, RUNS, Entry, RunList
from napari_medldm.text import duration

TICK_MS = 1000  # seconds are shown
BAR_PX = 6
NOTHING = "No runs yet. Each run is listed here and stays, also when the widget that started it is closed."


class RunsView(QWidget):  # type: ignore[misc]
    """Rows of runs, newest first; below, buttons and details of the selected one.

    Parameters
    ----------
    runs : None means those of this process
    """

    def __init__(self, runs: RunList | None = None) -> None:
        super().__init__()
        self.runs = RUNS if runs is None else runs
        self.empty = QLabel(NOTHING)
        self.empty.setWordWrap(True)
        self.list = QListWidget()
        self.list.setVerticalScrollMode(QListWidget.ScrollMode.ScrollPerPixel)
        self.list.setResizeMode(QListWidget.ResizeMode.Adjust)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setAccessibleName("runs")
        self.list.setToolTip("Runs, newest first. Select one to see its settings.")
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setAccessibleName("settings and outcome of the selected run")
        self.details.setToolTip("Settings and outcome of the selected run.")
        self.cancel = QPushButton("Cancel")
        self.again = QPushButton("Again")
        self.undo = QPushButton("Undo")
        self.copy_command = QPushButton("Copy as command")
        self.copy_python = QPushButton("Copy as Python")
        self.timer = QTimer(self)
        self.timer.setInterval(TICK_MS)
        self._lay_out()
        self._connect()
        for entry in self.runs.entries:
            self._add(entry)
        self._select(self.list.currentItem())

    @property
    def selected(self) -> Entry | None:
        """The entry of the selected row."""
        item = self.list.currentItem()
        return None if item is None else self._row(item).entry

    def _lay_out(self) -> None:
        self.buttons = QWidget()
        flow = QFlowLayout(self.buttons)  # five buttons in large letters need several lines
        flow.setContentsMargins(0, 0, 0, 0)
        for button in (self.cancel, self.again, self.undo, self.copy_command, self.copy_python):
            flow.addWidget(button)
        layout = QVBoxLayout(self)
        layout.addWidget(self.empty, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.list, 3)
        layout.addWidget(self.buttons)
        layout.addWidget(self.details, 2)

    def _connect(self) -> None:
        # Slots of this object, and no functions around them: Qt cuts such connections when this is destroyed.
        self.runs.added.connect(self._add)
        self.runs.changed.connect(self._change)
        self.runs.removed.connect(self._remove)
        self.list.currentItemChanged.connect(self._select)
        self.timer.timeout.connect(self._tick)
        self.cancel.clicked.connect(self._cancel)
        self.again.clicked.connect(self._again)
        self.undo.clicked.connect(self._undo)
        self.copy_command.clicked.connect(self._copy_command)
        self.copy_python.clicked.connect(self._copy_python)

    # Rows

    def _row(self, item: Any) -> Row:
        row: Row = self.list.itemWidget(item)
        return row

    def _item(self, entry: Entry) -> Any:
        items = (self.list.item(number) for number in range(self.list.count()))
        return next((item for item in items if self._row(item).entry is entry), None)

    @Slot(object)  # type: ignore[untyped-decorator]
    def _add(self, entry: Entry) -> None:
        item, row = QListWidgetItem(), Row(entry)
        self.list.insertItem(0, item)
        self.list.setItemWidget(item, row)
        # Rows become higher with their letters, or with a second line.
        row.grown.connect(item.setSizeHint)
        item.setSizeHint(row.needed)
        self.list.setCurrentItem(item)
        self._start_clock()

    @Slot(object)  # type: ignore[untyped-decorator]
    def _change(self, entry: Entry) -> None:
        item = self._item(entry)
        if item is not None:
            self._row(item).refresh()
        if entry is self.selected:
            self._describe(entry)
        self._start_clock()

    @Slot(object)  # type: ignore[untyped-decorator]
    def _remove(self, entry: Entry) -> None:
        item = self._item(entry)
        if item is not None:
            self.list.takeItem(self.list.row(item))

    # The clock ticks while something runs that can be seen

    def _start_clock(self) -> None:
        if self.isVisible() and self.runs.going_on:
            if not self.timer.isActive():
                self.timer.start()
        else:
            self.timer.stop()

    def _tick(self) -> None:
        for entry in self.runs.going_on:
            self._change(entry)
        self._start_clock()

    def showEvent(self, event: Any) -> None:
        """Qt shows it, maybe in larger letters than those it was made with."""
        super().showEvent(event)
        self._start_clock()
        QTimer.singleShot(0, self._fit)

    @Slot()  # type: ignore[untyped-decorator]
    def _fit(self) -> None:
        """Make rows as high as their letters."""
        for number in range(self.list.count()):
            item = self.list.item(number)
            row = self._row(item)
            row.layout().invalidate()
            item.setSizeHint(row.needed)

    def hideEvent(self, event: Any) -> None:
        """Qt hides it."""
        super().hideEvent(event)
        self.timer.stop()

    # The selected run

    def _select(self, *_: Any) -> None:
        entry = self.selected
        there = entry is not None
        self.empty.setVisible(not there)
        for widget in (self.list, self.buttons, self.details):
            widget.setVisible(there)
        self._describe(entry)

    def _describe(self, entry: Entry | None) -> None:
        _enable(
            self.cancel,
            "" if entry and not entry.over else "This run has ended.",
            "End this run, within two seconds; its result is lost.",
        )
        _enable(self.again, entry.no_again if entry else " ", "Run the same once more.")
        _enable(
            self.undo,
            "" if entry and entry.shown else "No layers of this run are in the viewer.",
            "Remove the layers that this run added.",
        )
        for button, spell, what in (
            (self.copy_command, entry and entry.command, "a command for a terminal"),
            (self.copy_python, entry and entry.python, "Python code"),
        ):
            _enable(button, "" if spell else "This run cannot be copied as text.", f"Copy this run as {what}.")
        text = describe(entry) if entry else ""
        if text != self.details.toPlainText():  # else a selection in it would be lost
            self.details.setPlainText(text)

    def _cancel(self) -> None:
        if self.selected is not None:
            self.selected.cancel()

    def _again(self) -> None:
        if self.selected is not None:
            _or_say(self.selected.again)

    def _undo(self) -> None:
        if self.selected is not None:
            self.selected.undo()

    def _copy_command(self) -> None:
        if self.selected is not None:
            _copy(self.selected.command)

    def _copy_python(self) -> None:
        if self.selected is not None:
            _copy(self.selected.python)


class Row(QWidget):  # type: ignore[misc]
    """Title, state and time of a run; while it waits or runs, and where it failed, a second line.

    Parameters
    ----------
    entry : of the list of runs
    """

    grown = Signal(QSize)

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self.entry = entry
        self.title, self.state, self.what = QElidingLabel(), QLabel(), QElidingLabel()
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(BAR_PX)
        self.bar.setRange(0, 100)
        first = QHBoxLayout()
        first.addWidget(self.title, 1)
        first.addWidget(self.state)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        layout.setSpacing(2)
        layout.addLayout(first)
        layout.addWidget(self.what)
        layout.addWidget(self.bar)
        self.refresh()

    def refresh(self) -> None:
        """Show the entry as it is now."""
        entry = self.entry
        running = entry.state == RUNNING
        timed = running or entry.state == DONE
        state = f"{entry.state}, {duration(entry.seconds)}" if timed else entry.state
        second = entry.text if entry.state == FAILED else ", ".join(filter(None, (entry.what, entry.remaining())))
        if entry.what in PENDING:
            second = ""  # it says no more than its state
        _say(self.title, entry.title)
        _say(self.state, state)
        _say(self.what, second)
        self.what.setVisible(bool(second))
        self.bar.setVisible(running)
        self.bar.setValue(int(100 * entry.share))
        self.bar.setToolTip(f"{int(100 * entry.share)} %")
        self.setToolTip("\n".join(filter(None, (entry.title, state, second))))
        self.setAccessibleName(f"{entry.title}, {state}")

    def event(self, event: Any) -> bool:
        """Qt asks for another layout when a line comes or goes, or letters become larger."""
        handled = bool(super().event(event))
        if event.type() == QEvent.Type.LayoutRequest:
            self.grown.emit(self.needed)
        return handled

    @property
    def needed(self) -> QSize:
        """As high as its letters; the list says how wide."""
        return QSize(0, self.sizeHint().height())


def describe(entry: Entry) -> str:
    """Settings and outcome in lines.

    Parameters
    ----------
    entry : of the list of runs
    """
    begun = entry.started or entry.asked
    lines = [
        f"{entry.title} ({entry.state})",
        f"{'started' if entry.started else 'asked'} at {begun:%H:%M:%S}",
    ]
    if entry.ended is not None:
        lines[-1] += f", ended at {entry.ended:%H:%M:%S}"
    if entry.over and entry.text and entry.text != entry.state:
        lines.append(entry.text)
    said = [f"{name.replace('_', ' ')}: {value}" for name, value in entry.options.items()]
    return "\n".join([*lines, *(said or ["all settings at their defaults"])])


def _say(label: QLabel, text: str) -> None:
    if label.text() != text:
        label.setText(text)


def _enable(button: QPushButton, why_not: str, tooltip: str) -> None:
    button.setEnabled(not why_not)
    button.setToolTip(why_not.strip() or tooltip)


def _or_say(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (MedldmError, ValueError) as problem:
        show_error(str(problem))


def _copy(spell: Callable[[], str] | None) -> None:
    text = spell and _or_say(spell)
    if text:
        QApplication.clipboard().setText(text)
