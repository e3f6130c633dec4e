"""What each task adds to the dock: its settings, its buttons, its plan."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from magicgui.widgets import CheckBox, ComboBox, Container, PushButton, SpinBox
from napari.layers import Labels, Shapes

from medldm.data.description import vocabulary
from medldm.data.slice_numbers import parse_slices, spell_slices
from medldm.errors import MedldmError, ModelError
from medldm.modality import modality_of
from medldm.settings import make
from medldm.tasks import TASKS, Need
from napari_medldm import display, text, view
from napari_medldm.form_fields import FREE, Rows, align
from napari_medldm.jobs import Outcome
from napari_medldm.layers import layer_data, snapshot
from napari_medldm.regions import Drawn, drawn, filled

if TYPE_CHECKING:
    from napari_medldm.panel import Panel


class TaskPage:
    """The page of one task; this one serves every task that the registry says enough about.

    Parameters
    ----------
    verb : name of the task
    panel : that shows it
    shared : rows that all pages share, by name
    """

    serves: ClassVar[str] = ""  # name of the task that a subclass is made for

    def __init__(self, verb: str, panel: Panel, shared: dict[str, Any]) -> None:
        self.verb, self.panel = verb, panel
        self.task = TASKS[verb]
        self.needs_scan = Need.SCAN in self.task.needs
        self.rows = Rows(self.task.settings, shared)
        # What stands before the buttons is what a run cannot do without; the rest is a setting.
        self.container = Container(widgets=[*self.main_rows(), *self.extras()], labels=True)
        self.container.margins = (0, 0, 0, 0)
        more = [widget for widget in self.rows.own.values() if widget not in list(self.container)]
        self.settings = Container(widgets=more, labels=True)
        self.settings.margins = (0, 0, 0, 0)
        for rows in (self.container, self.settings):
            align(list(rows))

    def main_rows(self) -> list[Any]:
        """Settings beside the buttons; for subclasses."""
        return []

    def extras(self) -> list[Any]:
        """Buttons and choices that only this page has; for subclasses."""
        return []

    def relist(self) -> None:
        """Layers came or went; for subclasses."""

    def close(self) -> None:
        """The dock is gone; for subclasses."""

    def mask(self) -> Any:
        """What is to be filled; for subclasses."""
        return None

    def mask_path(self) -> str | None:
        """The file of the mask in a copied run, None for tasks without one; for subclasses."""
        return None

    def mask_name(self) -> str | None:
        """The same, without making the mask a layer; for subclasses."""
        return None

    def say_plan(self, options: dict[str, Any]) -> None:
        """Say what a run would do, from the geometry of the scan alone."""
        panel = self.panel
        if not self.needs_scan:
            panel.plan.value = str(self.task.settings.__doc__)
            return
        scan = panel.snapshot().empty
        panel.plan.value = text.intent(self.verb, scan, options)
        with suppress(ModelError):  # the card says it already
            panel.plan.value += " " + text.unfit(panel.model, panel.modality, scan, self.verb)


class RestorePage(TaskPage):
    """Look at the scan, say a plan, and do what it needs."""

    serves = "restore"

    def say_plan(self, options: dict[str, Any]) -> None:
        """Ask the computing process for the plan: it needs the noise level."""
        panel = self.panel
        panel.ask("plan", options, lambda end: setattr(panel.plan, "value", end.text), panel.plan)


class DenoisePage(TaskPage):
    """Remove noise."""

    serves = "denoise"

    def main_rows(self) -> list[Any]:
        """The noise level."""
        return [self.rows.widgets["noise"]]

    def extras(self) -> list[Any]:
        """A button that measures the noise."""
        self.estimate = PushButton(text="Estimate noise", tooltip="measure the noise level and fill it in")
        self.estimate.clicked.connect(self.measure)
        return [self.estimate]

    def say_plan(self, options: dict[str, Any]) -> None:
        """Say the level in the unit of the row."""
        super().say_plan(options)
        if options.get("noise") is not None:
            level = modality_of(self.panel.modality).noise
            said = f"{level.shown(options['noise']):.4g} {level.shown_unit}"
            self.panel.plan.value = self.panel.plan.value.replace(f"{options['noise']:g}", said, 1)

    def measure(self) -> None:
        """Measure the noise, and fill in the row."""

        def answered(end: Outcome) -> None:
            self.rows.widgets["noise"].value = end.value
            self.panel.status.value = end.text

        self.panel.ask_simply("noise", {"modality": self.rows.widgets["modality"].value}, answered)


class SuperResolvePage(TaskPage):
    """Thin slices from thick ones."""

    serves = "super-resolve"

    def main_rows(self) -> list[Any]:
        """The wanted spacing."""
        return [self.rows.widgets["spacing"]]


class FillSlicesPage(TaskPage):
    """Fill missing or damaged slices."""

    serves = "fill-slices"

    def main_rows(self) -> list[Any]:
        """The slices."""
        return [self.rows.widgets["missing"]]

    def extras(self) -> list[Any]:
        """Ways to name slices: find them, mark the one on the screen, click on them."""
        self.find = PushButton(text="Find missing slices", tooltip="slices that the file lacks, or that are empty")
        self.mark = PushButton(text="Mark or unmark this slice", tooltip="the slice on the screen")
        self.click = CheckBox(text="Click on slices to mark them", value=False)
        self.find.clicked.connect(self.find_missing)
        self.mark.clicked.connect(self.toggle_shown)
        self.click.changed.connect(self._listen)
        return [self.find, self.mark, self.click]

    def find_missing(self) -> None:
        """Name the slices that the file or its emptiness says are missing."""

        def answered(end: Outcome) -> None:
            self.rows.widgets["missing"].value = end.text
            self.panel.status.value = f"missing: {end.text}" if end.text else "no slice is missing"

        self.panel.ask_simply("missing", {"axis": self.rows.widgets["axis"].value}, answered)

    def toggle_shown(self) -> None:
        """Name the slice on the screen, or take its name away."""
        try:
            scan = self.panel.snapshot()
            axis, _ = self._stack(scan)
            index = scan.on_screen.get(axis)
            if index is None:
                raise ValueError(
                    "The screen shows a plane across the slices. Turn the view until it shows the slices themselves, "
                    "or click on them."
                )
            self.toggle(index)
        except (MedldmError, ValueError) as problem:
            self.panel.status.value = text.for_dock(str(problem))

    def toggle(self, index: int) -> None:
        """Name a slice, or take its name away.

        Parameters
        ----------
        index : along the data axis that slices are counted along
        """
        try:
            scan = self.panel.snapshot()
            axis, flipped = self._stack(scan)
            count = scan.shape[axis]
            entered = self.rows.widgets["missing"].value
            named = set(parse_slices(entered, count)) if entered else set()
        except (MedldmError, ValueError) as problem:
            self.panel.status.value = text.for_dock(str(problem))
            return
        if 0 <= index < count:
            named ^= {count - 1 - index if flipped else index}
            self.rows.widgets["missing"].value = spell_slices(named)

    def _stack(self, scan: Any) -> tuple[int, bool]:
        """The data axis (z, y, x) that slices are counted along, and whether against it."""
        axis: tuple[int, bool] = scan.stack(self.rows.widgets["axis"].value)
        return axis

    def _listen(self, on: bool) -> None:
        calls = self.panel.viewer.mouse_drag_callbacks
        if on and self._clicked not in calls:
            calls.append(self._clicked)
        elif not on and self._clicked in calls:
            calls.remove(self._clicked)

    def close(self) -> None:
        """Listen to no clicks any more."""
        self._listen(False)

    def _clicked(self, _: Any, event: Any) -> None:
        panel = self.panel
        if panel.closed or panel.scan.value is None:
            return
        with suppress(MedldmError, ValueError):
            scan = panel.snapshot()
            index = view.voxel(panel.viewer, panel.scan.value, event.position)
            self.toggle(int(index[self._stack(scan)[0]]))


class GeneratePage(TaskPage):
    """Draw a scan of nobody."""

    serves = "generate"

    def main_rows(self) -> list[Any]:
        """What is asked for: words, or named values."""
        self.rows.widgets["age"].auto.text = FREE
        return [self.rows.widgets[name] for name in ("prompt", "contrast", "region", "sex", "age")]

    def say_plan(self, options: dict[str, Any]) -> None:
        """Show back what was understood, and ask the computing process which model can draw it."""
        panel = self.panel
        if not any(name in options for name in ("prompt", "contrast", "region", "sex", "age", "like")):
            panel.plan.value = f"{self.task.settings.__doc__} Words that count: {vocabulary()}."
            return
        make(self.task.settings, options).description()  # its errors need no model
        panel.ask("draw", options, lambda end: setattr(panel.plan, "value", end.text), panel.plan)


class InpaintPage(TaskPage):
    """Fill a region."""

    serves = "inpaint"

    def extras(self) -> list[Any]:
        """The layer that says where."""
        self.region_layer = ComboBox(
            label="Region",
            choices=lambda _: [layer for layer in self.panel.viewer.layers if isinstance(layer, Labels | Shapes)],
            tooltip="labels: wherever a label is painted; shapes: inside the outlines",
        )
        self.outline = PushButton(text="Draw an outline", tooltip="on the slice on the screen")
        self.deeper = SpinBox(
            label="Slices around", min=0, max=1000, value=0, tooltip="before and after, that an outline also covers"
        )
        self.outline.clicked.connect(self.draw)
        return [self.region_layer, self.outline, self.deeper]

    def relist(self) -> None:
        """Layers came or went."""
        self.region_layer.reset_choices()

    def draw(self) -> None:
        """A shapes layer to draw in, chosen, with the pencil in hand."""
        scan = self.panel.scan.value
        if scan is None:
            self.panel.status.value = "Open or choose a scan first."
            return
        viewer = self.panel.viewer
        shapes = viewer.add_shapes(
            name="region", ndim=max(3, scan.ndim), units=scan.units if scan.ndim > 2 else None, edge_color="red",
            face_color="transparent",
        )  # fmt: skip
        shapes.mode = "add_polygon"
        self.region_layer.value = shapes

    def mask_path(self) -> str | None:
        """The file that the labels were opened from; a name to save them under when there is none."""
        layer = self.region_layer.value
        if isinstance(layer, Shapes):
            self.paint(self.mask(), f"{layer.name} as labels")
        return self.mask_name()

    def mask_name(self) -> str | None:
        """The file of the labels, or what it would be called."""
        layer = self.region_layer.value
        return (isinstance(layer, Labels) and snapshot(layer).file) or "MASK.nii.gz"

    def paint(self, shapes: Drawn, name: str) -> None:
        """Outlines as a labels layer, which can be saved.

        Parameters
        ----------
        shapes : drawn
        name : of the layer; one of that name is replaced
        """
        layers = self.panel.viewer.layers
        if name in layers:
            layers.remove(name)
        scan = self.panel.scan.value
        mask = filled(shapes, self.panel.snapshot()).volumes()[0]
        data, arguments, _ = layer_data(mask, kind="labels", name=name)
        layer = Labels(data, **arguments)
        display.lie_like(scan, layer)
        self.panel.viewer.add_layer(layer)

    def mask(self) -> Any:
        """The region: painted labels, or outlines."""
        layer = self.region_layer.value
        if layer is None:
            raise ValueError("Paint a labels layer or draw in a shapes layer, then choose it as the region.")
        scan = self.panel.snapshot()
        if isinstance(layer, Shapes):
            shapes = drawn(layer, scan, self.deeper.value)
            if not shapes.outlines:
                raise ValueError(f"Draw the region in {layer.name} first.")
            return shapes
        mask = snapshot(layer, self.panel.viewer)
        if display.shown(layer) is None:
            # Labels that napari made lie where the scan is shown, and know of no patient.
            mask = replace(mask, to_world=scan.turn @ mask.to_world)
        return mask


class EditPage(InpaintPage):
    """Draw a region anew."""

    serves = "edit"

    def main_rows(self) -> list[Any]:
        """What the region is to show."""
        return [self.rows.widgets[name] for name in ("prompt", "like", "strength")]


def page(verb: str, panel: Panel, shared: dict[str, Any]) -> TaskPage:
    """The page of a task: one of this module, else one that the registry says enough for."""
    kinds = [*TaskPage.__subclasses__(), *InpaintPage.__subclasses__()]
    own = {kind.serves: kind for kind in kinds}
    other = InpaintPage if Need.MASK in TASKS[verb].needs else TaskPage
    return own.get(verb, other)(verb, panel, shared)
