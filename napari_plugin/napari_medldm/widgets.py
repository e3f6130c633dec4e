"""One dock widget a verb; what they share is the panel."""

from __future__ import annotations

from typing import Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, PushButton, SpinBox
from napari.layers import Labels, Shapes

from medldm.data.slice_numbers import parse_slices, spell_slices
from medldm.errors import MedldmError
from medldm.tasks import TASKS
from napari_medldm.jobs import Outcome
from napari_medldm.layers import layer_data, snapshot
from napari_medldm.panel import Panel
from napari_medldm.regions import Drawn, drawn, filled


class RestoreWidget(Panel):
    """Look at the scan, say a plan, and do what it needs."""

    verb = "restore"

    def _say_plan(self, options: dict[str, Any]) -> None:
        # It needs the noise level, so the computing process makes it.
        self.ask("plan", options, lambda end: setattr(self.plan, "value", end.text), self.plan)


class DenoiseWidget(Panel):
    """Remove noise."""

    verb = "denoise"

    def extras(self) -> list[Any]:
        """A button that measures the noise."""
        self.estimate = PushButton(text="Estimate noise")
        self.estimate.clicked.connect(self.measure)
        return [self.estimate]

    def measure(self) -> None:
        """Measure the noise, and fill in the row."""

        def answered(end: Outcome) -> None:
            self.rows.widgets["noise"].value = end.value
            self.status.value = end.text

        self._ask_simply("noise", {"modality": self.rows.widgets["modality"].value}, answered)


class SuperResolveWidget(Panel):
    """Thin slices from thick ones."""

    verb = "super-resolve"


class FillSlicesWidget(Panel):
    """Fill missing or damaged slices."""

    verb = "fill-slices"

    def extras(self) -> list[Any]:
        """Ways to name slices: find them, mark the current one, click on them."""
        self.find = PushButton(text="Find missing slices")
        self.mark = PushButton(text="Mark or unmark current slice")
        self.click = CheckBox(text="click on slices to mark them", value=False)
        self.find.clicked.connect(self.find_missing)
        self.mark.clicked.connect(lambda: self.toggle(self.point))
        self.click.changed.connect(self._listen)
        return [self.find, self.mark, self.click]

    def find_missing(self) -> None:
        """Name the slices that the file or its emptiness says are missing."""

        def answered(end: Outcome) -> None:
            self.rows.widgets["missing"].value = end.text
            self.status.value = f"missing: {end.text}" if end.text else "no slice is missing"

        self._ask_simply("missing", {"axis": self.rows.widgets["axis"].value}, answered)

    def toggle(self, point: Any) -> None:
        """Name the slice at a world point, or take its name away.

        Parameters
        ----------
        point : world (z, y, x)
        """
        try:
            scan = self.snapshot().empty
            axis = scan.stored.axes[self.rows.widgets["axis"].value]
            count = scan.shape[axis]
            entered = self.rows.widgets["missing"].value
            named = set(parse_slices(entered, count)) if entered else set()
        except (MedldmError, ValueError) as problem:
            self.status.value = str(problem)
            return
        place = _index(scan, (0.0, *point))[axis]
        if 0 <= place < count:
            flipped = scan.stored.flips[self.rows.widgets["axis"].value]
            named ^= {count - 1 - place if flipped else place}
            self.rows.widgets["missing"].value = spell_slices(named)

    def _listen(self, on: bool) -> None:
        calls = self.viewer.mouse_drag_callbacks
        if on and self._clicked not in calls:
            calls.append(self._clicked)
        elif not on and self._clicked in calls:
            calls.remove(self._clicked)

    def _clicked(self, _: Any, event: Any) -> None:
        if not self.closed:
            self.toggle(self.in_mm(event.position))


class InpaintWidget(Panel):
    """Fill a region."""

    verb = "inpaint"

    def extras(self) -> list[Any]:
        """The layer that says where."""
        self.region_layer = ComboBox(
            label="region",
            choices=lambda _: [layer for layer in self.viewer.layers if isinstance(layer, Labels | Shapes)],
            tooltip="labels: wherever a label is painted; shapes: inside the outlines",
        )
        self.deeper = SpinBox(label="slices deep", min=0, max=1000, value=0, tooltip="on either side of a shape")
        return [self.region_layer, self.deeper]

    def _relist(self, _: Any = None) -> None:
        super()._relist()
        if not self.closed:
            self.region_layer.reset_choices()

    def mask_path(self) -> str | None:
        """The file that the labels were opened from; a name to save them under when there is none."""
        layer = self.region_layer.value
        if isinstance(layer, Shapes):
            self.paint(self.mask(), f"{layer.name} as labels")
        return (isinstance(layer, Labels) and snapshot(layer).file) or "MASK.nii.gz"

    def paint(self, shapes: Drawn, name: str) -> None:
        """Outlines as a labels layer, which can be saved.

        Parameters
        ----------
        shapes : drawn
        name : of the layer; one of that name is replaced
        """
        if name in self.viewer.layers:
            self.viewer.layers.remove(name)
        mask = filled(shapes, self.snapshot()).volumes()[0]
        data, arguments, _ = layer_data(mask, kind="labels", name=name)
        self.viewer.add_layer(Labels(data, **arguments))

    def mask(self) -> Any:
        """The region: painted labels, or outlines."""
        layer = self.region_layer.value
        if layer is None:
            raise ValueError("Paint a labels layer or draw in a shapes layer, then choose it as the region.")
        if isinstance(layer, Shapes):
            shapes = drawn(layer, (0.0, *self.point), self.deeper.value)
            if not shapes.outlines:
                raise ValueError(f"Draw the region in {layer.name} first.")
            return shapes
        return snapshot(layer, self.point)


def panels() -> dict[str, type[Panel]]:
    """The panel of every task: one of this module, else one that the registry says enough for."""
    own = {kind.verb: kind for kind in Panel.__subclasses__()}
    return {
        name: own.get(name) or type(f"{name.title().replace('-', '')}Widget", (Panel,), {"verb": name})
        for name in TASKS
    }


def __getattr__(name: str) -> type[Panel]:
    """``ToyTaskWidget``, which the manifest names, for a task that has no class here."""
    for kind in panels().values() if name.endswith("Widget") else ():
        if kind.__name__ == name:
            return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _index(scan: Any, point: Any) -> Any:
    """Voxel (x, y, z) of a volume at a world point (z, y, x)."""
    world = [*tuple(point)[-3:][::-1], 1.0]
    return np.rint(np.linalg.solve(scan.affine, world)[:3]).astype(int)
