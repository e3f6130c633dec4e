"""Dock widgets. They hold choices and show progress; the work happens in a thread, the science in medldm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, Label, ProgressBar, PushButton, SpinBox
from napari.layers import Image
from napari.utils.notifications import show_error, show_info

from napari_medldm.layers import layer_data, volume_of
from napari_medldm.worker import start

if TYPE_CHECKING:
    from medldm.volume import Volume


class DenoiseWidget(Container):  # type: ignore[type-arg]
    """Remove noise from the chosen image layer.

    Parameters
    ----------
    napari_viewer : given by napari
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.worker: Any = None
        self.more: dict[str, Any] = {}  # further settings, for scripts
        self.layer = ComboBox(label="scan", choices=self._images)
        self.estimate = CheckBox(label="estimate noise", value=True, text="estimate the noise level")
        self.noise = FloatSpinBox(
            label="noise",
            value=0.05,
            min=0,
            max=1,
            step=0.005,
            enabled=False,
            tooltip="fraction of the 99.5th percentile",
        )
        self.samples = SpinBox(
            label="samples", value=1, min=1, max=16, tooltip="more than one gives the uncertainty as well"
        )
        self.button = PushButton(text="Denoise")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.bar = ProgressBar(label="", value=0, min=0, max=100)
        self.status = Label(value="")
        self.extend(
            [self.layer, self.estimate, self.noise, self.samples, self.button, self.cancel, self.bar, self.status]
        )
        self.estimate.changed.connect(lambda on: setattr(self.noise, "enabled", not on))
        self.button.clicked.connect(self.run)
        self.cancel.clicked.connect(self.stop)
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(lambda _: self.layer.reset_choices())

    def _images(self, _: Any) -> list[Any]:
        return [layer for layer in self.viewer.layers if isinstance(layer, Image)]

    def run(self) -> None:
        """Start, unless something runs already."""
        if self.worker is not None:
            show_info("A restoration is running already.")
            return
        if self.layer.value is None:
            show_error("Open or choose a scan first.")
            return
        try:
            volume = volume_of(self.layer.value)
        except ValueError as problem:
            show_error(str(problem))
            return
        options = self.more | {
            "noise": None if self.estimate.value else self.noise.value,
            "samples": self.samples.value,
        }
        self.button.enabled, self.cancel.enabled, self.status.value = False, True, "loading the model"
        self.worker = start("denoise", volume, options, told=self._told, done=self._done, failed=self._failed)

    def stop(self) -> None:
        """Ask the run to stop; it does so before its next tile."""
        if self.worker is not None:
            self.worker.quit()
            self.status.value = "cancelling"

    def _told(self, step: tuple[int, int, str]) -> None:
        done, total, what = step
        self.bar.value = round(100 * done / max(1, total))
        self.status.value = f"{done} of {total} {what}"

    def _done(self, restored: Volume | None) -> None:
        self._idle()
        if restored is None:
            self.status.value = "cancelled"
            return
        facts = restored.history[-1].facts if restored.history else {}
        self.viewer.add_layer(_image(restored, name=f"{restored.name} denoised"))
        if restored.std is not None:
            spread = restored.with_voxels(restored.std)
            self.viewer.add_layer(_image(spread, name=f"{restored.name} uncertainty", colormap="magma"))
        self.status.value = f"{facts.get('device')}, {facts.get('seconds')} s, {facts.get('peak_memory_mb')} MB"

    def _failed(self, problem: Exception) -> None:
        self._idle()
        self.status.value = "failed"
        show_error(str(problem))

    def _idle(self) -> None:
        self.worker = None
        self.button.enabled, self.cancel.enabled, self.bar.value = True, False, 0


def _image(volume: Volume, **more: Any) -> Any:
    """An image layer of a volume."""
    data, arguments, _ = layer_data(volume, **more)
    return Image(data, **arguments)
