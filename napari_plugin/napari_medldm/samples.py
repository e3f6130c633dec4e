"""Sample data."""

from __future__ import annotations

from typing import Any


def mr_sample() -> list[Any]:
    """The shipped brain scan."""
    from medldm.io import read
    from medldm.samples import sample_path
    from napari_medldm.layers import layer_data

    return [layer_data(read(sample_path("mr")))]
