"""Compressed pixels are decoded in a process of their own: codecs are C, and some damaged streams crash it.

JSON and raw bytes go through two anonymous pipes, never pickled objects.
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
from medldm.io.dicom.pixels import jpeg_12bit
from medldm.io.dicom.pixels.codecs import Undecoded, codec_message

PIXEL_ATTRIBUTES = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PlanarConfiguration",
)  # fmt: skip
SIZES = struct.Struct(">IQ")  # bytes of JSON and of pixels in a message
TIMEOUT_S = 120  # for one image; the largest take two or three
BASE_BYTES = 2**30  # bytes that a codec may take, and for each pixel that the header promises:
BYTES_PER_PIXEL = 64
CHILD = "from medldm.io.dicom.pixels.decode_worker import serve; serve()"


def needs_worker(syntax: Any) -> bool:
    """Whether a transfer syntax is decoded in C.

    Parameters
    ----------
    syntax : transfer syntax UID
    """
    return bool(syntax.is_encapsulated) and syntax != RLELossless


class DecodeWorker:
    """The process that decodes, started when it is needed, and again after a stream has crashed it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, dataset: Any, frame: bytes, plugin: str) -> Voxels:
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
            The message of the codec.
        """
        header = {name: dataset[name].value for name in PIXEL_ATTRIBUTES if name in dataset}
        request = json.dumps({"syntax": str(dataset.file_meta.TransferSyntaxUID), "plugin": plugin, "header": header})
        with self._turn:
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            late = threading.Timer(TIMEOUT_S, process.kill)
            late.start()
            try:
                _send(process.stdin, request, frame)
                message, pixels = _receive(process.stdout)
            except (OSError, EOFError) as problem:
                self._end()
                raise Undecoded("they end the program that unpacks them.") from problem
            except BaseException:
                # After an interruption, this answer must not be taken for that of the next image.
                self._end()
                raise
            finally:
                late.cancel()
        if "problem" in message:
            raise ValueError(message["problem"])
        array: Voxels = np.frombuffer(pixels, np.dtype(message["type"])).reshape(message["shape"])
        return array

    def _started(self) -> subprocess.Popen[bytes]:
        # A forked process must not use the child of its parent.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            path = os.pathsep.join(entry for entry in sys.path if entry)
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # codecs print
                start_new_session=True,  # Ctrl-C is for the parent
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


worker = DecodeWorker()
atexit.register(worker.close)


def _send(stream: IO[bytes], message: str, pixels: bytes) -> None:
    text = message.encode()
    stream.write(SIZES.pack(len(text), len(pixels)) + text)
    stream.write(pixels)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    text_size, pixels_size = SIZES.unpack(_exactly(stream, SIZES.size))
    text = _exactly(stream, text_size)
    return json.loads(text), _exactly(stream, pixels_size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve() -> None:
    """Decode what comes, until nothing comes."""
    stream, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    jpeg_12bit.register()
    os.dup2(2, 1)  # codecs print; it would be taken for pixels
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            message, frame = _receive(stream)
            try:
                pixels = _decoded(message, frame)
            except Exception as problem:  # pydicom passes on whatever its codecs raise
                _send(answers, json.dumps({"problem": codec_message(problem)}), b"")
                continue
            _send(answers, json.dumps({"type": pixels.dtype.str, "shape": pixels.shape}), pixels.tobytes())


def _decoded(message: dict[str, Any], frame: bytes) -> Voxels:
    dataset = Dataset()
    for name, value in message["header"].items():
        setattr(dataset, name, value)
    _limit(BASE_BYTES + BYTES_PER_PIXEL * int(dataset.Rows) * int(dataset.Columns) + len(frame))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = message["syntax"]
    dataset.PixelData = encapsulate([frame], has_bot=False)
    array: Voxels = pixel_array(dataset, decoding_plugin=message["plugin"])
    return array


def _limit(allowed: int) -> None:
    """No more memory than an image of that size can need: a few bytes may unpack to gigabytes."""
    try:
        import resource

        used = int(psutil.Process().memory_info().vms)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + allowed if most == resource.RLIM_INFINITY else min(used + allowed, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    except (ImportError, OSError, ValueError):
        pass  # Windows has no such limits
