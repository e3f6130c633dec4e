"""Rows of a widget, one for each knob of a settings dataclass: the same names, defaults, units and ranges as flags."""

from __future__ import annotations

import platform
import re
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, LineEdit, PushButton, SpinBox
from qtpy.QtGui import QFontMetrics
from qtpy.QtWidgets import QApplication, QFileDialog

from medldm.data.description import CONTRASTS, REGIONS
from medldm.modality import MODALITIES, Modality
from medldm.settings import NoiseUnits, Settings, convert
from medldm.zoo import cards
from napari_medldm.text import for_dock

LARGER = 1.25  # napari's letters beside those of the system
LARGEST = 10_000.0  # for knobs without an upper limit
DECIMALS = 3  # of numbers: 5.3 % is not 5 %
LEFT_OUT = ("mask",)  # a layer says it, not a row
EXAMPLE = re.compile(r".*\d")  # of a value, and no word for one
FREE = "any"  # what a choice is called that says nothing
VOCABULARY = {"contrast": CONTRASTS, "region": REGIONS}  # settings that can only mean these
SCAN = "SCAN"  # what a setting calls its value that is the path of a scan


class Automatic(Container):  # type: ignore[misc]
    """A number, or None for "found by medldm"; beside it what the file says, where it says something."""

    def __init__(self, number: Any, label: str, tooltip: str) -> None:
        super().__init__(layout="horizontal", labels=False, label=label, tooltip=tooltip)
        self.auto = CheckBox(value=True, text="automatic", tooltip=tooltip)
        self.number = number
        number.enabled = False
        self.extend([self.auto, self.number])
        self.margins = (0, 0, 0, 0)
        self.auto.changed.connect(self._switched)

    def _switched(self, on: bool) -> None:
        self.number.enabled = not on

    @property
    def value(self) -> Any:
        """The number, or None."""
        return None if self.auto.value else self.number.value

    @value.setter
    def value(self, number: Any) -> None:
        self.auto.value = number is None
        if number is not None:
            self.number.value = number

    def suggest(self, number: float | None) -> None:
        """Show what the file says while the number is found automatically; None where it says nothing."""
        self.auto.text = "automatic" if number is None else "from the file"
        if number is not None and self.auto.value:
            with self.number.changed.blocked():
                self.number.value = number


class Percent(FloatSpinBox):  # type: ignore[misc]
    """A fraction, shown in percent.

    Parameters
    ----------
    factor : of what is shown to the value; 100 for percent, 1 where another unit is meant
    """

    def __init__(self, factor: float = 100.0, **more: Any) -> None:
        self.factor = factor
        super().__init__(**more)

    def get_value(self) -> Any:
        """The fraction."""
        return super().get_value() / self.factor

    def set_value(self, value: Any) -> None:
        """Show a fraction."""
        super().set_value(value * self.factor)


class Text(LineEdit):  # type: ignore[misc]
    """Words that may be left out."""

    def __init__(self, **more: Any) -> None:
        super().__init__(nullable=True, **more)

    def get_value(self) -> Any:
        """The words, or None."""
        text = str(super().get_value() or "").strip()
        return text or None


class ScanPath(Container):  # type: ignore[misc]
    """The path of a scan, or None; a button chooses a file."""

    def __init__(self, label: str, tooltip: str) -> None:
        super().__init__(layout="horizontal", labels=False, label=label, tooltip=tooltip)
        self.path = Text(value="", tooltip=tooltip)
        self.choose = PushButton(text="...", tooltip="choose a file")
        self.choose.native.setFixedWidth(2 * self.choose.native.fontMetrics().height())
        self.extend([self.path, self.choose])
        self.margins = (0, 0, 0, 0)
        self.choose.clicked.connect(self._ask)

    def _ask(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self.native, self.label)
        if path:
            self.path.value = path

    @property
    def value(self) -> Any:
        """The path, or None."""
        return self.path.value

    @value.setter
    def value(self, path: str | None) -> None:
        self.path.value = path or ""


