"""Packed pixels are unpacked in a process of their own: codecs are C, and some damaged streams end theirs.

Raw bytes go through two anonymous pipes, never objects: nothing that comes back can be anything but numbers.
"""

from __future__ import annotations

import atexit
import json
import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import RLELossless

from medldm.data.volume import Voxels
from medldm.io.dicom import twelve_bits
from medldm.io.dicom.codecs import Undecoded, said_by_codec

NEEDED = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration",
)  # fmt: skip
SIZES = struct.Struct(">IQ")  # bytes of words and of pixels in a message
PATIENCE = 120  # seconds for one image; the largest take two or three
ROOM = 2**30  # bytes that a codec may take, and for each pixel that the header promises:
ROOM_A_PIXEL = 64
CHILD = "from medldm.io.dicom.decode_worker import serve; serve()"


def wanted_apart(syntax: Any) -> bool:
    """Whether a transfer syntax is decoded in C.

    Parameters
    ----------
    syntax : transfer syntax UID
    """
    return bool(syntax.is_encapsulated) and syntax != RLELossless


class Unpacker:
    """The process that unpacks, started when it is needed, and once more when a stream has ended it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def unpack(self, dataset: Any, frame: bytes, plugin: str) -> Voxels:
        """Stored values of one image.

        Parameters
        ----------
        dataset : header, with a transfer syntax
        frame : packed pixels
        plugin : name that pydicom has for the codec; empty to try all it knows

        Returns
        -------
        (rows, columns) integers

        Raises
        ------
        Undecoded
            Its process ended.
        ValueError
            What the codec said.
        """
        said = {name: dataset[name].value for name in NEEDED if name in dataset}
        words = json.dumps({"syntax": str(dataset.file_meta.TransferSyntaxUID), "plugin": plugin, "header": said})
        with self._turn:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            late = threading.Timer(PATIENCE, process.kill)
            late.start()
            try:
                _send(process.stdin, words, frame)
                told, pixels = _receive(process.stdout)
            except (OSError, EOFError) as problem:
                self._end()
                raise Undecoded("they end the program that unpacks them.") from problem
            except BaseException:
                # Whoever stops us half way must not be given this answer when the next image is asked for.
                self._end()
                raise
            finally:
                late.cancel()
        if "problem" in told:
            raise ValueError(told["problem"])
        array: Voxels = np.frombuffer(pixels, np.dtype(told["type"])).reshape(told["shape"])
        return array

    def _started(self) -> subprocess.Popen[bytes]:
        # A forked process must not talk to the child of its parent.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            path = os.pathsep.join(each for each in sys.path if each)
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # codecs talk
                start_new_session=True,  # Ctrl-C is for us to hear
                env=os.environ | {"PYTHONPATH": path},
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def close(self) -> None:
        """End the process; it ends by itself, too, when this one does."""
        with self._turn:
            self._end()


unpacker = Unpacker()
atexit.register(unpacker.close)


def _send(stream: IO[bytes], words: str, pixels: bytes) -> None:
    text = words.encode()
    stream.write(SIZES.pack(len(text), len(pixels)) + text)
    stream.write(pixels)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    words, pixels = SIZES.unpack(_exactly(stream, SIZES.size))
    text = _exactly(stream, words)
    return json.loads(text), _exactly(stream, pixels)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise EOFError
    return found


def serve() -> None:
    """Unpack what comes, until nothing comes."""
    stream, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    twelve_bits.register()
    os.dup2(2, 1)  # codecs print; it would be taken for pixels
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            told, frame = _receive(stream)
            try:
                pixels = _unpacked(told, frame)
            except Exception as problem:  # pydicom passes on whatever its codecs raise
                _send(answers, json.dumps({"problem": said_by_codec(problem)}), b"")
                continue
            _send(answers, json.dumps({"type": pixels.dtype.str, "shape": pixels.shape}), pixels.tobytes())


def _unpacked(told: dict[str, Any], frame: bytes) -> Voxels:
    dataset = Dataset()
    for name, value in told["header"].items():
        setattr(dataset, name, value)
    _limit(ROOM + ROOM_A_PIXEL * int(dataset.Rows) * int(dataset.Columns) + len(frame))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = told["syntax"]
    dataset.PixelData = encapsulate([frame], has_bot=False)
    array: Voxels = pixel_array(dataset, decoding_plugin=told["plugin"])
    return array


def _limit(room: int) -> None:
    """No more memory than an image of that size can need: a few bytes may unpack to gigabytes."""
    try:
        import resource

        used = int(psutil.Process().memory_info().vms)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + room if most == resource.RLIM_INFINITY else min(used + room, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    except (ImportError, OSError, ValueError):
        pass  # Windows has no such limits
