"""NIfTI-1 and NIfTI-2 as one of the formats."""

from __future__ import annotations

from pathlib import Path

from medldm.data.volume import Volume
from medldm.errors import InputError, NotRestorable
from medldm.io.image_format import Format, ImageFiles, Probe
from medldm.io.nifti import header as headers
from medldm.io.nifti.files import HEADER_ENDS, NIFTI_ENDS, PACKINGS, VOXEL_ENDS, magic_of, nifti_files, pair_files
from medldm.io.nifti.reader import probe_nifti, read_nifti
from medldm.io.nifti.writer import copy_nifti, write_nifti


class Nifti(Format):
    """Single files, packed or not, and .hdr/.img pairs."""

    name, title = "nifti", "NIfTI"
    suffixes = NIFTI_ENDS
    part_suffixes = (*HEADER_ENDS, *VOXEL_ENDS)
    written = (".nii.gz", ".nii", *(f".nii{packing}" for packing in PACKINGS[2:]), ".hdr")
    kept = (".nii.gz", ".nii")

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

    def reason_to_skip(self, path: Path) -> str:
        """What the header declares: statistics, labels, colours."""
        try:
            return headers.intent_reason(probe_nifti(path).header) or ""
        except NotRestorable as reason:
            return str(reason)
        except InputError:
            return ""

    def read(self, path: Path, *, volume_index: int | None = None, fix: bool = False) -> Volume:
        """See `read_nifti`."""
        return read_nifti(path, volume_index=volume_index, fix=fix)

    def write(self, volume: Volume, path: Path) -> int:
        """See `write_nifti`."""
        return write_nifti(volume, path)

    def copy(self, source: Path, volume: Volume, path: Path) -> int:
        """See `copy_nifti`."""
        if volume.stored.container == self.name:
            return copy_nifti(source, volume, path)
        return write_nifti(volume, path)
