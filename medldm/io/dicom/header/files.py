"""DICOM files: recognised by their content, opened within the bytes and the memory that there are."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pydicom.filereader
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from medldm.io.dicom.header.values import UNREADABLE, word
from medldm.system import free_bytes

VALUE_TYPES = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
DEFLATED = b"1.2.840.10008.1.2.1.99"
LARGEST_INFLATED_BYTES = 4 * 2**30  # bytes; the longest enhanced series have one or two GiB
OWN_SENTENCES = ("it does not start", "it unpacks to", "no such file")


@contextmanager
def no_values_on_screen() -> Iterator[None]:
    """Without warnings of pydicom: those about odd values repeat them, and names of patients belong in no log.

    It says each of them twice, as a warning and to its own logger.
    """

    def silence(record: logging.LogRecord) -> bool:
        return False

    theirs = logging.getLogger("pydicom")
    theirs.addFilter(silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.removeFilter(silence)


class Bounded(io.BufferedReader):
    """A file that is never asked for more bytes than it has: a damaged length would reserve gigabytes for nothing.

    Parameters
    ----------
    path : of the file
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most the bytes that are left."""
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def read_dataset(path: Path, **options: Any) -> Any:
    """A data set by pydicom, within the bytes that the file has and the memory that is free.

    Parameters
    ----------
    path : of the file, which `is_dicom`
    **options : of `pydicom.dcmread`

    Raises
    ------
    one of `UNREADABLE`
    """
    _check_inflated(path)
    with Bounded(path) as file:
        # Forced, because is_dicom has looked already and pydicom wants a preamble otherwise.
        return pydicom.dcmread(file, force=True, **options)


def _check_inflated(path: Path) -> None:
    """Refuse a deflated data set that unpacks to more than memory holds; pydicom would unpack all of it at once."""
    with Bounded(path) as file:
        if DEFLATED not in file.read(4096):
            return
        file.seek(0)
        pydicom.filereader.read_preamble(file, force=True)
        if pydicom.filereader._read_file_meta_info(file).get("TransferSyntaxUID") != DEFLATED.decode():
            return
        limit = min(LARGEST_INFLATED_BYTES, free_bytes() // 4)
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not unpacker.eof and (packed := unpacker.unconsumed_tail or file.read(2**16)):
            size += len(unpacker.decompress(packed, 2**22))
            if size > limit:
                raise ValueError(f"it unpacks to more than {limit / 2**30:.1f} GiB")


def reason_of(problem: BaseException) -> str:
    """What a reader said about a file, without values of its header: they may name a patient."""
    if isinstance(problem, OSError):
        return problem.strerror or type(problem).__name__
    if str(problem).startswith(OWN_SENTENCES):
        return str(problem)
    if isinstance(problem, EOFError):
        return "it is cut short"
    if isinstance(problem, InvalidDicomError):
        return "it does not start as DICOM files do"
    return f"its header is damaged ({type(problem).__name__})"


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content: DICM after the preamble, or a data set that starts at once."""
    try:
        with path.open("rb") as file:
            head = file.read(140)
    except OSError:
        return False
    return head[128:132] == b"DICM" or _starts_at_once(head)


def _starts_at_once(head: bytes) -> bool:
    """Whether bytes begin with an element of group 0002 or 0008, little endian, as files without preamble do."""
    if len(head) < 12 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    # Explicit: a known value type. Implicit: a four-byte length; nothing that comes first in a header is long.
    length = int.from_bytes(head[4:8], "little")
    return head[4:6] in VALUE_TYPES or (0 < length <= 512 and length % 2 == 0)


@no_values_on_screen()
def damage(path: Path) -> str:
    """Why a DICOM file without an image should have held one, in words; empty for reports, plans, presentation states.

    Parameters
    ----------
    path : file that `read_headers` found no image in
    """
    try:
        dataset = read_dataset(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
    except UNREADABLE as problem:
        return reason_of(problem)
    kind = word(dataset.file_meta, "MediaStorageSOPClassUID") or word(dataset, "SOPClassUID")
    class_name = UID(kind).name
    # A file that ends before it says what it is may have been anything.
    image = not kind or ("Image Storage" in class_name and "Non-Image" not in class_name)
    return "its header is damaged or cut short" if image else ""
