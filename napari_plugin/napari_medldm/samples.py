"""Sample data: the shipped scans, and the brain with known damage, so that the truth is there to compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medldm.volume import Volume
    from napari_medldm.layers import LayerTuple

GAP = range(60, 64)  # slices that the sample with a gap lacks
NOISE = 0.07  # of the 99.5th percentile
THICK = 5  # thin slices in a thick one


def mr_sample() -> list[LayerTuple]:
    """The shipped brain scan."""
    return _layers(shipped("mr"), "brain")


def ct_sample() -> list[LayerTuple]:
    """The shipped crop of a chest CT."""
    return _layers(shipped("ct"), "chest")


def gap_sample() -> list[LayerTuple]:
    """The brain with four empty slices."""
    return _layers(with_gap(shipped("mr")), "brain with a gap")


def noisy_sample() -> list[LayerTuple]:
    """The brain with 7 % of Rician noise."""
    return _layers(with_noise(shipped("mr")), "brain with noise")


def thick_sample() -> list[LayerTuple]:
    """The brain in slices five times as thick."""
    return _layers(with_thick_slices(shipped("mr")), "brain in thick slices")


def shipped(name: str) -> Volume:
    """A shipped scan."""
    from medldm.io import read
    from medldm.samples import sample_path

    return read(sample_path(name))


def with_gap(scan: Volume) -> Volume:
    """The scan with the slices of `GAP` set to zero."""
    voxels = scan.voxels.copy()
    stored = voxels.view()
    scan.to_stored(stored)[:, :, list(GAP)] = 0
    return scan.with_voxels(voxels)


def with_noise(scan: Volume) -> Volume:
    """The magnitude of the scan with Gaussian noise in both parts of its complex signal."""
    draw = np.random.default_rng(0)
    level = NOISE * float(np.percentile(scan.voxels[scan.voxels > 0], 99.5))
    noisy = np.hypot(scan.voxels + draw.normal(0, level, scan.shape), draw.normal(0, level, scan.shape))
    return scan.with_voxels(noisy.astype(np.float32))


def with_thick_slices(scan: Volume) -> Volume:
    """The mean of every `THICK` slices."""
    from dataclasses import replace

    count = scan.shape[2] // THICK
    blocks = scan.voxels[:, :, : count * THICK].astype(np.float32)
    voxels = blocks.reshape(*scan.shape[:2], count, THICK).mean(-1)
    affine = scan.affine.copy()
    # The centre of the first thick slice lies between the thin ones that it was made of.
    affine[:3, 3] += affine[:3, 2] * (THICK - 1) / 2
    affine[:3, 2] *= THICK
    stored = replace(scan.stored, thickness_mm=scan.spacing[2] * THICK)
    return scan.with_voxels(voxels, affine, stored=stored)


def _layers(scan: Volume, name: str) -> list[LayerTuple]:
    from napari_medldm.layers import layer_data

    return [layer_data(scan, name=name)]
