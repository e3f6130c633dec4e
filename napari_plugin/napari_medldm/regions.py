"""Boxes and masks: what a user points at, as voxels of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from skimage.draw import polygon

from medldm.data.resample import resample_to
from medldm.data.volume import Affine, Volume
from napari_medldm.display import seen
from napari_medldm.layers import Snapshot, millimetres

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # first and behind the last voxel along X, Y, Z


@dataclass(frozen=True)
class Corners:
    """A box in the world (z, y, x), by its eight corners; both the drawn box and the current slice are one.

    Parameters
    ----------
    points : (8, 3) mm
    """

    points: Any


def corners(to_world: Affine, low: Sequence[float], high: Sequence[float]) -> Corners:
    """The world corners of a box of data indices (z, y, x)."""
    ends = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
    return Corners((to_world @ np.vstack([ends, np.ones(8)]))[:3].T)


def current_slice(scan: Snapshot) -> Corners:
    """The slice that the viewer shows; the middle one of the first axis in 3D.

    Parameters
    ----------
    scan : the layer
    """
    axis = scan.hidden or 0
    low, high = [0.0] * 3, [float(n - 1) for n in scan.shape]
    low[axis] = high[axis] = float(scan.on_screen.get(axis, scan.shape[axis] // 2))
    return corners(scan.to_world, low, high)


def around(points: Any, scan: Snapshot) -> Corners:
    """The box of the scan's grid around some of its voxels (z, y, x)."""
    limit = np.array(scan.shape) - 1
    index = np.clip(np.rint(points), 0, limit)
    return corners(scan.to_world, index.min(0), index.max(0))


def box_of(where: Corners, volume: Volume) -> Box:
    """The voxels of a volume inside a world box."""
    world = np.vstack([where.points.T[::-1], np.ones(len(where.points))])
    index = np.rint(np.linalg.solve(volume.affine, world)[:3]).astype(int)
    low, high = index.min(1), index.max(1) + 1
    edges = [
        (int(np.clip(a, 0, n - 1)), int(np.clip(b, 1, n))) for a, b, n in zip(low, high, volume.shape, strict=True)
    ]
    return edges[0], edges[1], edges[2]


def widened(box: Box, shape: Sequence[int], margin: Sequence[int]) -> Box:
    """A box with some context on every side, inside the volume."""
    edges = [(max(0, a - m), min(n, b + m)) for (a, b), n, m in zip(box, shape, margin, strict=True)]
    return edges[0], edges[1], edges[2]


def crop(volume: Volume, box: Box) -> Volume:
    """The part of a volume in a box, where it is; missing slices are counted anew."""
    at = tuple(slice(*span) for span in box)
    affine = volume.affine.copy()
    affine[:3, 3] = (volume.affine @ [*(span[0] for span in box), 1])[:3]
    missing = shifted(volume.stored.missing, volume, box, 2)
    stored = replace(volume.stored, missing=missing, header=None, container="array")
    return Volume(volume.voxels[at], affine, name=volume.name, history=volume.history, stored=stored)


def shifted(slices: Sequence[int], volume: Volume, box: Box, axis: int) -> tuple[int, ...]:
    """Slice numbers of a volume, counted along a stored axis, as slice numbers of its crop."""
    inside = volume.stored.axes[axis]
    first, behind = box[inside]
    start = volume.shape[inside] - behind if volume.stored.flips[axis] else first
    return tuple(k - start for k in slices if 0 <= k - start < behind - first)


def part(result: Volume, crop_shape: Sequence[int], wanted: Box) -> Volume:
    """The wanted box out of a restored crop, whose grid may have become finer.

    Parameters
    ----------
    result : restored crop
    crop_shape : of the crop before
    wanted : voxels of the crop before
    """
    spans = []
    for (a, b), old, new in zip(wanted, crop_shape, result.shape, strict=True):
        low = int(np.floor(a * new / old))
        spans.append((low, max(low + 1, int(np.ceil(b * new / old)))))
    affine = result.affine.copy()
    affine[:3, 3] = (result.affine @ [*(span[0] for span in spans), 1])[:3]
    at = tuple(slice(*span) for span in spans)
    std, half_width = (None if voxels is None else voxels[at] for voxels in (result.std, result.half_width))
    return result.with_voxels(result.voxels[at], affine, std=std, half_width=half_width)


