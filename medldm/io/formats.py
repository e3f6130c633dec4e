"""What a file is: by its content where it lies, by its name where a result is to lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medldm.errors import MedldmError, UsageError
from medldm.io.compression import LONGEST, kind_of_packing, opened

PACKINGS = ("", ".gz", ".bz2", ".xz", ".zst")
WRITTEN = (".nii.gz", ".nii")
NIFTI_ENDS = tuple(f".nii{packing}" for packing in PACKINGS)
HEADER_ENDS = tuple(f".hdr{packing}" for packing in PACKINGS)
VOXEL_ENDS = tuple(f".img{packing}" for packing in PACKINGS)
# Longest first, so that .nii.gz goes before .gz.
STRIPPED = tuple(sorted((*NIFTI_ENDS, *HEADER_ENDS, *VOXEL_ENDS, *PACKINGS[1:]), key=len, reverse=True))
SIZES = {348: 344, 540: 4}  # size of a NIfTI-1 and a NIfTI-2 header, and where its magic stands
HEAD = 1024  # bytes; a header alone is shorter, an image is longer
# A result called like one of these would surprise: it would be a folder, or hold something else.
NEVER_WRITTEN = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pdf", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh",
    ".mnc", ".rec", ".par", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".ima", ".zip", ".tar", ".tgz", ".7z", ".rar",
    *HEADER_ENDS, *VOXEL_ENDS, *PACKINGS[1:],
)  # fmt: skip


@dataclass(frozen=True)
class NiftiFiles:
    """Where a NIfTI image lies.

    Parameters
    ----------
    header : file that begins with the header
    voxels : file with the voxels: the same one, or the other half of a .hdr/.img pair
    """

    header: Path
    voxels: Path

    @property
    def is_pair(self) -> bool:
        """Whether the header has a file of its own."""
        return self.header != self.voxels

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file, or both."""
        return (self.header, self.voxels) if self.is_pair else (self.header,)


def called_nifti(path: Path) -> bool:
    """Whether a file is called like NIfTI, packed in whatever way; its content may be something else."""
    return path.name.lower().endswith(NIFTI_ENDS)


def is_nifti(path: Path) -> bool:
    """Whether a result of this name is a NIfTI file; of files that are read, `nifti_files` knows what they are."""
    return path.name.lower().endswith(WRITTEN)


def stem(path: Path) -> str:
    """File name without the endings that NIfTI files have; numbers and other dots are part of a name."""
    lower = path.name.lower()
    end = next((each for each in STRIPPED if lower.endswith(each) and len(lower) > len(each)), "")
    return path.name[: len(path.name) - len(end)]


def nifti_files(path: Path) -> NiftiFiles | None:
    """The NIfTI image that a file holds, or is half of, by its content; None when it is none.

    Pairs that SPM, FSL and Analyze left behind are found from either half, in any case and packing. An Analyze header
    counts, so that it is refused in its own words when it is read.

    Parameters
    ----------
    path : any file

    Returns
    -------
    header and voxels; the voxels may not exist
    """
    magic, whole = _look(path)
    lower = path.name.lower()
    if magic == "n+":
        half = not whole and lower.endswith(HEADER_ENDS)
        return NiftiFiles(path, (_other_half(path, VOXEL_ENDS) if half else None) or path)
    if magic == "ni" or (magic == "analyze" and lower.endswith((*HEADER_ENDS, *NIFTI_ENDS))):
        return NiftiFiles(path, _other_half(path, VOXEL_ENDS) or path.with_name(f"{stem(path)}.img"))
    if lower.endswith(VOXEL_ENDS) and (header := _other_half(path, HEADER_ENDS)):
        magic, whole = _look(header)
        if magic in ("ni", "analyze") or (magic == "n+" and not whole):
            return NiftiFiles(header, path)
    return None


def check_result_name(out: Path) -> None:
    """Refuse a name for a result that cannot be meant: a stream, or a format that medldm does not write.

    Parameters
    ----------
    out : as given by the user; a folder that is there already may be called anything

    Raises
    ------
    UsageError
    """
    if str(out) == "-":
        raise UsageError(
            "OUT is `-`, but results are not written to standard output. Name a file that ends in .nii.gz, or a folder."
        )
    lower = out.name.lower()
    if is_nifti(out):
        if lower in WRITTEN:
            raise UsageError(f"{out} has no name before its ending. Call it, for instance, restored{lower}.")
        return
    if lower.endswith(NEVER_WRITTEN) and not out.is_dir():
        raise UsageError(
            f"{out} is called like a file of a format that medldm does not write. "
            "Name a .nii.gz file or a folder as OUT; --preview adds a PNG."
        )


def _look(path: Path) -> tuple[str, bool]:
    """``"n+"`` of a single file, ``"ni"`` of a pair, ``"analyze"`` or nothing; whether more than a header is there."""
    try:
        with path.open("rb") as raw:
            start = raw.read(LONGEST)
        if not (kind_of_packing(start) or _size(start)):
            return "", False
        with opened(path) as stream:
            head = stream.read(HEAD)
    except (MedldmError, OSError):
        return "", False
    if (size := _size(head)) is None or len(head) < size:
        return "", False
    magic = head[SIZES[size] :][:3]
    if magic in (b"n+1", b"n+2", b"ni1", b"ni2"):
        return magic[:2].decode(), len(head) == HEAD
    return ("analyze" if size == 348 else ""), len(head) == HEAD


def _size(start: bytes) -> int | None:
    """Size of the header that a file begins with, in either byte order; None where it is no NIfTI header."""
    first = (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    return next((size for size in SIZES if size in first), None)


def _other_half(path: Path, ends: tuple[str, ...]) -> Path | None:
    name = stem(path)
    candidates = (path.with_name(name + each) for end in ends for each in (end, end.upper()))
    return next((each for each in candidates if each.is_file() and each != path), None)
