"""Which files a NIfTI image lies in: one, or a header and its voxels, in any packing."""

from __future__ import annotations

from pathlib import Path

from medldm.io.image_format import HEAD, ImageFiles, head_of, without

PACKINGS = ("", ".gz", ".bz2", ".xz", ".zst")
NIFTI_ENDS = tuple(f".nii{packing}" for packing in PACKINGS)
HEADER_ENDS = tuple(f".hdr{packing}" for packing in PACKINGS)
VOXEL_ENDS = tuple(f".img{packing}" for packing in PACKINGS)
SIZES = {348: 344, 540: 4}  # size of a NIfTI-1 and a NIfTI-2 header, and where its magic stands


def nifti_files(path: Path, head: bytes | None = None) -> ImageFiles | None:
    """The NIfTI image that a file holds, or is half of, by its content; None when it is none.

    Pairs that SPM, FSL and Analyze left behind are found from either half, in any case and packing. An Analyze header
    counts, so that it is refused in its own words when it is read.

    Parameters
    ----------
    path : any file
    head : its first 1024 bytes, unpacked; read where not given

    Returns
    -------
    header and voxels; the voxels may not exist
    """
    magic, whole = magic_of(head_of(path) if head is None else head)
    lower = path.name.lower()
    if magic == "n+":
        half = not whole and lower.endswith(HEADER_ENDS)
        return ImageFiles(path, (_other_half(path, VOXEL_ENDS) if half else None) or path)
    if magic == "ni" or (magic == "analyze" and lower.endswith((*HEADER_ENDS, *NIFTI_ENDS))):
        return ImageFiles(path, _other_half(path, VOXEL_ENDS) or path.with_name(f"{base_name(path)}.img"))
    if lower.endswith(VOXEL_ENDS) and (header := _other_half(path, HEADER_ENDS)):
        magic, whole = magic_of(head_of(header))
        if magic in ("ni", "analyze") or (magic == "n+" and not whole):
            return ImageFiles(header, path)
    return None


def base_name(path: Path) -> str:
    """File name without the endings of NIfTI files."""
    return without(path, (*NIFTI_ENDS, *HEADER_ENDS, *VOXEL_ENDS))


def pair_files(header: Path) -> tuple[Path, Path]:
    """The two files of a pair that is written, the header last."""
    return header.with_name(base_name(header) + (".IMG" if header.suffix.isupper() else ".img")), header


def magic_of(head: bytes) -> tuple[str, bool]:
    """``"n+"`` of a single file, ``"ni"`` of a pair, ``"analyze"`` or nothing; whether more than a header is there.

    Parameters
    ----------
    head : first 1024 bytes of a file, unpacked
    """
    first = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    size = next((size for size in SIZES if size in first), None)
    if size is None or len(head) < size:
        return "", False
    magic = head[SIZES[size] :][:3]
    if magic in (b"n+1", b"n+2", b"ni1", b"ni2"):
        return magic[:2].decode(), len(head) == HEAD
    return ("analyze" if size == 348 else ""), len(head) == HEAD


def _other_half(path: Path, ends: tuple[str, ...]) -> Path | None:
    name = base_name(path)
    candidates = (path.with_name(name + suffix) for end in ends for suffix in (end, end.upper()))
    return next((half for half in candidates if half.is_file() and half != path), None)
