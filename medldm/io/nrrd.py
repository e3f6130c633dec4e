"""NRRD in and out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from medldm.data.volume import Affine
from medldm.errors import InputError, NotRestorable
from medldm.io.itk import DTYPES, MARK, ItkFormat, Layout, numbers, put, whole_numbers
from medldm.io.restored_before import tasks_of

UNITS = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 0.001, "µm": 0.001, "micron": 0.001}
SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1), "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
SPATIAL_KINDS = ("domain", "space", "???", "none")
VECTORS = {"vector": 1007, "matrix": 1004, "point": 1007, "gradient": 1007, "normal": 1007, "quaternion": 1007}


class Nrrd(ItkFormat):
    """NRRD; with a detached header NHDR."""

    name, title = "nrrd", "NRRD"
    suffixes = (".nrrd", ".nhdr")
    part_suffixes = (".raw", ".raw.gz", ".raw.bz2")
    written = (".nrrd", ".nhdr")
    kept = (".nrrd",)
    detached, data = ".nhdr", ".raw.gz"

    def sniff(self, head: bytes) -> bool:
        """By the magic at its start."""
        return head.startswith(b"NRRD00")

    def fields(self, path: Path, text: str) -> tuple[dict[str, str], int]:
        """See `ItkFormat.fields`."""
        end = re.search(r"\r?\n\r?\n", text)
        fields: dict[str, str] = {}
        for line in text[: end.start() if end else None].splitlines()[1:]:
            if line.startswith(f"{MARK}:="):
                fields[MARK] = line.removeprefix(f"{MARK}:=")
            elif match := re.match(r"([^#:=][^:=]*):(?!=)\s*(.*)", line):
                put(fields, match[1].strip().lower().replace("datafile", "data file"), match[2].strip(), path)
        return fields, end.end() if end else len(text)

    def layout(self, fields: dict[str, str], start: int, path: Path) -> Layout:
        """See `ItkFormat.layout`."""
        sizes = whole_numbers(fields.get("sizes", ""), path)
        kinds = fields.get("kinds", "").lower().split()
        directions = re.findall(r"\(.*?\)|none", fields.get("space directions", ""))
        # Axes along which no voxel lies beside another hold volumes, components or colours.
        other = [axis for axis, kind in enumerate(kinds) if kind not in SPATIAL_KINDS]
        other += [axis for axis, direction in enumerate(directions) if direction == "none" and axis not in other]
        spatial = [axis for axis in range(len(sizes)) if axis not in other]
        rest = [*spatial[3:], *(axis for axis in other if axis < len(sizes))]
        dtype = DTYPES.get(fields.get("type", "").lower())
        what = " ".join(kinds[axis] for axis in other if axis < len(kinds))
        if "complex" in what:
            raise NotRestorable(f"{path} holds complex numbers; compute the magnitude image and restore that.")
        if "color" in what or (dtype == np.uint8 and [sizes[axis] for axis in rest] in ([3], [4])):
            raise NotRestorable(f"{path} is a colour image (RGB); medldm restores scans with one value per voxel.")
        if dtype is None:
            raise InputError(f"{path} has voxels of a type that is not known here ({fields.get('type')}).")
        encoding = fields.get("encoding", "raw").lower()
        packing = {"raw": "", "gz": "gzip", "bz2": "bzip2", "txt": "text", "ascii": "text"}.get(encoding, encoding)
        lines, skip = (whole_numbers(fields.get(f"{name} skip", "0"), path)[0] for name in ("line", "byte"))
        if lines:
            raise InputError(f"{path} has data after {lines} lines to skip, which is not read. Convert it first.")
        return Layout(
            sizes=tuple(sizes),
            order=(*spatial[:3], *(-1,) * (3 - len(spatial)), *rest),
            dtype=dtype.newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<"),
            packing=packing,
            start=start if packing else None if skip == -1 else start + skip,
            skip=max(skip, 0) if packing else 0,
            affine=self._affine(fields, spatial[:3], directions, path),
            note=()
            if self._signs(fields)
            else (f"{path} does not say how the patient lay (its space is unset): left and right are a guess.",),
            restored_by=tasks_of(f"{MARK} {fields.get(MARK, '')}"),
        )

    def intent(self, fields: dict[str, str]) -> int:
        """See `ItkFormat.intent`."""
        return next((code for kind, code in VECTORS.items() if kind in fields.get("kinds", "").lower()), 0)

    def data_name(self, fields: dict[str, str]) -> str:
        """See `ItkFormat.data_name`."""
        return fields.get("data file", "")

    def _signs(self, fields: dict[str, str]) -> tuple[int, int, int] | None:
        """Signs that turn the space of the file into RAS; None where it does not say which one it is."""
        return SPACES.get(fields.get("space", "").lower().removesuffix("-time").removesuffix("t"))

    def _affine(self, fields: dict[str, str], spatial: list[int], directions: list[str], path: Path) -> Affine:
        affine = np.eye(4)
        if directions:
            for column, axis in enumerate(spatial):
                direction = numbers(directions[axis] if axis < len(directions) else "", path)
                affine[: len(direction[:3]), column] = direction[:3]
            if len(spatial) == 2:  # one slice in space
                normal = np.cross(affine[:3, 0], affine[:3, 1])
                affine[:3, 2] = normal / (np.linalg.norm(normal) or 1)
            origin = numbers(fields.get("space origin", "(0,0,0)"), path)[:3]
            affine[: len(origin), 3] = origin
        else:
            spacings = fields.get("spacings", "").split()
            for column, axis in enumerate(spatial):
                affine[column, column] = numbers(spacings[axis] if axis < len(spacings) else "", path)[0]
        units = re.findall(r'"(.*?)"', fields.get("space units", ""))
        unit_mm = UNITS.get(units[0].strip().lower(), 1.0) if units else 1.0
        ras: Affine = np.diag([*(self._signs(fields) or SPACES["lps"]), 1.0]) @ affine
        ras[:3] *= unit_mm
        return ras
