"""What is asked of any image file before its voxels are believed: that it is there, whole, fits and has a geometry."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from medldm.data.volume import Affine
from medldm.errors import GeometryError, InputError, NotRestorable, ResourceError, UsageError
from medldm.system import free_bytes

# Bytes that one byte of a file can become. Deflate packs a block of zeros 1032 times; the others pack them without a
# limit: whether all are there shows when they are read. A number in text takes two bytes, its type up to eight.
MOST_UNPACKED = {"": 1.0, "gzip": 1100.0, "text": 8.0, "hex": 0.5}
MOST_AXES = 7
MADE_MM = (0.001, 100.0)  # voxel edges of anything that a scanner makes
VECTORS = {1004: "matrices", 1005: "matrices", 1006: "displacements", 1007: "vectors"}  # NIfTI intent codes


def must_be_file(path: Path, title: str) -> None:
    """Refuse what is no file, or an empty one.

    Parameters
    ----------
    path : named by the user
    title : of the format

    Raises
    ------
    InputError
    """
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist. Check the path.")
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a {title} file.")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is an empty file. Copy it again from its source.")
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror or problem}.") from problem


def must_fit(size: int, path: Path) -> None:
    """Refuse a file whose voxels do not fit into memory.

    Parameters
    ----------
    size : bytes of voxels
    path : for the message

    Raises
    ------
    ResourceError
    """
    free = free_bytes()
    if 2 * size > free:
        raise ResourceError(
            f"{path} holds {size / 2**30:.1f} GiB of voxels, {free / 2**30:.1f} GiB of memory are free. "
            "Use a machine with more memory, or crop the scan."
        )


def must_hold(promised: int, path: Path, packing: str) -> None:
    """Refuse a header that promises more bytes of voxels than its file can hold.

    Parameters
    ----------
    promised : bytes
    path : file with the voxels
    packing : of the voxels, see `medldm.io.compression.kind_of_packing`; or ``"text"``, ``"hex"``

    Raises
    ------
    InputError
    """
    there = path.stat().st_size
    if promised > there * MOST_UNPACKED.get(packing, math.inf):
        raise InputError(
            f"{path} is truncated or damaged: its header promises {promised:,} bytes of voxels, "
            f"the file has {there:,}. Copy it again from its source."
        )


def must_have(data: bytes, size: int, path: Path) -> bytes:
    """Refuse voxels that are not all there.

    Parameters
    ----------
    data : what was read
    size : bytes that there must be
    path : for the message

    Raises
    ------
    InputError
    """
    if len(data) < size:
        raise InputError(
            f"{path} is truncated: {len(data):,} of {size:,} bytes of voxels are there. Copy it again from its source."
        )
    return data


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuse a stored shape that no image has.

    Raises
    ------
    InputError
    """
    if not 0 < len(shape) <= MOST_AXES or min(shape) < 1:
        raise InputError(f"{name} claims a size of {_times(shape)} voxels; its header is damaged or it holds no image.")


def volumes_of(shape: tuple[int, ...]) -> int:
    """How many volumes a stored shape holds."""
    return int(np.prod(shape[3:], dtype=np.int64))


def volume_grid(
    shape: tuple[int, ...], volume_index: int | None, name: str, intent: int = 0
) -> tuple[tuple[int, int, int], int]:
    """The 3D grid inside a stored shape, and which of its volumes to take.

    Parameters
    ----------
    shape : stored shape; a 2D image is one slice, trailing ones do not count
    volume_index : ``--volume``, counted from 0
    name : of the file, for messages
    intent : NIfTI intent code

    Raises
    ------
    NotRestorable
        Several volumes and none chosen, or a single line of voxels.
    UsageError
        A volume that is not there.
    """
    padded = shape + (1,) * (3 - len(shape))
    if sum(size > 1 for size in shape) < 2:
        raise NotRestorable(f"{name} is no image: {_times(shape)} voxels. medldm restores planes and volumes.")
    count = volumes_of(shape)
    if volume_index is None:
        if count > 1:
            what = (
                f"{count} {VECTORS[intent]} images" if intent in VECTORS else f"{count} volumes (4D: {_times(shape)})"
            )
            raise NotRestorable(f"{name} holds {what}. Choose one with `--volume N`, counted from 0.")
        volume_index = 0
    if not 0 <= volume_index < count:
        raise UsageError(f"{name} has no volume {volume_index}: it holds {count}, counted from 0.")
    x, y, z = padded[:3]
    return (x, y, z), volume_index


def check_affine(affine: Affine, shape: tuple[int, ...], name: str) -> None:
    """Refuse a geometry that is not finite, flat, or of voxels that no scanner makes.

    Parameters
    ----------
    affine : (4, 4), index to mm
    shape : of the grid
    name : of the file, for messages

    Raises
    ------
    GeometryError
    """
    with np.errstate(over="ignore", invalid="ignore"):
        sound = usable(affine)
    if not sound:
        raise GeometryError(
            f"{name} has no usable geometry: its directions or voxel sizes are not finite, zero, or without volume. "
            "Export it again."
        )
    check_sizes(np.linalg.norm(affine[:3, :3], axis=0), shape, name)


def check_sizes(sizes: Affine, shape: tuple[int, ...], name: str) -> None:
    """Refuse voxels that no scanner makes.

    Parameters
    ----------
    sizes : three, mm
    shape : of the grid; an axis with one voxel may have any size
    name : of the file, for messages

    Raises
    ------
    GeometryError
    """
    if any(count > 1 and not MADE_MM[0] <= size <= MADE_MM[1] for count, size in zip(shape, sizes, strict=True)):
        raise GeometryError(
            f"{name} has voxels of {edges(sizes)} mm, which no scanner makes. Correct its voxel size or units."
        )


def usable(affine: Affine) -> bool:
    """Whether an affine is finite, and its three axes span a space.

    Parameters
    ----------
    affine : (4, 4), index to mm
    """
    if not np.isfinite(affine).all():
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((sizes > 0).all() and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3)


def same_place(one: Affine, other: Affine, shape: tuple[int, ...]) -> bool:
    """Whether two affines put every voxel of a grid at the same point, to a hundredth of a voxel.

    Parameters
    ----------
    one, other : (4, 4), index to mm
    shape : of the grid
    """
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in (*shape, 1, 1)[:3]])).reshape(3, -1)
    distances = np.linalg.norm((one - other)[:3] @ np.vstack([corners, np.ones(corners.shape[1])]), axis=0)
    return bool(distances.max() <= 0.01 * np.linalg.norm(other[:3, :3], axis=0).min() + 1e-6 * np.abs(other).max())


def edges(sizes: Affine) -> str:
    """Voxel sizes for a sentence."""
    return " x ".join(f"{size:.4g}" for size in sizes)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
