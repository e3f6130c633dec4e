"""Tabs that go on in a second row where one is too narrow; Qt's own would hide what does not fit behind arrows."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QButtonGroup, QPushButton, QSizePolicy, QWidget
from superqt import QFlowLayout

GAP = 3  # pixels between two tabs


class Tabs(QWidget):  # type: ignore[misc]
    """Buttons of which one is down; arrow keys go from one to the next.

    Attributes
    ----------
    currentChanged : signal of the number of the tab that is chosen
    """

    currentChanged = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.group = QButtonGroup(self)
        self.group.setExclusive(True)
        self.group.idToggled.connect(self._toggled)
        self.flow = QFlowLayout(self)
        self.flow.setContentsMargins(0, 0, 0, 0)
        self.flow.setHorizontalSpacing(GAP)
        self.flow.setVerticalSpacing(GAP)
        policy = QSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def add(self, title: str) -> None:
        """Add a tab at the end; the first one is chosen.

        Parameters
        ----------
        title : on it
        """
        number = len(self.group.buttons())
        button = QPushButton(title)
        button.setCheckable(True)
        button.setChecked(number == 0)
        self.group.addButton(button, number)
        self.flow.addWidget(button)

    @property
    def current(self) -> int:
        """Number of the tab that is chosen."""
        return int(self.group.checkedId())

    @current.setter
    def current(self, number: int) -> None:
        self.group.button(number).setChecked(True)

    def _toggled(self, number: int, on: Any) -> None:
        if on:
            self.currentChanged.emit(number)
