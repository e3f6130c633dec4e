"""NIfTI-1 and NIfTI-2 as one of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from medldm.data.volume import Volume, Voxels
from medldm.errors import InputError, NotRestorable
from medldm.io.checks import same_place, volume_grid
from medldm.io.image_format import Format, ImageFiles, Loaded, Probe
from medldm.io.nifti import header as headers
from medldm.io.nifti.files import HEADER_ENDS, NIFTI_ENDS, PACKINGS, VOXEL_ENDS, magic_of, nifti_files, pair_files
from medldm.io.nifti.reader import load_nifti, probe_nifti
from medldm.io.nifti.writer import is_sound_file, save_nifti


class Nifti(Format):
    """Single files, packed or not, and .hdr/.img pairs.

    Integers stay integers unless the header scales them; then the voxels are float32 (float64 where that would lose
    what the integers tell apart), and a result holds the same integers with the same slope. `fix` trusts the sform of a
    file whose sform and qform contradict each other.
    """

    name, title = "nifti", "NIfTI"
    suffixes = NIFTI_ENDS
    part_suffixes = (*HEADER_ENDS, *VOXEL_ENDS)
    written = (".nii.gz", ".nii", *(f".nii{packing}" for packing in PACKINGS[2:]), ".hdr")
    kept = (".nii.gz", ".nii")
    scales = True

    def sniff(self, head: bytes) -> bool:
        """By the magic at its start."""
        return magic_of(head)[0] != ""

    def files(self, path: Path, head: bytes) -> ImageFiles | None:
        """See `Format.files`."""
        return nifti_files(path, head)

    def result_files(self, path: Path) -> tuple[Path, ...]:
        """See `Format.result_files`."""
        return pair_files(path) if path.name.lower().endswith(".hdr") else (path,)

    def probe(self, path: Path) -> Probe:
        """See `Format.probe`."""
        return probe_nifti(path)

    def load(self, probe: Probe, index: int) -> Loaded:
        """See `Format.load`."""
        return load_nifti(probe, index)

    def save(self, voxels: Voxels, volume: Volume, path: Path) -> None:
        """See `Format.save`."""
        save_nifti(voxels, volume, path)

    def is_sound(self, source: Path, path: Path) -> bool:
        """See `Format.is_sound`."""
        return is_sound_file(source, path)

    def objection(self, probe: Probe, volume: Volume) -> str:
        """What nibabel says."""
        path = probe.files.header
        if path.suffix.lower() in (".xz", ".zst"):  # which nibabel may not unpack
            return ""
        grid, _ = volume_grid(probe.shape, None, str(path))
        unit_mm = headers.place_of(probe.header, grid, str(path), fix=True).unit_mm
        try:
            image: Any = nib.load(path)
            image.header.get_xyzt_units()
        except (HeaderDataError, ImageFileError, ValueError, KeyError):
            return "nibabel does not open it"
        there = np.diag([unit_mm] * 3 + [1.0]) @ image.affine
        alike = image.shape == probe.shape and same_place(there, volume.stored_affine(), grid)
        return "" if alike else "nibabel finds its voxels elsewhere"

    def reason_to_skip(self, path: Path) -> str:
        """What the header declares: statistics, labels, colours."""
        try:
            return headers.intent_reason(probe_nifti(path).header) or ""
        except NotRestorable as reason:
            return str(reason)
        except InputError:
            return ""


NIFTI = Nifti()
read_nifti, write_nifti = NIFTI.read, NIFTI.write
