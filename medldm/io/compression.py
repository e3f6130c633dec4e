"""Packed files, recognised by how they begin: gzip, bzip2, xz and zstd, in one or several members."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from medldm.errors import InputError, OutputError, ResourceError

STARTS = {b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LONGEST = max(map(len, STARTS))
ZSTD_MODULES = ("compression.zstd", "backports.zstd", "pyzstd")  # one API; the first comes with Python 3.14
LAYERS = 2  # browsers and mail programs pack what was packed already
PIECE = 2**16  # packed bytes read at once
SKIPPED = 2**24  # unpacked bytes passed over at once
SURPLUS = 4  # times that, after the voxels
CONTRADICTS = "its packed data or their checksum are wrong"


class _Damaged(Exception):
    """A packed stream that ends too early or contradicts itself."""


class _Gunzip:
    """zlib's decompressor with the interface of the other three."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=47)  # gzip or zlib

    eof = property(lambda self: self._zlib.eof)
    unused_data = property(lambda self: self._zlib.unused_data)
    needs_input = property(lambda self: not self._zlib.unconsumed_tail)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def kind_of_packing(start: bytes) -> str:
    """``"gzip"``, ``"bzip2"``, ``"xz"`` or ``"zstd"`` by the first bytes of a file; empty when it is none of them.

    Parameters
    ----------
    start : at least six bytes, fewer where the file has no more
    """
    return next((kind for magic, kind in STARTS.items() if start.startswith(magic)), "")


def packing_of(path: Path) -> str:
    """How a file is packed, by its content; see `kind_of_packing`."""
    with path.open("rb") as raw:
        return kind_of_packing(raw.read(LONGEST))


@contextmanager
def opened(path: Path, *, start: int = 0, packing: str | None = None) -> Iterator[BinaryIO]:
    """The unpacked content of a file, whatever its name says; what goes wrong is put into words.

    Members that follow each other are read as one, as gzip and its brothers do; other bytes after the last are ignored.

    Parameters
    ----------
    path : file, packed or not
    start : byte at which the content begins
    packing : of the content, empty for none; by how it begins where not given. ``"gzip"`` may be zlib's stream alone.

    Yields
    ------
    stream; ``seekable()`` only where nothing had to be unpacked

    Raises
    ------
    InputError
        Missing, unreadable, truncated, damaged, or packed with zstd where no module for that is installed.
    ResourceError
        Memory ran out.
    """
    try:
        with ExitStack() as held:
            stream: Any = held.enter_context(path.open("rb"))
            stream.seek(start)
            for _ in range(LAYERS if packing is None else 1):
                kind = kind_of_packing(stream.peek(LONGEST)) if packing is None else packing
                if not kind:
                    break
                stream = held.enter_context(io.BufferedReader(_Unpacked(stream, kind, path), PIECE))
            yield stream
    except _Damaged as damage:
        raise InputError(f"{path} is truncated or damaged ({damage}). Copy it again from its source.") from damage
    except PermissionError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror}. Check its permissions.") from problem
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror or type(problem).__name__}.") from problem
    except MemoryError as problem:
        raise ResourceError(f"{path} does not fit into memory. Use a machine with more, or crop the scan.") from problem


def skip(stream: BinaryIO, count: int) -> None:
    """Pass over some bytes of a stream that may not be able to seek.

    Parameters
    ----------
    stream : from `opened`
    count : bytes
    """
    if stream.seekable():
        stream.seek(count, io.SEEK_CUR)
        return
    while count and (passed := len(stream.read(min(count, SKIPPED)))):
        count -= passed


def finish(stream: BinaryIO) -> bool:
    """Read to the end of a stream, where checksums are compared; whether it was reached: zeros may go on and on.

    Parameters
    ----------
    stream : from `opened`
    """
    return stream.seekable() or any(not stream.read(SKIPPED) for _ in range(SURPLUS))


def packing_of_name(path: Path) -> str:
    """How a file of some name is to be packed; empty where it is not."""
    return {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}.get(path.suffix.lower(), "")


