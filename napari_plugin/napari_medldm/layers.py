"""Layer to Volume and back, through the layer's whole data-to-world transform.

napari shows arrays as (z, y, x); a Volume is (x, y, z) with an affine to RAS millimetres. Our layers lie along the axes
of their scan (see `napari_medldm.display`); a `Snapshot` is in the patient's (z, y, x) again, RAS millimetres.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.volume import Affine, Stored, Volume
from medldm.io import guess_modality, modality_by_name
from medldm.io.arrays import from_array
from medldm.provenance import RunRecord
from medldm.tasks import TASKS
from napari_medldm import display
from napari_medldm.display import SWAP
from napari_medldm.windows import opening

SAMPLED = 500_000  # voxels that tell a grey window
SYNTHETIC = "medldm_synthetic"  # in a layer's metadata, whether it shows nobody
SPARSE = 8  # every so many voxels along an axis tell CT from MR

LayerTuple = tuple[Any, dict[str, Any], str]


def layer_data(volume: Volume, *, kind: str = "image", **more: Any) -> LayerTuple:
    """A volume as what napari makes a layer of.

    Parameters
    ----------
    volume : scan
    kind : ``"image"`` or ``"labels"``
    **more : further layer arguments

    Returns
    -------
    array (Z, Y, X), layer arguments, kind
    """
    array = np.ascontiguousarray(volume.voxels.transpose(2, 1, 0))
    place, shown = display.placed(volume)
    arguments: dict[str, Any] = {"name": volume.name, **place, "metadata": about(volume) | {display.KEY: shown}}
    if kind == "image":
        # napari takes three or four voxels along the last axis for colours.
        arguments |= {"contrast_limits": opening(volume) or contrast(volume.voxels), "rgb": False}
    return array, arguments | more, kind


def series_data(volumes: Sequence[Volume], **more: Any) -> LayerTuple:
    """Volumes on one grid as one four-dimensional layer, the first axis counting them."""
    first = volumes[0]
    array = np.stack([volume.voxels.transpose(2, 1, 0) for volume in volumes])
    place, shown = display.placed(first)
    arguments = {
        "name": first.name,
        "scale": (1, *place["scale"]),
        "translate": (0, *place["translate"]),
        "units": ("pixel", *place["units"]),
        "axis_labels": ("t", *place["axis_labels"]),
        "metadata": about(first) | {display.KEY: shown},
        "contrast_limits": contrast(array),
        "rgb": False,
    }
    return array, arguments | more, "image"


def about(volume: Volume) -> dict[str, Any]:
    """What a layer remembers of its volume: how it was stored, and the record of each run, oldest first."""
    # One voxel stands for all of them: the layer holds the true ones, twice would be a waste of memory.
    frame = replace(volume, voxels=np.broadcast_to(np.zeros(1, volume.voxels.dtype), volume.shape), std=None)
    return {"medldm": frame, "provenance": [RunRecord.of_step(step) for step in volume.history]}


def contrast(voxels: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Grey window: from the darkest to the brightest half percent of what is there."""
    values = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLED)]
    values = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.8])) if values.size else (0.0, 1.0)
    return (low, high) if high > low else (low, low + 1)


@dataclass(frozen=True)
class Origin:
    """What a layer was read from, to tell later whether it still shows that.

    Parameters
    ----------
    path : a file or folder that holds this scan and no other
    mark : of the voxels, see `mark`
    """

    path: str
    mark: int