class Models(ComboBox):  # type: ignore[misc]
    """Every card, and the models on disk that were chosen."""

    def __init__(self, **more: Any) -> None:
        self.offered = ["auto", *(card.name for card in cards())]
        # A function, because napari resets the choices of a widget from its menu whenever layers come and go.
        super().__init__(choices=lambda _: self.offered, value="auto", **more)

    def choose(self, path: str) -> None:
        """Offer a model on disk, and choose it."""
        if path not in self.offered:
            self.offered.append(path)
        self.reset_choices()
        self.value = path


def row(knob: Field[Any], hint: Any) -> Any:
    """The widget of one knob.

    Parameters
    ----------
    knob : field of a settings dataclass
    hint : its type
    """
    metadata = knob.metadata
    label = title(knob)
    tip = for_dock(metadata["meaning"] + (f" [{metadata['unit']}]" if metadata.get("unit") else ""))
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if knob.name == "device":
        return ComboBox(label=label, tooltip=tip, choices=devices(), value=knob.default)
    if knob.name == "model":
        return Models(label=label, tooltip=tip)
    if metadata.get("choices"):
        choices = [(choice or FREE, choice) for choice in metadata["choices"]]
        return ComboBox(label=label, tooltip=tip, choices=choices, value=knob.default)
    if knob.name in VOCABULARY:
        choices = [(name or FREE, name) for name in ("", *VOCABULARY[knob.name])]
        return ComboBox(label=label, tooltip=tip, choices=choices, value=knob.default)
    if bool in kinds:
        return CheckBox(label="", text=label, tooltip=tip, value=knob.default)
    if metadata.get("metavar") == SCAN:
        return ScanPath(label, tip)
    if str in kinds or any(get_origin(kind) is tuple for kind in kinds):
        default = "" if knob.default is None else f"{knob.default}"
        return Text(
            label=label,
            tooltip=tip + (f", like {metadata['metavar']}" if EXAMPLE.match(metadata.get("metavar") or "") else ""),
            value=default,
        )
    number = _number(metadata, kinds, knob.default)
    if type(None) in kinds:
        return Automatic(number, label, tip)
    number.label, number.tooltip = label, tip
    return number


def title(knob: Field[Any]) -> str:
    """What a form writes beside a knob."""
    return str(knob.metadata.get("title") or knob.name.replace("_", " ").capitalize())


def _number(metadata: Any, kinds: tuple[Any, ...], default: Any) -> Any:
    low, high = metadata.get("low"), metadata.get("high")
    low, high = 0 if low is None else low, LARGEST if high is None else high
    value = low if default is None else default
    unit = str(metadata.get("unit") or "")
    if float not in kinds:
        made = SpinBox(min=int(low), max=int(high), value=int(value))
    elif isinstance(metadata.get("unit"), NoiseUnits) or unit.startswith("fraction"):
        made = Percent(min=low, max=100 * min(high, 1.0), step=0.1, value=value)
        unit = "%"
    else:
        made = FloatSpinBox(min=low, max=high, value=value, step=0.01 if high <= 1 else 0.1)
    if isinstance(made, FloatSpinBox):
        made.native.setDecimals(DECIMALS)  # a step says nothing about how fine a number may be
        made.native.setSuffix(f" {unit}" if unit and " " not in unit else "")
    return made


