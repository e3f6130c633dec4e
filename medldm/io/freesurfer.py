"""FreeSurfer's MGH in and out, packed (.mgz) or not, through nibabel."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage

from medldm.data.volume import Volume, Voxels
from medldm.errors import InputError
from medldm.io.checks import must_fit, must_have, must_hold
from medldm.io.compression import finish, opened, packed, packing_of, skip
from medldm.io.image_format import Format, ImageFiles, Loaded, Probe
from medldm.io.restored_before import mark_text, tasks_of

HEADER = 284  # bytes, with the reserve that follows the numbers
DTYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2"}  # by MGH type
FOOTER = 20  # bytes after the voxels: times and angles of the sequence
COMMAND_LINE = b"\0\0\0\3"  # tag after the footer: what a program did, as mri_convert says it
LONGEST_TAGS = 2**20  # bytes
LONGEST = 2**20  # voxels along an axis, and frames


class MGH(Format):
    """FreeSurfer volumes, .mgz or .mgh."""

    name, title = "mgz", "MGZ"
    suffixes = (".mgz", ".mgh", ".mgh.gz")
    written = kept = (".mgz", ".mgh")
    dtypes = ("u1", "i2", "i4", "f4")

    def sniff(self, head: bytes) -> bool:
        """By the magic at its start."""
        if len(head) < HEADER:
            return False
        version, *shape, kind = struct.unpack(">6i", head[:24])
        return version == 1 and kind in DTYPES and all(0 < size <= LONGEST for size in shape)

    def probe(self, path: Path) -> Probe:
        """See `Format.probe`."""
        with opened(path) as stream:
            head = stream.read(HEADER)
        if not self.sniff(head):
            raise InputError(
                f"{path} is no MGZ file: its content does not start with a header of FreeSurfer. Check what it is."
            )
        header = MGHHeader(head, check=False)
        *shape, kind = struct.unpack(">5i", head[4:24])
        dtype = np.dtype(DTYPES[kind])
        must_hold(math.prod(shape) * dtype.itemsize, path, packing_of(path))
        return Probe(ImageFiles(path, path), header, tuple(shape), dtype, spacing=tuple(header["delta"].tolist()))

    def load(self, probe: Probe, index: int) -> Loaded:
        """See `Format.load`."""
        path, shape = probe.files.header, probe.shape[:3]
        size = math.prod(shape) * probe.dtype.itemsize
        must_fit(size, path)
        with opened(path) as stream:
            skip(stream, HEADER + index * size)
            data = must_have(stream.read(size), size, path)
            skip(stream, (probe.shape[3] - 1 - index) * size)
            footer, tags = stream.read(FOOTER), stream.read(LONGEST_TAGS)
            finish(stream)
        header = MGHHeader(probe.header.binaryblock[:-FOOTER] + footer.ljust(FOOTER, b"\0"), check=False)
        mark = re.search(COMMAND_LINE + rb".{8}(medldm [^\0]*)", tags, re.DOTALL)
        voxels = np.frombuffer(data, probe.dtype).reshape(shape, order="F")
        note: tuple[str, ...] = ()
        if probe.header["goodRASFlag"] != 1:
            note = (f"{path} does not say how the patient lay: FreeSurfer's coronal slices of 1 mm are assumed.",)
        with np.errstate(all="ignore"):
            affine = np.asarray(probe.header.get_affine(), dtype=np.float64)
        restored_by = tasks_of(mark[1].decode("utf-8", "replace")) if mark else ""
        return Loaded(voxels.astype(probe.dtype.newbyteorder("=")), affine, header, note, restored_by)

    def save(self, voxels: Voxels, volume: Volume, path: Path) -> None:
        """See `Format.save`."""
        known = isinstance(volume.stored.header, MGHHeader)
        header = volume.stored.header.copy() if known else None  # with the sequence's times and angles
        if header is not None:
            header.set_data_dtype(voxels.dtype)
        data = MGHImage(voxels, volume.stored_affine(), header).to_bytes()
        if text := mark_text(volume).encode():
            data += COMMAND_LINE + struct.pack(">q", len(text) + 1) + text + b"\0"
        kind = Path("volume.gz") if path.name.lower().endswith(".mgz") else path
        with path.open("wb") as raw, packed(raw, kind) as stream:
            stream.write(data)
