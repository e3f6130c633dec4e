"""Which modules a scan walks through: `python docs/walk.py` super-resolves a small scan and prints them in order.

A module counts when one of its functions is called with the scan, by a function of another module: with its voxels or
an object that holds them, such as a `Volume` or what a step of the pipeline returns.
"""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch

import medldm
from medldm.samples import sample_path

LEAST = 1000  # voxels of a scan, or of a batch of its planes; a mask of slices or a table has fewer


def holds_scan(value: Any, depth: int = 2) -> bool:
    """Whether a value is the scan, or an object or sequence that holds it."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.ndim >= 3 and int(np.prod(value.shape)) >= LEAST
    if depth and isinstance(value, list | tuple):
        return any(holds_scan(item, depth - 1) for item in value)
    return depth > 0 and is_dataclass(value) and any(
        holds_scan(getattr(value, field.name, None), depth - 1) for field in fields(value)
    )


def walk(run: Any) -> list[tuple[str, str]]:
    """Modules of medldm and their functions that are called with the scan, in order.

    Parameters
    ----------
    run : called without arguments
    """
    steps: list[tuple[str, str]] = []

    def trace(frame: FrameType, event: str, _: Any) -> None:
        name = str(frame.f_globals.get("__name__", ""))
        if event != "call" or not name.startswith("medldm") or frame.f_code.co_filename == "<string>":
            return
        caller = str(frame.f_back.f_globals.get("__name__", "")) if frame.f_back else ""
        count = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
        given = [frame.f_locals.get(argument) for argument in frame.f_code.co_varnames[:count]]
        if caller != name and any(holds_scan(value) for value in given):
            steps.append((name, frame.f_code.co_name))

    sys.setprofile(trace)
    try:
        run()
    finally:
        sys.setprofile(None)
    return steps


def main() -> None:
    """Print the walk, and how many modules it enters."""
    whole = medldm.read(sample_path("mr"))
    thick = whole.with_voxels(whole.voxels[:, :, ::4], whole.affine @ np.diag([1, 1, 4, 1]))
    options = {"spacing": whole.spacing[2], "noise": 0.03, "model": "brain-mri-2d-fast", "device": "cpu"}
    medldm.super_resolve(thick, **options)  # loads the networks
    steps = walk(lambda: medldm.super_resolve(thick, **options))
    for number, (module, function) in enumerate(steps):
        print(module, function)
    print(len({module for module, _ in steps}), "modules")


if __name__ == "__main__":
    main()
