"""medldm: restore MRI and CT scans, and say how sure the result is.

>>> import medldm
>>> scan = medldm.read("scan.nii.gz")            # doctest: +SKIP
>>> medldm.write(medldm.restore(scan), "out.nii.gz")  # doctest: +SKIP

Importing this package loads neither torch nor MONAI; the first verb does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medldm import benchmark, models, training
    from medldm.data.volume import Volume
    from medldm.io import read, write
    from medldm.qc.inspection import inspect
    from medldm.tasks import denoise, edit, fill_slices, generate, inpaint, restore, super_resolve

_HOMES = {
    "read": "medldm.io",
    "write": "medldm.io",
    "inspect": "medldm.qc.inspection",
    "Volume": "medldm.data.volume",
}
_ROOMS = ("training", "benchmark", "settings", "errors")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "models":
        return importlib.import_module("medldm.models")
    if name in _ROOMS:
        return importlib.import_module(f"medldm.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("medldm")
    if not name.startswith("_"):
        tasks = importlib.import_module("medldm.tasks")
        if (task := name.replace("_", "-")) in tasks.TASKS:
            return tasks.function(task)
    raise AttributeError(f"module 'medldm' has no attribute {name!r}")


def __dir__() -> list[str]:
    from medldm.tasks import TASKS

    return sorted([*_HOMES, *_ROOMS, *(name.replace("-", "_") for name in TASKS), "models", "__version__"])


__all__ = [
    "Volume",
    "benchmark",
    "denoise",
    "edit",
    "fill_slices",
    "generate",
    "inpaint",
    "inspect",
    "models",
    "read",
    "restore",
    "super_resolve",
    "training",
    "write",
]