@contextmanager
def packed(raw: BinaryIO, path: Path) -> Iterator[Any]:
    """A stream that packs what is written to it as a name says; equal content gives equal bytes.

    Parameters
    ----------
    raw : where the packed bytes go
    path : final name

    Raises
    ------
    OutputError
        No module for zstd is installed.
    """
    kind = packing_of_name(path)
    if not kind:
        yield raw
    elif kind == "gzip":  # without a name and a time in its header
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=5, mtime=0) as gzipped:
            yield gzipped
    else:
        packer = {"bzip2": bz2.BZ2Compressor, "xz": lzma.LZMACompressor}.get(kind) or _zstd("ZstdCompressor")
        if packer is None:
            raise OutputError(
                f"{path} cannot be written: this Python cannot pack with zstd. Install backports.zstd with pip, or "
                "name a .nii.gz file."
            )
        stream = _Packer(raw, packer())
        yield stream
        raw.write(stream.compressor.flush())


class _Packer:
    """A stream in front of a compressor of the standard library."""

    def __init__(self, raw: BinaryIO, compressor: Any) -> None:
        self.raw, self.compressor = raw, compressor

    def write(self, data: bytes) -> None:
        self.raw.write(self.compressor.compress(data))


class _Unpacked(io.RawIOBase):
    """What a packed stream holds, piece by piece: no more is unpacked than is asked for.

    Parameters
    ----------
    packed : stream of the packed bytes
    kind : of packing
    path : for messages
    """

    def __init__(self, packed: BinaryIO, kind: str, path: Path) -> None:
        self._packed, self._new = packed, _unpacker(kind, path)
        self._magic = next(magic for magic, name in STARTS.items() if name == kind)
        self._member: Any = self._new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = b""
        while not piece and self._member is not None:
            piece = self._piece(len(buffer))
            if not piece and self._member.eof:
                self._member = self._next(self._member.unused_data)
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, size: int) -> bytes:
        if self._member.eof:
            return b""
        data = self._packed.read(PIECE) if self._member.needs_input else b""
        asked = self._member.needs_input
        try:
            piece: bytes = self._member.decompress(data, size)
        except (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as problem:
            raise _Damaged(CONTRADICTS) from problem
        except Exception as problem:  # each zstd module has an error of its own
            if "zstd" not in type(problem).__name__.lower():
                raise
            raise _Damaged(CONTRADICTS) from problem
        if not piece and asked and not data and not self._member.eof:
            raise _Damaged("it ends in the middle of the packed data")
        return piece

    def _next(self, left: bytes) -> Any:
        """The member that follows; None at the end, where zeros pad and other bytes were appended by somebody."""
        while len(left := left.lstrip(b"\0")) < len(self._magic):
            if not (more := self._packed.read(PIECE)):
                break
            left += more
        if not left.startswith(self._magic):
            return None
        self._packed = _Ahead(left, self._packed)  # type: ignore[assignment]
        return self._new()


class _Ahead:
    """A stream with some bytes put back in front of it."""

    def __init__(self, left: bytes, rest: Any) -> None:
        self._left, self._rest = left, rest

    def read(self, size: int) -> bytes:
        if self._left:
            left, self._left = self._left, b""
            return left
        rest: bytes = self._rest.read(size)
        return rest


def _unpacker(kind: str, path: Path) -> Callable[[], Any]:
    if kind != "zstd":
        return {"gzip": _Gunzip, "bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[kind]
    if unpacker := _zstd("ZstdDecompressor"):
        return unpacker
    raise InputError(
        f"{path} is packed with zstd, which this Python cannot unpack. Install backports.zstd with pip, or unpack the "
        "file with `unzstd`."
    )


def _zstd(name: str) -> Callable[[], Any] | None:
    """A class of whichever zstd module is installed; None without one."""
    for module in ZSTD_MODULES:
        try:
            member: Callable[[], Any] = getattr(importlib.import_module(module), name)
        except ImportError:
            continue
        return member
    return None