def mark(array: Any) -> int:
    """A number that changes when voxels do; lazy arrays count as changed."""
    return zlib.crc32(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else -1


@dataclass(frozen=True)
class Snapshot:
    """A layer as it is at one moment; taken on the GUI thread, used on another, whatever happens to the layer.

    Parameters
    ----------
    name : of the layer
    data : array-like, last three axes (Z, Y, X); maybe lazy, read by `load`
    to_world : (4, 4) index (z, y, x) to the patient (z, y, x), RAS mm
    frame : the volume that the layer was made from, without its voxels; None for a foreign layer
    current : index along each axis before the last three
    origin : what the layer was read from; None when medldm did not read it
    turn : (4, 4) world of the viewer to the patient, both (z, y, x), mm
    on_screen : slice that napari shows, by axis 0 to 2; without a viewer the middle one of axis 0
    """

    name: str
    data: Any
    to_world: Affine
    frame: Volume | None = None
    current: tuple[int, ...] = ()
    origin: Origin | None = None
    turn: Affine = field(default_factory=lambda: np.eye(4))
    on_screen: Mapping[int, int] = field(default_factory=dict)

    @property
    def to_view(self) -> Affine:
        """(4, 4) index (z, y, x) to the world of the viewer, mm."""
        view: Affine = np.linalg.solve(self.turn, self.to_world)
        return view

    @property
    def hidden(self) -> int | None:
        """The axis whose slices napari shows; None in 3D."""
        return min(self.on_screen, default=None)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        z, y, x = self.data.shape[-3:]
        return int(z), int(y), int(x)

    @property
    def affine(self) -> Affine:
        """(4, 4) index (x, y, z) to RAS mm."""
        moved: Affine = SWAP @ self.to_world @ SWAP
        return moved

    @property
    def empty(self) -> Volume:
        """The volume with bytes of zero for voxels: for questions of geometry, without reading anything."""
        return self._volume(np.zeros(self.shape, np.uint8))

    @property
    def modality(self) -> str:
        """Name of the modality, for the model that is shown; a lazy layer without a file that says it counts as MR."""
        array = self.data[self.current] if isinstance(self.data, np.ndarray) else np.zeros(self.shape, np.uint8)
        return guess_modality(self._volume(array[::SPARSE, ::SPARSE, ::SPARSE]))[0]

    @property
    def file(self) -> str:
        """The file or folder that holds exactly what the layer shows; empty when it was moved, cropped or edited."""
        if self.origin is None or self.frame is None or self.frame.shape != self.shape[::-1]:
            return ""
        moved = not np.allclose(self.frame.affine, self.affine, atol=1e-4)
        return "" if moved or mark(self.data) != self.origin.mark else self.origin.path

    def said(self, verb: str, path: str) -> dict[str, Any]:
        """Options that say of a copied run what only the layer knows.

        Parameters
        ----------
        verb : as on the command line
        path : `file`; a layer that must be saved first loses what DICOM says beside the voxels
        """
        stored = self.empty.stored
        named = modality_by_name(Path(self.name))
        facts: dict[str, Any] = {}
        if not path and (stored.modality or named):
            facts["modality"] = stored.modality or named
        elif path and stored.modality is None and named:
            facts["modality"] = named
        if hasattr(TASKS[verb].settings, "slice_thickness") and not path and stored.thickness_mm:
            facts["slice_thickness"] = float(stored.thickness_mm)
        return facts

    def load(self, *, every: bool = False) -> Snapshot:
        """The same with its voxels copied out of the layer (and out of disk or dask).

        Parameters
        ----------
        every : all volumes of a series, else the current one
        """
        chosen = self.data if every else self.data[self.current]
        return replace(self, data=np.array(chosen), current=() if every else (0,) * (chosen.ndim - 3))

    def numbers(self, *, every: bool) -> tuple[int, ...]:
        """Numbers of the volumes of a series that are meant; none for a scan of one volume.

        Parameters
        ----------
        every : all of them, else the current one
        """
        if not self.current:
            return ()
        sizes = self.data.shape[:-3]
        return tuple(range(int(np.prod(sizes)))) if every else (int(np.ravel_multi_index(self.current, sizes)),)

    def volumes(self) -> list[Volume]:
        """Every volume of the data, in order."""
        data = np.asarray(self.data)
        return [self._volume(frame) for frame in data.reshape((-1, *data.shape[-3:]))]

    def stack(self, stored_axis: int) -> tuple[int, bool]:
        """The data axis (z, y, x) along which stored slices are counted, and whether against it.

        Parameters
        ----------
        stored_axis : of the file, or of the array where there is none
        """
        stored = self.empty.stored
        if self.frame is None or not self._as_framed():
            return 2 - stored_axis, False  # the array is what is stored
        return 2 - stored.axes[stored_axis], stored.flips[stored_axis]

    def _as_framed(self) -> bool:
        """Whether the axes still run as they did when the file was read."""
        stored = from_array(np.zeros((1, 1, 1), np.uint8), self.affine).stored
        return stored.axes == (0, 1, 2) and not any(stored.flips)

    def _volume(self, array: Any) -> Volume:
        volume = from_array(array.transpose(2, 1, 0), self.affine, name=self.name)
        if self.frame is None or volume.stored.axes != (0, 1, 2) or any(volume.stored.flips):
            return volume
        # The axes still run as they did when the file was read, so what it said about storage still holds.
        same = self.frame.shape == volume.shape and np.allclose(self.frame.affine, volume.affine, atol=1e-4)
        stored = self.frame.stored if same else moved_storage(self.frame, volume)
        return replace(volume, stored=stored, history=self.frame.history)


def moved_storage(frame: Volume, now: Volume) -> Stored:
    """How to store a volume that was moved or cropped since it was read.

    Parameters
    ----------
    frame : as it was read
    now : as it is
    """
    stored = frame.stored
    if stored.container != "dicom" or frame.spacing[frame.slice_axis] == 0:
        return replace(stored, missing=())
    # Result slices refer to source slices by their share of the stack: keep only the sources that the crop covers.
    axis, count = frame.slice_axis, frame.shape[frame.slice_axis]
    edge = np.zeros((4, 2))
    edge[3] = 1
    edge[axis] = [-0.5, now.shape[axis] - 0.5]
    low, high = np.sort((np.linalg.inv(frame.affine) @ now.affine @ edge)[axis] + 0.5).round().astype(int)
    if stored.flips[2]:
        low, high = count - high, count - low
    kept = list(stored.header)[max(0, low) : max(0, high)]
    return replace(stored, missing=(), header=kept if any(path is not None for path in kept) else stored.header)


def snapshot(layer: Any, viewer: Any = None) -> Snapshot:
    """Everything about an image or labels layer that a run needs; cheap, voxels are not touched.

    Parameters
    ----------
    layer : napari image or labels layer
    viewer : whose sliders say which slice and which volume of a series are meant; None means the first volume

    Raises
    ------
    ValueError
        Colours, complex numbers, or an empty layer.
    """
    data = layer.data[0] if getattr(layer, "multiscale", False) else layer.data
    if getattr(layer, "rgb", False):
        raise ValueError(f"{layer.name} is a colour image; medldm restores grey-scale MRI and CT. Split its channels.")
    if np.dtype(data.dtype).kind not in "iufb":
        raise ValueError(f"{layer.name} holds {data.dtype} values; medldm restores real numbers. Take the magnitude.")
    if 0 in data.shape or data.ndim < 2:
        raise ValueError(f"{layer.name} has the shape {tuple(data.shape)}; there is nothing in it to restore.")
    turn = display.left_out(layer)
    seen = display.on_screen(viewer, layer) if viewer is not None and layer in viewer.layers else {}
    before = data.ndim - 3  # axes that count volumes; -1 for a flat image
    current = tuple(seen.get(axis, 0) for axis in range(before))
    slices = {axis - before: index for axis, index in seen.items() if axis >= before}
    if data.ndim == 2:
        data = data[None]
        slices = slices or {0: 0}
    frame = layer.metadata.get("medldm")
    origin = layer.metadata.get("medldm_origin")
    return Snapshot(
        str(layer.name),
        data,
        turn @ _transform(layer),
        frame if isinstance(frame, Volume) else None,
        current,
        origin if isinstance(origin, Origin) else None,
        turn,
        slices,
    )


def millimetres(units: Sequence[Any] | None) -> Any:
    """Millimetres in each unit; pixels, and whatever else is no length, count as millimetres.

    Parameters
    ----------
    units : pint units, as layers have them; None when layers contradict each other
    """
    return np.array([(1 * unit).to("mm").magnitude if unit.is_compatible_with("mm") else 1.0 for unit in units or ()])


def measure_like(scan: Any, result: Any) -> None:
    """Measure a result, which is in mm, in the units of its scan; it stays where it is.

    Parameters
    ----------
    scan, result : napari layers
    """
    units = scan.units[-3:]
    per_unit = millimetres(units)
    if np.ptp(per_unit) > 0:
        return  # axes in different units: mm are as good
    space = min(3, result.ndim)
    factor = np.ones(result.ndim)
    factor[-space:] = 1 / per_unit[0]
    result.scale, result.translate = result.scale * factor, result.translate * factor
    result.units = (*result.units[:-space], *([units[-1]] * space))


def _transform(layer: Any) -> Affine:
    """(4, 4) index (z, y, x) to the viewer's world, mm, of the last three axes; a flat image is 1 mm thick at z = 0."""
    ndim = layer.ndim
    origin = np.array(layer.data_to_world((0.0,) * ndim))
    matrix = np.eye(4)
    size = min(3, ndim)
    for axis in range(size):
        unit = np.zeros(ndim)
        unit[ndim - size + axis] = 1
        column = np.array(layer.data_to_world(tuple(unit))) - origin
        matrix[3 - size : 3, 3 - size + axis] = column[-size:]
    matrix[3 - size : 3, 3] = origin[-size:]
    matrix[3 - size : 3] *= millimetres(layer.units[-size:])[:, None]
    return matrix


def volume_of(layer: Any) -> Volume:
    """The volume that a layer shows now, with the geometry that it has now.

    Parameters
    ----------
    layer : napari image layer

    Raises
    ------
    ValueError
        Not a grey-scale image.
    """
    return snapshot(layer).load().volumes()[0]
