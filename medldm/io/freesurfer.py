"""FreeSurfer's MGH in and out, packed (.mgz) or not, through nibabel."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader, MGHImage

from medldm.data.volume import Volume, Voxels
from medldm.errors import InputError
from medldm.io.compression import kind_of_packing, opened, packed
from medldm.io.image_format import MOST_PACKED, Format, ImageFiles, Loaded, Probe, must_hold
from medldm.io.nifti.reader import PIECE, skip

HEADER = 284  # bytes, with the reserve that follows the numbers
DTYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2"}  # by MGH type
FOOTER = 20  # bytes after the voxels: times and angles of the sequence
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
        with path.open("rb") as raw:
            packing = kind_of_packing(raw.read(16))
        files = ImageFiles(path, path)
        if not packing or packing == "gzip":
            must_hold(math.prod(shape) * dtype.itemsize, files, MOST_PACKED if packing else 1)
        return Probe(files, header, tuple(shape), dtype)

    def load(self, probe: Probe, index: int) -> Loaded:
        """See `Format.load`."""
        path, shape = probe.files.header, probe.shape[:3]
        size = math.prod(shape) * probe.dtype.itemsize
        with opened(path) as stream:
            skip(stream, HEADER + index * size)
            data = stream.read(size)
            if len(data) < size:
                raise InputError(
                    f"{path} is truncated: {len(data):,} of {size:,} bytes of voxels are there. Copy it again from its "
                    "source."
                )
            left = (probe.shape[3] - 1 - index) * size
            while left and (passed := len(stream.read(min(left, PIECE)))):
                left -= passed
            tail = stream.read(FOOTER)
            while stream.read(PIECE):  # a checksum is compared only at the end
                pass
        header = MGHHeader(probe.header.binaryblock[:-FOOTER] + tail.ljust(FOOTER, b"\0"), check=False)
        voxels = np.frombuffer(data, probe.dtype).reshape(shape, order="F")
        note: tuple[str, ...] = ()
        if probe.header["goodRASFlag"] != 1:
            note = (f"{path} does not say how the patient lay: FreeSurfer's coronal slices of 1 mm are assumed.",)
        with np.errstate(all="ignore"):
            affine = np.asarray(probe.header.get_affine(), dtype=np.float64)
        return Loaded(voxels.astype(probe.dtype.newbyteorder("=")), affine, header, note)

    def save(self, voxels: Voxels, volume: Volume, path: Path) -> None:
        """See `Format.save`."""
        known = isinstance(volume.stored.header, MGHHeader)
        header = volume.stored.header.copy() if known else None  # with the sequence's times and angles
        if header is not None:
            header.set_data_dtype(voxels.dtype)
        data = MGHImage(voxels, volume.stored_affine(), header).to_bytes()
        with path.open("wb") as raw:
            if not path.name.lower().endswith(".mgz"):
                raw.write(data)
                return
            with packed(raw, Path("volume.gz")) as stream:
                stream.write(data)
