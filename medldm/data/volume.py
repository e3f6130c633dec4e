"""Volume: voxels that never travel without their geometry and their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Voxels = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One thing that was done to a volume.

    Parameters
    ----------
    task : verb, as on the command line (``"denoise"``)
    settings : the options of the verb, JSON-ready
    facts : what came of it, JSON-ready (model, SHA-256, seed, seconds, invented slices, residual)
    derivation : DICOM codes of what was done (value, scheme, meaning)
    """

    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    derivation: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Stored:
    """How the file kept the volume, so that the result can be written the same way.

    Parameters
    ----------
    axes : for each axis of the stored array, the axis of ``Volume.voxels`` it became
    flips : for each axis of the stored array, True where it runs against ``Volume.voxels``
    dtype : voxel type in the file; results go back to it (integers rounded and clipped)
    container : ``"nifti"``, ``"dicom"`` or ``"array"``
    header : the file's own header: a nibabel header, or a DICOM `Frame` for each slice of a series
    thickness_mm : slice thickness along the stored third axis, mm; None where the file does not say
    missing : slices along the stored third axis that were never measured, counted from 0
    modality : name in `medldm.modality.MODALITIES`, or None where the file does not say
    note : sentences worth telling the user (repairs, guesses)
    restored_by : what medldm did to the scan before it was stored, as its header says; empty for an original
    label : distinguishes it from other scans of one DICOM series, ``"TE 80"``; empty where it is the only one
    part : counts the scans of one DICOM series, from 0
    scale : values of scaled intensity 0 and 1 of the scan that this is a part of; None measures them in the voxels
    slice_profile : known profile of the slices, not to be checked; empty where it is not known
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    container: str = "array"
    header: Any = None
    thickness_mm: float | None = None
    missing: tuple[int, ...] = ()
    modality: str | None = None
    note: tuple[str, ...] = ()
    restored_by: str = ""
    label: str = ""
    part: int = 0
    scale: tuple[float, float] | None = None
    slice_profile: str = ""


@dataclass(frozen=True)
class Volume:
    """A scan: voxels, where they are, and what was done to them.

    Parameters
    ----------
    voxels : (X, Y, Z) float32 or the stored integer type; axes point nearest to Right, Anterior, Superior.
        NaN marks voxels that were never measured.
    affine : (4, 4) float64, voxel index to millimetres in RAS+ world space
    name : what to call it in messages (a file or series name, never a patient's)
    history : what was done, oldest first
    stored : how the file kept it
    std : (X, Y, Z) float32 or None, standard deviation of each restored voxel, in the unit of ``voxels``
    half_width : (X, Y, Z) float32 or None, half the width of the calibrated interval around each voxel, same unit

    Raises
    ------
    ValueError
        If ``voxels`` is not three-dimensional or ``affine`` is not a finite, invertible 4 x 4 matrix.
    """

    voxels: Voxels
    affine: Affine
    name: str = "volume"
    history: tuple[Step, ...] = ()
    stored: Stored = field(default_factory=Stored)
    std: Voxels | None = None
    half_width: Voxels | None = None

    def __post_init__(self) -> None:
        voxels, affine = np.asarray(self.voxels), np.array(self.affine, dtype=np.float64)
        if voxels.ndim != 3:
            raise ValueError(f"a Volume has three axes, these voxels have {voxels.ndim}: {voxels.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError(f"an affine is a finite, invertible 4 x 4 matrix, this is\n{affine}")
        for name, spread in (("std", self.std), ("half_width", self.half_width)):
            if spread is not None and spread.shape != voxels.shape:
                raise ValueError(f"{name} has shape {spread.shape}, the voxels have {voxels.shape}")
        affine.flags.writeable = False
        # A read-only view: the caller's own array stays writable, this Volume's does not change under us.
        view = voxels.view()
        view.flags.writeable = False
        object.__setattr__(self, "voxels", view)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along X, Y, Z."""
        x, y, z = self.voxels.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along X, Y, Z, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def slice_axis(self) -> int:
        """Axis of ``voxels`` that the stored third array axis became."""
        return self.stored.axes[2]

    def with_voxels(
        self,
        voxels: Voxels,
        affine: Affine | None = None,
        *,
        step: Step | None = None,
        std: Voxels | None = None,
        half_width: Voxels | None = None,
        stored: Stored | None = None,
    ) -> Volume:
        """A new Volume with new voxels; geometry, name and history are carried along.

        Parameters
        ----------
        voxels : (X', Y', Z') array
        affine : (4, 4), only when the grid changed
        step : what was done, appended to the history
        std, half_width : (X', Y', Z') standard deviation of the new voxels, half the width of their interval
        stored : only when the way of storing changed (missing slices filled, thickness)
        """
        if voxels.shape != self.voxels.shape and affine is None:
            raise ValueError(f"new grid {voxels.shape} needs a new affine (old grid {self.voxels.shape})")
        return replace(
            self,
            voxels=voxels,
            affine=self.affine if affine is None else affine,
            history=self.history + ((step,) if step else ()),
            stored=stored or self.stored,
            std=std,
            half_width=half_width,
        )

    def as_map(self, voxels: Voxels) -> Volume:
        """Another quantity on this grid, an uncertainty or a difference: fractions, and of no DICOM series.

        Parameters
        ----------
        voxels : (X, Y, Z) array

        Returns
        -------
        volume that is stored as float32, whatever type and range the scan is kept in
        """
        dicom = self.stored.container == "dicom"
        stored = replace(
            self.stored,
            dtype=np.dtype(np.float32),
            container="array" if dicom else self.stored.container,
            header=None if dicom else self.stored.header,
        )
        return self.with_voxels(np.asarray(voxels, dtype=np.float32), stored=stored)

    def to_stored(self, array: Voxels) -> Voxels:
        """An array on this grid, with its axes in the order and direction of the file.

        Parameters
        ----------
        array : (X, Y, Z), axes as in ``voxels``

        Returns
        -------
        view of ``array`` with axes as stored
        """
        moved = np.transpose(array, self.stored.axes)
        return moved[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.stored.flips)]

    def from_stored(self, array: Voxels) -> Voxels:
        """The way back of `to_stored`.

        Parameters
        ----------
        array : three axes, in the order and direction of the file
        """
        unflipped = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.stored.flips)]
        return np.transpose(unflipped, np.argsort(self.stored.axes))

    def stored_affine(self) -> Affine:
        """(4, 4) stored voxel index to millimetres in RAS+ world space."""
        index = np.zeros((4, 4))  # stored index -> index into voxels
        index[3, 3] = 1
        for stored_axis, (axis, flip) in enumerate(zip(self.stored.axes, self.stored.flips, strict=True)):
            index[axis, stored_axis] = -1 if flip else 1
            index[axis, 3] += self.voxels.shape[axis] - 1 if flip else 0
        moved: Affine = self.affine @ index
        return moved