class Rows:
    """All rows of one verb; what it has no use for has none.

    Parameters
    ----------
    kind : its settings
    shared : rows that all verbs share, by name; None makes them. A verb that means something else by a name has a row
        of its own
    """

    def __init__(self, kind: type[Settings], shared: dict[str, Any] | None = None) -> None:
        hints = get_type_hints(kind)
        self.kind = kind
        self.hints = hints
        self.knobs = {
            knob.name: knob for knob in fields(kind) if knob.name not in LEFT_OUT and not knob.metadata.get("unused")
        }
        # A field that a class inherits is the same object; one that it declares anew may mean something else.
        common = {knob.name for knob in fields(Settings) if self.knobs.get(knob.name) is knob}
        given = shared or {}
        self.widgets = {
            name: given[name] if name in common and name in given else row(knob, hints[name])
            for name, knob in self.knobs.items()
        }
        self.own = {name: widget for name, widget in self.widgets.items() if name not in common}
        self.shared = {name: widget for name, widget in self.widgets.items() if name in common}

    def suit(self, modality: Modality, thickness_mm: float | None) -> None:
        """Leave out what is about another modality, and show what the file says.

        Parameters
        ----------
        modality : of the chosen scan
        thickness_mm : of its slices, where the file says it
        """
        for name, widget in self.own.items():
            about = next((kind for kind in MODALITIES if name.endswith(f"_{kind}")), modality.name)
            widget.visible = about == modality.name
            number = widget.number if isinstance(widget, Automatic) else widget
            if isinstance(number, Percent) and isinstance(self.knobs[name].metadata["unit"], NoiseUnits):
                _in_units(number, modality)
        if "slice_thickness" in self.own:
            self.own["slice_thickness"].suggest(thickness_mm)

    def options(self) -> dict[str, Any]:
        """What differs from the defaults, as `make` takes it.

        Raises
        ------
        UsageError
            A number that is none.
        """
        options = {}
        for name, knob in self.knobs.items():
            value = self.widgets[name].value
            if isinstance(value, str):
                value = convert(name, value, self.hints[name])
            elif isinstance(value, float):
                value = round(value, 6)  # spin boxes count in steps that binary fractions do not meet
            if value is None:
                value = knob.default
            if value != knob.default:
                options[name] = value
        return options

    def on_change(self, call: Callable[[], None]) -> None:
        """Call when a row of the verb's own changes."""
        for widget in self.own.values():
            widget.changed.connect(lambda _: call())

    def choose_model(self, path: str) -> None:
        """Offer a trained model on disk, and choose it."""
        self.widgets["model"].choose(path)


def _in_units(number: Percent, modality: Modality) -> None:
    """Show a noise level as people read it for a modality: percent of its range, or HU."""
    noise = modality.noise
    factor = noise.shown(1.0)
    if factor != number.factor:
        value = number.value
        number.factor, number.max = factor, min(noise.highest, LARGEST) * factor
        number.value = value
    number.native.setSuffix(f" {noise.shown_unit}")


def devices() -> list[str]:
    """What ``device`` can say on this machine, found without torch, which takes seconds to ask."""
    devices = ["auto", "cpu"]
    cards_there = sorted(Path("/dev").glob("nvidia[0-9]*")) if sys.platform.startswith("linux") else []
    windows = sys.platform == "win32" and Path("C:/Windows/System32/nvcuda.dll").exists()
    if cards_there or windows:
        devices.append("cuda")
    if len(cards_there) > 1:
        devices += [f"cuda:{number}" for number in range(len(cards_there))]
    if sys.platform == "darwin" and platform.machine() == "arm64":
        devices.append("mps")
    return devices


def align(rows: Sequence[Any], *, shown: bool = False) -> None:
    """Make all labels as wide as the widest.

    Parameters
    ----------
    rows : widgets with labels, in one container
    shown : whether they have the letters of their window already; else they are measured in larger ones than now
    """
    labeled = [row._labeled_widget() for row in rows if row._labeled_widget() is not None]
    widest = 0
    for field in labeled:
        field._label_widget.native.ensurePolished()  # a hidden one gets the letters of its window only when it is shown
        letters = field._label_widget.native.fontMetrics() if shown else QFontMetrics(QApplication.font())
        widest = max(widest, letters.horizontalAdvance(field._inner_widget.label))
    for field in labeled:
        field.label_width = widest + 2 if shown else round(LARGER * widest)
