"""The dock, as napari's menus open it: one for all tasks, with the task that was asked for in front."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_medldm.panel import Panel

DOCK = "medldm"  # name of the dock


class MedldmWidget(Panel):
    """The panel under the name that manifests use; napari gives it the viewer, see `Panel`."""


def opened(viewer: Any, verb: str) -> MedldmWidget:
    """The dock of a viewer with a task in front; it is added where there is none.

    Parameters
    ----------
    viewer : of napari
    verb : name of the task
    """
    window = viewer.window
    for widget in getattr(window, "dock_widgets", {}).values():
        if isinstance(widget, MedldmWidget) and not widget.closed:
            widget.choose(verb)
            return widget
    _, widget = window.add_plugin_dock_widget("medldm", DOCK)
    widget.choose(verb)
    return widget


def __getattr__(name: str) -> Callable[[Any], Any]:
    """``open_fill_slices``, which the manifest names: a command for each task, those of other packages too."""
    from medldm.tasks import TASKS

    verb = name.removeprefix("open_").replace("_", "-")
    if not name.startswith("open_") or verb not in TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def command(viewer: Any = None) -> Any:
        import napari

        return opened(viewer or napari.current_viewer(), verb)

    command.__name__ = name
    return command