def without_voxels(volume: Volume, lost: Any) -> Volume:
    """The scan as if some voxels had never been measured (NaN): their values must not reach the result.

    Parameters
    ----------
    volume : scan
    lost : bool, (X, Y, Z) or broadcastable
    """
    return volume.with_voxels(np.where(lost, np.float32(np.nan), volume.voxels).astype(np.float32))


def merge_filled(volume: Volume, filled: Voxels, where: Any) -> Voxels:
    """The voxels of the scan, bit for bit, with `filled` in their place where `where` is true.

    Parameters
    ----------
    volume : scan
    filled : (X, Y, Z) new voxels, unit of the scan; rounded and clipped where the scan has integers
    where : bool, (X, Y, Z) or broadcastable; voxels that were lost
    """
    dtype = volume.voxels.dtype
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        filled = np.clip(np.rint(filled), limits.min, limits.max)
    merged: Voxels = np.where(where, filled.astype(dtype), volume.voxels)
    return merged


def stored_to_voxel_slices(volume: Volume, stored_slices: Sequence[int], axis: int) -> tuple[int, list[int]]:
    """Slice numbers of the file as indices into ``volume.voxels``, whose axes may be permuted and flipped.

    Parameters
    ----------
    volume : scan
    stored_slices : counted from 0 along `axis`
    axis : of the stored array

    Returns
    -------
    axis of ``voxels``, and indices along it
    """
    voxel_axis = volume.stored.axes[axis]
    count = volume.shape[voxel_axis]
    flip = volume.stored.flips[axis]
    return voxel_axis, [count - 1 - number if flip else number for number in stored_slices]
