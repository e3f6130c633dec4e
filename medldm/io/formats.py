"""The file formats that medldm knows, and what follows from them for the names of scans and results.

A format is a file of its own and a line in `FORMATS`. DICOM is none of them: a series is many files, which are sorted
into scans by their headers (`medldm.io.dicom`), and its results are folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medldm.errors import UsageError
from medldm.io.freesurfer import MGH
from medldm.io.image_format import Format, ImageFiles, head_of, without
from medldm.io.metaimage import MetaImage
from medldm.io.nifti.files import PACKINGS
from medldm.io.nifti.format import NIFTI
from medldm.io.nrrd import Nrrd
from medldm.system import Registry

# By name, as in --format.
FORMATS: Registry[Format] = Registry(
    "medldm.formats",
    lambda member: isinstance(member, Format),
    {form.name: form for form in (NIFTI, Nrrd(), MetaImage(), MGH())},
)
DICOM = "dicom"
# A result called like one of these would surprise: it would be a folder, or hold something else.
NEVER_WRITTEN = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pdf", ".mnc", ".rec", ".par", ".npy", ".npz", ".mat",
    ".h5", ".hdf5", ".ima", ".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", *PACKINGS[1:],
)  # fmt: skip


@dataclass(frozen=True)
class Image:
    """An image that was found: its format and its files."""

    format: Format
    files: ImageFiles


def register(form: Format) -> Format:
    """Make a format known to the reader, the writer, the search for scans, batches and napari.

    Parameters
    ----------
    form : new, or another one under a name that is taken
    """
    FORMATS[form.name] = form
    return form


def titles(last: str = ", ", *, dicom: bool = True) -> str:
    """Names of all formats, for sentences.

    Parameters
    ----------
    last : what stands before the last one
    dicom : whether DICOM is among them
    """
    *names, end = [*(form.title for form in FORMATS.values()), *(["DICOM"] if dicom else [])]
    return last.join([", ".join(names), end])


def find_image(path: Path) -> Image | None:
    """The image that a file holds, or is a part of, by its content; None when it is none."""
    head = head_of(path)
    for form in FORMATS.values():
        if files := form.files(path, head):
            return Image(form, files)
    return None


def format_by_name(path: Path) -> Format | None:
    """The format that a file is called like; its content may be something else."""
    lower = path.name.lower()
    return next((form for form in FORMATS.values() if lower.endswith(form.suffixes)), None)


def result_format(path: Path) -> Format | None:
    """The format of a result of this name; None for a folder, which holds DICOM."""
    return next((form for form in FORMATS.values() if form.written and form.writes(path)), None)


def is_image_name(path: Path) -> bool:
    """Whether a result of this name is an image file; of files that are read, `find_image` knows what they are."""
    return result_format(path) is not None


def result_files(path: Path) -> tuple[Path, ...]:
    """All files of a result, or its folder; the one that is shown last is the last.

    Parameters
    ----------
    path : of a result
    """
    form = result_format(path)
    return form.result_files(path) if form else (path,)


def usual_suffixes() -> tuple[str, ...]:
    """Suffixes of results that nobody gave a name."""
    return tuple(suffix for form in FORMATS.values() if form.written for suffix in form.kept or form.written[:1])


def result_suffix(format_name: str | None, source: Path | None, source_format: str | None) -> str:
    """The suffix of a result.

    Parameters
    ----------
    format_name : as asked for; None for that of the source
    source : file that the result is made from; None for DICOM
    source_format : its format
    """
    form = FORMATS.get(format_name or source_format or "nifti")
    if form is None or not form.written:
        form = FORMATS["nifti"]
    return form.suffix_for(source)


def stem(path: Path) -> str:
    """File name without the suffix of an image; numbers and other dots are part of a name."""
    known = (end for form in FORMATS.values() for end in (*form.suffixes, *form.part_suffixes))
    return without(path, (*PACKINGS[1:], *known))


def result_formats() -> tuple[str, ...]:
    """Names that ``--format`` may have."""
    return (*(name for name, form in FORMATS.items() if form.written), DICOM)


def check_format(name: str | None) -> None:
    """Refuse a ``--format`` that no result can have.

    Raises
    ------
    UsageError
    """
    if name is None or name in result_formats():
        return
    if name in FORMATS:
        raise UsageError(FORMATS[name].why_not_written)
    raise UsageError(f"--format is one of {', '.join(result_formats())}, not {name!r}.")


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
    if form := result_format(out):
        if lower in form.written:
            raise UsageError(f"{out} has no name before its ending. Call it, for instance, restored{lower}.")
        return
    if out.is_dir():
        return
    for form in FORMATS.values():
        if lower.endswith((*form.suffixes, *form.part_suffixes)) and form.why_not_written:
            raise UsageError(f"{out}: {form.why_not_written}")
    known = [end for form in FORMATS.values() for end in (*form.suffixes, *form.part_suffixes)]
    if lower.endswith((*NEVER_WRITTEN, *known)):
        raise UsageError(
            f"{out} is called like a file of a format that medldm does not write. "
            "Name a .nii.gz file or a folder as OUT; --preview adds a PNG."
        )
