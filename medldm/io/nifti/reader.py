"""NIfTI in: single files and pairs, packed or not, as they are stored."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from medldm.data.volume import Voxels
from medldm.errors import InputError
from medldm.io.checks import must_be_file, must_fit, must_have, must_hold, volume_grid
from medldm.io.compression import finish, opened, packing_of, skip
from medldm.io.image_format import ImageFiles, Loaded, Probe
from medldm.io.nifti import header as headers
from medldm.io.nifti.files import base_name, nifti_files
from medldm.io.restored_before import marked


def probe_nifti(path: Path) -> Probe:
    """The header of a NIfTI file, checked against the size of the file; voxels stay where they are.

    Parameters
    ----------
    path : .nii, packed or not whatever its name says, or either half of a .hdr/.img pair

    Raises
    ------
    InputError
        Missing, empty, not NIfTI, or a header that promises more voxels than the file can hold.
    NotRestorable
        Colours or complex numbers.
    """
    path = Path(path)
    must_be_file(path, "NIfTI")
    files = nifti_files(path) or ImageFiles(path, path)
    with opened(files.header) as stream:
        header = headers.read_header(stream, str(files.header))
    if files.is_pair or header["magic"].tobytes()[:2] == b"ni":
        _check_half(files)
    shape, dtype = headers.stored_shape(header, str(path)), headers.stored_dtype(header, str(path))
    must_hold(math.prod(shape) * dtype.itemsize, files.voxels, packing_of(files.voxels))
    spacing = tuple(map(float, header.get_zooms()[:3]))
    return Probe(files, header, shape, dtype, int(header["intent_code"]), spacing)


def load_nifti(probe: Probe, index: int) -> Loaded:
    """One volume of a file; of a single one, all is read as far as its checksum where there is one.

    Parameters
    ----------
    probe : of the file
    index : which volume, counted from 0

    Raises
    ------
    InputError, ResourceError
    """
    name = str(probe.files.header)
    grid, _ = volume_grid(probe.shape, index, name)
    place = headers.place_of(probe.header, grid, name, fix=probe.fix)
    note = (*place.note, *headers.scaling_note(probe.header, name))
    voxels, scaling = _read_voxels(probe, grid, index), headers.scaling_of(probe.header)
    return Loaded(voxels, place.affine, probe.header, note, marked(probe.header), scaling)


def _check_half(files: ImageFiles) -> None:
    if not files.is_pair or not files.voxels.exists():
        name = f"{base_name(files.header)}.img"
        raise InputError(
            f"{files.header} is half of a .hdr/.img pair, and {name} does not lie beside it. Copy both into one folder."
        )
    must_be_file(files.voxels, "NIfTI")


def _read_voxels(probe: Probe, grid: tuple[int, int, int], index: int) -> Voxels:
    """The voxels of one volume as they are stored, in native byte order."""
    size, path = math.prod(grid) * probe.dtype.itemsize, probe.files.voxels
    must_fit(size, path)
    offset = float(probe.header["vox_offset"])
    first = 0 if probe.files.is_pair else (352 if probe.header.sizeof_hdr == 348 else 544)
    # Nearer to the start, bytes of the header would be taken for voxels.
    if offset != 0 and not first <= offset < 2**40:
        raise InputError(
            f"{probe.files.header} says that its voxels start at byte {offset:g}; its header is damaged. "
            "Export it again."
        )
    with opened(path) as stream:
        skip(stream, _start(probe, int(offset) or first) + index * size)
        data = must_have(stream.read(size), size, path)
        if math.prod(probe.shape) == math.prod(grid):
            finish(stream)
    array = np.frombuffer(data, dtype=probe.dtype).reshape(grid, order="F")
    return array.astype(probe.dtype.newbyteorder("="), copy=False)


def _start(probe: Probe, start: int) -> int:
    """Where the voxels begin; in a pair whose header was made for a single file, at the beginning."""
    if not probe.files.is_pair:
        return start
    exact = probe.files.voxels.stat().st_size == math.prod(probe.shape) * probe.dtype.itemsize
    return 0 if exact or probe.header["magic"].tobytes()[:2] == b"n+" else start
