"""MetaImage in and out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medldm.data.volume import Affine
from medldm.errors import GeometryError, InputError, NotRestorable
from medldm.io.itk import DTYPES, LPS, MARK, ItkFormat, Layout, numbers, put, whole_numbers
from medldm.io.restored_before import tasks_of


class MetaImage(ItkFormat):
    """MetaImage; with a detached header MHD."""

    name, title = "mha", "MetaImage"
    suffixes = (".mha", ".mhd")
    part_suffixes = (".raw", ".zraw")
    written = (".mha", ".mhd")
    kept = (".mha",)
    detached, data = ".mhd", ".zraw"

    def sniff(self, head: bytes) -> bool:
        """By the first fields: there is no magic."""
        start = re.match(rb"\s*(ObjectType|ObjectSubType|Comment|NDims|BinaryData)\s*=", head)
        return bool(start and re.search(rb"^\s*NDims\s*=", head, re.MULTILINE))

    def fields(self, path: Path, text: str) -> tuple[dict[str, str], int]:
        """See `ItkFormat.fields`."""
        fields: dict[str, str] = {}
        end = 0
        for line in text.split("\n"):
            end += len(line) + 1
            name, _, value = line.partition("=")
            put(fields, name.strip().lower(), value.strip(), path)
            if name.strip().lower() == "elementdatafile":
                return fields, end
        raise InputError(f"{path} does not say where its voxels are; its header is damaged. Export it again.")

    def layout(self, fields: dict[str, str], start: int, path: Path) -> Layout:
        """See `ItkFormat.layout`."""
        axes = whole_numbers(fields.get("dimsize", ""), path)
        count = len(axes)
        if whole_numbers(fields.get("ndims", ""), path) != [count]:
            raise InputError(f"{path} contradicts itself about its axes; its header is damaged. Export it again.")
        kind = fields.get("elementtype", "").lower()
        dtype = DTYPES.get(kind.removesuffix("_array")) if kind.startswith("met_") else None
        if dtype is None:
            raise InputError(f"{path} has voxels of a type that is not known here ({fields.get('elementtype')}).")
        channels = whole_numbers(fields.get("elementnumberofchannels", "1"), path)[0]
        if dtype == np.uint8 and channels in (3, 4):
            raise NotRestorable(f"{path} is a colour image (RGB); medldm restores scans with one value per voxel.")
        several = channels != 1  # components are stored together, before the axes
        order = [axis + several for axis in range(count)]
        order = [*order[:3], *(-1,) * (3 - count), *order[3:], *([0] if several else [])]
        packed = _is_true(fields.get("compresseddata", "false"))
        packing = "gzip" if packed else "" if _is_true(fields.get("binarydata", "true")) else "text"
        header_size = whole_numbers(fields.get("headersize", "0"), path)[0]
        if header_size < 0 and packed:
            raise InputError(f"{path} has packed data at an unknown place, which are not read. Convert it first.")
        big = _first(fields, "binarydatabyteordermsb", "elementbyteordermsb") or "false"
        matrix = _first(fields, "transformmatrix", "orientation", "rotation")
        note = () if matrix else (f"{path} does not say how the patient lay: left and right are a guess.",)
        return Layout(
            sizes=(*([channels] if several else []), *axes),
            order=tuple(order),
            dtype=dtype.newbyteorder(">" if _is_true(big) else "<"),
            packing=packing,
            start=None if header_size < 0 else header_size or start,
            skip=0,
            affine=self._affine(fields, matrix, count, path),
            note=note,
            restored_by=tasks_of(f"{MARK} {fields.get(MARK, '')}"),
        )

    def data_name(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.data_name`."""
        name = fields["elementdatafile"]
        return "" if name.lower() == "local" else name or "."

    def _affine(self, fields: dict[str, str], matrix: str, count: int, path: Path) -> Affine:
        spacing = numbers(_first(fields, "elementspacing", "elementsize"), path)
        offset = numbers(_first(fields, "offset", "origin", "position") or "0 " * count, path)
        directions = numbers(matrix, path) if matrix else list(np.eye(count).ravel())
        if len(spacing) < count or len(offset) < count or len(directions) != count**2:
            raise GeometryError(f"{path} does not say where each of its {count} axes leads. Export it again.")
        axes = min(count, 3)
        affine = np.eye(4)
        # A row of the matrix is the direction of an axis.
        affine[:axes, :axes] = np.reshape(directions, (count, count)).T[:axes, :axes] * spacing[:axes]
        affine[:axes, 3] = offset[:axes]
        ras: Affine = LPS @ affine
        return ras


def _first(fields: dict[str, str], *names: str) -> str:
    return next((fields[name] for name in names if fields.get(name)), "")


def _is_true(text: str) -> bool:
    return text.lower().startswith(("t", "1", "y"))
