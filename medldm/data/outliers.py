"""Voxels whose value no scanner measures (a pixel that overflowed, an infinity), kept from the others.

Whatever averages, projects or scales would spread such a value over thousands of voxels. What is bright but real must
not be taken for one: a vessel, fat, metal. Every scanner blurs, so what is real shows in its neighbours, too, with an
eighth of its height or more; what was written by an error ends abruptly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medldm.data.volume import Volume, Voxels

Mask = npt.NDArray[np.bool_]

FAR = 5.0  # ranges away from the median; in 65 scans of eleven scanners nothing lay farther than 2.3
ABSURD = 1000.0  # ranges away from the median pieces of any size are outliers, a line or a plane of them too
HALO = 0.08  # of its height, in the mean of the highest that touch it; the blur of one voxel leaves 0.12 and more there
STEEP = 0.2  # of its height, in anything beside it: anatomy varies there, and part of a thing may lie there
EVEN = 0.3  # of the height of a piece, everywhere in it: what is blurred falls off
LARGEST = 8  # voxels in one piece; larger pieces are things
SAMPLE = 200_000  # voxels that tell the range
LISTED = 100  # outliers whose places a record holds
NAMED = 3  # outliers that are named one by one


@dataclass(frozen=True)
class Outliers:
    """Outliers of one scan.

    Parameters
    ----------
    where : (N, 3) index into ``voxels``
    values : (N,) as they were measured
    """

    where: npt.NDArray[np.intp]
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.where)

    def at(self) -> tuple[npt.NDArray[np.intp], ...]:
        """As an index into an array."""
        return tuple(self.where.T)

    def sentence(self, volume: Volume) -> str:
        """One sentence: which they are, counted as the file counts, and what is done about them.

        Parameters
        ----------
        volume : scan
        """
        numbers = self.stored(volume)
        named = [f"{_spelled(value)} at ({', '.join(map(str, place))})" for place, value in zip(*numbers, strict=True)]
        more = f" and {len(self) - NAMED} more" if len(self) > NAMED else ""
        many = "one voxel that is" if len(self) == 1 else f"{len(self)} voxels that are"
        return (
            f"{volume.name} holds {many} far beyond everything else ({'; '.join(named[:NAMED])}{more}): no scanner "
            "measures that, so the neighbours stand in while the rest is restored."
        )

    def facts(self, volume: Volume) -> dict[str, Any]:
        """For the record: how many there are, and where the first of them lie along the stored axes.

        Parameters
        ----------
        volume : scan
        """
        places, _ = self.stored(volume)
        return {"outliers": len(self), "outliers_at": [list(place) for place in places[:LISTED]]} if len(self) else {}

    def stored(self, volume: Volume) -> tuple[list[tuple[int, ...]], list[float]]:
        """Where they are along the stored axes, counted from 0, and their values."""
        places = []
        for index in self.where:
            along = [
                volume.shape[axis] - 1 - index[axis] if flip else index[axis]
                for axis, flip in zip(volume.stored.axes, volume.stored.flips, strict=True)
            ]
            places.append(tuple(int(number) for number in along))
        return places, [float(value) for value in self.values]


def set_aside(volume: Volume) -> tuple[Volume, Outliers]:
    """A scan without its outliers, for which the median of what is beside them stands in; and what they were.

    Parameters
    ----------
    volume : scan

    Returns
    -------
    the volume itself where it has none
    """
    mask = find_outliers(volume.voxels)
    if not mask.any():
        return volume, Outliers(np.zeros((0, 3), dtype=np.intp), np.zeros(0))
    outliers = Outliers(np.argwhere(mask), volume.voxels[mask])
    voxels = np.array(volume.voxels)
    voxels[mask] = _stand_ins(volume, mask, outliers)
    return volume.with_voxels(voxels, std=volume.std, half_width=volume.half_width), outliers


def find_outliers(voxels: Voxels) -> Mask:
    """Which voxels are outliers.

    Parameters
    ----------
    voxels : (X, Y, Z) stored units; NaN and exact zeros tell nothing of the range, and are none

    Returns
    -------
    (X, Y, Z) bool; nothing where more than half a per cent of the voxels would be
    """
    nothing = np.zeros(voxels.shape, dtype=bool)
    flat = voxels.reshape(-1)
    some = flat[:: max(1, flat.size // SAMPLE)]
    some = some[np.isfinite(some) & (some != 0)].astype(np.float64)
    if some.size < 2:
        return nothing
    low, centre, high = np.percentile(some, [0.5, 50, 99.5])
    reach = max(high - centre, centre - low)
    ends = (float(np.fmin.reduce(flat)), float(np.fmax.reduce(flat)))
    if reach <= 0 or max(abs(end - centre) for end in ends) <= FAR * reach:
        return nothing
    with np.errstate(invalid="ignore", over="ignore"):
        off = (voxels.astype(np.float64) - centre) / reach
    off[np.isnan(off)] = 0
    few = 0.005 * np.count_nonzero(flat) + 1
    # All of it that matters, with what is beside it; labelling a whole body seventeen times would take seconds.
    (core,) = ndimage.find_objects((np.abs(off) > FAR).view(np.uint8))
    box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in core)
    mask = np.zeros(voxels.shape, dtype=bool)
    mask[box] = _far_off(off[box], few)
    return mask


def _far_off(off: Voxels, few: float) -> Mask:
    """Outliers by how far they are off the median; `off` is used up.

    Parameters
    ----------
    off : (X, Y, Z) ranges, signed
    few : voxels that can be outliers
    """
    mask = np.zeros(off.shape, dtype=bool)
    if np.isinf(off).sum() <= few:
        mask = np.isinf(off)
        off[mask] = 0
    limit = float(np.abs(off[np.isfinite(off)]).max())
    while limit > FAR:  # from the top down, so that a spike beside a higher one is seen by itself
        limit = max(limit * EVEN, FAR)
        suspects = np.abs(off) > limit
        if 0 < suspects.sum() <= few:
            mask = mask | _without_halo(off, suspects)
            off[mask] = 0
    return mask


def _without_halo(off: Voxels, suspects: Mask) -> Mask:
    """Pieces of what is suspected that are as high everywhere and end abruptly.

    Parameters
    ----------
    off : (X, Y, Z) distance from the median, ranges, signed
    suspects : (X, Y, Z)
    """
    cube, sure = np.ones((3, 3, 3)), np.zeros(off.shape, dtype=bool)
    pieces, _ = ndimage.label(suspects, cube)
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        wide = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
        piece, here = pieces[wide] == number, off[wide]
        around, faces = (ndimage.binary_dilation(piece, shape) & ~piece for shape in (cube, None))
        low, high = np.abs(here[piece]).min(), np.abs(here[piece]).max()
        if not around.any() or low < EVEN * high or (low < ABSURD and piece.sum() > LARGEST):
            continue
        # What blur adds to its neighbours is counted from what lies around, towards the value of the piece itself.
        ground, side = np.median(here[around]), np.sign(here[piece][0])
        raised = side * (here - ground)
        # Of all that touches it the highest, since a thick slice's neighbours across may show nothing.
        beside = np.sort(raised[faces])[-max(3, piece.sum()) :]
        if beside.mean() < HALO * high and raised[around].max() < STEEP * high:
            sure[wide] |= piece
    return sure


def _stand_ins(volume: Volume, mask: Mask, outliers: Outliers) -> npt.NDArray[Any]:
    """(N,) median of the measured voxels beside each outlier, of those in its own thin planes where they are thin."""
    voxels, finest = volume.voxels, min(volume.spacing)
    near = [1 if mm <= 1.6 * finest else 0 for mm in volume.spacing]
    instead = []
    for index in outliers.where:
        if _in_an_empty_plane(voxels, index):
            instead.append(0.0)
            continue
        known = voxels[:0]
        for reach in range(1, 9):
            box = tuple(
                slice(max(0, place - reach * step), place + reach * step + 1)
                for place, step in zip(index, near, strict=True)
            )
            known = voxels[box][~mask[box]]
            known = known[np.isfinite(known)]
            if known.size:
                break
        instead.append(float(np.median(known)) if known.size else 0.0)
    return np.array(instead)


def _in_an_empty_plane(voxels: Voxels, index: npt.NDArray[np.intp]) -> bool:
    """Whether all that is beside a voxel in one of its planes is zero: a lost slice must still look like one."""
    for axis in range(3):
        box = tuple(
            slice(place, place + 1) if along == axis else slice(max(0, place - 1), place + 2)
            for along, place in enumerate(index)
        )
        if np.count_nonzero(voxels[box]) == 1 < voxels[box].size:
            return True
    return False


def _spelled(value: float) -> str:
    return f"{value:.6g}"
