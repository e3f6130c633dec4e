"""Print which modules a scan walks through when it is super-resolved: `python docs/walk.py`.

A module is entered when code of another one calls a function of it with the scan: with its voxels, or with an object
that holds them. Modules that hand the scan on to others are stations; the others do one thing and return.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import FrameType
from typing import Any

import numpy as np

import medldm
from medldm.samples import sample_path

LEAST = 1000  # voxels; what is smaller is a table, or says which slices are meant
SCAN = "medldm.data.volume"  # to ask a scan for its shape is no step
Tree = dict[tuple[str, ...], list[str]]


def holds_scan(value: Any, depth: int = 2) -> bool:
    """Whether a value is an image, or an object or sequence that holds one."""
    if hasattr(value, "ndim"):
        return value.ndim >= 3 and int(np.prod(value.shape)) >= LEAST
    parts = [getattr(value, field.name, None) for field in fields(value)] if is_dataclass(value) else value
    return depth > 0 and isinstance(parts, list | tuple) and any(holds_scan(part, depth - 1) for part in parts)


def walk(run: Callable[[], Any]) -> Tree:
    """Functions that are called with the scan, by the modules that lead there, in order.

    Parameters
    ----------
    run : what is to be followed
    """
    tree: Tree = {}

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not named(frame) or named(frame) == SCAN:
            return
        path, caller = [named(frame)], frame.f_back
        while caller:
            if named(caller) in path:
                del path[: path.index(named(caller))]  # called back
            elif named(caller):
                path.insert(0, named(caller))
            caller = caller.f_back
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[:count]]
        entered = not frame.f_back or named(frame.f_back) != path[-1]
        if entered and any(holds_scan(value) for value in given):
            functions = tree.setdefault(tuple(path), [])
            if frame.f_code.co_name not in functions:
                functions.append(frame.f_code.co_name)

    sys.setprofile(trace)
    try:
        run()
    finally:
        sys.setprofile(None)
    return tree


def named(frame: FrameType) -> str:
    """Module of a frame, empty outside of medldm."""
    name = str(frame.f_globals.get("__name__", ""))
    return name if name.startswith("medldm") and frame.f_code.co_filename != "<string>" else ""


def main() -> None:
    """Print the tree of modules, and how many there are."""
    logging.disable()
    whole = medldm.read(sample_path("mr"))
    thick = whole.with_voxels(whole.voxels[:, :, ::4], whole.affine @ np.diag([1, 1, 4, 1]))
    options = {"spacing": whole.spacing[2], "noise": 0.03, "model": "brain-mri-2d-fast", "device": "cpu"}
    medldm.super_resolve(thick, **options)  # loads the networks
    tree = walk(lambda: medldm.super_resolve(thick, **options))
    order = {path: number for number, path in enumerate(tree)}
    for path in sorted(tree, key=lambda path: [order.get(path[: n + 1], 0) for n in range(len(path))]):
        print(f"{'  ' * (len(path) - 1)}{path[-1].removeprefix('medldm.')}: {', '.join(tree[path])}")
    modules = {path[-1] for path in tree}
    stations = {module for path in tree for module in path[:-1]}
    print(f"{len(modules)} modules, {len(stations)} of them stations:", ", ".join(sorted(stations)))


if __name__ == "__main__":
    main()
