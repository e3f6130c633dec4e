"""Sample data: the shipped scans, and the brain and a phantom with known damage, so that the truth can be compared.

The phantom is the three-dimensional Shepp-Logan head with the contrast of Toft (1996); its ellipsoids are those of
M. Schabel, "3D Shepp-Logan phantom" (2006).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medldm.modality import CT, MR

if TYPE_CHECKING:
    from medldm.data.volume import Volume
    from napari_medldm.layers import LayerTuple

GAP = range(60, 64)  # slices that the sample with a gap lacks
NOISE = 0.07  # of the 99.5th percentile
THICK = 5  # thin slices in a thick one
SIDE = 128  # voxels and mm along each edge of the phantom
BRIGHT = 1000.0  # its skull, in scanner units
# signal, half axes x y z, centre x y z (the edge of the cube is 1), turn about z in degrees
HEAD = (
    (1.0, 0.69, 0.92, 0.81, 0.0, 0.0, 0.0, 0),
    (-0.8, 0.6624, 0.874, 0.78, 0.0, -0.0184, 0.0, 0),
    (-0.2, 0.11, 0.31, 0.22, 0.22, 0.0, 0.0, -18),
    (-0.2, 0.16, 0.41, 0.28, -0.22, 0.0, 0.0, 18),
    (0.1, 0.21, 0.25, 0.41, 0.0, 0.35, -0.15, 0),
    (0.1, 0.046, 0.046, 0.05, 0.0, 0.1, 0.25, 0),
    (0.1, 0.046, 0.046, 0.05, 0.0, -0.1, 0.25, 0),
    (0.1, 0.046, 0.023, 0.05, -0.08, -0.605, 0.0, 0),
    (0.1, 0.023, 0.023, 0.02, 0.0, -0.606, 0.0, 0),
    (0.1, 0.023, 0.046, 0.02, 0.06, -0.605, 0.0, 0),
)


def mr_sample() -> list[LayerTuple]:
    """The shipped brain scan."""
    return _layers(shipped(MR.name), "brain")


def ct_sample() -> list[LayerTuple]:
    """The shipped crop of a chest CT."""
    return _layers(shipped(CT.name), "chest")


def gap_sample() -> list[LayerTuple]:
    """The brain with four empty slices."""
    return _layers(with_gap(shipped(MR.name)), "brain with a gap")


def noisy_sample() -> list[LayerTuple]:
    """The brain with 7 % of Rician noise."""
    return _layers(with_noise(shipped(MR.name)), "brain with noise")


def thick_sample() -> list[LayerTuple]:
    """The brain in slices five times as thick."""
    return _layers(with_thick_slices(shipped(MR.name)), "brain in thick slices")


def phantom_gap_sample() -> list[LayerTuple]:
    """The phantom with four empty slices."""
    return _layers(with_gap(phantom()), "phantom with a gap")


def phantom_noise_sample() -> list[LayerTuple]:
    """The phantom with 7 % of Rician noise."""
    return _layers(with_noise(phantom()), "phantom with noise")


def phantom_thick_sample() -> list[LayerTuple]:
    """The phantom in slices five times as thick."""
    return _layers(with_thick_slices(phantom()), "phantom in thick slices")


def phantom() -> Volume:
    """The Shepp-Logan head: (SIDE, SIDE, SIDE) float32, 1 mm, centred on the origin."""
    from medldm.io.arrays import from_array

    ends = (SIDE - 1) / SIDE
    x, y, z = np.meshgrid(*[np.linspace(-ends, ends, SIDE)] * 3, indexing="ij", sparse=True)
    head = np.zeros((SIDE,) * 3, np.float32)
    for signal, a, b, c, x0, y0, z0, degrees in HEAD:
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        along, across = (x - x0) * cos + (y - y0) * sin, (y - y0) * cos - (x - x0) * sin
        head[(along / a) ** 2 + (across / b) ** 2 + ((z - z0) / c) ** 2 <= 1] += signal
    affine = np.eye(4)
    affine[:3, 3] = -(SIDE - 1) / 2
    return from_array(BRIGHT * head.clip(0), affine, name="phantom")


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