def pasted(wanted: Volume, result: Volume, crop_shape: Sequence[int], box: Box, shape: Sequence[int]) -> Volume:
    """A part of a restored crop on the grid that the whole scan would have, with NaN where nothing was computed.

    Parameters
    ----------
    wanted : part of `result`
    result : restored crop, whose grid may have become finer
    crop_shape : of the crop before
    box : of the crop in the scan
    shape : of the scan
    """
    finer = np.array(result.shape) / np.array(crop_shape)
    count = np.maximum(np.rint(np.array(shape) * finer).astype(int), 1)
    first = np.rint(np.array([low for low, _ in box]) * finer).astype(int)
    inner = np.rint(np.linalg.solve(result.affine, wanted.affine[:, 3])[:3]).astype(int)
    start = np.clip(first + inner, 0, None)
    count = np.maximum(count, start + np.array(wanted.shape))
    affine = wanted.affine.copy()
    affine[:3, 3] = (wanted.affine @ [*(-start), 1])[:3]
    at = tuple(slice(int(a), int(a) + n) for a, n in zip(start, wanted.shape, strict=True))

    def spread(voxels: Any) -> Any:
        whole = np.full(tuple(int(n) for n in count), np.nan, np.float32)
        whole[at] = voxels
        return whole

    std, half_width = (None if one is None else spread(one) for one in (wanted.std, wanted.half_width))
    stored = wanted.as_map(wanted.voxels).stored  # NaN takes fractions
    return wanted.with_voxels(spread(wanted.voxels), affine, std=std, half_width=half_width, stored=stored)


@dataclass(frozen=True)
class Drawn:
    """Outlines of a shapes layer, in voxels of the scan that they were drawn on.

    Parameters
    ----------
    outlines : each (N, 3), index (z, y, x), fractions kept
    deeper : slices that each outline also covers on either side
    """

    outlines: tuple[Any, ...]
    deeper: int = 0


def drawn(layer: Any, scan: Snapshot, deeper: int = 0) -> Drawn:
    """The outlines of a shapes layer; shapes drawn in two dimensions lie on the slice that is shown.

    Parameters
    ----------
    layer : napari shapes layer
    scan : what it was drawn on
    deeper : slices on either side
    """
    outlines = []
    for kind, vertices in zip(layer.shape_type, layer.data, strict=True):
        corner = np.asarray(vertices, float)
        if kind == "ellipse":
            # napari keeps an ellipse as the corners of its bounding rectangle.
            centre, a, b = corner.mean(0), (corner[1] - corner[0]) / 2, (corner[3] - corner[0]) / 2
            angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
            corner = centre + np.cos(angle) * a + np.sin(angle) * b
        world = np.array([layer.data_to_world(tuple(point)) for point in corner])[:, -3:]
        world = world * millimetres(layer.units[-3:])
        flat = world.shape[1] == 2
        if flat:
            world = np.column_stack([np.zeros(len(world)), world])
        # Drawn on a slice, all corners lie in its plane of the viewer.
        axis = 0 if flat else int(np.argmin(np.ptp(world, axis=0)))
        index = seen(scan.to_view, axis if np.ptp(world[:, axis]) < 1e-6 else None, world)
        if flat:
            index[:, 0] = scan.on_screen.get(0, 0)
        outlines.append(index)
    return Drawn(tuple(outlines), deeper)


def filled(shapes: Drawn, scan: Snapshot) -> Snapshot:
    """Outlines as a mask on the grid of the scan.

    Raises
    ------
    ValueError
        A shape that lies in no slice of the scan.
    """
    mask = np.zeros(scan.shape, np.uint8)
    for outline in shapes.outlines:
        index = np.asarray(outline, float).T
        axis = int(np.argmin(np.ptp(index, axis=1)))
        if np.ptp(index[axis]) > 1:
            raise ValueError("A shape lies askew to the slices of the scan; draw it on one slice.")
        plane = np.moveaxis(mask, axis, 0)
        rest = [a for a in range(3) if a != axis]
        rows, columns = polygon(index[rest[0]], index[rest[1]], plane.shape[1:])
        middle = round(float(index[axis].mean()))
        for k in range(max(0, middle - shapes.deeper), min(len(plane), middle + shapes.deeper + 1)):
            plane[k, rows, columns] = 1
    return Snapshot("drawn region", mask, scan.to_world)


def mask_on(volume: Volume, mask: Volume) -> Volume:
    """A mask on the grid of a volume: itself, or its nearest voxels."""
    if mask.shape == volume.shape and np.allclose(mask.affine, volume.affine, atol=1e-3):
        return mask
    there = resample_to(
        replace(mask, voxels=(mask.voxels != 0).astype(np.float32)), volume.affine, volume.shape, "nearest"
    )
    return Volume(np.nan_to_num(there) > 0, volume.affine, name=mask.name)
